"""The denoising loss's times, and what it refuses."""

from __future__ import annotations

import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.denoising import Affine


@pytest.mark.parametrize("stratified", [False, True])
def test_uniform_times_distribution(stratified: bool) -> None:
    """Kolmogorov–Smirnov of 20,000 draws, alpha = 1e-6; one time per batch if stratified."""
    sde = ss.EDMSDE(sigma_min=0.5, sigma_max=2.0)
    generator = torch.Generator().manual_seed(0)
    times = ss.losses.UniformTimes(stratified=stratified)
    if stratified:  # the 4th time of a batch of 5, over many batches
        t = torch.stack([times.sample(sde, 5, generator)[3] for _ in range(20_000)])
    else:
        t = times.sample(sde, 20_000, generator)
    assert t.dtype == torch.float64 and t.min() >= 0.5 and t.max() <= 2.0
    assert scipy.stats.kstest(t.numpy(), scipy.stats.uniform(0.5, 1.5).cdf).pvalue > 1e-6


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize(
    "sde",
    [ss.DiscreteVPSDE.linear(10), ss.DiscreteVESDE.geometric(sigma_max=9, sigma_min=1, levels=7)],
)
def test_level_times_distribution(sde: ss.LinearSDE, stratified: bool) -> None:
    """Chi-square of 20,000 draws, alpha = 1e-6; every time is a level's own, bit for bit."""
    generator = torch.Generator().manual_seed(0)
    times = ss.losses.LevelTimes(stratified=stratified)
    if stratified:
        t = torch.stack([times.sample(sde, 4, generator)[2] for _ in range(20_000)])
    else:
        t = times.sample(sde, 20_000, generator)
    levels = sde.level_times()
    counts = (t[:, None] == levels[None, :]).sum(0)
    assert counts.sum() == 20_000
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-6


@pytest.mark.parametrize("levels", [1, 2, 8])
def test_level_quantiles_at_their_ends(levels: int) -> None:
    """⌊u N⌋ is level k from u = k/N on, and u = 1 is the last one."""
    sde = ss.DiscreteVPSDE(betas=[0.1] * levels)
    times, u = sde.level_times(), torch.arange(levels + 1, dtype=torch.float64) / levels
    assert torch.equal(ss.losses.LevelTimes().quantile(sde, u), times[[*range(levels), -1]])
    assert torch.equal(ss.losses.LevelTimes().quantile(sde, u[1:] - 1e-9), times)


def test_stratified_times_hit_every_stratum() -> None:
    generator = torch.Generator().manual_seed(0)
    t = ss.losses.UniformTimes(stratified=True).sample(ss.RectifiedFlowSDE(), 64, generator)
    strata = ((t - 1e-3) / (0.999 - 1e-3) * 64).floor().sort().values
    assert (torch.diff(strata) <= 2).all() and torch.diff(t.sort().values).max() < 1.01 / 64
    sde = ss.DiscreteVPSDE.linear(32)
    t = ss.losses.LevelTimes(stratified=True).sample(sde, 32, generator)
    assert torch.equal(sde.level(t).sort().values, torch.arange(32.0, dtype=torch.float64))


def test_stratified_times_reduce_the_variance() -> None:
    """Of the batch mean of a function of t alone, by far more than any chance."""
    sde, generator = ss.VPSDE(), torch.Generator().manual_seed(0)
    spread = [
        torch.stack(
            [
                ss.losses.UniformTimes(stratified=s).sample(sde, 32, generator).mean()
                for _ in range(200)
            ]
        ).std()
        for s in (False, True)
    ]
    assert spread[1] < 0.25 * spread[0]  # (1/n)/√12 against 1/√(12 n) is 0.18


def test_default_times_are_the_levels_where_there_are_any() -> None:
    sde = ss.DiscreteVPSDE.linear(5)
    seen: list[Tensor] = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return x

    ss.denoising_loss(score, torch.zeros(64, 1), sde=sde)
    assert set(sde.level(seen[0]).tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    ss.denoising_loss(score, torch.zeros(64, 1), sde=ss.VPSDE())
    assert len(set(seen[1].tolist())) > 60


# Refusals.


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"x0": torch.zeros(3, 2, dtype=torch.int64)}, ss.errors.ShapeError, "floating point"),
        ({"x0": torch.zeros(0, 2)}, ss.errors.ShapeError, "at least one sample"),
        ({"x0": [0.0]}, ss.errors.ShapeError, "torch.Tensor"),
        ({"noise": torch.zeros(3, 1)}, ss.errors.ShapeError, "noise"),
        ({"t": torch.zeros(2) + 0.5}, ss.errors.ShapeError, "one per sample"),
        ({"t": 1.5}, ss.errors.TimeError, "0 <= t <= T"),
        ({"t": float("nan")}, ss.errors.TimeError, "finite number"),
        ({"t": 0.0}, ss.errors.TimeError, "σ_t > 0"),
        ({"t": 0.5, "times": ss.losses.UniformTimes()}, ss.errors.IncompatibleError, "both"),
        ({"times": ss.losses.LevelTimes()}, ss.errors.IncompatibleError, "LevelTimes"),
        ({"weighting": "sigma"}, ss.errors.IncompatibleError, "'sigma2'"),
        ({"weighting": 2.0}, ss.errors.IncompatibleError, "function"),
        ({"weighting": lambda sde, t: 1.0}, ss.errors.ShapeError, "one weight w per time"),
        ({"weighting": lambda sde, t: t[:1]}, ss.errors.ShapeError, "one weight w per time"),
        ({"weighting": lambda sde, t: -t}, ss.errors.ParameterError, "0 <= weight w < ∞"),
        ({"weighting": lambda sde, t: t / 0}, ss.errors.ParameterError, "0 <= weight w < ∞"),
        ({"label": torch.zeros(3)}, ss.errors.ShapeError, "int64"),
        ({"label": torch.zeros(2, dtype=torch.int64)}, ss.errors.ShapeError, "int64"),
        ({"label": 3}, ss.errors.ShapeError, "int64"),
        ({"sde": ss.VESDE()}, ss.errors.IncompatibleError, "own SDE"),
    ],
)
def test_bad_input_is_refused_before_the_network(
    options: dict[str, object], error: type[Exception], match: str
) -> None:
    net = Affine(2)
    arguments = {"x0": torch.zeros(3, 2), **options}
    with pytest.raises(error, match=match):
        ss.denoising_loss(ss.ScoreModel(net, ss.VPSDE(), prediction="epsilon"), **arguments)
    assert net.calls == 0
