r"""Metropolis-adjusted Langevin steps as a corrector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from sdescore import checks
from sdescore.correctors.langevin import inner_steps
from sdescore.langevin.metropolis import mala
from sdescore.langevin.preconditioner import Preconditioner
from sdescore.sde.base import SDE
from sdescore.tableau.method import Corrector, ScoreAt

__all__ = ["MALA"]


@dataclass(frozen=True)
class MALA(Corrector):
    r"""The step of :class:`sdescore.Langevin` with Metropolis' test: the model's own :math:`p_t` is
    exactly stationary, whatever the step size (:mod:`sdescore.langevin.metropolis`).

    .. math:: y = x + \tau\, s(x, t) + \sqrt{2\tau}\, z, \qquad \tau = 2(\mathrm{snr}\,\sigma_t)^2 ,

    accepted with probability :math:`\min(1, e^r)`. It needs the log density: an
    :class:`sdescore.EnergyModel`, or an exact score; a large constant in a float32 energy costs
    precision, as :mod:`sdescore.langevin.metropolis` says. ``steps`` inner steps at one time cost
    ``steps + 1`` evaluations of score and log density, and draw two noises each.

    Parameters
    ----------
    snr : float
        Signal-to-noise ratio of a proposal, > 0. The larger, the fewer are accepted.
    steps : int
        Inner steps a time, >= 1.
    report : callable, optional
        Called as ``report(t, acceptance)`` after the inner steps at ``t``, acceptance ``(B,)``
        being each sample's share of accepted proposals. With ``max_batch`` it is called for one
        chunk after the other.

    Raises
    ------
    ParameterError
        ``snr`` or ``steps`` out of range.
    IncompatibleError
        ``report`` cannot be called.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore([2.0], 0.25, sde)
    >>> sampler = ss.PredictorCorrector(sde, ss.ReverseDiffusion(), ss.correctors.MALA(), steps=100)
    >>> x = sampler.sample(score, shape=(4000, 1), seed=0)
    >>> round(x.mean().item(), 1), round(x.std().item(), 1)
    (2.0, 0.5)
    """

    snr: float = 0.16
    steps: int = 1
    report: Callable[[float, Tensor], object] | None = None

    needs_log_density = True

    def __post_init__(self) -> None:
        snr = checks.number("snr", self.snr, above=0)
        vars(self).update(snr=snr, steps=inner_steps(self.steps))
        if self.report is not None:
            checks.function("report", self.report)

    @property
    def calls(self) -> int:
        """One correct() runs all inner steps, and so evaluates each state once."""
        return 1

    @property
    def evaluations(self) -> int:
        return self.steps + 1

    @property
    def noises(self) -> int:
        return 2 * self.steps

    def correct(
        self, sde: SDE, x: Tensor, score: ScoreAt, t: float, noises: Iterator[Tensor]
    ) -> Tensor:
        sigma_t = sde.marginal(t)[1]  # type: ignore[attr-defined]
        tau = 2 * (self.snr * sigma_t).square().item()
        identity = Preconditioner(x.new_ones(()))
        accepted = x.new_zeros(len(x))
        chain = mala(x, score, score.log_density, tau, 1.0, identity, noises)
        for x, moved in chain:  # noqa: B007
            accepted += moved
        if self.report is not None:
            self.report(t, accepted / self.steps)
        return x
