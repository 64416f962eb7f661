r"""The steps of score_sde's predictors and correctors (Song et al. 2021, arXiv:2011.13456).

The code works on N times :math:`t_n` from T down to eps, at equal steps. A predictor's step is

.. math:: x \leftarrow a\, x + b\, s(x, t_n) + c\, z

at each of them. The last one has no noise c z, which is the code's denoising (``noise_removal``).
With :math:`i = \lfloor t_n (N - 1) \rfloor`, a table :math:`\beta_i = \beta(\tfrac{i}{N-1})/N` of a
VP SDE, a table :math:`\sigma_i = \sigma(\tfrac{i}{N-1})` of a VE SDE, and :math:`\sigma_{-1} = 0`:

===================  ====  =======================  ============================  ==================
predictor            SDE   a                        b                             c²
===================  ====  =======================  ============================  ==================
euler_maruyama       any   1 − f(t)/N               g²(t)/N                       b
reverse_diffusion    VE    1                        σ_i² − σ_{i−1}²               b
reverse_diffusion    VP    2 − √(1 − β_i)           β_i                           b
ancestral_sampling   VE    1                        σ_i² − σ_{i−1}²               b σ_{i−1}²/σ_i²
ancestral_sampling   VP    1/√(1 − β_i)             β_i/√(1 − β_i)                β_i
===================  ====  =======================  ============================  ==================

On other SDEs reverse_diffusion is euler_maruyama. With ``probability_flow`` b is halved and c is 0.
The step sizes 1/N and :math:`\beta_i` differ from those between the times, (T − eps)/(N − 1), by
which the predictors of :mod:`sdescore.predictors` step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.correctors.langevin import Langevin, inner_steps
from sdescore.errors import IncompatibleError, ScheduleError
from sdescore.sde.base import SDE
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import float64
from sdescore.tableau.method import Corrector, Predictor
from sdescore.tableau.tableau import Tableau, one_stage

__all__ = ["ScoreSDELangevin", "ScoreSDEStep"]

PREDICTORS = ("euler_maruyama", "reverse_diffusion", "ancestral_sampling")
ROUNDING = 1e-9  # of t (N − 1), which is to be rounded down


def kind_of(sde: LinearSDE) -> str:
    """``"ve"`` where α = 1, ``"vp"`` where α² + σ² = 1, else ``"other"``."""
    t = torch.tensor([0.5 * sde.T, sde.T], dtype=torch.float64, device="cpu")
    alpha, sigma = sde.marginal(t)
    if bool((alpha == 1).all()):
        return "ve"
    change = alpha.square() + sigma.square() - 1
    return "vp" if bool((change.abs() < ROUNDING).all()) else "other"


def index_of(sde: LinearSDE, t: Tensor, num_scales: int) -> Tensor:
    """The index i of times ``(n,)`` in the code's tables; level 0 is the least noisy."""
    label = t * (num_scales - 1) / sde.T
    if kind_of(sde) == "vp" and hasattr(sde, "level"):
        label = sde.level(t)
    return (label + ROUNDING).floor()


def beta_of(sde: LinearSDE, i: Tensor, num_scales: int) -> Tensor:
    """The table's β_i of a VP SDE, at indices ``(n,)``."""
    if hasattr(sde, "level"):
        return sde.transition(i / num_scales, (i + 1) / num_scales).variance
    return sde.rates(i * sde.T / (num_scales - 1))[1] / num_scales


def require_small_betas(sde: LinearSDE, num_scales: int) -> None:
    """Refuse so few scales that a β_i of a VP SDE is not below 1."""
    last = torch.tensor([num_scales - 1], dtype=torch.float64, device="cpu")
    beta = beta_of(sde, last, num_scales).item()
    expected = "num_scales so large that the table's largest beta, β(T)/N, is below 1"
    checks.that(beta < 1, expected, f"num_scales={num_scales}, beta={beta:g}", ScheduleError)


def sigma_of(sde: LinearSDE, t: Tensor, num_scales: int) -> Tensor:
    """The σ by which the code divides a network's ε at times ``(n,)``.

    On a table it is that of the level below t, where the network is given t itself.
    """
    if hasattr(sde, "level") and kind_of(sde) == "vp":
        t = (index_of(sde, t, num_scales) + 1) / num_scales
    return sde.marginal(t)[1]


