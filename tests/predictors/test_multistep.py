"""Multistep methods given by their weights, and how a chain ends."""

from __future__ import annotations

import dataclasses
import json
import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sdescore as ss
from sdescore.analysis.optimal_grid.optimal import POINTS
from sdescore.analysis.optimal_grid.surrogate import fit_surrogate
from sdescore.predictors.multistep import shares
from tests.helpers.affine import Modes, extrapolated, law

F64 = torch.float64
SDES = [ss.VPSDE(), ss.VESDE(sigma_max=20.0), ss.SubVPSDE(), ss.EDMSDE(sigma_max=20.0)]
DATA = Modes.of((0.7, 0.5), (-1.0, 2.0), (0.2, 0.05))
ADAMS = ss.ExponentialAdams(points=2, corrector_points=3)


def mixture(sde: ss.LinearSDE) -> ss.MixtureScore:
    means = torch.tensor([[-2.0, 0.0], [1.5, 1.0]])
    covariances = torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.05, 0.0], [0.0, 0.4]]])
    return ss.MixtureScore(torch.tensor([0.3, 0.7]), means, covariances, sde)


def noise(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize(
    "predictor",
    [ss.DDIM(), ss.ExponentialAdams(points=3), ADAMS, ss.ExponentialAdams(midpoint=True)],
    ids=repr,
)
def test_it_is_the_adams_method_whose_weights_it_has(
    sde: ss.LinearSDE, predictor: ss.Predictor
) -> None:
    plain = ss.PredictorCorrector(sde, predictor=predictor, grid=ss.LogSNRGrid(), steps=7)
    if isinstance(predictor, ss.DDIM):
        weights = torch.eye(1, POINTS, dtype=F64).expand(7, -1)
    else:
        weights = shares(predictor, sde, plain.times, POINTS)
    same = dataclasses.replace(plain, predictor=ss.predictors.Multistep(weights.tolist()))
    x = sde.marginal(sde.T)[1] * noise(5, 2)
    ours, theirs = (s.sample(mixture(sde), init=x, dtype=F64) for s in (same, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    *_, last = same.iterate(mixture(sde), init=x, dtype=F64)
    torch.testing.assert_close(last.x, ours, rtol=0, atol=0)


@pytest.mark.guards("M09")
@pytest.mark.parametrize(
    ("adams", "order"), [(None, 1), (ss.ExponentialAdams(points=2), 2), (ADAMS, 3)], ids=repr
)
def test_the_order_is_that_of_the_weights(adams: ss.Predictor | None, order: int) -> None:
    """Any weights promise order 1, the declared one; those of an Adams method have its order."""
    sde = ss.VESDE(sigma_min=0.3, sigma_max=2.0)
    errors = []
    for steps in (64, 128, 256):
        times = ss.LogSNRGrid().times(sde, steps + 1)
        rows = [[1.0]] * len(times)
        if adams is not None:
            rows = shares(adams, sde, times, POINTS).tolist()
        sampler = ss.PredictorCorrector(
            sde, predictor=ss.predictors.Multistep(rows), grid=times, denoise=False
        )
        start = DATA.marginal(sde, sde.T)
        mean, variance = law(sampler, DATA, start)
        exact_mean, exact_variance = DATA.marginal(sde, times[-1].item())
        errors.append(math.hypot(*(mean - exact_mean), *(variance**0.5 - exact_variance**0.5)))
    assert extrapolated(errors) == pytest.approx(order, abs=0.05)
    assert order >= ss.predictors.Multistep.order


@given(seed=st.integers(0, 10**6), steps=st.integers(2, 6), which=st.integers(0, len(SDES) - 1))
def test_any_weights_keep_a_point_and_its_noise(seed: int, steps: int, which: int) -> None:
    """Data at one point: x̂₀ is the point, and x on the way α c + σ ε with the ε of the start."""
    sde = SDES[which]
    older = noise(steps, 2, seed).tril(-1)
    weights = torch.cat([1 - older.sum(1, keepdim=True), older], 1)
    sampler = ss.PredictorCorrector(
        sde, predictor=ss.predictors.Multistep(weights.tolist()), grid=ss.LogSNRGrid(), steps=steps
    )
    c, epsilon = torch.tensor([1.5, -0.5], dtype=F64), noise(3, 2, seed + 1)

    def score(x: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = sde.marginal(t)
        return (alpha_t * c - x) / sigma_t.square()

    alpha, sigma = sde.marginal(sampler.times)
    states = list(sampler.iterate(score, init=alpha[0] * c + sigma[0] * epsilon, dtype=F64))
    size = weights.abs().sum(1).max().item() * sigma[0].item()
    for n, state in enumerate(states[:-1], 1):
        wanted = alpha[n] * c + sigma[n] * epsilon
        torch.testing.assert_close(state.x, wanted, rtol=1e-8, atol=1e-9 * size)
    torch.testing.assert_close(states[-1].x, c.expand(3, 2), rtol=1e-8, atol=1e-9 * size)


def test_the_exact_distribution_is_that_of_the_chain_run() -> None:
    """On a Gaussian of mean 0 the chain is linear: one run from 1 is its transfer."""
    sde, variance = ss.VPSDE(), 0.3
    weights = [[1.0], [1.4, -0.4], [1.6, -0.7, 0.1], [1.8, -0.9, 0.1]]
    sampler = ss.PredictorCorrector(
        sde, predictor=ss.predictors.Multistep(weights), grid=ss.LogSNRGrid(), steps=4
    )
    score = ss.GaussianScore(torch.zeros(1), variance, sde)
    transfer = sampler.sample(score, init=torch.ones(1, 1), dtype=F64).item()
    error = ss.analysis.gaussian_error(sampler, torch.tensor([variance]))
    prior = sde.marginal(sde.T)[1].item() ** 2
    assert error.variance.item() == pytest.approx(transfer**2 * prior, rel=1e-6)


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ([], "a row of weights"),
        (3, "a row of weights"),
        ([1.0, 1.0], "a row of weights"),
        ([[1.0], [0.5, 0.4]], "sum to 1 in row 1"),
        ([[1.5, -0.5], [1.0]], "at most 1 weights in row 0"),
        ([[math.nan]], "numbers in row 0"),
        ([["1"]], "numbers in row 0"),
    ],
)
def test_bad_weights(weights: object, match: str) -> None:
    with pytest.raises(ss.errors.ParameterError, match=match):
        ss.predictors.Multistep(weights)


def test_weights_are_for_their_number_of_times() -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="grid of 2 times"):
        ss.PredictorCorrector(
            ss.VPSDE(), predictor=ss.predictors.Multistep([[1.0], [1.0]]), steps=3
        )


# -- endings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_the_flows_ending_is_half_of_the_means(sde: ss.LinearSDE) -> None:
    x, t = noise(4, 2), torch.tensor([0.3 * sde.T], dtype=F64)
    ends = {
        how: ss.PredictorCorrector(sde, predictor=ss.NoPredictor(), grid=t, denoise=how).sample(
            mixture(sde), init=x, dtype=F64
        )
        for how in (True, "flow")
    }
    mean = mixture(sde).denoise(x, t[0])
    alpha_t = sde.marginal(t[0])[0]
    torch.testing.assert_close(ends[True], mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ends["flow"], (x / alpha_t + mean) / 2, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("how", "order"), [(True, 1), ("flow", 2)])
def test_the_distribution_of_an_ending_is_right_to_its_order_in_the_noise_left(
    how: bool | str, order: int
) -> None:
    """Twice the time on the VE SDE σ² = 2 t (to first order) leaves twice, or four times, as much
    error of the variance; the measured order is that to 3 %."""
    sde = ss.LinearSDE.from_marginal(lambda t: torch.ones_like(t), lambda t: t.sqrt(), T=1.0)
    errors = []
    for t in (1e-3, 5e-4):
        sampler = ss.PredictorCorrector(
            sde, predictor=ss.NoPredictor(), grid=torch.tensor([t], dtype=F64), denoise=how
        )
        error = ss.analysis.gaussian_error(sampler, torch.tensor([0.1]))
        errors.append(abs(error.ended_variance.item() - error.data_variance.item()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, rel=0.03)


def test_likelihood_of_many_stochastic_steps_is_right_with_the_flows_ending() -> None:
    """A mode three times as wide as the noise left at t_min, a figure per mode, exact."""
    sde, spectrum = ss.VPSDE(), torch.tensor([1.0, 0.03**2])
    loss = {}
    for how in (True, "flow"):
        sampler = ss.PredictorCorrector(
            sde,
            predictor=ss.ExponentialAdams(eta=1.0, points=2),
            grid=ss.LogSNRGrid(),
            steps=1000,
            denoise=how,
        )
        error = ss.analysis.gaussian_error(sampler, spectrum)
        loss[how] = (0.5 * (error.variance / error.data_variance - 1)).abs().max().item()
    assert loss[True] > 0.04 and loss["flow"] < 0.004


def test_bad_endings() -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="denoise among True, False, flow"):
        ss.PredictorCorrector(ss.VPSDE(), steps=3, denoise="mean")


# -- optimal weights -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blobs() -> Tensor:
    pick = torch.rand(2000, generator=torch.Generator().manual_seed(1)) < 0.3
    wide = torch.tensor([0.5, 0.05], dtype=F64) * noise(2000, 2, 2)
    return wide + torch.where(pick, -2.0, 2.0)[:, None]


@pytest.fixture(scope="module")
def optimal(blobs: Tensor) -> dict[bool, ss.analysis.OptimalGrid]:
    return {
        w: ss.optimal_grid(
            ss.VPSDE(), ADAMS, 5, data=blobs, weights=w, score_error=0, trajectories=64
        )
        for w in (False, True)
    }


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


def test_free_weights_are_confirmed_by_trajectories_held_out(
    optimal: dict[bool, ss.analysis.OptimalGrid],
) -> None:
    plain, free = optimal[False], optimal[True]
    assert plain.weights is None and free.weights is not None
    assert free.held_out_loss < 0.7 * plain.held_out_loss
    assert free.loss < plain.loss
    assert len(free.weights) == len(free.values) == 5
    assert ss.predictors.Multistep(free.weights).weights == free.weights


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
        ss.optimal_grid(ss.VPSDE(), predictor, 6, **{"data": blobs, "weights": True, **options})


def test_what_is_recommended(blobs: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free weights for an exact score only."""
    for name in ("TRIAL", "TIMES", "WEIGHTS"):
        monkeypatch.setattr(sys.modules["sdescore.analysis.optimal_grid.optimal"], name, 2)
    exact = ss.recommended_sampler(ss.VPSDE(), 3, data=blobs, score_error=0)
    assert exact.evaluations == 3 and exact.grid.score_error == 0
    assert exact.predictor == ss.predictors.Multistep(exact.grid.weights)
    learned = ss.recommended_sampler(ss.VPSDE(), 3, data=blobs)
    assert learned.predictor == ADAMS and learned.grid.score_error == 0.02
    free = ss.recommended_sampler(ss.VPSDE(), 3, data=blobs, weights=True)
    assert isinstance(free.predictor, ss.predictors.Multistep)
    for options in (
        {"spectrum": torch.tensor([1.0, 0.1])},
        {"data": blobs, "weights": False},
    ):
        sampler = ss.recommended_sampler(ss.VPSDE(), 3, score_error=0, **options)
        assert sampler.predictor == ADAMS


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
