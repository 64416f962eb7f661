"""What holds for every objective and every distribution of times, whatever files the room has.

Statistical tests have fixed seeds and a false-positive rate of 1e-6 each.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.losses import Loss, TimeDistribution
from sdescore.rooms import members
from tests.helpers.strategies import REPRESENTATIVES

F64 = torch.float64
TIMES = members("sdescore.losses", TimeDistribution)
SHAPE = ("t", "weight", "label", "noise", "generator", "sde")
LOSSES = {name: getattr(ss.losses, name) for name in ss.losses.__all__ if name.endswith("_loss")}
OF_SOME_NETWORKS = {"uncertainty_loss", "hybrid_loss"}  # which know their error, or a variance
ANY_SCORE = {name: loss for name, loss in LOSSES.items() if name not in OF_SOME_NETWORKS}
"""The objectives of any score."""
SDES = {**REPRESENTATIVES, "levels": ss.DiscreteVPSDE.linear()}


def suits(times: TimeDistribution, sde: ss.LinearSDE) -> bool:
    return hasattr(sde, "level_times") or not isinstance(times, ss.losses.LevelTimes)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
@pytest.mark.parametrize("kind", TIMES)
def test_times_rise_with_their_quantile_within_the_sde_s(
    kind: type[TimeDistribution], sde: ss.LinearSDE
) -> None:
    times = kind()
    if not suits(times, sde):
        with pytest.raises(ss.errors.IncompatibleError, match="discrete SDE"):
            times.sample(sde, 3)
        return
    u = torch.linspace(0, 1, 101, dtype=F64)
    t = times.quantile(sde, u)
    assert t.shape == u.shape and t.dtype == F64
    assert bool((t.diff() >= 0).all())
    assert sde.marginal(t)[1].min() > 0  # a datum without noise has no score
    assert sde.t_min - 1e-12 <= t[0] <= t[-1] <= sde.T
    assert t[-1] == pytest.approx(sde.T, rel=1e-9)
    weight = times.importance_weight(sde, t)
    if weight is not None:  # a proposal: its weighted distribution is the uniform one, of mass 1
        middle = times.quantile(sde, (torch.arange(100_000, dtype=F64) + 0.5) / 100_000)
        assert times.importance_weight(sde, middle).mean().item() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("kind", TIMES)
def test_samples_have_the_distribution_of_the_quantile(
    kind: type[TimeDistribution], stratified: bool
) -> None:
    """Kolmogorov–Smirnov on ranks: a sample's quantile level, by interpolation, is uniform."""
    sde = SDES["levels"] if kind is ss.losses.LevelTimes else ss.VPSDE()
    times = kind(stratified=stratified)
    generator = torch.Generator().manual_seed(0)
    t = times.sample(sde, 5000, generator)
    assert t.shape == (5000,) and t.dtype == F64
    u = torch.linspace(0, 1, 100_001, dtype=F64)
    if kind is ss.losses.LevelTimes:
        counts = torch.bincount((sde.level(t) * 10 / sde.levels).long().clamp(max=9), minlength=10)
        assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-6
    else:
        level = np.interp(t.numpy(), times.quantile(sde, u).numpy(), u.numpy())
        assert scipy.stats.kstest(level, "uniform").pvalue > 1e-6
    again = times.sample(sde, 5000, torch.Generator().manual_seed(0))
    assert torch.equal(t, again) and times.sample(sde, 0).shape == (0,)


def test_a_distribution_of_one_s_own_is_three_lines() -> None:
    class EarlyTimes(TimeDistribution):
        def quantile(self, sde: ss.LinearSDE, u: Tensor) -> Tensor:
            return sde.t_min + (sde.T - sde.t_min) * u**2

    sde, times = ss.VPSDE(), EarlyTimes(stratified=True)
    t = times.sample(sde, 1000, torch.Generator().manual_seed(0))
    assert t.median().item() == pytest.approx(sde.t_min + (sde.T - sde.t_min) / 4, abs=2e-3)
    assert repr(times).endswith("EarlyTimes(stratified=True)") and times == EarlyTimes(
        stratified=True
    )
    assert ss.denoising_loss(lambda x, t: -x, torch.ones(3, 2), times=times, sde=sde).mean > 0