@dataclass(frozen=True)
class ScoreSDEStep(Predictor):
    """A predictor of score_sde, whose last step draws no noise.

    Parameters
    ----------
    predictor : {"euler_maruyama", "reverse_diffusion", "ancestral_sampling"}
        The row of the module's table.
    num_scales : int
        N >= 2, the number of times, and of the levels of a discrete SDE.
    probability_flow : bool
        Whether to step on the probability flow; not with ``"ancestral_sampling"``.
    noise_removal : bool
        Whether the last step adds no noise.

    Raises
    ------
    IncompatibleError, ParameterError
        The predictor is unknown or has no probability flow, or a number is out of range.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> predictor = ss.published.ScoreSDEStep("ancestral_sampling", num_scales=1000)
    >>> options = {"grid": ss.UniformGrid(), "steps": 1000, "denoise": False}
    >>> sampler = ss.PredictorCorrector(ss.VPSDE(), predictor, **options)
    >>> x = sampler.sample(ss.GaussianScore([2.0], 0.25, sampler.sde), (2000, 1))
    >>> round(x.mean().item(), 1), round(x.std().item(), 1)
    (2.0, 0.5)
    """

    predictor: str = "reverse_diffusion"
    num_scales: int = 1000
    probability_flow: bool = False
    noise_removal: bool = True
    order = 1

    def __post_init__(self) -> None:
        checks.choice("predictor", self.predictor, PREDICTORS)
        count = checks.count("num_scales", self.num_scales, at_least=2)
        checks.flag("probability_flow", self.probability_flow)
        checks.flag("noise_removal", self.noise_removal)
        both = self.probability_flow and self.predictor == "ancestral_sampling"
        expected = "ancestral_sampling without probability_flow, as in the original"
        checks.that(not both, expected, "both", IncompatibleError)
        vars(self).update(num_scales=count)

    @property
    def eta(self) -> float:
        """0 on the probability flow, else 1."""
        return 0.0 if self.probability_flow else 1.0

    def check(self, sde: SDE) -> None:
        """Refuse an SDE that the original's predictor has no numbers for."""
        linear = checks.linear(sde, "score_sde")
        kind, discrete = kind_of(linear), hasattr(linear, "level")
        expected = "a VE or VP SDE for ancestral_sampling"
        fits = self.predictor != "ancestral_sampling" or kind != "other"
        checks.that(fits, expected, type(sde).__name__, IncompatibleError)
        expected = "reverse_diffusion or ancestral_sampling on an SDE with a table of levels"
        fits = self.predictor != "euler_maruyama" or not discrete
        checks.that(fits, expected, "euler_maruyama", IncompatibleError)
        if kind == "vp" and self.predictor != "euler_maruyama":
            require_small_betas(linear, self.num_scales)

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        """All steps but the last."""
        return self._rows(sde, times[:-1], 1.0)

    def ending(self, sde: LinearSDE, times: Tensor) -> Tableau:
        """The last step, as a rule without noise."""
        return self._rows(sde, times[-1:], 0.0 if self.noise_removal else 1.0)

    def _rows(self, sde: LinearSDE, t: Tensor, noise: float) -> Tableau:
        a, b, variance = self._numbers_at(sde, t)
        if self.probability_flow:
            b, noise = 0.5 * b, 0.0
        c = noise * variance.sqrt()
        if not hasattr(sde, "level"):
            return one_stage(t, a, b, c)
        return one_stage(t, a, -b / sigma_of(sde, t, self.num_scales), c, "epsilon")

    def _numbers_at(self, sde: LinearSDE, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """a, b and c² of the module's table at times ``(n,)``."""
        N, kind, i = self.num_scales, kind_of(sde), index_of(sde, t, self.num_scales)
        if self.predictor == "euler_maruyama" or kind == "other":
            f, g2 = sde.rates(t)
            return 1 - f * (sde.T / N), g2 * (sde.T / N), g2 * (sde.T / N)
        ancestral = self.predictor == "ancestral_sampling"
        if kind == "vp":
            beta = beta_of(sde, i, N)
            root = (1 - beta).sqrt()
            return (1 / root, beta / root, beta) if ancestral else (2 - root, beta, beta)
        sigma2, lower2 = (
            sde.marginal(place.clamp(min=0) * sde.T / (N - 1))[1].square() for place in (i, i - 1)
        )
        lower2 = torch.where(i > 0, lower2, 0.0)
        b = sigma2 - lower2
        return torch.ones_like(b), b, b * lower2 / sigma2 if ancestral else b


@dataclass(frozen=True)
class ScoreSDELangevin(Corrector):
    r"""A corrector of score_sde on a VP SDE: a step of :class:`sdescore.Langevin` with τ times
    :math:`1 - \beta_i`.

    Parameters
    ----------
    snr : float
        The signal-to-noise ratio, > 0.
    steps : int
        Inner steps a time, >= 1.
    norm : {"batch", "expected"}
        ``"batch"`` is the original's ``langevin``, ``"expected"`` its ``ald``.
    num_scales : int
        N >= 2, the number of times, and of the levels of a discrete SDE.

    Raises
    ------
    ParameterError, IncompatibleError
        An argument is out of range.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> corrector = ss.published.ScoreSDELangevin(snr=0.1, norm="expected")
    >>> sampler = ss.PredictorCorrector(ss.VPSDE(), ss.EulerMaruyama(), corrector, steps=1000)
    >>> x = sampler.sample(ss.GaussianScore([2.0], 0.25, sampler.sde), (2000, 1))
    >>> round(x.mean().item(), 1), round(x.std().item(), 1)
    (2.0, 0.5)
    """

    snr: float = 0.16
    steps: int = 1
    norm: str = "batch"
    num_scales: int = 1000

    def __post_init__(self) -> None:
        count = checks.count("num_scales", self.num_scales, at_least=2)
        snr = checks.number("snr", self.snr, above=0)
        checks.choice("norm", self.norm, ("batch", "expected"))
        vars(self).update(snr=snr, steps=inner_steps(self.steps), num_scales=count)

    def check(self, sde: SDE) -> None:
        """Refuse an SDE that is not variance preserving."""
        linear = checks.linear(sde, "ScoreSDELangevin")
        got = f"{type(sde).__name__}; use Langevin, which score_sde has on VE SDEs"
        checks.that(kind_of(linear) == "vp", "a VP SDE", got, IncompatibleError)
        require_small_betas(linear, self.num_scales)

    def step(
        self, sde: SDE, x: Tensor, score: Callable[[Tensor], Tensor], t: float, z: Tensor
    ) -> Tensor:
        """One step at ``t``, with noise ``z`` like ``x`` ``(B, *E)``."""
        linear, time = checks.linear(sde, "ScoreSDELangevin"), float64(t).reshape(1)
        beta = beta_of(linear, index_of(linear, time, self.num_scales), self.num_scales)
        table = sigma_of(linear, time, self.num_scales)
        ratio = (linear.marginal(time)[1] / table).item()
        plain = Langevin((self.snr**2 * (1 - beta)).sqrt().item(), norm=self.norm)
        return plain.step(sde, x, lambda y: ratio * score(y), t, z)
