"""A score under another SDE."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import sdescore as ss
from sdescore.score.change_of_sde import ScoreUnderSDE, under
from tests.helpers.changed import (
    DOUBLE,
    EDM,
    FLOW,
    MEAN,
    PREDICTIONS,
    SMALL,
    SUBVP,
    VARIANCE,
    VE,
    VP,
    exact_model,
    plain,
)
from tests.helpers.strategies import REPRESENTATIVES, linear_sdes, ordered_times, shapes, states


def vp_match(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """VPSDE's t′ where σ/α = ``sigma``, from B(t′) = log(1 + σ²), and α there."""
    B = torch.log1p(sigma**2)
    low, slope = VP.beta_min, VP.beta_max - VP.beta_min
    return (-low + torch.sqrt(low**2 + 2 * slope * B)) / slope, (1 + sigma**2).rsqrt()


def covered(own: ss.LinearSDE, other: ss.LinearSDE, t: Tensor, margin: float = 0.0) -> Tensor:
    level = other.log_snr(t)
    high, low = (own.log_snr(end) for end in (0.0, own.T))
    return (level <= high + margin) & (level >= low - margin)


# The score, the density, and the coverage.


@given(st.data(), linear_sdes(), linear_sdes(), shapes())
def test_any_score_under_any_sde_is_the_exact_score_there(
    data: st.DataObject, own: ss.LinearSDE, other: ss.LinearSDE, shape: tuple[int, ...]
) -> None:
    event = shape[1:]
    mean, spread = states(event, DOUBLE, 3, 2)
    t = torch.tensor(data.draw(ordered_times(other, shape[0])), dtype=DOUBLE)
    alpha, sigma = (v.reshape(-1, *(1,) * len(event)) for v in other.marginal(t))
    x = alpha * (mean + states(shape, DOUBLE, 5, 1)[0]) + sigma * states(shape, DOUBLE, 6, 1)[0]
    variance = 0.1 + spread.square()
    original = ss.MixtureScore(
        [0.3, 0.7], torch.stack([mean, -mean]), torch.stack([variance] * 2), own
    )
    exact = ss.MixtureScore(original.weights, original.means, torch.stack([variance] * 2), other)
    wrapped = under(plain(original), other, own=own)
    if not bool(covered(own, other, t, 1e-3).all()):
        with pytest.raises(ss.errors.TimeError, match=type(own).__name__):
            wrapped(x, t)
        return
    if not bool(covered(own, other, t).all()):
        return
    torch.testing.assert_close(wrapped(x, t), exact(x, t), rtol=1e-8, atol=1e-10)
    one = wrapped(x[:1], t[0])  # one time for all samples, and a float
    torch.testing.assert_close(one, exact(x[:1], t[0].item()), rtol=1e-8, atol=1e-10)
    density = ScoreUnderSDE(original, own, other).log_density(x, t)
    torch.testing.assert_close(density, exact.log_prob(x, t), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_exact_scores_are_rebuilt(name: str) -> None:
    other = REPRESENTATIVES[name]
    x = states((5, 2), DOUBLE, 0, 1)[0]
    points = states((7, 2), DOUBLE, 1, 1)[0]
    makers: list[Callable[[ss.LinearSDE], ss.EmpiricalScore | ss.GaussianScore]] = [
        lambda sde: ss.GaussianScore([1.0, -1.0], [0.5, 0.2], sde),
        lambda sde: ss.EmpiricalScore(points, sde),
    ]
    t = 0.6 * other.T
    for make in makers:
        original = make(VP)
        moved, exact = original.under(other), make(other)
        assert type(moved) is type(original) and moved.sde == other and original.sde == VP
        assert torch.equal(moved(x, t), exact(x, t))
        assert torch.equal(moved.denoise(x, t), exact.denoise(x, t))
        assert torch.equal(moved.log_prob(x, t), exact.log_prob(x, t))
        assert torch.equal(moved.sample(4, seed=3), original.sample(4, seed=3))
        assert under(original, other)(x, t).equal(exact(x, t))
    with pytest.raises(ss.errors.IncompatibleError, match="marginal"):
        original.under(ss.VPSDE)


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    ("own", "other"), [(VP, VE), (VP, EDM), (EDM, VP), (FLOW, SUBVP), (EDM, FLOW)]
)
def test_every_convention(
    own: ss.LinearSDE, other: ss.LinearSDE, prediction: str, unit: bool
) -> None:
    model = exact_model(prediction, own, unit).under(other)
    assert isinstance(model, ss.ScoreModel) and model.sde == other
    exact = ss.GaussianScore([MEAN] * 2, VARIANCE, other)
    t = torch.tensor([0.02, 0.3, 0.9], dtype=DOUBLE) * min(other.T, 50.0)
    x = other.perturb(states((3, 2), DOUBLE, 1, 1)[0], t, states((3, 2), DOUBLE, 2, 1)[0])
    close = {"rtol": 1e-8, "atol": 1e-9}
    torch.testing.assert_close(model(x, t), exact(x, t), **close)
    torch.testing.assert_close(model.denoise(x, t), exact.denoise(x, t), **close)
    torch.testing.assert_close(model.epsilon(x, t), exact.epsilon(x, t), **close)
    alpha, sigma = (v[:, None] for v in other.marginal(t))
    v = alpha * exact.epsilon(x, t) - sigma * exact.denoise(x, t)
    torch.testing.assert_close(model.predict("v", x, t), v, **close)
    # One time for all, and a float.
    torch.testing.assert_close(model(x, t[1]), exact(x, t[1].item()), **close)


