"""What several tests use: strategies, exact maps, methods written out, paths."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
