"""DPS, ΠGDM and MMPS by linear algebra on Gaussians, and by dense Jacobians elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from tests.helpers.callers import SETTINGS

inverse = ss.inverse
F64 = torch.float64
VP = ss.VPSDE()
A = torch.tensor([[1.0, 0.5, 0.0], [0.0, -1.0, 2.0]], dtype=F64)
Y = torch.tensor([0.7, -1.2], dtype=F64)
MEAN = torch.tensor([0.5, -1.0, 0.2], dtype=F64)
COVARIANCE = torch.tensor([[1.0, 0.6, 0.0], [0.6, 0.8, 0.1], [0.0, 0.1, 0.3]], dtype=F64)
GAUSSIAN = ss.GaussianScore(MEAN, COVARIANCE, VP)
MIXTURE = ss.MixtureScore(
    [0.4, 0.6], torch.stack([MEAN, -MEAN]), torch.stack([COVARIANCE, 0.3 * COVARIANCE]), VP
)
SEEN = inverse.Measurement(Y, inverse.Matrix(A), 0.3)
CURVED = inverse.Measurement(Y, inverse.Callable(lambda x: x[:, 1:] ** 2 + x[:, :1], (3,)), 0.3)


def exact_mmps(score: Any, measurement: inverse.Measurement) -> Any:
    return inverse.mmps(score, measurement, iterations=20, tolerance=1e-12)


METHODS: dict[str, Callable[..., Any]] = {
    "dps": inverse.dps,
    "pigdm": inverse.pigdm,
    "mmps": exact_mmps,
}


def states(n: int = 4) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(1), dtype=F64)


def posterior_score(
    x: Tensor, alpha: Tensor, sigma: Tensor, mean: Tensor, C: Tensor, H: Tensor, rest: Tensor
) -> Tensor:
    """∇ log p(x_t | y) for x₀ ~ N(mean, C) and y = H x₀ + rest + 0.3 n: the joint, conditioned."""
    V, S = alpha**2 * C + sigma**2 * torch.eye(3), H @ C @ H.T + 0.09 * torch.eye(2)
    gain = alpha * C @ H.T @ torch.linalg.inv(S)
    centre = alpha * mean + gain @ (Y - H @ mean - rest)
    return -torch.linalg.solve(V - gain @ H @ C * alpha, (x - centre).T).T


class Denoiser(nn.Module):
    """E[x₀ | x_t] of a Gaussian, as a network that predicts x₀ from t."""

    def __init__(self, mean: Tensor, covariance: Tensor, sde: Any) -> None:
        super().__init__()
        self.precision = nn.Parameter(torch.eye(3, dtype=F64))
        self.mean, self.covariance, self.sde = mean, covariance, sde
        self.calls = 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        alpha, sigma = (v[:, None, None] for v in self.sde.marginal(t))
        V = alpha**2 * self.covariance + sigma**2 * torch.eye(3, dtype=F64)
        away = x - alpha[..., 0] * self.mean
        return self.mean + alpha[..., 0] * (
            torch.linalg.solve(V, away[..., None])[..., 0] @ self.covariance
        )


@pytest.mark.parametrize("std", [1.0, 2.0, [1.0, 0.5, 3.0]], ids=["plain", "scaled", "by feature"])
@pytest.mark.parametrize("sde", [VP, ss.VESDE(), ss.EDMSDE(), ss.RectifiedFlowSDE()], ids=repr)
@pytest.mark.parametrize("method", ["mmps", "pigdm"])
def test_gaussian_data_give_the_exact_posterior_score(method: str, sde: Any, std: Any) -> None:
    """ΠGDM where the states are isotropic; A measures data, and the score is one of states."""
    C = COVARIANCE if method == "mmps" else 0.49 * torch.eye(3, dtype=F64)
    shift, unit = (0.0, 1.0) if std == 1.0 else (-0.4, torch.tensor(std, dtype=F64).expand(3))
    model = ss.ScoreModel(Denoiser(MEAN, C, sde), sde, "x0", "t", data_mean=shift, data_std=std)
    guided = exact_mmps(model, SEEN) if method == "mmps" else inverse.pigdm(model, SEEN, 0.7)
    for share in (0.01, 0.3, 0.9):
        t = torch.tensor(share * sde.T, dtype=F64)
        alpha, sigma = sde.marginal(t)
        x = alpha * states() + sigma
        H, rest = A * unit, A @ torch.full((3,), shift, dtype=F64)
        expected = posterior_score(x, alpha, sigma, MEAN, C, H, rest)
        found = guided(x, t).detach()
        assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


@pytest.mark.parametrize("measurement", [SEEN, CURVED], ids=["linear", "curved"])
@pytest.mark.parametrize("method", METHODS)
def test_mixtures_follow_the_formula(method: str, measurement: inverse.Measurement) -> None:
    """Dense Jacobians by autograd, and for MMPS the mixture's own posterior covariance."""
    t = torch.tensor([0.2, 0.4, 0.6, 0.9], dtype=F64)
    x = states()
    found = METHODS[method](MIXTURE, measurement)(x, t)
    for i in range(4):
        mean = MIXTURE.denoise(x[i : i + 1], t[i : i + 1])
        alpha, sigma = VP.marginal(t[i])
        J = torch.autograd.functional.jacobian(
            lambda z, t=t[i]: MIXTURE.denoise(z, t)[0], x[i : i + 1]
        )
        H = torch.autograd.functional.jacobian(lambda z: measurement.operator(z)[0], mean)[:, 0]
        C = {
            "dps": torch.zeros(3, 3, dtype=F64),  # its variance is one of y
            "pigdm": sigma**2 / (alpha**2 + sigma**2) * torch.eye(3, dtype=F64),
            "mmps": MIXTURE.covariance(x[i : i + 1], t[i])[0],
        }[method]
        residual, r2 = Y - measurement.operator(mean)[0], sigma**2 / (alpha**2 + sigma**2)
        along = residual / residual.norm()
        extra = 0.5 * r2 * along @ H @ H.T @ along if method == "dps" else 0.0
        S = (0.09 + extra) * torch.eye(2, dtype=F64) + H @ C @ H.T
        u = torch.linalg.solve(S, residual)
        expected = MIXTURE(x[i : i + 1], t[i])[0] + J[:, 0].T @ H.T @ u
        torch.testing.assert_close(found[i], expected, rtol=1e-6, atol=1e-8)


