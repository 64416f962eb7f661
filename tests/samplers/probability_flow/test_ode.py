"""The ODE solver stays in range, ends, and stops at NaN."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.samplers.probability_flow import velocity
from tests.helpers.flows import (
    F64,
    NAMES,
    gaussian_map,
    mixture,
    mixture_states,
)
from tests.helpers.strategies import REPRESENTATIVES


class Recorded:
    """A score that writes down its times, ``(B,)`` each."""

    def __init__(self, score: ss.typing.Score) -> None:
        self.score, self.times = score, []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(t)
        return self.score(x, t)


METHODS = ("dopri5", "bosh3")  # ours, and torchdiffeq's


@pytest.mark.guards("M11")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_the_solver_stays_in_range_and_lands_on_the_end(
    name: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call lies outside, and after the first step's probe (call 1) none is brought back."""
    sde, angles = REPRESENTATIVES[name], list[Tensor]()
    time = velocity.Clock.time

    def recorded(clock: velocity.Clock, angle: Tensor) -> Tensor:
        angles.append(angle)
        return time(clock, angle)

    monkeypatch.setattr(velocity.Clock, "time", recorded)
    score = Recorded(mixture(sde))
    flow = ss.ProbabilityFlow(sde, method=method, rtol=1e-3, atol=1e-3)
    x = mixture_states(sde, 4, sde.t_min)
    for run, start, end in (
        (lambda: flow.encode(score, x), sde.t_min, sde.T),
        (lambda: flow.sample(score, (4, 2), denoise=False, dtype=F64), sde.T, sde.t_min),
    ):
        score.times.clear()
        angles.clear()
        run()
        first, last = (math.atan2(*(c.item() for c in sde.marginal(t)[::-1])) for t in (start, end))
        low, high = sorted((first, last))
        seen = torch.cat(angles[2:])
        assert low - 1e-15 <= seen.min() <= seen.max() <= high + 1e-15
        if method == "dopri5":  # two calls say whether the score sees the batch
            assert [len(t) for t in score.times[:2]] == [2, 1]
            del score.times[:2]
        times = torch.cat(score.times)
        assert sde.t_min <= times.min() <= times.max() <= sde.T
        assert bool((score.times[0] == start).all())
        assert times.tolist().count(start) == 4
        # torchdiffeq ends at the next number before.
        slack = 0.0 if method == "dopri5" else 1e-12
        assert bool(((score.times[-1] - end).abs() <= slack * end).all())


@pytest.mark.guards("M11")
@pytest.mark.parametrize("method", METHODS)
def test_a_wild_first_probe_is_safe(method: str) -> None:
    """A nearly flat flow makes torchdiffeq probe the drift at t ≈ −2e5."""
    sde = ss.VPSDE()
    score = Recorded(ss.GaussianScore([0.0], 1.0001, sde))
    flow = ss.ProbabilityFlow(sde, method=method, rtol=1e-9, atol=1e-9)
    x = flow.decode(score, torch.ones(1, 1, dtype=F64))
    assert torch.cat(score.times).min() == sde.t_min
    expected = gaussian_map(
        sde, torch.ones_like(x), x.new_zeros(1), x.new_full((1,), 1.0001**0.5), 1.0, sde.t_min
    )[0]
    torch.testing.assert_close(x, expected, rtol=1e-7, atol=1e-7)


def broken(x: Tensor, t: Tensor) -> Tensor:
    return torch.where((t[:, None] < 0.5) & (x > 3.0), math.nan, -x)


@pytest.mark.parametrize("method", METHODS)
def test_a_nan_stops_the_solve_and_names_the_samples(method: str) -> None:
    start = torch.zeros(7, 2, dtype=F64)
    start[5, 1] = 4.0
    flow = ss.ProbabilityFlow(ss.VPSDE(), method=method)
    with pytest.raises(ss.errors.DivergenceError, match="not finite") as caught:
        flow.decode(broken, start, max_batch=3)
    assert caught.value.samples == [5]
    assert caught.value.t < 0.5
    assert caught.value.finished.shape == (3, 2)
    with pytest.raises(ss.errors.DivergenceError) as caught:
        flow.decode(broken, start)
    assert caught.value.finished is None
    infinite = ss.ProbabilityFlow(ss.VPSDE(), method="euler", steps=4)
    with pytest.raises(ss.errors.DivergenceError):
        infinite.encode(lambda x, t: x / 0.0, torch.ones(2, 2))


