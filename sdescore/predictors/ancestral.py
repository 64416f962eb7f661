r"""DDPM's ancestral step, with each of the variances that DDPMs have used.

A step from t to s moves by :math:`x_t = a x_s + \sqrt{V} z`. On a DDPM's table, from a level to the
next, :math:`V = \beta_i`. Given x₀ the step back has the posterior variance

.. math:: \tilde\beta = \frac{\sigma_s^2}{\sigma_t^2} V .

It is right if the data are one point; V is right if they are N(0, I). The true variance lies
between (Ho et al. 2020, arXiv:2006.11239, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.sde.base import SDE
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import Predictor
from sdescore.tableau.tableau import Tableau, one_stage

if TYPE_CHECKING:
    from typing_extensions import Self  # of typing from Python 3.11 on

__all__ = ["Ancestral"]

VARIANCES = ("fixed_small", "fixed_large", "learned_range")


@dataclass(frozen=True)
class Ancestral(Predictor):
    r"""A draw from the bridge :math:`x_s \mid x_t, \hat x_0` at Tweedie's
    :math:`\hat x_0 = E[x_0 | x_t]`, or with a larger variance Σ:

    .. math:: x_s = \frac{1}{a}\bigl(x_t + V s(x_t, t)\bigr) + \sqrt{\Sigma}\; z,
              \qquad x_t = a x_s + \sqrt{V} z .

    On a DDPM's table it is Ho et al. 2020 (arXiv:2006.11239), algorithm 2; on a VE SDE Song et al.
    2021 (arXiv:2011.13456), eq. 47. With the small variance it equals :class:`sdescore.DDIM` with
    η = 1.

    Parameters
    ----------
    variance : str
        ``"fixed_small"``: the bridge's own, :math:`\Sigma = \tilde\beta = \sigma_s^2 V/\sigma_t^2`
        (Ho et al. 2020, eq. 7). ``"fixed_large"``: :math:`\Sigma = V`, which is β on a DDPM's
        table; the released DDPMs and score_sde's ancestral sampler of VP have it.
        ``"learned_range"``: a network's v in [−1, 1] interpolates between the two,
        :math:`\Sigma = V^{(1 + v)/2}\, \tilde\beta^{(1 - v)/2}` (Nichol & Dhariwal 2021,
        arXiv:2102.09672, eq. 15). The network has a method ``with_variance``, as
        :class:`sdescore.nets.ADM` and :class:`sdescore.nets.LearnedVariance` have.

    Raises
    ------
    IncompatibleError
        An unknown variance.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.DiscreteVPSDE.linear(1000)
    >>> for variance in ("fixed_small", "fixed_large"):  # the large one is exact for N(0, 1)
    ...     sampler = ss.PredictorCorrector(sde, predictor=ss.Ancestral(variance))
    ...     error = ss.analysis.gaussian_error(sampler, torch.ones(1))
    ...     print(f"{error.variance.item():.3f}")
    0.991
    1.000
    """

    variance: str = "fixed_small"
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        checks.choice("variance", self.variance, VARIANCES)

    @classmethod
    def examples(cls) -> Sequence[Self]:
        """Those with a tableau."""
        return [cls(variance) for variance in VARIANCES[:2]]

    @property
    def needs_variance(self) -> bool:
        return self.variance == "learned_range"

    def is_affine(self, sde: SDE) -> bool:
        return super().is_affine(sde) and not self.needs_variance

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        t, s = times[:-1], times[1:]
        bridge = sde.bridge(s, t)
        a, V = bridge.scale, bridge.added_variance
        variance = V if self.variance == "fixed_large" else bridge.variance
        if not bool(a.all()):  # α_t = 0: the score does not say x̂₀ there
            return one_stage(t, bridge.weight_t, bridge.weight_0, variance.sqrt(), "x0")
        return one_stage(t, 1 / a, V / a, variance.sqrt())

    def step(
        self, sde: SDE, x: Tensor, score: Callable[[Tensor], Tensor], t: float, s: float, z: Tensor
    ) -> Tensor:
        """One move by hand, from ``x`` ``(B, *E)`` at ``t`` to ``s``, with noise ``z`` like ``x``.

        For ``"learned_range"`` the score has a method ``with_variance(x)`` that returns the score
        and v, as the one that a sampler passes has.

        Raises
        ------
        IncompatibleError
            The score has none.
        """
        if not self.needs_variance:
            return super().step(sde, x, score, t, s, z)
        both: Callable[[Tensor], tuple[Tensor, Tensor]] | None
        both = getattr(score, "with_variance", None)
        if both is None:
            got = "a function alone; run it by a sampler"
            checks.refuse("a score with with_variance(x)", got, IncompatibleError)
        value, v = both(x)
        bridge = checks.linear(sde, "Ancestral").bridge(s, t)
        a, V, small = map(float, (bridge.scale, bridge.added_variance, bridge.variance))
        # Σ = V (β̃/V)^((1 − v)/2), which is 0 and no NaN where σ_s = 0.
        variance = V * torch.pow(small / V, 0.5 * (1 - v))
        found: Tensor = (x + V * value) / a + variance.sqrt() * z
        return found
