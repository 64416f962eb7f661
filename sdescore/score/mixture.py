r"""The exact score of a mixture of Gaussians, and of one Gaussian.

With :math:`C_k = U_k \Lambda_k U_k^\top` every marginal stays a mixture whose covariances
keep their eigenvectors,

.. math::
   p_t = \sum_k w_k N(\alpha m_k,\, U_k V_k U_k^\top), \qquad
   V_k = \alpha^2 \Lambda_k + \sigma^2, \qquad r_k(x) = P(k \mid x_t = x),

so that with :math:`y_k = U_k^\top (x - \alpha m_k)`

.. math::
   \nabla \log p_t = -\sum_k r_k U_k V_k^{-1} y_k, \qquad
   E[x_0 | x_t] = \sum_k r_k \mu_k, \quad
   \mu_k = m_k + \alpha U_k \Lambda_k V_k^{-1} y_k, \\
   \mathrm{Cov}[x_0 | x_t] = \sum_k r_k \bigl(\sigma^2 U_k \Lambda_k V_k^{-1} U_k^\top
   + (\mu_k - \bar\mu)(\mu_k - \bar\mu)^\top\bigr)

(Bishop 2006, "Pattern recognition and machine learning", eqs. 2.113–2.117, and the formula of
total covariance). The spectra are found once; a call factorises nothing and is two matrix
products for all components together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.score.exact import ExactScore, pick
from sdescore.score.linear_gaussian import Conditioned, conditioned, measured
from sdescore.score.numbers import Numbers, as_tensor, finite
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align

__all__ = ["GaussianScore", "MixtureScore"]


@dataclass(frozen=True, eq=False)
class Spectra:
    """A mixture's parameters in one dtype on one device; ``basis`` is None where all U are I."""

    log_weights: Tensor  # (K,)
    means: Tensor  # (K, d)
    eigenvalues: Tensor  # (K, d)
    basis: Tensor | None  # (d, K d): the columns of U_1, then of U_2, …
    projected_means: Tensor  # (K d,): U_kᵀ m_k

    def to(self, dtype: torch.dtype, device: torch.device) -> Spectra:
        parts = (self.log_weights, self.means, self.eigenvalues, self.basis, self.projected_means)
        # A tensor kept from an inference_mode block could not enter autograd later.
        with torch.inference_mode(False):
            return Spectra(*(None if p is None else p.to(device, dtype) for p in parts))  # type: ignore[arg-type]

    def lift(self, y: Tensor) -> Tensor:
        """``Σ_k U_k y_k`` for ``y`` ``(rows, K, d)``: ``(rows, d)``."""
        return y.sum(1) if self.basis is None else y.flatten(1) @ self.basis.T

    def matrices(self) -> Tensor:
        """``U`` ``(K, d, d)``."""
        components, d = self.means.shape
        if self.basis is None:
            eye = torch.eye(d, dtype=self.means.dtype, device=self.means.device)
            return eye.expand(components, d, d)
        return self.basis.reshape(d, components, d).transpose(0, 1)


