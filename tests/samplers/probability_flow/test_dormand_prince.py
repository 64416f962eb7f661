"""A step for each sample: its method, what it does not depend on, and what is counted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import RK45
from torch import Tensor, nn

import sdescore as ss
from sdescore.samplers.probability_flow import ode as module
from sdescore.samplers.probability_flow.velocity import Clock
from tests.helpers.flows import F64, NAMES, mixture, mixture_states
from tests.helpers.strategies import REPRESENTATIVES

VP = ss.VPSDE()
BATCH = 16


def test_the_numbers_are_scipys() -> None:
    """Its b is the last row of our A, for the last stage is at the step's end."""
    np.testing.assert_allclose((0, *module.C, 1), RK45.C, rtol=1e-15)
    for ours, row in zip(module.A, [*RK45.A[1:], [*RK45.B]], strict=True):
        np.testing.assert_allclose(ours, row[: len(ours)], rtol=1e-14)
    np.testing.assert_allclose(-np.array(module.E), RK45.E, rtol=1e-14)


@pytest.mark.parametrize(("frequency", "derivative"), [(10.0, 2), (0.1, 1)])
def test_the_first_step_is_hairers(frequency: float, derivative: int) -> None:
    """Of ``y″ = −ω² y``: by the larger one of y′ and y″, and of order 5, up to its scale."""
    turn = frequency * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=F64)

    class Oscillator:
        def at(self, angle: Tensor, like: Tensor) -> Tensor:
            return angle

        def rates(self, y: Tensor, numbers: Tensor, present: slice) -> Tensor:
            return y @ turn.T

        def error(self, difference: Tensor, before: Tensor, after: Tensor) -> Tensor:
            return difference.norm(dim=1) / 1e-6

    y, ode = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=F64), Oscillator()
    found = module.first_step(ode, y, y @ turn.T, torch.zeros(2, dtype=F64), 1.0)
    wanted = (0.01 * 1e-6 / (frequency**derivative * y.norm(dim=1))) ** (1 / 5)
    assert ((found / wanted).log2().abs() <= 0.126).all()  # half a size, of four to an octave


