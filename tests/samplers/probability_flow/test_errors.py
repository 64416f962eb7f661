"""What a log-likelihood is off by, against closed forms."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import sdescore as ss
from sdescore.samplers import likelihood_errors
from tests.helpers.flows import F64, STD, M

SDES = [ss.VPSDE(), ss.VESDE(), ss.EDMSDE(), ss.SubVPSDE(), ss.RectifiedFlowSDE()]
NAMES = [type(sde).__name__ for sde in SDES]
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
MEANS = torch.tensor([[-1.0, 0.0], [1.0, 1.0], [1.0, -1.5]], dtype=F64)
SHAPES = torch.tensor([[[1.0, 0.3], [0.3, 0.5]], [[1, 0], [0, 2]], [[1, 0], [0, 1]]], dtype=F64)


def thin(sde: ss.LinearSDE, variance: float) -> tuple[ss.MixtureScore, Tensor, Tensor]:
    """A mixture in the plane with components of a small variance, 8 of its data, and log p_0."""
    score = ss.MixtureScore(WEIGHTS, MEANS, variance * SHAPES, sde)
    x = score.sample(8, seed=2, dtype=F64)
    parts = MultivariateNormal(MEANS, variance * SHAPES)
    return score, x, MixtureSameFamily(Categorical(WEIGHTS), parts).log_prob(x)


@pytest.mark.parametrize("sde", SDES, ids=NAMES)
def test_stopping_is_corrected_on_thin_data(sde: ss.LinearSDE) -> None:
    """The bar is 0.01 nats, where the density at t_min is up to 1.5 nats off on average."""
    score, x, exact = thin(sde, 1e-5)
    flow = ss.ProbabilityFlow(sde)
    got = likelihood_errors(flow, score, x)
    torch.testing.assert_close(got.stopping, exact - score.log_prob(x, sde.t_min))
    off = got.found.log_prob + got.stopping - exact
    assert off.abs().max() < 0.01
    if isinstance(sde, ss.VPSDE | ss.VESDE):
        assert (got.found.log_prob - exact).mean() < -1


def test_stopping_sees_the_correlations_and_the_datas_units() -> None:
    """A network of data in other units; the density is that of the data, in their own."""
    sde, std = ss.VESDE(), [0.5, 20.0]
    C = torch.tensor([[2e-4, 1e-4], [1e-4, 1e-4]], dtype=F64)
    exact = ss.GaussianScore(torch.zeros(2), C, sde)
    scale = torch.tensor(std, dtype=F64).diag()

    class Net(torch.nn.Module):
        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return exact.denoise(x.double(), c.double()).to(x.dtype)

    model = ss.ScoreModel(Net(), sde, "x0", data_mean=[1.0, -3.0], data_std=std)
    shift = torch.tensor([1.0, -3.0], dtype=F64)
    x = shift + exact.sample(6, dtype=F64) @ scale
    flow = ss.ProbabilityFlow(sde, rtol=1e-6, atol=1e-6)
    got = likelihood_errors(flow, model, x, max_batch=4)
    want = MultivariateNormal(shift, scale @ C @ scale).log_prob(x)
    torch.testing.assert_close(got.found.log_prob + got.stopping, want, rtol=0, atol=2e-3)


def test_the_prior_of_gaussian_data() -> None:
    """Independent elements of known mean and std: p_T is the Gaussian that is compared with."""
    sde = ss.VESDE(sigma_max=5.0)
    score, x = ss.GaussianScore(M, STD**2, sde), M + STD * torch.randn(5, 3, dtype=F64)
    data = torch.stack([M - STD, M + STD])
    for data_std in (0.0, 2.0):
        flow = ss.ProbabilityFlow(sde, rtol=1e-8, atol=1e-8, data_std=data_std)
        got = likelihood_errors(flow, score, x, data=data, stopping=False)
        prior = sde.prior_log_prob(got.found.latent, data_std=data_std)
        torch.testing.assert_close(got.prior, score.log_prob(got.found.latent, sde.T) - prior)
        assert got.prior.abs().max() > 0.01
        total = got.found.log_prob + got.prior
        torch.testing.assert_close(total, score.log_prob(x, sde.t_min), rtol=0, atol=1e-6)
        assert got.stopping.isnan().all()
    assert likelihood_errors(flow, score, x, stopping=False).prior.isnan().all()


METHODS = {
    "dopri5": {"rtol": 1e-4, "atol": 1e-4},
    "dopri5 by rtol": {"method": "dopri5", "rtol": 1e-3, "atol": 1e-12},
    "dopri5 by atol": {"method": "dopri5", "rtol": 1e-12, "atol": 1e-3},
    "euler": {"steps": 100},
    "midpoint": {"steps": 60},
    "heun3": {"steps": 40},
    "rk4": {"steps": 30},
    "own grid": {"method": "heun3", "grid": ss.LogSNRGrid().times(ss.VPSDE(), 40)},
}


@functools.cache
def solved(sde: ss.LinearSDE) -> Tensor:
    """The log density that is left when the solver has no error."""
    score, x, _ = thin(sde, 0.05)
    return ss.ProbabilityFlow(sde, rtol=1e-8, atol=1e-8).log_likelihood(score, x).log_prob


@pytest.mark.parametrize("name", METHODS)
def test_the_solvers_error_is_what_it_is(name: str) -> None:
    """The sum over samples of |estimate − true error| is at most half of that of the errors."""
    sde = ss.VPSDE()
    score, x, _ = thin(sde, 0.05)
    flow = ss.ProbabilityFlow(sde, **{"method": name, **METHODS[name]})
    got = likelihood_errors(flow, score, x, stopping=False)
    true = solved(sde) - got.found.log_prob
    assert true.abs().sum() > 1e-5
    assert (got.solver - true).abs().sum() < 0.5 * true.abs().sum()


def test_the_traces_error_is_the_probes() -> None:
    score, x, _ = thin(ss.VPSDE(), 0.05)
    options = {"divergence": "hutchinson", "probes": 5, "seed": 3}
    flow = ss.ProbabilityFlow(ss.VPSDE())
    got = likelihood_errors(flow, score, x, stopping=False, **options)
    plain = flow.log_likelihood(score, x, **options)
    torch.testing.assert_close(got.trace, plain.standard_error, equal_nan=True)
    torch.testing.assert_close(got.found.log_prob, plain.log_prob)
    with pytest.raises(ss.errors.ParameterError, match="chunk_size >= 1"):
        likelihood_errors(flow, score, x, stopping=False, chunk_size=0, **options)
    # The probes are the same in both solves, so their error is not in the solver's.
    assert got.solver.abs().max() < 0.01 * got.trace.nan_to_num().max()


def test_a_covariance_that_is_none_is_not_used() -> None:
    sde = ss.VESDE()
    flow = ss.ProbabilityFlow(sde, method="euler", steps=2)

    def score(x: Tensor, t: Tensor) -> Tensor:
        variance = sde.marginal(t)[1].reshape(-1, 1) ** 2
        slope = torch.tensor([-1.0, -2.0], dtype=F64) / variance  # I + σ²∇s = 0, −1
        return slope * x

    got = likelihood_errors(flow, score, torch.ones(3, 2, dtype=F64))
    assert got.stopping.isnan().all() and got.found.log_prob.isfinite().all()


def test_a_flow_of_no_samples_has_no_errors() -> None:
    score, x, _ = thin(ss.VPSDE(), 0.05)
    got = likelihood_errors(ss.ProbabilityFlow(ss.VPSDE()), score, x[:0], data=x)
    fields = [getattr(got, f.name) for f in dataclasses.fields(got)[1:]]
    assert [tuple(v.shape) for v in fields] == [(0,)] * 4
