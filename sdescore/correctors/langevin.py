r"""Langevin dynamics as a corrector, with the step set by a signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import vector_norm

from sdescore import checks
from sdescore.langevin.preconditioner import Preconditioner, require_preconditioner
from sdescore.sde.base import SDE
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align, flat
from sdescore.tableau.method import Corrector
from sdescore.tableau.tableau import Tableau, one_stage

__all__ = ["Langevin"]

MOST = 10**5  # inner steps

NORMS = ("expected", "sample", "batch")


@dataclass(frozen=True)
class Langevin(Corrector):
    r"""Langevin corrector (Song et al. 2021, arXiv:2011.13456, algorithms 4–5):

    .. math:: x \leftarrow x + \tau\, s(x, t) + \sqrt{2\tau}\, z, \qquad
              \tau = 2 \Bigl(\mathrm{snr}\, \frac{\|z\|}{\|s\|}\Bigr)^2 .

    The paper takes both norms from the batch, which makes a sample depend on the others in it. The
    default uses their expectations, :math:`E\|z\|^2 = d` and :math:`E\|s\|^2 \le d/\sigma_t^2`, so
    :math:`\tau = 2(\mathrm{snr}\,\sigma_t)^2`: it is bounded, the same for every sample, and the
    step stays affine.

    With ``preconditioner`` C, a covariance in data units, the step is

    .. math:: x \leftarrow x + \tau P_t\, s(x, t) + \sqrt{2\tau}\, P_t^{1/2} z, \qquad
              P_t = \alpha_t^2 C + \sigma_t^2 I, \quad
              \tau = 2 \Bigl(\mathrm{snr}\, \frac{\|z\|}{\|P_t^{1/2} s\|}\Bigr)^2,

    by default :math:`\tau = 2\,\mathrm{snr}^2`. For Gaussian data of covariance C every direction
    of :math:`p_t` is then crossed in the same number of steps; C = 0 is the step above. No table
    of scalars describes such a step, so the corrector is not affine.

    In the other convention, :math:`x + \tfrac{\epsilon}{2} s + \sqrt{\epsilon} z`, ε is 2τ.

    Parameters
    ----------
    snr : float
        Signal-to-noise ratio of a step, > 0; the paper's 0.16. With ``norm="expected"`` a
        step is stable below 1 at worst (τ < 2σ²) and overshoots above 1/√2.
    steps : int
        Inner steps a time, >= 1.
    norm : str
        ``"expected"``; ``"sample"``: each sample's own norms, but in low dimension a score near
        zero by chance throws a sample far away; ``"batch"``: the paper's means of the norms over
        the batch, so a sample depends on its batch. Where the score is exactly zero,
        the last two use the expected step.
    preconditioner : Preconditioner, optional
        The covariance C. A step is stable where C is at most the covariance of each of the data's
        clusters, and diverges where C is far above it: ``snr`` < 1 is no longer enough.

    Raises
    ------
    ParameterError, IncompatibleError
        A number out of range; an unknown norm or a preconditioner of another type.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore([2.0], 0.25, sde)
    >>> corrector = ss.Langevin(snr=0.16)
    >>> sampler = ss.PredictorCorrector(sde, ss.ReverseDiffusion(), corrector, steps=100)
    >>> x = sampler.sample(score, shape=(4000, 1), seed=0)
    >>> round(x.mean().item(), 1), round(x.std().item(), 1)
    (2.0, 0.5)
    """

    snr: float = 0.16
    steps: int = 1
    norm: str = "expected"
    preconditioner: Preconditioner | None = None

    def __post_init__(self) -> None:
        snr = checks.number("snr", self.snr, above=0)
        vars(self).update(snr=snr, steps=inner_steps(self.steps))
        checks.choice("norm", self.norm, NORMS)
        if self.preconditioner is not None:
            require_preconditioner(self.preconditioner)

    @classmethod
    def examples(cls) -> Sequence[Langevin]:
        return [cls(), cls(norm="sample"), cls(norm="batch")]

    def is_affine(self, sde: SDE) -> bool:
        plain = self.norm == "expected" and self.preconditioner is None
        return plain and super().is_affine(sde)

    def check_event(self, event_shape: tuple[int, ...]) -> None:
        if self.preconditioner is not None:
            self.preconditioner.require_event(event_shape)

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        tau = 2 * (self.snr * sde.marginal(times)[1]).square()
        return one_stage(times, times.new_ones(()), tau, (2 * tau).sqrt())

    def step(
        self, sde: SDE, x: Tensor, score: Callable[[Tensor], Tensor], t: float, z: Tensor
    ) -> Tensor:
        self.check_event(tuple(x.shape[1:]))
        s = score(x)
        alpha_t, sigma_t = (v.item() for v in sde.marginal(t))  # type: ignore[attr-defined]
        if self.preconditioner is None:
            tau = align(self._tau(z, vector_norm(flat(s), dim=1), sigma_t), x)
            return torch.addcmul(x, tau, s).addcmul_((2 * tau).sqrt(), z)
        P = self.preconditioner.affine(alpha_t**2, sigma_t**2).to(x)
        tau = align(self._tau(z, P.quadratic(s).sqrt(), 1.0), x)
        return x + tau * P.apply(s) + (2 * tau).sqrt() * P.sqrt_apply(z)

    def _tau(self, z: Tensor, s_norm: Tensor, expected: float) -> Tensor:
        """τ from the scores' norms ``(B,)``: ``()``, or ``(B,)`` for each sample's own.

        ``expected`` is the ratio ‖z‖/‖s‖ of the expected norms.
        """
        if self.norm == "expected":
            ratio = s_norm.new_full((), expected)
        else:
            z_norm = vector_norm(flat(z), dim=1)
            if self.norm == "batch":
                z_norm, s_norm = z_norm.mean(), s_norm.mean()
            ratio = torch.where(s_norm > 0, z_norm / s_norm, expected)
        return 2 * (self.snr * ratio).square()


def inner_steps(steps: object) -> int:
    """``steps`` as an int, refused below 1; a number of numbers that no memory holds is a slip."""
    if not checks.is_count(steps) or not 1 <= steps <= MOST:
        expected = f"a positive number of inner steps, at most {MOST}"
        checks.refuse(expected, f"{steps!r:.100}; for none use NoCorrector()")
    return int(steps)