def test_zeta_multiplies_the_likelihood() -> None:
    x, t = states(), 0.4
    once, half = (inverse.dps(MIXTURE, SEEN, zeta)(x, t) - MIXTURE(x, t) for zeta in (1.0, 0.5))
    torch.testing.assert_close(half, once / 2)


@pytest.mark.parametrize("method", METHODS)
def test_the_unit_of_y_does_not_matter(method: str) -> None:
    """c A, c y and c σ_y say what A, y and σ_y say; DPS too takes the size of A from A."""
    in_other_units = inverse.Measurement(50 * Y, inverse.Matrix(50 * A), 50 * 0.3)
    x, t = states(), torch.tensor([0.01, 0.2, 0.4, 0.9], dtype=F64)
    found, expected = (METHODS[method](MIXTURE, seen)(x, t) for seen in (in_other_units, SEEN))
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_dps_of_what_is_explained_already_is_the_prior() -> None:
    """The residual and the noise are exactly 0, and so is what the measurement adds."""
    prior, x = ss.GaussianScore(torch.zeros(3), 1.0, VP), torch.zeros(1, 3)
    seen = inverse.Measurement(torch.zeros(2), inverse.Matrix(A), 0.0)
    assert torch.equal(inverse.dps(prior, seen)(x, 0.4), x)


def test_dps_stays_finite_at_few_steps_under_any_operator() -> None:
    """Long steps near the data, where the noise of y is small and rows of A overlap."""
    d = 16
    blur, means = inverse.Blur.gaussian(1.0, (d,), axes=1), torch.ones(1, d)
    prior = ss.MixtureScore([0.5, 0.5], torch.cat([-means, means]), torch.tensor([0.1, 0.2]), VP)
    for operator in (blur, inverse.Downsample((4,), (d,)), inverse.Matrix(10 * torch.eye(d))):
        truth = prior.sample(1, seed=1)
        seen = inverse.Measurement(operator(truth)[0], operator, 0.01)
        sampler = ss.PredictorCorrector(VP, predictor=ss.DDIM(eta=1.0), steps=15)
        x = sampler.sample(inverse.dps(prior, seen), (50, d), seed=0)
        near = (operator(x) - seen.y).square().mean().sqrt()
        assert near < 0.2 * operator(truth).square().mean().sqrt()


