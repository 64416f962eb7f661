"""A run that diverges is stopped and named."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.chunks import VP, pc
from tests.helpers.methods import Multistep


def breaks_at(t_break: float, rows: list[int]):
    def score(x: Tensor, t: Tensor) -> Tensor:
        s = -x.clone()
        if t <= t_break + 1e-6:
            s[[r for r in rows if r < len(x)]] = math.nan
        return s

    return score


@pytest.mark.parametrize("step", [0, 1, 15, 16, 17, 30, 39])
@pytest.mark.parametrize("way", ["sample", "iterate"])
def test_divergence_names_the_step_the_time_and_the_samples(step: int, way: str) -> None:
    sampler = ss.PredictorCorrector(VP, predictor=ss.ReverseDiffusion(), steps=40)
    t = sampler.times[step].item()
    with pytest.raises(ss.errors.DivergenceError, match=f"step {step} ") as caught:
        score = breaks_at(t, [1, 3])
        if way == "sample":
            sampler.sample(score, (5, 2))
        else:
            list(sampler.iterate(score, (5, 2)))
    error = caught.value
    assert (error.step, error.samples, error.finished) == (step, [1, 3], None)
    assert error.t == pytest.approx(t, abs=1e-12)


@pytest.mark.parametrize("predictor", [ss.EulerMaruyama(0.0), Multistep()], ids=repr)
def test_a_state_that_grows_out_of_range_is_named_at_the_step_it_does(predictor) -> None:
    """``sample`` looks every few rows and goes back; ``iterate`` looks at each."""
    sampler = ss.PredictorCorrector(VP, predictor=predictor, steps=80)
    errors = []
    for run in (sampler.sample, lambda *a, **o: list(sampler.iterate(*a, **o))):
        with pytest.raises(ss.errors.DivergenceError) as caught:
            run(lambda x, t: x + x**3, init=torch.tensor([[1e-6], [1e-3]]))
        errors.append((caught.value.step, caught.value.t, caught.value.samples))
    assert errors[0] == errors[1]
    assert errors[0][0] > 17 and errors[0][2] == [1]


def test_a_broken_score_stops_the_run_soon() -> None:
    calls = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return x * math.nan

    with pytest.raises(ss.errors.DivergenceError, match="step 0 "):
        ss.PredictorCorrector(VP, predictor=ss.ReverseDiffusion(), steps=1000).sample(score, (2, 2))
    assert len(calls) <= 50


def test_divergence_in_a_later_chunk_keeps_what_was_finished() -> None:
    sampler = ss.PredictorCorrector(VP, predictor=ss.ReverseDiffusion(), steps=5)
    calls = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return x * math.inf if len(calls) > 10 else -x

    whole = ss.PredictorCorrector(VP, predictor=ss.ReverseDiffusion(), steps=5).sample(
        lambda x, t: -x, (9, 2)
    )
    with pytest.raises(ss.errors.DivergenceError) as caught:
        sampler.sample(score, (9, 2), max_batch=4)
    assert torch.equal(caught.value.finished, whole[:8])
    assert caught.value.samples == [8]


def test_a_corrector_that_diverges_is_named_too() -> None:
    with pytest.raises(ss.errors.DivergenceError, match="corrector") as caught:
        pc(corrector=ss.Langevin(snr=1e12, steps=2), steps=5).sample(lambda x, t: -x, (1, 2))
    assert caught.value.step == 0 and caught.value.t == pc(steps=5).times[1].item()
