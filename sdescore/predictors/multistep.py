r"""A multistep method defined by its numbers, one row a step.

DDIM's step with a weighted mean of the denoised states in place of the newest,

.. math::
   x_s = \frac{\sigma_s}{\sigma_t} x_t + \Bigl(\alpha_s - \frac{\sigma_s}{\sigma_t} \alpha_t\Bigr)
   \sum_h w_{n,h}\, \hat x_0^{(n-h)}, \qquad \sum_h w_{n,h} = 1 .

Where :math:`\hat x_0` and the noise are constant, any weights that sum to 1 are exact, on any
times. All deterministic exponential Adams methods in x₀ are of this form
(:mod:`sdescore.tableau.exponential` at η = 0), with weights that depend on the times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import ClassVar

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import Predictor
from sdescore.tableau.tableau import Tableau

__all__ = ["Multistep"]

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Multistep(Predictor):
    r"""The multistep method with these weights, made for a number of steps.

    :func:`sdescore.optimal_grid` finds weights together with the times they are for. The last row
    is the last denoise's: data come out as :math:`\sum_h w_h\, \hat x_0^{(N-1-h)}`. Tweedie's mean
    has an error of first order, and a last row with several weights removes most of it.

    Parameters
    ----------
    weights : sequence of sequences of float
        A row for each of the N grid times, newest first, each summing to 1. Row n has at most
        n + 1 weights that are not 0.

    Raises
    ------
    ParameterError
        Rows that do not sum to 1, give a weight to an output that does not exist yet, or are not
        numbers.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> second = ss.predictors.Multistep([[1.0], [1.5, -0.5], [1.5, -0.5], [1.0]])
    >>> sampler = ss.PredictorCorrector(sde, predictor=second, grid=ss.LogSNRGrid(), steps=4)
    >>> sampler.evaluations
    4
    """

    weights: Sequence[Sequence[float]]
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        rows = self.weights
        usable = isinstance(rows, Sequence) and all(isinstance(row, Sequence) for row in rows)
        checks.that(usable and len(rows) > 0, "a row of weights for each grid time", repr(rows))
        for n, row in enumerate(rows):
            checks.that(all(map(checks.is_number, row)), f"numbers in row {n}", repr(row))
            checks.that(
                abs(sum(row) - 1) <= TOLERANCE,
                f"weights that sum to 1 in row {n}",
                f"{sum(row)!r}, of {tuple(row)!r}",
            )
            checks.that(
                not any(row[n + 1 :]),
                f"at most {n + 1} weights in row {n}, which has {n + 1} outputs to weigh",
                repr(tuple(row)),
            )
        vars(self)["weights"] = tuple(tuple(map(float, row)) for row in rows)

    @classmethod
    def examples(cls) -> Sequence[Multistep]:
        return [cls(((1.0,), (1.5, -0.5)))]

    def last(self, count: int) -> Multistep:
        """The method on its last ``count`` grid times alone, >= 1.

        The outputs before them do not exist. The oldest one that exists takes their weights.
        """
        count = checks.count("count", count, at_most=len(self.weights))
        rows = enumerate(self.weights[len(self.weights) - count :])
        fitted = [row if len(row) <= n + 1 else (*row[:n], sum(row[n:])) for n, row in rows]
        return Multistep(fitted)

    @property
    def grid_times(self) -> int:  # type: ignore[override]
        """A grid time for each row of weights."""
        return len(self.weights)

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        """One stage; as many outputs as the longest row has.

        Raises
        ------
        IncompatibleError
            The weights are for another number of times.
        """
        if len(times) != len(self.weights):
            raise IncompatibleError(
                f"expected a grid of {len(self.weights)} times, as many as there are rows of "
                f"weights, got {len(times)}; use the grid that the weights were found with"
            )
        return moves(sde, times, self._table())

    def ending(self, sde: LinearSDE, times: Tensor) -> Tableau:
        """The last row's weighted mean."""
        return weighted_mean(times[-1:], self._table()[-1])

    def _table(self) -> Tensor:
        columns = list(zip_longest(*self.weights, fillvalue=0.0))
        return torch.tensor(columns, dtype=torch.float64, device="cpu").T


def moves(sde: LinearSDE, times: Tensor, weights: Tensor) -> Tableau:
    """The steps between ``times`` ``(N,)`` with ``weights`` ``(N, H)``, the last row unused."""
    alpha, sigma = sde.marginal(times)
    a = sigma[1:] / sigma[:-1]
    b = (alpha[1:] - a * alpha[:-1])[:, None] * weights[:-1]
    no_noise = times.new_zeros(len(a), 1, 1)
    return Tableau(times[:-1, None], a[:, None], b[:, None], no_noise, "x0")


def weighted_mean(times: Tensor, weights: Tensor) -> Tableau:
    """The last denoise at ``times`` ``(1,)`` with ``weights`` ``(H,)``."""
    zero = times.new_zeros(1, 1)
    return Tableau(times[:, None], zero, weights[None, None], zero[..., None], "x0")


def shares(predictor: Predictor, sde: LinearSDE, times: Tensor, count: int) -> Tensor:
    """The weights ``(N, count)`` of the :class:`Multistep` that is ``predictor`` on ``times``."""
    own = predictor.tableau(sde, times)
    found = times.new_zeros(len(times), count)
    found[-1, 0] = 1
    fits = own.output == "x0" and own.b.shape[1] == 1 and not bool(own.b[..., count:].any())
    if fits:
        alpha, sigma = sde.marginal(times)
        total = alpha[1:] - sigma[1:] / sigma[:-1] * alpha[:-1]
        b = own.b[:, 0, :count]
        found[:-1, : b.shape[1]] = b / total[:, None]
        again = moves(sde, times, found)
        fits = torch.allclose(again.a, own.a, rtol=1e-6) and torch.allclose(
            found.sum(1), torch.ones_like(times), atol=1e-6
        )
    if not fits:
        raise IncompatibleError(
            f"expected a one-stage predictor in x0 with at most {count} outputs that weighs them "
            f"as DDIM does, such as ExponentialAdams(points=2), got {predictor!r}"
        )
    return found
