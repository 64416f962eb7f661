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

    Examples
    --------
    >>> import torch
    >>> loss = Loss.of(torch.tensor([1.0, 3.0]))
    >>> loss.mean.item(), loss.weighted(torch.tensor([0.0, 2.0])).mean.item()
    (2.0, 3.0)
    """

    per_sample: Tensor
    mean: Tensor

    @classmethod
    def of(cls, per_sample: Tensor) -> Loss:
        """The loss of the values ``(B,)`` and their mean."""
        return cls(per_sample, per_sample.mean())

    def weighted(self, weight: Tensor | None) -> Loss:
        """Each sample's value times its weight, ``()`` or ``(B,)``; None leaves the loss alone."""
        if weight is None:
            return self
        return Loss.of(weight.to(self.per_sample) * self.per_sample)
