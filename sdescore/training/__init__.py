"""Training: a loop to read, which stops and resumes without losing a bit."""

from __future__ import annotations

from sdescore.training.loop import TrainingResult, train

__all__ = ["TrainingResult", "train"]
