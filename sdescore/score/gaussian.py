r"""The exact score of a Gaussian, :math:`-(\alpha^2 C + \sigma^2 I)^{-1}(x - \alpha m)`."""

from __future__ import annotations

from torch import Tensor

from sdescore.score.mixture import MixtureScore, Numbers, Spectra, as_tensor
from sdescore.sde.linear import LinearSDE

__all__ = ["GaussianScore"]


class GaussianScore(MixtureScore):
    """Exact score, density and posterior of Gaussian data: the mixture of one component.

    Parameters
    ----------
    mean : (*E,)
        In the units of the data; its shape is the event shape.
    covariance : (d, d), (*E,), (d,) or ()
        Full (symmetric, positive semidefinite), diagonal, or one variance for all d elements.
    sde : LinearSDE
        Or any object with ``marginal(t) -> (alpha, sigma)``.

    Raises
    ------
    ShapeError, ParameterError, IncompatibleError
        As :class:`sdescore.MixtureScore`.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> score = ss.GaussianScore([0.0, 0.0], 1.0, ss.VPSDE())
    >>> score(torch.tensor([[1.0, -2.0]]), 0.3)
    tensor([[-1.,  2.]])
    """

    def __init__(self, mean: Numbers, covariance: Numbers, sde: LinearSDE) -> None:
        one_mean, one_covariance = as_tensor(mean).unsqueeze(0), as_tensor(covariance).unsqueeze(0)
        super().__init__([1.0], one_mean, one_covariance, sde)

    @property
    def mean(self) -> Tensor:
        """``(*E,)`` float64."""
        return self.means[0]

    def _responsibilities(self, p: Spectra, y: Tensor, scaled: Tensor, variance: Tensor) -> Tensor:
        return p.log_weights.exp().expand(len(y), 1)  # one component: nothing to weigh