def test_the_room_has_the_losses_and_distributions_it_should() -> None:
    """The lists that the other tests here run over are not empty by accident."""
    assert len(LOSSES) >= 6 and len(TIMES) >= 5


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_every_objective_has_the_one_call(loss: Callable[..., Loss]) -> None:
    parameters = inspect.signature(loss).parameters
    first, second, *_ = parameters.values()
    assert (first.name, second.name) == ("model", "x0")
    for name in SHAPE:
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default is None


class Linear(nn.Module):
    """A score −a (x − b), or an energy of that score; a and b one number per dimension."""

    def __init__(self, precision: Tensor, mean: Tensor) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(precision), nn.Parameter(mean)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return -self.a * (x - self.b)

    def log_density(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return -0.5 * (self.a * (x - self.b).square()).sum(1)


MEAN, STD = torch.tensor([1.0, -0.5], dtype=F64), torch.tensor([0.5, 2.0], dtype=F64)


def quadrature(n: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Data, noise and weights of the expectation over N(MEAN, STD²) × N(0, 1), dimension-wise."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    z, e = (v.flatten() for v in torch.meshgrid(*2 * [torch.tensor(nodes)], indexing="ij"))
    w = torch.outer(*2 * [torch.tensor(weights / weights.sum())]).flatten()
    return MEAN + STD * z[:, None], e[:, None].expand(-1, 2).contiguous(), w


@pytest.mark.parametrize("t", [None, 0.3])
@pytest.mark.parametrize("loss", ANY_SCORE.values(), ids=ANY_SCORE.keys())
def test_the_exact_score_of_gaussian_data_is_the_minimiser(
    loss: Callable[..., Loss], t: float | None
) -> None:
    """The expected gradient, by quadrature exact for these polynomials, is 0 at the exact score.

    It is not 0 beside it. Probes are the two sign patterns whose products cancel between the
    dimensions; the negatives of contrastive divergence are the quadrature of the exact density.
    """
    sde, (x0, noise, w) = ss.VPSDE(), quadrature()
    alpha, sigma = (1.0, 0.0) if t is None else (v.item() for v in sde.marginal(t))
    mean, variance = alpha * MEAN, alpha**2 * STD**2 + sigma**2
    options: dict[str, Any] = {}
    if t is not None:
        options = {"t": t, "noise": noise, "sde": sde}
    elif "times" in inspect.signature(loss).parameters:
        pytest.skip("needs noise")
    names = inspect.signature(loss).parameters
    if "probes" in names and "trace" not in names:
        options["probes"] = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=F64)[:, None].expand(
            2, *x0.shape
        )
    if "negatives" in names:  # of the exact density, at the same nodes: x_t of the quadrature
        options["negatives"] = alpha * x0 + sigma * noise
    if "target" in names:
        options["target"] = lambda x, *t: -(x - mean) / variance

    def gradient(precision: Tensor, centre: Tensor) -> Tensor:
        model = Linear(precision.clone(), centre.clone())
        score: Any = model
        if t is None:
            score = ss.losses.matching.ScoreAt(model, (torch.zeros((), dtype=F64),))
        value = (w * loss(score, x0, **options).per_sample).sum()
        found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
        return torch.cat([torch.zeros(2) if g is None else g for g in found])

    assert gradient(1 / variance, mean).abs().max() < 1e-9
    if "negatives" not in names:  # whose negatives would have to follow the model
        assert gradient(1.2 / variance, mean + 0.1).abs().min() > 1e-3


# What the caller's global state must not change, in every objective.


def everything() -> dict[str, Callable[..., Loss]]:
    """Each objective with what else it needs, at one time of a model's SDE."""
    extra = {
        "explicit_loss": {"target": lambda x, t: -x},
        "contrastive_divergence_loss": {"negatives": torch.ones(4, 2)},
    }
    return {name: functools.partial(f, **extra.get(name, {})) for name, f in ANY_SCORE.items()}


def model(dtype: torch.dtype = torch.float32) -> ss.ScoreModel:
    """An energy: every objective takes it."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 16, dtype=torch.float32, device="cpu")
            self.two = nn.Linear(16, 1, dtype=torch.float32, device="cpu")

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            h = torch.tanh(self.one(torch.cat([x, c[:, None]], 1)))
            y: Tensor = self.two(h)[:, 0]
            return y

    return ss.ScoreModel(ss.EnergyModel(Net().to(dtype)), ss.VPSDE(), prediction="score")


X0 = torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float32)


def value(loss: Callable[..., Loss], energy: ss.ScoreModel | None = None) -> Loss:
    energy = model() if energy is None else energy
    return loss(energy, X0, t=0.4, generator=torch.Generator("cpu").manual_seed(3))


@pytest.mark.parametrize("loss", everything().values(), ids=ANY_SCORE.keys())
def test_defaults_of_the_caller_change_nothing(loss: Callable[..., Loss]) -> None:
    expected = value(loss).per_sample
    before = torch.get_default_dtype()
    try:
        for dtype in (torch.bfloat16, torch.float64):
            torch.set_default_dtype(dtype)
            assert torch.equal(value(loss).per_sample, expected)
    finally:
        torch.set_default_dtype(before)
    with torch.device("meta"):
        assert torch.equal(value(loss).per_sample, expected)


@pytest.mark.parametrize("loss", everything().values(), ids=ANY_SCORE.keys())
def test_values_come_without_gradients_under_no_grad(loss: Callable[..., Loss]) -> None:
    expected, energy = value(loss), model()
    assert expected.mean.requires_grad
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            got = value(loss, energy)
        assert not got.mean.requires_grad
        torch.testing.assert_close(got.per_sample, expected.per_sample.detach())


@pytest.mark.parametrize("loss", everything().values(), ids=ANY_SCORE.keys())
def test_only_the_network_runs_under_autocast(loss: Callable[..., Loss]) -> None:
    """The loss is float32, within the network's own rounding of 2⁻⁸, and no multiple of it."""
    expected = value(loss).per_sample
    with torch.autocast("cpu", torch.bfloat16):
        if loss.func is ss.losses.finite_difference_loss:
            with pytest.raises(ss.errors.IncompatibleError, match="autocast"):
                value(loss)
            return
        got = value(loss).per_sample
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05)


