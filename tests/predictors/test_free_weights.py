"""Weights that a search finds, and the past outputs that the loop keeps."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.analysis.optimal_grid.surrogate import fit_surrogate
from tests.helpers.multisteps import ADAMS, F64, mixture, narrow_and_wide, noise


@pytest.fixture(scope="module")
def blobs() -> Tensor:
    return narrow_and_wide()


@pytest.fixture(scope="module")
def optimal(blobs: Tensor) -> dict[bool, ss.analysis.OptimalGrid]:
    return {
        w: ss.optimal_grid(
            ss.VPSDE(), ADAMS, 5, data=blobs, fit_weights=w, score_error=0, trajectories=64
        )
        for w in (False, True)
    }


@pytest.mark.slow
def test_free_weights_come_closer_to_the_flow_on_fresh_noise(
    blobs: Tensor, optimal: dict[bool, ss.analysis.OptimalGrid]
) -> None:
    """Against 400 steps of the same exact score, which leave an error a thousand times smaller."""
    sde, fit = ss.VPSDE(), fit_surrogate(blobs)
    covariances = fit.axes @ torch.diag_embed(fit.variances) @ fit.axes.mT
    score = ss.MixtureScore(fit.weights, fit.means, covariances, sde)
    predictors = {False: ADAMS, True: ss.predictors.Multistep(optimal[True].weights)}
    x = sde.marginal(sde.T)[1] * noise(2000, 2, 77)
    fine = ss.PredictorCorrector(
        sde, predictor=ss.ExponentialAdams(points=3), grid=ss.LogSNRGrid(), steps=400
    ).sample(score, init=x, dtype=F64)
    off = {}
    for w, grid in optimal.items():
        sampler = ss.PredictorCorrector(sde, predictor=predictors[w], grid=grid)
        off[w] = (sampler.sample(score, init=x, dtype=F64) - fine).norm(dim=1).median().item()
    assert off[True] < 0.7 * off[False]


@pytest.mark.slow
def test_free_weights_are_confirmed_by_trajectories_held_out(
    optimal: dict[bool, ss.analysis.OptimalGrid],
) -> None:
    plain, free = optimal[False], optimal[True]
    assert plain.weights is None and free.weights is not None
    assert free.held_out_loss < 0.7 * plain.held_out_loss
    assert free.loss < plain.loss
    assert len(free.weights) == len(free.values) == 5
    assert ss.predictors.Multistep(free.weights).weights == free.weights


@pytest.mark.slow
def test_weights_travel_with_their_grid(optimal: dict[bool, ss.analysis.OptimalGrid]) -> None:
    grid = optimal[True]
    again = ss.analysis.OptimalGrid(**json.loads(json.dumps(dataclasses.asdict(grid))))
    assert again == grid and eval(repr(grid), vars(ss.analysis)) == grid


@pytest.mark.parametrize(
    ("predictor", "options", "match"),
    [
        (ADAMS, {"data": None, "spectrum": torch.ones(2)}, "expected data= and the mixture"),
        (ADAMS, {"surrogate": "gaussian"}, "expected data= and the mixture"),
        (ss.Heun(), {}, "a one-stage predictor in x0"),
        (ss.ExponentialAdams(output="epsilon"), {}, "a one-stage predictor in x0"),
        (ss.ExponentialAdams(points=4), {}, "at most 3 outputs"),
    ],
)
def test_weights_that_cannot_be_found(
    predictor: ss.Predictor, options: dict, match: str, blobs: Tensor
) -> None:
    with pytest.raises(ss.errors.IncompatibleError, match=match):
        ss.optimal_grid(ss.VPSDE(), predictor, 6, **{"data": blobs, "fit_weights": True, **options})


# -- what the loop keeps ---------------------------------------------------------------------


@pytest.mark.parametrize("broken", [17, 20, 31])
def test_a_score_that_breaks_is_named_at_its_step(broken: int) -> None:
    """Past outputs whose memory is used again are not those that the search for it starts from."""
    sde, calls = ss.VPSDE(), 0
    sampler = ss.PredictorCorrector(
        sde, predictor=ss.ExponentialAdams(points=3), grid=ss.LogSNRGrid(), steps=40
    )
    t = sampler.times[broken].item()

    def score(x: Tensor, at: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.full_like(x, math.nan) if abs(at.item() - t) < 1e-9 else -x

    with pytest.raises(ss.errors.DivergenceError) as caught:
        sampler.sample(score, (3, 2), seed=0, dtype=F64)
    assert caught.value.step == broken and calls <= 2 * 48


def test_a_model_that_gives_the_same_memory_again_is_not_mixed_up() -> None:
    """A compiled network may write every output to one place."""
    sde, room = ss.RectifiedFlowSDE(), torch.empty(3, 2, dtype=F64)
    sampler = ss.PredictorCorrector(
        sde, predictor=ss.ExponentialAdams(points=3), grid=ss.LogSNRGrid(), steps=9
    )
    fresh = ss.ScoreModel(lambda x, t: x.tanh(), sde, prediction="x0")
    same = ss.ScoreModel(lambda x, t: room.copy_(x.tanh()), sde, prediction="x0")
    x = [sampler.sample(model, init=noise(3, 2), dtype=F64) for model in (fresh, same)]
    torch.testing.assert_close(x[0], x[1], rtol=0, atol=0)


def test_states_a_caller_keeps_stay_as_they_are() -> None:
    sampler = ss.PredictorCorrector(
        ss.VPSDE(), predictor=ss.ExponentialAdams(points=3), grid=ss.LogSNRGrid(), steps=9
    )
    score = mixture(ss.VPSDE())
    states = list(sampler.iterate(score, init=noise(3, 2), dtype=F64))
    for state in states[:-1]:
        *_, last = sampler.iterate(score, start=state, dtype=F64)
        torch.testing.assert_close(last.x, states[-1].x, rtol=0, atol=0)


class Idle(ss.Corrector):
    """Two evaluations, weighed by nothing."""

    steps = 1

    def tableau(self, sde: ss.LinearSDE, times: Tensor) -> ss.Tableau:
        two = times[:, None].expand(-1, 2)
        nothing = torch.zeros(len(times), 2, 2, dtype=F64)
        return ss.Tableau(two, torch.ones_like(two), nothing, nothing, "x0")


def test_a_correctors_stages_leave_the_past_outputs_alone() -> None:
    sde = ss.VPSDE()
    plain = ss.PredictorCorrector(
        sde, predictor=ss.ExponentialAdams(points=3), grid=ss.LogSNRGrid(), steps=9
    )
    still = dataclasses.replace(plain, corrector=Idle())
    x = [s.sample(mixture(sde), init=noise(3, 2), dtype=F64) for s in (plain, still)]
    torch.testing.assert_close(x[0], x[1], rtol=0, atol=0)
    errors = [ss.analysis.gaussian_error(s, torch.tensor([1.0, 0.1])) for s in (plain, still)]
    torch.testing.assert_close(errors[0].variance, errors[1].variance, rtol=1e-12, atol=0)
