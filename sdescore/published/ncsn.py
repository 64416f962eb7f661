r"""Annealed Langevin dynamics as the codes of NCSN and NCSNv2 run it.

Both papers and their codes run, from the largest σ to the smallest,

.. math:: x \leftarrow x + \alpha_i\, s(x, \sigma_i) + \sqrt{2 \alpha_i}\, z, \qquad
   \alpha_i = \texttt{step\_lr}\, \frac{\sigma_i^2}{\sigma_L^2} .

NCSN's algorithm 1 writes :math:`x + \tfrac{\epsilon}{2} s + \sqrt{\epsilon} z` with ε = 2e-5, and
its code has ``step_lr`` = 2e-5. The code's step is therefore twice the paper's.
:class:`sdescore.AnnealedLangevin` has the paper's ε, which is 2 ``step_lr``.
"""

from __future__ import annotations

from sdescore import checks
from sdescore.correctors.annealed import AnnealedLangevin
from sdescore.predictors.none import NoPredictor
from sdescore.published._source import level_times
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.sde.linear import LinearSDE
from sdescore.typing import Score

__all__ = ["ncsn", "ncsnv2"]


def ncsn(
    source: LinearSDE | Score, step_lr: float = 2e-5, n_steps_each: int = 100
) -> PredictorCorrector:
    """The sampler of NCSN's code (Song & Ermon 2019, arXiv:1907.05600), without a last denoise.

    Parameters
    ----------
    source : ScoreModel or LinearSDE
        A model on a :class:`sdescore.DiscreteVESDE`, or this SDE.
    step_lr : float
        The step at the smallest σ, > 0, in squared units of the state; 2e-5 for pixels in [0, 1].
    n_steps_each : int
        Steps a level, >= 1.

    Returns
    -------
    PredictorCorrector
        The original starts it from uniform noise: pass ``init=torch.rand(B, *E)``.

    Raises
    ------
    IncompatibleError
        The SDE has no levels.
    ParameterError
        ``step_lr`` or ``n_steps_each`` is out of range.

    Examples
    --------
    >>> import sdescore as ss
    >>> sde = ss.DiscreteVESDE.geometric(sigma_max=1.0, sigma_min=0.01, levels=10)
    >>> ss.published.ncsn(sde).evaluations
    1000
    """
    return _annealed(source, step_lr, n_steps_each, False, "ncsn")


def ncsnv2(
    source: LinearSDE | Score,
    step_lr: float = 6.2e-6,
    n_steps_each: int = 5,
    denoise: bool = True,
) -> PredictorCorrector:
    """The sampler of NCSNv2's code (Song & Ermon 2020, arXiv:2006.09011).

    Parameters
    ----------
    source : ScoreModel or LinearSDE
        A model on a :class:`sdescore.DiscreteVESDE`, or this SDE.
    step_lr : float
        The step at the smallest σ, > 0, in squared units of the state. By default that of the
        paper's CIFAR-10, with 232 levels.
    n_steps_each : int
        Steps a level, >= 1.
    denoise : bool
        Whether to end with the paper's denoising step, x + σ² s at the smallest σ.

    Returns
    -------
    PredictorCorrector
        The original starts it from uniform noise: pass ``init=torch.rand(B, *E)``.

    Raises
    ------
    IncompatibleError
        The SDE has no levels.
    ParameterError
        An argument is out of range.

    Examples
    --------
    >>> import sdescore as ss
    >>> sde = ss.DiscreteVESDE.geometric(sigma_max=50.0, sigma_min=0.01, levels=232)
    >>> ss.published.ncsnv2(sde).evaluations  # 232 levels of 5 steps, and the denoising step
    1161
    """
    return _annealed(source, step_lr, n_steps_each, checks.flag("denoise", denoise), "ncsnv2")


def _annealed(
    source: LinearSDE | Score, step_lr: float, n_steps_each: int, denoise: bool, user: str
) -> PredictorCorrector:
    sde, times = level_times(source, user)
    return PredictorCorrector(
        sde,
        predictor=NoPredictor(),
        corrector=AnnealedLangevin(
            epsilon=2 * checks.number("step_lr", step_lr, above=0), steps=n_steps_each
        ),
        corrector_first=True,
        grid=times.sort(descending=True).values,
        denoise=denoise,
    )
