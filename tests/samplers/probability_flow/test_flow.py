"""The probability flow: likelihoods, samples and orders against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import sdescore as ss
from tests.helpers.flows import (
    COVARIANCES,
    F64,
    MEANS,
    NAMES,
    STD,
    WEIGHTS,
    M,
    gaussian_map,
    mixture,
    mixture_states,
)
from tests.helpers.strategies import REPRESENTATIVES


def mixture_log_prob(sde: ss.LinearSDE, x: Tensor, t: float) -> np.ndarray:
    """SciPy's log density of the diffused mixture; only (α, σ) come from the library."""
    alpha, sigma = (c.item() for c in sde.marginal(t))
    parts = [
        math.log(w)
        + stats.multivariate_normal.logpdf(
            x.double().numpy(), alpha * np.array(m), alpha**2 * np.array(C) + sigma**2 * np.eye(2)
        )
        for w, m, C in zip(WEIGHTS, MEANS, COVARIANCES, strict=True)
    ]
    return np.logaddexp.reduce(parts)


@pytest.mark.guards("B07", "B08")
@pytest.mark.parametrize("name", [*NAMES, "ddpm"])
@pytest.mark.parametrize(
    ("dtype", "tolerance", "bar"), [(F64, 1e-9, 1e-8), (torch.float32, 1e-6, 1e-3)]
)
def test_likelihood_of_a_mixture(
    name: str, dtype: torch.dtype, tolerance: float, bar: float
) -> None:
    """The integrator alone: change of variables from the exact p_T, so no prior enters."""
    sde = ss.DiscreteVPSDE.linear() if name == "ddpm" else REPRESENTATIVES[name]
    score, x = mixture(sde), mixture_states(sde, 60, sde.t_min).to(dtype)
    flow = ss.ProbabilityFlow(sde, rtol=tolerance, atol=tolerance)
    result = flow.log_likelihood(score, x)
    log_prob = mixture_log_prob(sde, result.latent, sde.T) + result.log_det.double().numpy()
    assert np.abs(log_prob - mixture_log_prob(sde, x, sde.t_min)).max() <= bar
    assert result.log_prob.dtype == dtype
    # And what log_prob adds is the prior at T.
    prior = stats.norm.logpdf(result.latent.double().numpy(), scale=sde.prior_std()).sum(1)
    got = (result.log_prob - result.log_det).double().numpy()
    np.testing.assert_allclose(got, prior, atol=1e-5 if dtype == torch.float32 else 1e-10)
    assert result.standard_error.eq(0).all()
    # Encoding and decoding are inverse, and encoding is the likelihood's own path.
    latent = flow.encode(score, x)
    assert (latent - result.latent).abs().max() <= bar * sde.prior_std()
    assert (flow.decode(score, latent) - x).abs().max() <= bar


def test_every_sde_takes_the_same_evaluations() -> None:
    """In the angle all SDEs have one flow; only the ends of the angle differ."""
    sdes = [*(REPRESENTATIVES[name] for name in NAMES), ss.DiscreteVPSDE.linear()]
    counts = [
        ss.ProbabilityFlow(sde)
        .log_likelihood(mixture(sde), mixture_states(sde, 60, sde.t_min))
        .evaluations.max()
        for sde in sdes
    ]
    assert max(counts) <= 80
    assert max(counts) - min(counts) <= 6  # one step


@pytest.mark.parametrize("name", [*NAMES, "discrete-vp", "marginal-power"])
def test_flow_of_gaussian_data_and_the_prior_it_ends_in(name: str) -> None:
    sde = REPRESENTATIVES[name]
    t_min = max(sde.t_min, 0.01 * sde.T)
    score = ss.GaussianScore(M, STD**2, sde)
    x = M + STD * torch.randn(10, 3, dtype=F64)
    flow = ss.ProbabilityFlow(sde, rtol=1e-9, atol=1e-9, t_min=t_min, data_std=0.7)
    result = flow.log_likelihood(score, x)
    latent, log_det = gaussian_map(sde, x, M, STD, t_min, sde.T)
    scale = sde.prior_std()
    torch.testing.assert_close(result.latent, latent, rtol=1e-6, atol=1e-6 * scale)
    torch.testing.assert_close(result.log_det, log_det.expand(10), rtol=0, atol=1e-6)
    alpha_T, sigma_T = (c.item() for c in sde.marginal(sde.T))
    prior = stats.norm.logpdf(latent.numpy(), scale=math.hypot(sigma_T, 0.7 * alpha_T)).sum(1)
    np.testing.assert_allclose(result.log_prob.numpy(), prior + log_det.item(), atol=1e-5)
    back = gaussian_map(sde, latent, M, STD, sde.T, t_min)[0]
    torch.testing.assert_close(flow.decode(score, latent), back, rtol=1e-6, atol=1e-6)


