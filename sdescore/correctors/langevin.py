r"""Langevin dynamics as a corrector, with the step set by a signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.correctors.base import Corrector, langevin_tableau, require_steps
from sdescore.errors import IncompatibleError
from sdescore.sde.base import SDE, finite, require
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align, flat
from sdescore.tableau import Tableau

__all__ = ["Langevin"]

NORMS = ("expected", "sample", "batch")


@dataclass(frozen=True)
class Langevin(Corrector):
    r"""Langevin corrector (Song et al. 2021, arXiv:2011.13456, algorithms 4–5):

    .. math:: x \leftarrow x + \tau\, s(x, t) + \sqrt{2\tau}\, z, \qquad
              \tau = 2 \Bigl(\mathrm{snr}\, \frac{\|z\|}{\|s\|}\Bigr)^2 .

    The paper takes both norms from the batch, which makes a sample depend on its
    companions. The default takes what they are in expectation, :math:`E\|z\|^2 = d` and
    :math:`E\|s\|^2 \le d/\sigma_t^2`, so :math:`\tau = 2(\mathrm{snr}\,\sigma_t)^2`: it is
    bounded, the same for every sample, and the step stays affine.

    In the other convention, :math:`x + \tfrac{\epsilon}{2} s + \sqrt{\epsilon} z`, the step is
    :math:`\epsilon = 2\tau`.

    Parameters
    ----------
    snr : float
        Signal-to-noise ratio of a step, > 0; the paper's 0.16. With ``norm="expected"`` a
        step is stable below 1 at worst (τ < 2σ²) and overshoots above 1/√2.
    steps : int
        Inner steps a time, >= 1.
    norm : str
        ``"expected"``; ``"sample"``, each sample's own norms (in low dimension a score near
        zero by chance throws a sample far away); ``"batch"``, the paper's means of the
        norms over the batch (then a sample depends on its batch). Where the score is
        exactly zero the last two fall to the expected step.

    Raises
    ------
    ScheduleError
        ``snr`` or ``steps`` out of range.
    IncompatibleError
        An unknown norm.
    """

    snr: float = 0.16
    steps: int = 1
    norm: str = "expected"

    def __post_init__(self) -> None:
        require(finite(self.snr) and self.snr > 0, "snr > 0", f"snr={self.snr}")
        require_steps(self.steps)
        if self.norm not in NORMS:
            raise IncompatibleError(f"expected norm among {', '.join(NORMS)}; got {self.norm!r}")

    def is_affine(self) -> bool:
        return self.norm == "expected"

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        sigma_t = sde.marginal(times)[1]
        return langevin_tableau(times, 2 * (self.snr * sigma_t).square())

    def step(
        self, sde: SDE, x: Tensor, score: Callable[[Tensor], Tensor], t: float, z: Tensor
    ) -> Tensor:
        s = score(x)
        z_norm, s_norm = flat(z).norm(dim=1), flat(s).norm(dim=1)
        if self.norm == "batch":
            z_norm, s_norm = z_norm.mean(), s_norm.mean()
        sigma_t: float = sde.marginal(t)[1].item()  # type: ignore[attr-defined]
        ratio = torch.where(s_norm > 0, z_norm / s_norm, torch.full_like(s_norm, sigma_t))
        tau = align(2 * (self.snr * ratio).square(), x)
        return x + tau * s + (2 * tau).sqrt() * z
