r"""Exponential Adams methods: polynomials through past outputs, integrated exactly.

One family. Its members by the names they have in the field:

===================  ========  ======  ===  ================
method               output    points  η    corrector_points
===================  ========  ======  ===  ================
DDIM                 either    1       0    0
DEIS                 epsilon   1–4     0    0
DPM-Solver++ (2M)    x0        2       0    0, midpoint
DPM-Solver++ (3M)    x0        3       0    0
UniPC of order p     x0        p       0    p + 1
SEEDS-1              epsilon   1       1    0
SDE-DPM-Solver++     x0        1–2     1    0, midpoint
SA-Solver            x0        p       any  q
===================  ========  ======  ===  ================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.exponential import OUTPUTS, ExponentialStep, clock, exponential_step
from sdescore.tableau.method import EtaPredictor
from sdescore.tableau.tableau import Tableau

__all__ = ["ExponentialAdams"]

HIGHEST = 4
STARTED = 3  # the order that the first, uncorrected evaluation leaves
NOISY = 2


@dataclass(frozen=True)
class ExponentialAdams(EtaPredictor):
    r"""Exponential Adams–Bashforth, with an Adams–Moulton correction that costs no evaluation.

    The integrand of :mod:`sdescore.tableau.exponential` is replaced by the polynomial in λ
    through the last ``points`` outputs (Adams–Bashforth). With ``corrector_points`` = q > 0 each
    state is corrected once the model has been called on it: the step that led there is taken
    again with the polynomial through that output and the q − 1 before it (Adams–Moulton), and the
    next step starts from the result. The output is not computed again (Zhao et al. 2023,
    arXiv:2302.04867, algorithm 1; Xue et al. 2023, arXiv:2309.05019, algorithm 1). Both steps have
    the same start and noise. So the correction only changes weights, and the method is one row of
    numbers a step.

    The first steps use as many outputs as exist. Where that is too coarse for ``points``, the first
    step is corrected in the same way, so the start leaves an error of order 3 or better.

    Parameters
    ----------
    eta : float
        Noise scale in [0, 1]: 0 the probability flow, 1 the reverse SDE.
    points : int
        How many outputs the polynomial goes through, 1 to 4.
    corrector_points : int
        How many outputs the correction's polynomial goes through, the newest included: 2 to 5, or 0
        for no correction.
    output : {"x0", "epsilon"}
        What the polynomial interpolates. x₀ stays bounded where σ → 0 and suits guidance.
    midpoint : bool
        For two points without a correction: take the line's value in the middle of the step in
        place of its mean, as DPM-Solver++ (2M) does (Lu et al. 2022b, arXiv:2211.01095,
        algorithm 2). It extrapolates less, which helps where the steps are too long for both.

    Raises
    ------
    ParameterError, IncompatibleError
        A parameter out of range.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore([2.0], 0.25, sde)
    >>> sampler = ss.PredictorCorrector(sde, predictor=ss.ExponentialAdams(), steps=10)
    >>> x = sampler.sample(score, shape=(4000, 1), seed=0)
    >>> round(x.mean().item(), 1), round(x.std().item(), 1)
    (2.0, 0.5)
    """

    eta: float = 0.0
    points: int = 2
    corrector_points: int = 0
    output: str = "x0"
    midpoint: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        points = checks.count("points", self.points, at_most=HIGHEST)
        q = checks.count("corrector_points", self.corrector_points, at_least=0, at_most=HIGHEST + 1)
        checks.that(q != 1, "corrector_points of 0, or from 2 to 5", "corrector_points=1")
        checks.choice("output", self.output, OUTPUTS)
        fits = not checks.flag("midpoint", self.midpoint) or (points == 2 and not q)
        checks.that(fits, "points=2 without a correction for midpoint=True", repr(self))
        vars(self).update(points=points, corrector_points=q)

    @classmethod
    def examples(cls) -> Sequence[ExponentialAdams]:
        return [
            *(cls(points=p) for p in (1, 2, 3, 4)),
            *(cls(points=p, corrector_points=p + 1) for p in (2, 3)),
            *(cls(eta=1.0, points=p) for p in (1, 2)),
            cls(eta=1.0, corrector_points=3),
        ]

    @property
    def order(self) -> int:  # type: ignore[override]
        """The order of the error of the distribution on Gaussian data."""
        p, q = self.points, self.corrector_points
        deterministic = min(p + 1, q) if q else min(p, STARTED)
        return min(deterministic, NOISY if self.eta else STARTED)

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        """One stage; ``points`` outputs, and one more where there is a correction."""
        t = times[:-1]
        step = exponential_step(sde, t, times[1:], self.output, self.eta)
        lam = clock(sde, times)
        b = step.adams_weights(lam, self.points, midpoint=self.midpoint)
        width = max(self.points + 1, self.corrector_points)
        if len(t) > 1 and (self.corrector_points or self.points > 2):
            # What the correction of the step before adds to the state, on the same outputs.
            change = self._better(step, lam, width)[:-1] - pad(b[:-1], 1, width)
            b = pad(b, 0, width) + pad(step.a[1:, None] * change, 0, width, first_rows=1)
        return Tableau(t[:, None], step.a[:, None], b[:, None], step.c[:, None, None], self.output)

    def _better(self, step: ExponentialStep, lam: Tensor, width: int) -> Tensor:
        """The weights of each step taken again, its end's output being known and the newest."""
        if self.corrector_points:
            return pad(step.adams_weights(lam, self.corrector_points, ahead=1), 0, width)
        starting = torch.arange(len(step.h), device=lam.device) < self.points - 2
        corrected = pad(step.adams_weights(lam, self.points, ahead=1), 0, width)
        plain = pad(step.adams_weights(lam, self.points), 1, width)
        return torch.where(starting[:, None], corrected, plain)


def pad(b: Tensor, newer: int, width: int, first_rows: int = 0) -> Tensor:
    """``b`` with ``newer`` columns of zeros in front, up to ``width``, below ``first_rows``."""
    return torch.nn.functional.pad(b, (newer, width - newer - b.shape[1], first_rows, 0))