@pytest.mark.slow
@pytest.mark.guards("T14")
def test_no_hang_where_asserts_are_off() -> None:
    """python -O: a NaN, and a flow too rough for the solver."""
    code = """
        import torch, sdescore as ss
        rough = lambda x, t: x.abs().pow(-3) * 1e6 * (40 * x).sin()
        for method in ("dopri5", "dopri8"):
            flow = ss.ProbabilityFlow(ss.VPSDE(), method, max_evaluations=300)
            for score in (lambda x, t: x * float("nan"), rough):
                try:
                    flow.decode(score, torch.ones(2, 2))
                except ss.errors.DivergenceError:
                    print("stopped")
    """
    done = subprocess.run(
        [sys.executable, "-O", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["stopped"] * 4


@pytest.mark.parametrize("method", METHODS)
def test_a_solver_that_cannot_go_on_says_so(method: str) -> None:
    sde = ss.VPSDE()
    flow = ss.ProbabilityFlow(sde, method, max_evaluations=25)
    with pytest.raises(ss.errors.DivergenceError, match="25 times") as caught:
        flow.encode(mixture(sde), torch.randn(3, 2))
    assert caught.value.samples == [0, 1, 2]
    assert caught.value.step == 25
    # A drift that jumps everywhere: no step is small enough.
    rough = ss.ProbabilityFlow(sde, method, rtol=1e-12, atol=1e-12, max_evaluations=2000)
    for size, match in ((1e4, "gave up"), (1e15, "its step (fell|underflowed)")):
        with pytest.raises(ss.errors.DivergenceError, match=match):
            rough.encode(
                lambda x, t, size=size: size * torch.sign(torch.sin(1e9 * t[:, None] + x)),
                torch.randn(2, 2),
            )

    def asserts(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine"):
        flow.encode(asserts, torch.randn(2, 2))


HARD = torch.tensor([[0.02]], dtype=F64)
NARROW = ss.MixtureScore([0.5, 0.5], [[-1.0], [1.0]], [1e-3, 1e-3], ss.VPSDE())


@pytest.fixture(scope="module")
def fine() -> ss.samplers.LogLikelihood:
    return ss.ProbabilityFlow(NARROW.sde, rtol=1e-10, atol=1e-10).log_likelihood(NARROW, HARD)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_a_hard_sample_keeps_its_accuracy_among_easy_ones(
    method: str, fine: ss.samplers.LogLikelihood
) -> None:
    """State and density both; with a step for each, the easy ones do not pay for it."""
    sde, score, hard, tolerance = NARROW.sde, NARROW, HARD, 1e-5
    easy = torch.ones(100, 1, dtype=F64)
    flow = ss.ProbabilityFlow(sde, method, rtol=tolerance, atol=tolerance)
    alone = flow.log_likelihood(score, hard)
    crowd = flow.log_likelihood(score, torch.cat([hard, easy]))
    for key in ("latent", "log_det"):
        own = (getattr(alone, key)[0] - getattr(fine, key)[0]).abs().item()
        among = (getattr(crowd, key)[0] - getattr(fine, key)[0]).abs().item()
        assert among <= 2 * own + 2 * tolerance
    if method == "dopri5":
        assert crowd.evaluations[0] == alone.evaluations > 1.2 * crowd.evaluations[1:].max()
    else:
        assert len(crowd.evaluations.unique()) == 1
        assert crowd.evaluations[0] >= 0.8 * alone.evaluations


@pytest.mark.slow
@pytest.mark.guards("T14")
def test_single_samples_do_not_know_their_batch() -> None:
    """By torchdiffeq's methods too, if they are solved alone or by fixed steps."""
    sde = ss.VPSDE()
    score, x = mixture(sde), mixture_states(sde, 4, 0.05)
    flow = ss.ProbabilityFlow(sde, "bosh3")
    options = {"divergence": "hutchinson", "probes": 3, "seed": 4}
    whole = flow.log_likelihood(score, x, max_batch=1, **options)
    part = flow.log_likelihood(score, x[:2], max_batch=1, **options)
    assert torch.equal(whole.log_prob[:2], part.log_prob)
    assert torch.equal(whole.standard_error[:2], part.standard_error)
    together = flow.log_likelihood(score, x, **options)
    torch.testing.assert_close(together.log_prob, whole.log_prob, rtol=0, atol=1e-3)
    fixed = ss.ProbabilityFlow(sde, method="rk4", steps=20)
    first, second = (fixed.sample(score, (4, 2), max_batch=n) for n in (None, 2))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_one_tolerance_counts_by_the_states_size(method: str) -> None:
    """Of data around 1000, a ten-thousandth of the state is more than a ten-thousandth."""
    data = ss.GaussianScore(torch.tensor([1000.0, -1000.0]), 100.0, ss.VPSDE())
    calls = []
    for rtol, atol in ((1e-4, 1e-12), (1e-12, 1e-4)):
        score = Recorded(data)
        flow = ss.ProbabilityFlow(ss.VPSDE(), method=method, rtol=rtol, atol=atol)
        flow.encode(score, data.sample(3, seed=0, dtype=F64))
        calls.append(len(score.times))
    assert 1.5 * calls[0] < calls[1]
