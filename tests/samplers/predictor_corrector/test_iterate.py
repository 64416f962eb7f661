"""The chain one step at a time."""

from __future__ import annotations

import copy

import pytest
import torch

import sdescore as ss
from sdescore.score.mixture import GaussianScore
from tests.helpers.chunks import VP, pc
from tests.helpers.methods import Heun, Multistep

METHODS = [
    {"predictor": ss.EulerMaruyama()},
    {"predictor": ss.DDIM(), "corrector": ss.Langevin(norm="sample")},
    {"predictor": Heun()},
    {"predictor": Multistep(), "corrector": ss.Langevin(0.1)},
    {"predictor": ss.NoPredictor(), "corrector_first": True},
    {"predictor": ss.Ancestral(), "corrector_first": True},
    {"predictor": ss.Ancestral(), "denoise": False},
]


@pytest.mark.parametrize("options", METHODS, ids=lambda o: type(o["predictor"]).__name__)
def test_iterate_is_sample_and_resumes_from_anywhere(options: dict) -> None:
    sampler = pc(**options)
    score = GaussianScore([1.0, -1.0], 0.5, VP)
    end = sampler.sample(score, (3, 2), seed=8)
    states = list(sampler.iterate(score, (3, 2), seed=8))
    assert torch.equal(states[-1].x, end)
    assert [s.step for s in states] == sorted({s.step for s in states})
    assert all(len(s.outputs) <= 2 for s in states)  # no more than the method looks back
    assert states[-1].t == (sampler.times[-1].item() if options.get("denoise") is False else 0.0)
    for stop in range(len(states)):
        chain = sampler.iterate(score, (3, 2), seed=8)
        state = [next(chain) for _ in range(stop + 1)][-1]  # the latest of a run that was left
        saved = copy.deepcopy(state)
        for start in (state, saved):
            rest = list(sampler.iterate(score, start=start, seed=8))
            assert torch.equal((rest or [state])[-1].x, end)
            assert [s.step for s in rest] == [s.step for s in states if s.step > state.step]


def test_times_and_the_denoised_of_each_state() -> None:
    """``denoised`` is Tweedie's mean at the last evaluation: before the move, exact score."""
    score = GaussianScore([1.0, -1.0], 0.5, VP)
    sampler = pc(corrector=ss.NoCorrector(), steps=5)
    before = VP.prior_std() * ss.noise.standard_normal(2, range(3), range(1), (2,))[0]
    for state, t in zip(sampler.iterate(score, (3, 2), seed=2), sampler.times, strict=True):
        torch.testing.assert_close(state.denoised, score.denoise(before, t), rtol=1e-4, atol=1e-4)
        before = state.x.clone()
    torch.testing.assert_close(state.x, state.denoised)
    assert [s.t for s in sampler.iterate(score, (3, 2))] == [*sampler.times[1:].tolist(), 0.0]


def test_denoised_folds_a_networks_convention() -> None:
    model = ss.ScoreModel(lambda x, c: torch.full_like(x, 0.25), VP, prediction="x0")
    for state in pc().iterate(model, (2, 3)):
        torch.testing.assert_close(state.denoised, torch.full((2, 3), 0.25), atol=1e-4, rtol=0)