def test_sampling_follows_the_flow_from_the_samplers_own_start() -> None:
    sde, t_min = ss.VPSDE(), 0.02
    score = ss.GaussianScore(M, STD**2, sde)
    flow = ss.ProbabilityFlow(sde, rtol=1e-8, atol=1e-8, t_min=t_min, data_std=1.5)
    start = sde.prior_std(1.5) * ss.noise.standard_normal(11, range(6), range(1), (3,))[0].double()
    end = gaussian_map(sde, start, M, STD, 1.0, t_min)[0]
    got = flow.sample(score, (6, 3), seed=11, dtype=F64, denoise=False)
    torch.testing.assert_close(got, end, rtol=1e-6, atol=1e-6)
    # Tweedie's mean of a Gaussian: m + α v/(α² v + σ²) (x − α m).
    alpha, sigma = sde.marginal(t_min)
    clean = M + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (end - alpha * M)
    denoised = flow.sample(score, (6, 3), seed=11, dtype=F64)
    torch.testing.assert_close(denoised, clean, rtol=1e-6, atol=1e-6)
    # The sampler's chain of this seed starts at the same place.
    sampler = ss.PredictorCorrector(sde, predictor=ss.ReverseDiffusion(), steps=2, data_std=1.5)
    first = []
    sampler.sample(lambda x, t: first.append(x.clone()) or -x, (6, 3), seed=11, dtype=F64)
    torch.testing.assert_close(first[0], start)
    replayed = ss.noise.ReplayNoise(start[None] / sde.prior_std(1.5))
    torch.testing.assert_close(flow.sample(score, (6, 3), noise=replayed, dtype=F64), denoised)
    assert flow.sample(score, (2, 3)).dtype == torch.float32


