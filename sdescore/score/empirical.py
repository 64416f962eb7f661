r"""The exact score of a data set: the ideal denoiser.

With clean data :math:`y_1 \dots y_n`, each of mass 1/n, the posterior of the clean datum is a
softmax over the data set,

.. math::
   E[x_0 | x_t] = \sum_j r_j y_j, \qquad
   r_j \propto \exp\Bigl(-\frac{\|x_t - \alpha y_j\|^2}{2 \sigma^2}\Bigr), \qquad
   \nabla \log p_t = \frac{\alpha E[x_0 | x_t] - x_t}{\sigma^2}

(Karras et al. 2022, arXiv:2206.00364, eq. 57 and appendix B.3). A model at the minimum of the
training loss returns this score, and samples nothing but the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.score.exact import ExactScore, pick
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align

__all__ = ["EmpiricalScore"]

# Data points worked on at a time.
_POINTS = 1024


class EmpiricalScore(ExactScore):
    """Exact score, density and posterior of a finite data set under a linear SDE.

    Everything is computed in float64, whatever the dtype of ``x``: at small σ float32 has too few
    digits for squared distances over σ².

    Parameters
    ----------
    data : Tensor
        ``(n, *E)``, n >= 1, finite, floating point; kept as it is, not copied. Put it on the
        device of the states, or each chunk is moved there at every call.
    sde : LinearSDE
        Or any object with ``marginal(t) -> (alpha, sigma)``.

    Raises
    ------
    ShapeError
        ``data`` is empty or not a floating-point tensor.
    ParameterError
        ``data`` holds NaN or infinity.
    IncompatibleError
        ``sde`` has no ``marginal``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> score = ss.EmpiricalScore(torch.tensor([[0.0], [1.0]]), ss.VESDE())
    >>> score.denoise(torch.tensor([[0.5]]), 0.2)
    tensor([[0.5000]])
    """

    _normals, _coarsest = 1, torch.float64
    _chunk_numel = 1 << 20

    def __init__(self, data: Tensor, sde: LinearSDE) -> None:
        checks.state(data, "data")
        checks.that(data.numel() > 0, "data (n, *E) with n >= 1", tuple(data.shape), ShapeError)
        checks.finite_tensor("data", data)
        event_shape, width = tuple(data.shape[1:]), min(len(data), _POINTS)
        numel = math.prod(event_shape)
        super().__init__(
            sde,
            event_shape,
            singular=True,
            row_numel=max(width, numel),
            covariance_row_numel=max(width, numel) * numel,
        )
        self.data = data.detach()
        self._points = self.data.reshape(len(data), self._numel)
        # Distances are taken from the centre of the data: fewer digits cancel. The mean of all
        # points at once would copy them to float64.
        total = self._points.new_zeros(self._numel, dtype=torch.float64)
        for block in torch.split(self._points, _POINTS):
            total += block.sum(0, dtype=torch.float64)
        self._centre = total / len(data)

    def _chunks(
        self, x: Tensor, alpha: Tensor, sigma: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Per chunk of centred data: points ``(c, d)``, ``r`` within it ``(rows, c)``, log-mass.

        The log-mass ``(rows,)`` is ``log Σ_j exp((α x·y_j − α²‖y_j‖²/2)/σ²)``, of centred x and y.
        """
        centre = self._centre.to(x)
        centred = x - align(alpha, x) * centre
        ratio = align(alpha / sigma.square(), x)
        for chunk in torch.split(self._points, _POINTS):
            points = chunk.to(x) - centre
            half_norms = 0.5 * points.square().sum(1)
            logits = ratio * (centred @ points.T - align(alpha, x) * half_norms)
            yield points, logits.softmax(1), logits.logsumexp(1)

    def _denoise(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        mean, mass = torch.zeros_like(x), torch.full_like(x[:, 0], -math.inf)
        for points, weights, chunk_mass in self._chunks(x, alpha, sigma):
            share = align((chunk_mass - mass).sigmoid(), x)
            mean = torch.lerp(mean, weights @ points, share)
            mass = torch.logaddexp(mass, chunk_mass)
        return mean + self._centre.to(x)

    def _score(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        clean = self._denoise(x, alpha, sigma)
        return (align(alpha, x) * clean - x) / align(sigma, x).square()

    def _log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        masses = [mass for _, _, mass in self._chunks(x, alpha, sigma)]
        mass = torch.stack(masses).logsumexp(0) - math.log(len(self._points))
        distance = (x - align(alpha, x) * self._centre.to(x)).square().sum(1)
        normaliser = self._numel * (sigma.log() + 0.5 * math.log(2 * math.pi))
        return mass - 0.5 * distance / sigma.square() - normaliser

    def _covariance(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        mean, mass = torch.zeros_like(x), torch.full_like(x[:, 0], -math.inf)
        covariance = x.new_zeros(*x.shape, x.shape[1])
        for points, weights, chunk_mass in self._chunks(x, alpha, sigma):
            chunk_mean = weights @ points
            spread = points - chunk_mean.unsqueeze(1)
            within = (weights.unsqueeze(2) * spread).transpose(1, 2) @ spread
            # Two groups merge by the formula of total covariance, without E[yyᵀ] − E[y]E[y]ᵀ.
            share = (chunk_mass - mass).sigmoid()
            apart = chunk_mean - mean
            across = apart.unsqueeze(2) * apart.unsqueeze(1)
            covariance = torch.lerp(covariance, within, align(share, covariance))
            covariance = covariance + align(share * (1 - share), covariance) * across
            mean = torch.lerp(mean, chunk_mean, align(share, x))
            mass = torch.logaddexp(mass, chunk_mass)
        return covariance

    def _draw(self, normal: Tensor) -> Tensor:
        n = len(self._points)
        cumulative = torch.arange(1, n + 1, dtype=torch.float64, device="cpu") / n
        index = pick(normal[:, 0], cumulative)
        return self._points[index.to(self._points.device)].cpu().double()