class Points:
    """The elementwise score of data at ±a, a of each sample's label, which counts its calls."""

    def __init__(self, fails_below: float = -1.0) -> None:
        self.batches, self.fails_below = list[int](), fails_below
        self.calls = torch.zeros(BATCH, dtype=torch.int64)

    def __call__(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        self.batches.append(len(x))
        self.calls = self.calls + label.bincount(minlength=BATCH)
        alpha, sigma = (v[:, None] for v in VP.marginal(t))
        a = alpha * (0.5 + 0.03 * label[:, None])
        variance = sigma.square()
        s = (a * (a * x / variance).tanh() - x) / variance
        return torch.where((label == 7)[:, None] & (t < self.fails_below)[:, None], math.nan, s)


def states(dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(BATCH, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.guards("T14")
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_a_sample_does_not_know_its_batch(dtype: torch.dtype) -> None:
    """Bit for bit with an elementwise score; labels and probes follow their samples."""
    flow, x, label = ss.ProbabilityFlow(VP, t_min=0.2), states(dtype), torch.arange(BATCH)
    options = {"divergence": "hutchinson", "probes": 2, "probe_distribution": "gaussian"}
    score = Points()
    whole = flow.log_likelihood(score, x, label=label, **options)
    assert len(set(score.batches)) > 2, "samples arrive at different steps"
    door = torch.tensor([1, 2] + [0] * (BATCH - 2))  # whether the score sees the batch
    assert torch.equal(whole.evaluations + door, score.calls)
    for n in (1, 5):
        part = flow.log_likelihood(score, x, label=label, max_batch=n, **options)
        for name, value in vars(whole).items():
            assert torch.equal(value, getattr(part, name)) or name in ("standard_error", "margin")
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(1))
    exact = flow.log_likelihood(score, x, label=label).log_prob
    assert torch.equal(
        flow.log_likelihood(score, x[order], label=label[order]).log_prob, exact[order]
    )
    drawn = flow.sample(score, (BATCH, 3), label=label, dtype=dtype)
    some = flow.sample(score, (BATCH, 3), label=label, dtype=dtype, samples=range(5, 12))
    assert torch.equal(drawn[5:12], some)


@pytest.mark.parametrize("name", [*NAMES, "discrete-vp"])
def test_a_time_does_not_know_the_others(name: str) -> None:
    """Where vector instructions and single numbers are rounded alike."""
    sde = REPRESENTATIVES[name]
    clock = Clock(sde, (sde.t_min, sde.T))
    angle = torch.linspace(clock.at(sde.t_min)[0], clock.at(sde.T)[0], 101, dtype=F64)
    whole = clock.time(angle)
    for n in (1, 2, 3, 7):
        assert torch.equal(torch.cat([clock.time(a) for a in angle.split(n)]), whole)


@pytest.mark.slow
def test_a_sample_of_a_network_hardly_knows_its_batch() -> None:
    """A network rounds differently, and in a few samples a step's length changes with it."""
    torch.manual_seed(0)
    model = ss.ScoreModel(ss.MLP(2, hidden=32), VP, prediction="epsilon")
    for p in model.parameters():
        nn.init.normal_(p, std=0.1)
    flow, x = ss.ProbabilityFlow(VP, t_min=0.2), states(torch.float32)[:, :2]
    whole, alone = (flow.log_likelihood(model, x, max_batch=n) for n in (None, 1))
    off = (whole.log_prob - alone.log_prob).abs()
    assert (off < 1e-5).double().mean() >= 0.95 and off.max() < 1e-4
    assert (whole.latent - alone.latent).abs().max() < 1e-5


def test_a_sample_of_a_network_in_float64_does_not_know_its_batch() -> None:
    """By more than its own rounding: an error estimate is too exact to change a step.

    The network rounds as it would in another batch: each output in its last bits, by chance.
    """
    torch.manual_seed(0)
    net = ss.MLP(2, hidden=16).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.2)

    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            o = self.net(x, t)
            return o + 1e-14 * o.abs().max() * torch.randn_like(o).sign()

    flow, x = ss.ProbabilityFlow(VP, t_min=0.2), states()[:, :2]
    first, second = (
        flow.log_likelihood(ss.ScoreModel(n, VP, prediction="epsilon"), x)
        for n in (Rounded(), Rounded())
    )
    assert torch.equal(first.evaluations, second.evaluations)
    assert (first.log_prob - second.log_prob).abs().max() < 1e-10
    assert 0 < (first.latent - second.latent).abs().max() < 1e-10


def test_the_error_follows_the_tolerance() -> None:
    """Of the worst of 60 points, in nats, against the exact density."""
    score, x, errors = mixture(VP), mixture_states(VP, 60, VP.t_min), []
    for tolerance in (1e-4, 1e-6, 1e-8):
        flow = ss.ProbabilityFlow(VP, rtol=tolerance, atol=tolerance)
        found = flow.log_likelihood(score, x)
        exact = score.log_prob(x, VP.t_min) - score.log_prob(found.latent, VP.T)
        errors.append((found.log_det - exact).abs().max().item())
    assert [e < 20 * tol for e, tol in zip(errors, (1e-4, 1e-6, 1e-8), strict=True)] == [True] * 3
    assert math.log10(errors[0] / errors[2]) > 3.5


def test_a_sample_that_fails_when_others_have_arrived_is_named() -> None:
    """And what was complete is kept, of the parts before."""
    label, flow = torch.arange(BATCH), ss.ProbabilityFlow(VP)
    late = 2 * VP.t_min
    with pytest.raises(ss.errors.DivergenceError, match=r"1 samples: 7 \(t = 0.00") as caught:
        flow.sample(Points(late), (BATCH, 3), label=label, dtype=F64, max_batch=5)
    assert caught.value.samples == [7] and caught.value.t < late
    whole = flow.sample(Points(), (BATCH, 3), label=label, dtype=F64)
    assert torch.equal(caught.value.finished, whole[:5])


def test_a_sample_whose_step_is_too_short_is_named() -> None:
    """With its time, when the others have arrived."""

    def score(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        rough = (label == 7)[:, None] & (t < 0.01)[:, None]
        return torch.where(rough, 1e12 * (1e9 * x).sin(), -x)

    with pytest.raises(ss.errors.DivergenceError, match=r"fell below .* 1 samples: 7 \(t = 0.0"):
        ss.ProbabilityFlow(VP).sample(score, (BATCH, 3), label=torch.arange(BATCH), dtype=F64)


def test_the_limit_names_the_samples_on_their_way() -> None:
    label, x = torch.arange(BATCH), states()
    needed = ss.ProbabilityFlow(VP, t_min=0.2).log_likelihood(Points(), x, label=label).evaluations
    limit = int(needed.max()) - 1
    flow = ss.ProbabilityFlow(VP, t_min=0.2, max_evaluations=limit)
    with pytest.raises(ss.errors.DivergenceError, match=f"{limit} times") as caught:
        flow.log_likelihood(Points(), x, label=label)
    assert caught.value.samples == (needed == needed.max()).nonzero().flatten().tolist()


def test_the_callers_world_changes_no_number() -> None:
    flow, x, label = ss.ProbabilityFlow(VP, t_min=0.2), states(), torch.arange(BATCH)
    plain = flow.log_likelihood(Points(), x, label=label).log_prob
    with torch.inference_mode():
        assert torch.equal(flow.log_likelihood(Points(), x, label=label).log_prob, plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(flow.log_likelihood(Points(), x, label=label).log_prob, plain)
