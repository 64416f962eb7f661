"""The density of what is being sampled: against exact densities, at every time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.samplers import flow_states
from tests.helpers.flows import F64, STD, M, mixture
from tests.helpers.strategies import REPRESENTATIVES

VP = ss.VPSDE()
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def normal(x: Tensor, std: float) -> Tensor:
    return torch.distributions.Normal(0.0, std).log_prob(x).sum(1)


@pytest.mark.parametrize("name", ["vp", "ve", "discrete-vp"])
@pytest.mark.parametrize("data", ["gaussian", "mixture"])
def test_the_density_is_exact_at_every_time(name: str, data: str) -> None:
    """The score's own, but for the prior's difference from it at T."""
    sde = REPRESENTATIVES[name]
    score = mixture(sde) if data == "mixture" else ss.GaussianScore(M, STD.square(), sde)
    flow = ss.ProbabilityFlow(sde, **TIGHT)
    xT = score.sample(20, seed=2, dtype=F64)
    start, end = sde.T, sde.t_min
    xT = sde.perturb(xT, start, torch.randn(xT.shape, dtype=F64))
    times = [start, 0.6 * start, 0.3 * start, end]
    states = list(flow_states(flow, score, init=xT, times=times, dtype=F64))
    assert [s.t for s in states] == times
    mismatch = normal(xT, sde.prior_std(0.0)) - score.log_prob(xT, start)
    for state in states:
        exact = score.log_prob(state.x, state.t) + mismatch
        torch.testing.assert_close(state.log_prob, exact, rtol=0, atol=3e-7)
        assert torch.equal(state.standard_error, torch.zeros(20, dtype=F64))


def test_the_samples_are_the_flows_own() -> None:
    """Those of ``sample``; and a likelihood of the last state finds the same number."""
    flow, score = ss.ProbabilityFlow(VP, **TIGHT), mixture(VP)
    *_, last = flow_states(flow, score, (9, 2), seed=3, dtype=F64, samples=range(2, 8))
    drawn = flow.sample(score, (9, 2), seed=3, dtype=F64, denoise=False)[2:8]
    torch.testing.assert_close(last.x, drawn, rtol=0, atol=1e-7)
    again = flow.log_likelihood(score, last.x).log_prob
    torch.testing.assert_close(last.log_prob, again, rtol=0, atol=1e-7)


def test_a_number_of_times_is_equal_steps_of_the_angle() -> None:
    flow = ss.ProbabilityFlow(VP, t_min=0.01, t_max=0.9)
    times = [s.t for s in flow_states(flow, mixture(VP), (1, 2), times=5)]
    assert times[0] == 0.9 and times[-1] == 0.01
    alpha, sigma = VP.marginal(torch.tensor(times, dtype=F64))
    steps = torch.atan2(sigma, alpha).diff()
    torch.testing.assert_close(steps, steps.mean().expand(4), rtol=1e-9, atol=0)


def test_a_fixed_step_method_steps_between_the_times() -> None:
    flow = ss.ProbabilityFlow(VP, method="rk4", steps=40)
    score = ss.GaussianScore(M, STD.square(), VP)
    *_, last = flow_states(flow, score, (5, 3), times=[0.5, VP.t_min], dtype=F64)
    start = flow.decode(score, last.x[:0])  # an empty batch is no error
    assert start.shape == (0, 3)
    again = ss.ProbabilityFlow(VP, **TIGHT).log_likelihood(score, last.x).log_prob
    torch.testing.assert_close(last.log_prob, again, rtol=0, atol=1e-4)


def test_probes_report_their_spread() -> None:
    """Their mean is the exact density within 6 standard errors: by chance 1 in 100,000."""
    score, flow = mixture(VP), ss.ProbabilityFlow(VP)
    options = {"divergence": "hutchinson", "probes": 60, "probe_distribution": "gaussian"}
    *_, exact = flow_states(flow, score, (4, 2), times=2, dtype=F64)
    *_, found = flow_states(flow, score, (4, 2), times=2, dtype=F64, **options)
    off = (found.log_prob - exact.log_prob).abs() / found.standard_error
    assert bool((found.standard_error > 0).all()) and off.max() < 6


def test_the_callers_modes_are_the_callers() -> None:
    """Between two states; and steering a state changes no later one."""
    torch.manual_seed(0)
    model = ss.ScoreModel(nn_of(), VP, prediction="epsilon").train()
    flow = ss.ProbabilityFlow(VP, rtol=1e-3, atol=1e-3)
    plain = [s.log_prob for s in flow_states(flow, model, (3, 2), times=3)]
    found = []
    with torch.inference_mode():
        for state in flow_states(flow, model, (3, 2), times=3):
            assert model.training and torch.is_inference_mode_enabled()
            found.append(state.log_prob)
            state.x.fill_(math.nan)
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))


def nn_of() -> nn.Module:
    return ss.MLP(2, hidden=16)


@pytest.mark.parametrize(
    ("times", "error", "message"),
    [
        ([0.5, 0.7], ss.errors.ScheduleError, "fall"),
        ([1.0, 0.0], ss.errors.TimeError, r"times from 1 down to 0.001"),
        (1, ss.errors.ParameterError, "times >= 2"),
        (True, ss.errors.ParameterError, "times"),
    ],
)
def test_bad_times_are_refused_before_the_first_call(times, error, message) -> None:
    def never(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError

    with pytest.raises(error, match=message):
        flow_states(ss.ProbabilityFlow(VP), never, (2, 2), times=times)


def test_a_flow_with_a_grid_is_refused() -> None:
    flow = ss.ProbabilityFlow(VP, method="rk4", grid=[1.0, 0.5, 0.1])
    with pytest.raises(ss.errors.ParameterError, match=r"times are times="):
        flow_states(flow, mixture(VP), (2, 2))
