r"""NCSN's annealed Langevin dynamics as a corrector."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sdescore import checks
from sdescore.correctors.langevin import inner_steps
from sdescore.errors import IncompatibleError
from sdescore.sde.ladder import langevin_step_size
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import Corrector
from sdescore.tableau.tableau import Tableau, one_stage

__all__ = ["AnnealedLangevin"]


@dataclass(frozen=True)
class AnnealedLangevin(Corrector):
    r"""The Langevin steps of NCSN (Song & Ermon 2019, arXiv:1907.05600, algorithm 1):

    .. math:: \alpha_i = \epsilon\, \frac{\sigma_i^2}{\sigma_L^2}, \qquad
              x \leftarrow x + \tfrac{\alpha_i}{2} s(x, \sigma_i) + \sqrt{\alpha_i}\, z ,

    with :math:`\sigma_L` the last σ of the grid. The paper's sampler is
    ``PredictorCorrector(sde, predictor=NoPredictor(), corrector=AnnealedLangevin(),
    corrector_first=True, denoise=False)``. NCSN's released code steps by
    :math:`\alpha_i` in place of :math:`\alpha_i/2`, which is ``epsilon=4e-5``:
    :func:`sdescore.published.ncsn`.

    Parameters
    ----------
    epsilon : float
        The step ε at σ_L in the paper's convention (τ = ε/2), > 0, in squared data units.
        NCSN's 2e-5 belongs to σ_L = 0.01 (ε/σ_L² = 0.2); a step is stable where
        ε/σ_L² < 4.
    steps : int
        Inner steps T a level, >= 1; the paper's 100.

    Raises
    ------
    ParameterError
        ``epsilon`` or ``steps`` out of range.

    Examples
    --------
    >>> import sdescore as ss
    >>> sde = ss.DiscreteVESDE.geometric(sigma_max=1.0, sigma_min=0.01, levels=10)
    >>> corrector = ss.AnnealedLangevin(epsilon=2e-5, steps=100)
    >>> ncsn = ss.PredictorCorrector(sde, ss.NoPredictor(), corrector, grid=ss.LevelGrid())
    >>> ncsn.sample(ss.GaussianScore([0.5], 0.01, sde), shape=(4, 1)).shape
    torch.Size([4, 1])
    """

    epsilon: float = 2e-5
    steps: int = 100

    def __post_init__(self) -> None:
        epsilon = checks.number("epsilon", self.epsilon, above=0)
        vars(self).update(epsilon=epsilon, steps=inner_steps(self.steps))

    @classmethod
    def for_ladder(cls, sde: LinearSDE, steps: int = 5) -> AnnealedLangevin:
        r"""The step of Song & Ermon 2020, arXiv:2006.09011, technique 4, for T = ``steps`` a level.

        It minimises the variance that a level's steps leave if they start from the level above and
        the data are one point (:func:`sdescore.sde.ladder.variance_ratio`). Langevin steps of
        finite size leave too much, the more the larger the ratio of two levels, so the largest
        ratio of the ladder decides. It is made for a sampler that
        visits every level, as the default grid does.

        The paper writes the step :math:`x + \alpha s + \sqrt{2\alpha}\, z`; this class's ε is
        twice that α.

        Parameters
        ----------
        sde : LinearSDE
            A ladder: α = 1 and σ falling at its ``level_times()``.
        steps : int
            T, >= 1; the paper's 5 at ratios near 1.04.

        Raises
        ------
        ParameterError
            ``steps`` below 1.
        IncompatibleError
            The SDE has no ladder of levels.

        Examples
        --------
        >>> import sdescore as ss
        >>> sde = ss.DiscreteVESDE.geometric(sigma_max=50.0, sigma_min=0.01, levels=232)
        >>> corrector = ss.AnnealedLangevin.for_ladder(sde)
        >>> f"{corrector.epsilon / 2:.2g}"  # the paper's α for its CIFAR-10
        '6.2e-06'
        """
        level_times = getattr(sde, "level_times", None)
        if isinstance(sde, type) or not callable(level_times):
            expected = "an instance of a ladder of levels such as DiscreteVESDE"
            checks.refuse(expected, f"{sde!r:.200}", IncompatibleError)
        alpha, sigma = sde.marginal(level_times())
        if len(sigma) < 2 or not bool((alpha == 1).all() and (sigma[:-1] > sigma[1:]).all()):
            expected = (
                "alpha = 1 and at least two falling sigmas at the levels, as DiscreteVESDE has"
            )
            checks.refuse(expected, type(sde).__name__, IncompatibleError)
        ratio = (sigma[:-1] / sigma[1:]).max().item()
        return cls(2 * langevin_step_size(ratio, inner_steps(steps)) * sigma[-1].item() ** 2, steps)

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        sigma_t = sde.marginal(times)[1]
        alpha_i = self.epsilon * (sigma_t / sigma_t[-1]).square()
        return one_stage(times, times.new_ones(()), alpha_i / 2, alpha_i.sqrt())
