"""What every objective returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Loss"]


class Loss(NamedTuple):
    """A loss, sample by sample, and its mean.

    Attributes
    ----------
    per_sample : Tensor
        ``(B,)``, in at least float32.
    mean : Tensor
        ``()``; the one to call ``backward()`` on.
    """

    per_sample: Tensor
    mean: Tensor
