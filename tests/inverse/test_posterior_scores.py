"""DPS, ΠGDM and MMPS by linear algebra on Gaussians, and by dense Jacobians elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from tests.helpers.callers import SETTINGS
from tests.helpers.posteriors import (
    COVARIANCE,
    CURVED,
    F64,
    GAUSSIAN,
    MEAN,
    MIXTURE,
    SEEN,
    VP,
    A,
    Y,
    exact_mmps,
    inverse,
    posterior_score,
    states,
)

METHODS: dict[str, Callable[..., Any]] = {
    "dps": inverse.dps,
    "pigdm": inverse.pigdm,
    "mmps": exact_mmps,
}


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


@pytest.mark.parametrize("method", METHODS)
def test_the_unit_of_y_does_not_matter(method: str) -> None:
    """c A, c y and c σ_y say what A, y and σ_y say; DPS too takes the size of A from A."""
    in_other_units = inverse.Measurement(50 * Y, inverse.Matrix(50 * A), 50 * 0.3)
    x, t = states(), torch.tensor([0.01, 0.2, 0.4, 0.9], dtype=F64)
    found, expected = (METHODS[method](MIXTURE, seen)(x, t) for seen in (in_other_units, SEEN))
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_calls_the_network_once(method: str) -> None:
    net = Denoiser(MEAN, COVARIANCE, VP)
    guided = METHODS[method](ss.ScoreModel(net, VP, "x0", "t"), SEEN)
    sampler = ss.PredictorCorrector(VP, predictor=ss.Ancestral(), steps=7, denoise=False)
    sampler.sample(guided, (5, 3))
    assert net.calls == 2 + 7  # two of few samples, for a score that sees the batch


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
