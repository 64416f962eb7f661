"""One file for a trained model: weights, average, optimiser, and what they mean.

A safetensors file whose metadata carries a JSON manifest (SDE, convention, network, training
options) and a SHA-256 over the whole file. Loading executes nothing: classes come from a fixed
table, numbers are checked before they are used.
"""

from __future__ import annotations

from sdescore.checkpoint.container import read, write
from sdescore.checkpoint.store import TrainingRecord, load, read_manifest, save

__all__ = ["TrainingRecord", "load", "read", "read_manifest", "save", "write"]