class MixtureScore(ExactScore):
    r"""Exact score, density and posterior of a mixture of Gaussians under a linear SDE.

    Computed in the dtype of ``x``, at least float32; parameters are kept in float64. A
    component's log density carries a rounding error of about eps · yᵀV⁻¹y, so in float32 the
    responsibilities blur where x is further than some 10³ standard deviations from all means.

    Parameters
    ----------
    weights : (K,)
        Positive, summing to 1 within 1e-6.
    means : (K, *E)
        In the units of the data.
    covariances : (K, d, d), (K, *E), (K, d) or (K,)
        Full (symmetric, positive semidefinite), diagonal, or one variance per component;
        d is the number of elements of an event.
    sde : LinearSDE
        Or any object with ``marginal(t) -> (alpha, sigma)``.

    Attributes
    ----------
    weights, means, eigenvalues : Tensor
        ``(K,)``, ``(K, *E)`` and ``(K, d)``, float64; eigenvalues of the covariances.

    Raises
    ------
    ShapeError
        Shapes that do not fit together.
    ParameterError
        Weights that are not positive or do not sum to 1, parameters that are complex or not
        finite, a covariance that is not symmetric or not positive semidefinite.
    IncompatibleError
        ``sde`` has no ``marginal``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> score = ss.MixtureScore([0.5, 0.5], [[-2.0], [2.0]], [0.1, 0.1], ss.VPSDE())
    >>> score(torch.zeros(1, 1), 0.5).abs().item()
    0.0
    """

    # Three passes over chunks of this many numbers stay in a core's cache.
    _chunk_numel = 1 << 17

    def __init__(
        self, weights: Numbers, means: Numbers, covariances: Numbers, sde: LinearSDE
    ) -> None:
        w, m = finite("weights", weights), finite("means", means)
        checks.that(
            w.ndim == 1 and len(w) >= 1 and m.ndim >= 1 and len(m) == len(w) and m.numel() > 0,
            "weights (K,) and means (K, *E) with K >= 1",
            f"{tuple(w.shape)} and {tuple(m.shape)}",
            ShapeError,
        )
        checks.that(bool((w > 0).all()), "positive weights", f"a smallest weight {w.min():g}")
        total = w.sum().item()
        expected = "weights that sum to 1 within 1e-6"
        checks.that(abs(total - 1) <= 1e-6, expected, f"a sum of {total}")
        flat = m.flatten(1) if m.ndim > 1 else m.unsqueeze(1)
        eigenvalues, matrices = _spectra(covariances, flat, m)
        super().__init__(
            sde,
            tuple(m.shape[1:]),
            singular=bool((eigenvalues == 0).any()),
            row_numel=flat.numel(),
            covariance_row_numel=max(flat.numel(), flat.shape[1] ** 2),
        )
        self.weights, self.means, self.eigenvalues = w / total, m, eigenvalues
        self._normals = 1 + flat.shape[1]
        basis, projected = None, flat
        if matrices is not None:
            basis = matrices.transpose(0, 1).flatten(1).contiguous()
            projected = (flat.unsqueeze(1) @ matrices).squeeze(1)
        log_weights = self.weights.log()
        self._source = Spectra(log_weights, flat, eigenvalues, basis, projected.flatten())
        # The usual casts are made now: one made inside a torch.func transform is wrapped by it.
        self._casts: dict[tuple[torch.dtype, torch.device], Spectra] = {}
        for dtype in (torch.float32, torch.float64):
            self._cast(torch.empty(0, dtype=dtype, device="cpu"))

    def posterior(self, A: object, y: Numbers, noise: Numbers = 0.0) -> MixtureScore:
        r"""The exact score of the data given ``y = A x_0 + n``, which is a mixture again.

        Parameters
        ----------
        A : (m, d) or operator
            A matrix over the flattened event, or a linear ``ss.inverse.Operator``.
        y : (m,) or (*M)
            What was measured, in the units of the data.
        noise : () or (m, m)
            The noise's standard deviation, >= 0, or its covariance, positive definite.

        Returns
        -------
        MixtureScore
            On the same SDE. Components whose weight is 0 in float64 are left out.

        Raises
        ------
        ShapeError
            ``A``, ``y`` and ``noise`` do not fit the event or each other.
        ParameterError
            A number is not finite, the noise is negative or its covariance not positive definite,
            or y has no density: the noise is 0 and no datum changes a combination of A's rows.
        IncompatibleError
            ``A`` is an operator that is not linear, so that it has no matrix.

        Examples
        --------
        >>> import sdescore as ss
        >>> prior = ss.GaussianScore([0.0, 0.0], 1.0, ss.VPSDE())
        >>> prior.posterior([[1.0, 0.0]], [2.0], noise=1.0).means
        tensor([[1., 0.]], dtype=torch.float64)
        """
        found = self._given(A, y, noise)
        weights = found.log_weights.exp()
        possible = weights > 0
        means = found.means[possible].reshape(-1, *self.event_shape)
        return MixtureScore(weights[possible], means, found.covariances[possible], self.sde)

    def log_evidence(self, A: object, y: Numbers, noise: Numbers = 0.0) -> float:
        """``log p(y)`` in nats; arguments and errors are those of :meth:`posterior`."""
        return self._given(A, y, noise).log_evidence.item()

    def _given(self, A: object, y: Numbers, noise: Numbers) -> Conditioned:
        p = self._source
        factors = p.matrices() * p.eigenvalues.sqrt()[:, None]
        measurement = measured(A, y, noise, self.event_shape)
        return conditioned(p.log_weights, p.means, factors, *measurement)

    def _cast(self, like: Tensor) -> Spectra:
        key = like.dtype, like.device
        if key not in self._casts:
            self._casts[key] = self._source.to(*key)
        return self._casts[key]

    def _project(
        self, x: Tensor, alpha: Tensor, sigma: Tensor
    ) -> tuple[Spectra, Tensor, Tensor, Tensor]:
        """The spectra; ``y`` ``(rows, K, d)``; V, ``(K, d)`` or ``(rows, K, d)``; and ``y/V``."""
        p = self._cast(x)
        if p.basis is None:
            y = x.unsqueeze(1)
            y = y - align(alpha, y) * p.means
        else:
            y = torch.addmm(-align(alpha, x) * p.projected_means, x, p.basis)
            y = y.view(len(x), *p.means.shape)
        square, variance = align(alpha, y).square(), align(sigma, y).square()
        variance = torch.addcmul(variance, square, p.eigenvalues)
        return p, y, variance, y * variance.reciprocal()

    def _joint(self, p: Spectra, y: Tensor, scaled: Tensor, variance: Tensor) -> Tensor:
        """``log w_k N_k(x)`` without ``−(d/2) log 2π``, ``(rows, K)``; ``scaled`` is ``y/V``."""
        bias = torch.add(p.log_weights, variance.log().sum(-1), alpha=-0.5)
        return torch.add(bias, (y * scaled).sum(-1), alpha=-0.5)

    def _responsibilities(self, p: Spectra, y: Tensor, scaled: Tensor, variance: Tensor) -> Tensor:
        return self._joint(p, y, scaled, variance).softmax(-1)

    def _score(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        p, y, variance, scaled = self._project(x, alpha, sigma)
        weights = self._responsibilities(p, y, scaled, variance)
        return -p.lift(scaled * weights.unsqueeze(-1))

    def _denoise(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        p, y, variance, scaled = self._project(x, alpha, sigma)
        weights = self._responsibilities(p, y, scaled, variance)
        gain = align(alpha, y) * p.eigenvalues
        return weights @ p.means + p.lift(gain * scaled * weights.unsqueeze(-1))

    def _log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        p, y, variance, scaled = self._project(x, alpha, sigma)
        joint = self._joint(p, y, scaled, variance)
        return joint.logsumexp(-1) - 0.5 * self._numel * math.log(2 * math.pi)

    def _covariance(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        p, y, variance, scaled = self._project(x, alpha, sigma)
        weights = self._responsibilities(p, y, scaled, variance).unsqueeze(-1)
        U = p.matrices()
        gain = align(alpha, y) * p.eigenvalues
        component_means = p.means + torch.einsum("kai,bki->bka", U, gain * scaled)
        spread = component_means - (weights * component_means).sum(1, keepdim=True)
        between = (weights * spread).transpose(1, 2) @ spread
        within = weights * (align(sigma, y).square() * p.eigenvalues / variance)
        if p.basis is None:
            return between + torch.diag_embed(within.sum(1))
        for k, U_k in enumerate(U):
            between = between + (U_k * within[:, k].unsqueeze(1)) @ U_k.T
        return between

    def _draw(self, normal: Tensor) -> Tensor:
        p = self._source
        component = pick(normal[:, 0], self.weights.cumsum(0))
        y, roots = normal[:, 1:], p.eigenvalues.sqrt()
        if p.basis is None:
            return p.means[component] + y * roots[component]
        lifted = torch.empty_like(y)
        for k, U_k in enumerate(p.matrices()):
            own = component == k
            # C's symmetric root: U √λ alone would depend on the signs that eigh leaves open.
            lifted[own] = (y[own] @ U_k * roots[k]) @ U_k.T
        return p.means[component] + lifted


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


def _spectra(
    covariances: Numbers, flat_means: Tensor, means: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Eigenvalues ``(K, d)`` and eigenvectors ``(K, d, d)``, None for diagonal covariances."""
    C = finite("covariances", covariances)
    components, d = flat_means.shape
    if C.shape == (components, d, d):
        # The accuracy of the numbers as they came, float32 or better.
        dtype = as_tensor(covariances).dtype
        eps = torch.finfo(dtype if dtype.is_floating_point else torch.float64).eps
        tolerance = 16 * d * eps * C.abs().max().item()
        skew = (C - C.transpose(1, 2)).abs().max().item()
        checks.that(skew <= tolerance, "symmetric covariances", f"C - C^T up to {skew:g}")
        eigenvalues, matrices = torch.linalg.eigh(0.5 * (C + C.transpose(1, 2)))
        # What eigh cannot tell from 0 is 0, so that a singular covariance is known as one.
        noise = d * torch.finfo(torch.float64).eps * eigenvalues.abs().amax(1, keepdim=True)
        eigenvalues = torch.where(eigenvalues.abs() > noise, eigenvalues, 0.0)
    elif C.shape in ((components, d), means.shape, (components,)):
        eigenvalues, matrices = C.reshape(components, -1).expand(components, d), None
        tolerance = 0.0
    else:
        checks.refuse(
            f"covariances ({components}, {d}, {d}), ({components}, {d}) or ({components},) beside "
            f"means {tuple(means.shape)}",
            tuple(C.shape),
            ShapeError,
        )
    lowest, expected = eigenvalues.min().item(), "positive semidefinite covariances"
    checks.that(lowest >= -tolerance, expected, f"an eigenvalue or variance {lowest:g}")
    return eigenvalues.clamp(min=0.0), matrices