def test_a_network_is_asked_at_the_closed_form_time_and_scale() -> None:
    """A VP network under EDM: B(t′) = log(1 + σ²) and k = 1/√(1 + σ²); labels are handed on."""
    net = ss.MLP(2, hidden=8, classes=3).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    label = torch.tensor([0, 2, 1, 1])
    sigma = torch.tensor([0.003, 0.4, 3.0, 70.0], dtype=DOUBLE)
    own_t, k = vp_match(sigma)
    for prediction in ("score", "epsilon", "x0", "v"):
        model = ss.ScoreModel(net, VP, prediction, "t")
        x = states((4, 2), DOUBLE, 4, 1)[0] * (1 + sigma[:, None])
        expected = k[:, None] * model(k[:, None] * x, own_t, label)
        torch.testing.assert_close(
            model.under(EDM)(x, sigma, label), expected, rtol=1e-9, atol=1e-11
        )
        wrapped = ScoreUnderSDE(plain(model), VP, EDM)
        torch.testing.assert_close(wrapped(x, sigma, label), expected, rtol=1e-9, atol=1e-11)
        assert not torch.allclose(wrapped(x, sigma, label), wrapped(x, sigma, label.flip(0)))


def test_integer_levels() -> None:
    """A DDPM network that takes integers, on a VE SDE at the table's own noise levels."""
    table = ss.DiscreteVPSDE.linear(40, 1e-3, 0.25)
    exact = ss.GaussianScore([MEAN], VARIANCE, table)
    asked: list[int] = []

    def net(x: Tensor, level: Tensor) -> Tensor:
        assert level.dtype == torch.int64
        asked.extend(level.tolist())
        return exact.epsilon(x, table.level_times()[level])

    model = ss.ScoreModel(net, table, "epsilon", "level")  # type: ignore[arg-type]
    other = ss.VESDE(sigma_min=0.03, sigma_max=20.0)
    levels = torch.arange(39, -1, -3)
    grid = other.time_at_log_snr(table.log_snr(table.level_times()[levels]))
    options = {"shape": (2, 1), "seed": 1, "dtype": DOUBLE}
    sampler = ss.PredictorCorrector(other, ss.DDIM(), grid=grid)
    got = sampler.sample(model.under(other), **options)
    assert asked[::2] == levels.tolist()
    expected = sampler.sample(ss.GaussianScore([MEAN], VARIANCE, other), **options)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)  # a plain net is float32
    with pytest.raises(ss.errors.TimeError, match="level"):
        ss.PredictorCorrector(other, ss.DDIM(), grid=[0.5]).sample(model.under(other), (1, 1))


# Sampling.


