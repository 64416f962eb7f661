r"""The error of a model's ε that is assumed, as a function of the noise variance σ²/α².

A network's ε has an error δ even where x is almost all noise. The error of its :math:`E[x_0 | x]`
is then :math:`\delta\sigma/\alpha`. Two cases differ:

- it exceeds the data's spread s: it depends on the steps, for a long step adds much of it,
- it does not: the network then samples a slightly different distribution, whatever the steps.

A grid can do something about the first only. The error to assume for it is

.. math:: \delta\, \frac{(\delta\sigma/\alpha)^2}{(\delta\sigma/\alpha)^2 + s^2} .
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore.samplers.predictor_corrector.exact import ModelErrorStd


def constant_error(error: float) -> ModelErrorStd | None:
    """The same error at every noise; None for an exact model."""
    return (lambda variance: torch.full_like(variance, error)) if error else None


def error_beyond(error: float, data_variance: float) -> ModelErrorStd | None:
    """``error`` where that of x₀ exceeds the spread of the data, and little where it does not."""
    if not error:
        return None

    def size(variance: Tensor) -> Tensor:
        of_x0 = variance * error**2
        return error * of_x0 / (of_x0 + data_variance)

    return size