def test_an_output_in_half_precision_is_squared_in_float32() -> None:
    """½ ε̂² of 300 ones: the sum is exact in float32, and 300 is no bfloat16."""
    x0 = torch.zeros(2, 300)

    def net(x: Tensor, c: Tensor) -> Tensor:
        return torch.full_like(x, 1.0, dtype=torch.bfloat16)

    with torch.autocast("cpu", torch.bfloat16):
        loss = ss.denoising_loss(
            ss.ScoreModel(net, ss.VPSDE(), prediction="epsilon"), x0, t=0.5, noise=0 * x0
        )
    assert loss.per_sample.tolist() == [150.0, 150.0]


@pytest.mark.parametrize("loss", everything().values(), ids=ANY_SCORE.keys())
def test_data_and_labels_that_would_lose_something_are_refused(loss: Callable[..., Loss]) -> None:
    with pytest.raises(ss.errors.ShapeError, match="view_as_real"):
        loss(model(), X0.to(torch.complex64), t=0.4)
    with pytest.raises(ss.errors.ParameterError, match="finite x0"):
        loss(model(), X0.clone().fill_(torch.nan), t=0.4)
    for label in (torch.tensor([0.0, 1.0, 1.5, 2.0]), torch.zeros(4, dtype=torch.complex64)):
        with pytest.raises(ss.errors.ShapeError, match="whole numbers") as refused:
            loss(model(), X0, t=0.4, label=label)
        assert ".long()" not in str(refused.value)
