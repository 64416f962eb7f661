"""The state of a chain: what is kept, and what steering it changes."""

from __future__ import annotations

import torch

import sdescore as ss
from tests.helpers.chunks import VP, elementwise, pc
from tests.helpers.methods import Multistep


def test_a_kept_state_does_not_change() -> None:
    copies, states = [], []
    for state in pc(predictor=Multistep()).iterate(elementwise, (2, 2)):
        states.append(state)
        copies.append((state.step, state.t, state.x.clone(), state.denoised.clone()))
    for state, (step, t, x, denoised) in zip(states, copies, strict=True):
        assert (state.step, state.t) == (step, t)
        assert torch.equal(state.x, x) and torch.equal(state.denoised, denoised)


def test_steering_changes_what_follows_and_nothing_before() -> None:
    sampler = pc(corrector=ss.NoCorrector(), predictor=ss.EulerMaruyama())
    plain = list(sampler.iterate(elementwise, (2, 2), seed=3))
    steered = []
    for state in sampler.iterate(elementwise, (2, 2), seed=3):
        if state.step == 3:
            state.x = state.x + 1
        steered.append(state)
    assert torch.equal(plain[1].x, steered[1].x)
    assert torch.equal(plain[2].x + 1, steered[2].x)
    assert not (plain[3].x == steered[3].x).any()
    by_hand = ss.PredictorCorrector(VP, predictor=ss.EulerMaruyama(), grid=sampler.times[3:])
    noise = ss.noise.ReplayNoise(
        torch.cat([torch.zeros(1, 2, 2), ss.noise.standard_normal(3, range(2), range(4, 7), (2,))])
    )
    again = by_hand.sample(elementwise, init=steered[2].x, noise=noise)
    torch.testing.assert_close(again, steered[-1].x)