@pytest.mark.parametrize("method", METHODS)
def test_a_step_calls_the_network_once(method: str) -> None:
    net = Denoiser(MEAN, COVARIANCE, VP)
    guided = METHODS[method](ss.ScoreModel(net, VP, "x0", "t"), SEEN)
    sampler = ss.PredictorCorrector(VP, predictor=ss.Ancestral(), steps=7, denoise=False)
    sampler.sample(guided, (5, 3))
    assert net.calls == 7


@pytest.mark.parametrize("method", METHODS)
def test_it_is_a_score_like_any_other(method: str) -> None:
    """In chunks, ranges of samples and the adaptive sampler; under another SDE; in a mixture."""
    guided = METHODS[method](MIXTURE, SEEN)
    for sampler in (
        ss.PredictorCorrector(VP, predictor=ss.Ancestral(), steps=20),
        ss.AdaptiveSampler(VP, atol=0.2, rtol=0.2),
    ):
        whole, parts, some = (
            sampler.sample(guided, (6, 3), seed=2, dtype=F64, **more)
            for more in ({}, {"max_batch": 4}, {"samples": range(2, 5)})
        )
        whole, parts, some = (v if isinstance(v, Tensor) else v.x for v in (whole, parts, some))
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-9)
        torch.testing.assert_close(some, whole[2:5], rtol=0, atol=1e-9)
    edm, x = ss.EDMSDE(), states()
    other = METHODS[method](MIXTURE.under(edm), SEEN)
    torch.testing.assert_close(ss.under(guided, edm)(x, 0.5), other(x, 0.5), rtol=1e-6, atol=1e-8)
    mixed = ss.classifier_free(guided, MIXTURE, 0.5)(x, 0.5)
    torch.testing.assert_close(mixed, 0.5 * guided(x, 0.5) + 0.5 * MIXTURE(x, 0.5))


def test_thresholding_composes() -> None:
    """The likelihood of the clipped mean; and the guided mean, clipped."""
    x, t = 3 * states(), torch.tensor(0.3, dtype=F64)
    alpha, sigma = VP.marginal(t)
    clipped = ss.guidance.clipped(MIXTURE, 0.6)
    z = x.clone().requires_grad_()
    mean = MIXTURE.denoise(z, t).clamp(-0.6, 0.6)
    assert (mean.abs() == 0.6).any() and (mean.abs() < 0.6).any()
    (gradient,) = torch.autograd.grad(SEEN.log_likelihood(mean).sum(), z)
    expected = (alpha * mean.detach() - x) / sigma**2 + gradient
    torch.testing.assert_close(inverse.dps(clipped, SEEN, gamma=0.0)(x, t), expected)
    outside = ss.guidance.clipped(inverse.mmps(MIXTURE, SEEN), 0.6)(x, t)
    assert ((x + sigma**2 * outside) / alpha).abs().max() < 0.6 + 1e-9


class Labelled(nn.Module):
    """Two classes of data, N(±mean, C); without a label the first."""

    sde = VP

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        sign = 1.0 if label is None else (1.0 - 2.0 * label.to(x))[:, None]
        return sign * GAUSSIAN(sign * x, t)


@pytest.mark.parametrize("method", METHODS)
def test_every_sample_may_have_a_measurement_and_a_label(method: str) -> None:
    """Rows follow their samples through chunks; the label goes to the score."""
    guided, other = METHODS[method](Labelled(), SEEN), torch.tensor([0.1, 0.4], dtype=F64)
    own = torch.stack([Y, other, Y])
    classes = torch.tensor([0, 1, 1])
    sampler = ss.PredictorCorrector(VP, predictor=ss.Ancestral(), steps=20)
    condition = {"measurement": own, "label": classes}
    x = sampler.sample(guided, (3, 3), dtype=F64, label=condition, max_batch=2)
    for i, (y, label) in enumerate(zip(own, classes, strict=True)):
        alone = METHODS[method](Labelled(), inverse.Measurement(y, SEEN.operator, SEEN.noise_std))
        expected = sampler.sample(alone, (3, 3), dtype=F64, label=label.expand(3))[i]
        torch.testing.assert_close(x[i], expected, rtol=0, atol=1e-9)
    only = sampler.sample(guided, (3, 3), dtype=F64, label={"measurement": own})
    torch.testing.assert_close(only[0], sampler.sample(guided, (3, 3), dtype=F64)[0])


