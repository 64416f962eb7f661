r"""How much a model's ε is off, as a function of ϱ² = σ²/α².

A network's ε is off by some δ even where nearly all of x is noise, and its :math:`E[x_0 | x]` by
:math:`\varrho\delta`, which may exceed the data's spread s; a step from ϱ to ϱ′ takes
:math:`(1 - \varrho'/\varrho)\,\varrho\delta` of that along, which for a long step is much beside
ϱ′. Where it does not exceed s it makes the law that is sampled a little different from the data's,
whatever the steps. So what a grid is to reckon with is

.. math:: \delta\, \frac{(\varrho \delta)^2}{(\varrho \delta)^2 + s^2} .
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ModelError = Callable[[Tensor], Tensor]
"""``ϱ² (…) -> standard deviation of ε's error (…)``."""


def constant(error: float) -> ModelError | None:
    """The same everywhere; None is an exact model."""
    return (lambda rho2: torch.full_like(rho2, error)) if error else None


def beyond(error: float, variance: float) -> ModelError | None:
    """``error`` where it exceeds data of ``variance`` s², and little where it does not."""
    if not error:
        return None

    def size(rho2: Tensor) -> Tensor:
        of_x0 = rho2 * error**2
        return error * of_x0 / (of_x0 + variance)

    return size