@pytest.mark.parametrize(
    ("method", "order"), [("euler", 1), ("midpoint", 2), ("heun3", 3), ("rk4", 4)]
)
def test_fixed_step_methods_have_their_order(method: str, order: int) -> None:
    sde = ss.VPSDE(beta_min=1.0, beta_max=3.0)
    score, x = ss.GaussianScore(M, STD**2, sde), torch.randn(4, 3, dtype=F64)
    errors = []
    for steps in (64, 128):
        flow = ss.ProbabilityFlow(sde, method=method, steps=steps, t_min=0.2)
        calls = flow.log_likelihood(score, x).evaluations.tolist()
        assert calls == [steps * {"heun3": 3}.get(method, order)] * 4
        exact = gaussian_map(sde, x, M, STD, 0.2, 1.0)[0]
        errors.append((flow.encode(score, x) - exact).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("method", ["dopri8", "bosh3", "adaptive_heun"])
def test_other_adaptive_methods_meet_the_tolerance(method: str) -> None:
    sde = ss.VPSDE()
    score, x = ss.GaussianScore(M, STD**2, sde), torch.randn(4, 3, dtype=F64)
    flow = ss.ProbabilityFlow(sde, method=method, rtol=1e-5, atol=1e-5, t_min=0.1)
    exact = gaussian_map(sde, x, M, STD, 0.1, 1.0)[0]
    assert (flow.encode(score, x) - exact).abs().max() < 1e-3


@pytest.mark.parametrize("backwards", [False, True])
def test_a_grid_places_the_steps(backwards: bool) -> None:
    """The network is called where the grid says, and in one order or the other."""
    sde, steps, seen = ss.VPSDE(), 5, []

    def score(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (3,) and len(t.unique()) == 1
        seen.append(t[0].item())
        return -x

    flow = ss.ProbabilityFlow(sde, method="euler", steps=steps, grid=ss.LogSNRGrid())
    x = torch.randn(3, 2, dtype=F64)
    (flow.decode if backwards else flow.encode)(score, x)
    times = ss.LogSNRGrid().times(sde, steps + 1)
    expected = times[:-1] if backwards else times.flip(0)[:-1]
    assert seen == pytest.approx(expected.tolist(), rel=1e-9)
    own = ss.ProbabilityFlow(sde, method="euler", grid=[0.9, 0.5, 0.2])
    assert own.interval == (0.2, 0.9)
    seen.clear()
    own.encode(score, x)
    assert seen == pytest.approx([0.2, 0.5])


def test_equal_steps_are_equal_in_the_angle() -> None:
    """And few of them bring DDIM's error: on a unit Gaussian the flow is the identity in y."""
    sde = ss.VESDE()
    score = ss.GaussianScore(torch.zeros(2), 1.0, sde)
    flow = ss.ProbabilityFlow(sde, method="euler", steps=2)
    x = torch.randn(3, 2, dtype=F64)
    ends = [math.hypot(*(c.item() for c in sde.marginal(t))) for t in flow.interval]
    torch.testing.assert_close(flow.encode(score, x), x * (ends[1] / ends[0]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_network_starts_where_there_is_no_noise(prediction: str) -> None:
    """At σ = 0 the velocity is known from ε and from v; the network is exact."""
    sde = ss.RectifiedFlowSDE()

    def net(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (c[:, None].to(x) for c in sde.marginal(t.double()))
        mean, variance = M.to(x), STD.square().to(x)
        away = (x - alpha * mean) / (alpha**2 * variance + sigma**2)
        noise, x0 = sigma * away, mean + alpha * variance * away
        return noise if prediction == "epsilon" else alpha * noise - sigma * x0

    flow = ss.ProbabilityFlow(sde, t_min=0.0, rtol=1e-6, atol=1e-6)
    x = M + STD * torch.randn(4, 3, dtype=F64)
    latent = gaussian_map(sde, x, M, STD, 0.0, sde.T)[0]
    got = flow.encode(ss.ScoreModel(net, sde, prediction), x)
    torch.testing.assert_close(got, latent, rtol=0, atol=1e-4)


@pytest.mark.parametrize("prediction", ["score", "x0"])
def test_what_says_nothing_where_there_is_no_noise_is_refused(prediction: str) -> None:
    sde = ss.RectifiedFlowSDE()
    model = ss.ScoreModel(lambda x, t: -x, sde, prediction)
    with pytest.raises(ss.errors.TimeError, match="0 < sigma_t"):
        ss.ProbabilityFlow(sde, t_min=0.0).encode(model, torch.ones(1, 2))


@pytest.mark.parametrize(
    "options", [{"t_max": 0.1}, {"method": "rk4", "grid": [0.1, 0.06, 0.03, 0.015, 0.007, 1e-3]}]
)
def test_a_flow_that_ends_below_T_has_the_prior_there(options: dict[str, Any]) -> None:
    """With the data's standard deviation known it is exact on Gaussian data."""
    sde = ss.VPSDE()
    flow = ss.ProbabilityFlow(sde, data_std=0.5, **options)
    x = torch.tensor([[0.3], [-1.0]], dtype=torch.float64)
    score = ss.GaussianScore(torch.zeros(1, dtype=torch.float64), 0.25, sde)
    alpha, sigma = sde.marginal(sde.t_min)
    exact = torch.distributions.Normal(0.0, (0.25 * alpha**2 + sigma**2).sqrt()).log_prob(x[:, 0])
    found = flow.log_likelihood(score, x).log_prob
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-4)
    assert flow.start_std == pytest.approx(
        sde.marginal(0.1)[1].square().add(0.25 * sde.marginal(0.1)[0].square()).sqrt().item()
    )
    start = flow.decode(score, flow.start_std * torch.ones(1, 1, dtype=torch.float64))
    assert abs(start.item() / (0.25 * alpha**2 + sigma**2).sqrt().item() - 1) < 1e-4