@pytest.mark.parametrize("method", METHODS)
def test_the_callers_world_changes_no_number(method: str) -> None:
    x = states().float()
    plain = METHODS[method](MIXTURE, SEEN)(x, 0.3)
    for setting in SETTINGS.values():
        with setting():
            measurement = inverse.Measurement(Y, inverse.Matrix(A), 0.3)
            found = METHODS[method](MIXTURE, measurement)(x, 0.3)
        assert torch.equal(found, plain)


def test_the_likelihood_of_a_posterior() -> None:
    """By the flow of MMPS, which differentiates the guided score once more."""
    x, flow = states(2), ss.ProbabilityFlow(VP)
    found = flow.log_likelihood(exact_mmps(GAUSSIAN, SEEN), x).log_prob
    expected = flow.log_likelihood(GAUSSIAN.posterior(A, Y, 0.3), x).log_prob
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_conjugate_gradients_stop_alone_and_where_a_matrix_is_no_covariance() -> None:
    from sdescore.inverse.conjugate_gradient import conjugate_gradient

    H = torch.tensor([[4.0, 1.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, -2.0]], dtype=F64)
    b = torch.tensor(
        [[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=F64
    )
    together = conjugate_gradient(lambda u: u @ H, b, 9, 1e-12)
    assert not together[1:3].any()
    torch.testing.assert_close(together[::3] @ H, b[::3])
    for i in range(4):
        alone = conjugate_gradient(lambda u: u @ H, b[i : i + 1], 9, 1e-12)
        torch.testing.assert_close(together[i], alone[0], rtol=1e-12, atol=1e-14)
    short = conjugate_gradient(lambda u: u @ H, b[:1], 1, 0.0)  # the steepest descent from 0
    torch.testing.assert_close(short, b[:1] * (b[0] @ b[0]) / (b[0] @ H @ b[0]))


def test_conjugate_residuals_are_least_squares_in_the_krylov_space() -> None:
    """By numpy, also where H is neither symmetric nor definite; each sample stops alone."""
    from sdescore.inverse.conjugate_residual import conjugate_residual

    generator = torch.Generator().manual_seed(0)
    H = torch.randn(5, 5, generator=generator, dtype=F64)
    b = torch.cat([states(3).repeat(1, 2)[:, :5], torch.zeros(1, 5, dtype=F64)])
    powers = [b]
    for k in range(1, 6):
        found = conjugate_residual(lambda u: u @ H.T, b, k, 0.0)
        for i in range(3):
            K = torch.stack([power[i] for power in powers], 1)
            weights = torch.linalg.lstsq(H @ K, b[i]).solution
            torch.testing.assert_close(found[i], K @ weights, rtol=1e-6, atol=1e-8)
        assert not found[3].any()
        powers.append(powers[-1] @ H.T)
    torch.testing.assert_close(found @ H.T, b)
    loose = conjugate_residual(lambda u: u @ H.T, b, 5, 0.5)
    for i in range(3):
        alone = conjugate_residual(lambda u: u @ H.T, b[i : i + 1], 5, 0.5)
        torch.testing.assert_close(loose[i], alone[0], rtol=1e-12, atol=1e-14)
        assert 0 < (b[i] - loose[i] @ H.T).norm() <= 0.5 * b[i].norm()


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_the_tolerance_is_relative_to_the_right_side(size: float) -> None:
    from sdescore.inverse.conjugate_residual import conjugate_residual

    generator = torch.Generator().manual_seed(3)
    H = torch.eye(8, dtype=F64) + 0.3 * torch.randn(8, 8, dtype=F64, generator=generator)
    b = torch.randn(4, 8, dtype=F64, generator=generator)
    found = conjugate_residual(lambda u: u @ H.T, b, 8, 0.1)
    scaled = conjugate_residual(lambda u: u @ H.T, size * b, 8, 0.1)
    torch.testing.assert_close(scaled / size, found, rtol=1e-12, atol=1e-12)
    residual = (b - found @ H.T).norm(dim=1) / b.norm(dim=1)
    assert bool((residual <= 0.1).all()) and bool((residual > 1e-6).any())