@pytest.mark.parametrize("corrector", [ss.NoCorrector(), ss.Langevin(snr=0.1, steps=2)], ids=repr)
@pytest.mark.parametrize("predictor", [ss.DDIM(), ss.DDIM(eta=1.0), ss.Ancestral()], ids=repr)
@pytest.mark.parametrize("kind", ["v", "F", "score", "wrapped"])
def test_vp_sampled_as_ve_is_vp_scaled_by_alpha(
    kind: str, predictor: ss.Predictor, corrector: ss.Corrector
) -> None:
    model = exact_model("epsilon" if kind == "wrapped" else kind, VP)
    moved = under(plain(model), VE, own=VP) if kind == "wrapped" else model.under(VE)
    ve_grid = torch.linspace(1.0, 0.0, 15, dtype=DOUBLE)
    vp_grid, alpha = vp_match(0.01 * 5000.0**ve_grid)
    chains = []
    for sde, grid, score in ((VP, vp_grid, model), (VE, ve_grid, moved)):
        sampler = ss.PredictorCorrector(sde, predictor, corrector, grid=grid)
        chains.append(list(sampler.iterate(score, shape=(4, 2), seed=5, dtype=DOUBLE)))
        x = sampler.sample(score, shape=(4, 2), seed=5, dtype=DOUBLE)
        assert torch.equal(x, chains[-1][-1].x)
    scales = [*alpha[1:].tolist(), 1.0]  # the last denoise is at t = 0 for both
    for scale, in_vp, in_ve in zip(scales, *chains, strict=True):
        torch.testing.assert_close(in_vp.x, scale * in_ve.x, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(in_vp.denoised, in_ve.denoised, rtol=1e-8, atol=1e-8)


def test_a_likelihood_is_that_of_the_exact_score() -> None:
    x = torch.tensor([[0.2], [1.0]], dtype=DOUBLE)
    flow = ss.ProbabilityFlow(SMALL, rtol=1e-8, atol=1e-8)
    exact = flow.log_likelihood(ss.GaussianScore([MEAN], VARIANCE, SMALL), x).log_prob
    for score in (
        exact_model("v", VP).under(SMALL),
        under(plain(exact_model("v", VP)), SMALL, own=VP),
    ):
        got = flow.log_likelihood(score, x).log_prob
        torch.testing.assert_close(got, exact, rtol=1e-6, atol=1e-6)


class Never(nn.Module):
    """Parameters, and a network that may not be called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        raise AssertionError("called")


def test_a_range_that_is_not_covered_is_refused_before_the_first_call() -> None:
    model = ss.ScoreModel(Never(), SMALL, prediction="epsilon")
    wide = under(Never(), VE, own=SMALL)
    scores = (
        model.under(VE),
        wide,
        ss.guidance.condition(wide, 1),
        ss.classifier_free(ss.GaussianScore([0.0], 1.0, VE), model.under(VE), 2.0),
        ScoreUnderSDE(ss.classifier_free(model.under(EDM), model.under(EDM), 2.0), EDM, VE),
    )
    last_too_late = torch.tensor([0.7, 0.5, 0.2])  # σ = 3.9, 0.7, 0.055
    first_too_early = torch.tensor([1.0, 0.5])
    for score in scores:
        for grid in (last_too_late, first_too_early):
            sampler = ss.PredictorCorrector(VE, ss.DDIM(), grid=grid)
            with pytest.raises(ss.errors.TimeError, match=r"\[-3\.218\S*, 4\.605\S*\]"):
                sampler.sample(score, shape=(2, 1))
        flow = ss.ProbabilityFlow(VE)
        for solve in (flow.log_likelihood, flow.encode):
            with pytest.raises(ss.errors.TimeError, match=r"\[-3\.218\S*, 4\.605\S*\]"):
                solve(score, torch.zeros(2, 1))
        with pytest.raises(ss.errors.TimeError, match=r"\[-3\.218\S*, 4\.605\S*\]"):
            flow.sample(score, shape=(2, 1))
        sampler = ss.PredictorCorrector(VE, ss.DDIM(), grid=[0.7, 0.5])
        with pytest.raises(AssertionError, match="called"):
            sampler.sample(score, shape=(2, 1))


def test_ends_that_match_survive_times_in_float32() -> None:
    """EDM's σ_min = 0.01 rounds down in float32, below what a VE score of the same range covers."""
    edm = ss.EDMSDE(sigma_min=0.01, sigma_max=50.0)
    original = ss.GaussianScore([0.3], 0.2, VE)
    sampler = ss.PredictorCorrector(edm, ss.DDIM(), steps=8)
    assert float(torch.tensor(0.01)) < 0.01
    x = sampler.sample(under(plain(original), edm, own=VE), shape=(5, 1))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, sampler.sample(original.under(edm), shape=(5, 1)))
    with pytest.raises(ss.errors.TimeError, match="covers"):
        under(plain(original), edm, own=VE)(torch.ones(1, 1), 0.00999)
