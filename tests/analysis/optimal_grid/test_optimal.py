"""Optimal grids and the recommended sampler."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.analysis.model_error import constant_error, error_beyond
from sdescore.analysis.optimal_grid.optimal import neighbourhoods, surrogate_of
from sdescore.analysis.optimal_grid.search import Search
from sdescore.analysis.optimal_grid.surrogate import fit_surrogate
from sdescore.analysis.optimal_grid.trajectories import FlowTrajectories, TrajectoryDistance, run
from sdescore.checkpoint.store import read_manifest
from sdescore.samplers.predictor_corrector.exact import output_errors
from tests.helpers.spectra import F64, erring, two_blobs


def test_the_search_assumes_a_networks_error() -> None:
    """All of it where it makes x₀ wrong by far more than the data's spread, half at the spread."""
    error = error_beyond(0.1, 4.0)
    assert error is not None and error_beyond(0.0, 4.0) is None and constant_error(0.0) is None
    noise_ratio = torch.tensor([2e4, 20.0, 0.2], dtype=F64)
    wanted = torch.tensor([0.1, 0.05, 1e-5], dtype=F64)
    torch.testing.assert_close(error(noise_ratio**2), wanted, rtol=2e-4, atol=0)
    # In x₀ it is σ/α times that: on a VE SDE, whose σ is σ/α.
    sde, t = ss.VESDE(sigma_max=100.0), torch.tensor([0.95, 0.6], dtype=F64)
    sigma = sde.marginal(t)[1]
    found = output_errors(sde, t, ["x0", "epsilon"], error)
    size = 0.1 / (1 + (2 / (0.1 * sigma)) ** 2)
    torch.testing.assert_close(found.abs(), size * torch.stack([sigma[0], sigma[1] ** 0]))


def test_the_free_numbers_are_shares_of_the_range() -> None:
    """Logarithms of the steps' shares in log(α/σ), and the logit of where they end."""
    sde = ss.VPSDE()
    search = Search(sde, ss.DDIM(), sde.half_log_snr(1.0).item(), 4.0, 0.0)
    free = torch.tensor([math.log(3.0), math.log(1.0), math.log(0.8 / 0.2)], dtype=F64)
    whole = search.last - search.first
    wanted = torch.tensor([0.0, 0.6, 0.8], dtype=F64) * whole + search.first
    torch.testing.assert_close(sde.half_log_snr(search.times(free)), wanted)
    equal = torch.tensor([0.0, 0.3, 0.6, 0.9], dtype=F64) * whole + search.first
    found = search.times(search.start(4, 0.9))
    torch.testing.assert_close(sde.half_log_snr(found), equal)


@pytest.mark.slow
def test_a_grid_serves_the_score_error_it_assumes() -> None:
    """Made for an erring score it is better there, made for an exact one on the exact one."""
    sde, predictor, error = ss.VPSDE(), ss.ExponentialAdams(points=2, corrector_points=3), 0.05
    variances = torch.tensor([1.0, 0.05], dtype=F64)
    exact, spread = ss.GaussianScore(torch.zeros(2), variances, sde), variances.mean().sqrt().item()
    alpha, sigma = (value.item() for value in sde.marginal(torch.tensor(sde.T, dtype=F64)))
    x = sigma * torch.randn(20_000, 2, generator=torch.Generator().manual_seed(6), dtype=F64)
    ends = x / alpha * (variances / (variances + (sigma / alpha) ** 2)).sqrt()
    off, first = {}, {}
    for made_for in (0.0, error):
        grid = ss.optimal_grid(sde, predictor, 5, spectrum=variances, score_error=made_for)
        sampler = ss.PredictorCorrector(sde, predictor=predictor, grid=grid)
        lam = 0.5 * sde.log_snr(sampler.times)
        first[made_for] = (lam[1] - lam[0]).item()
        for of in (0.0, error):
            score = erring(exact, sde, of, spread) if of else exact
            made = sampler.sample(score, init=x, dtype=F64)
            off[made_for, of] = (made - ends).square().mean().sqrt().item()
    assert off[error, error] < 0.8 * off[0.0, error]
    assert off[0.0, 0.0] < 0.8 * off[error, 0.0]
    assert first[error] < first[0.0]


@pytest.mark.slow
def test_an_optimal_grid_beats_the_fixed_ones_on_the_target_itself() -> None:
    """Fitted to samples; judged by exact errors of trajectories drawn afresh from the mixture."""
    sde, predictor = ss.VPSDE(), ss.ExponentialAdams(points=2, corrector_points=3)
    grid = ss.optimal_grid(sde, predictor, 7, data=two_blobs(1500), score_error=0)
    truth = fit_surrogate(two_blobs(20_000, seed=5), 2)
    first, last = (0.5 * sde.log_snr(torch.tensor([sde.T, sde.t_min], dtype=F64))).tolist()
    flow = FlowTrajectories.solve(truth, first, last, 500, seed=9)

    def rms(times: Tensor) -> float:
        x = run(
            predictor.tableau(sde, times),
            predictor.ending(sde, times),
            sde,
            times,
            truth.denoise,
            sde.marginal(times[0])[1] * flow.x_bar[0] * math.exp(first),
        )[-1]
        return (x - flow.x).square().sum(1).median().sqrt().item()

    ours = rms(grid.times(sde, None))
    for fixed in (ss.LogSNRGrid(), ss.UniformGrid(), ss.KarrasGrid(), ss.QuadraticGrid()):
        assert ours < 0.7 * rms(fixed.times(sde, 7))
    assert grid.held_out_loss < 3 * grid.loss < grid.log_snr_loss


@pytest.mark.slow
@pytest.mark.parametrize(
    "sde",
    [ss.VPSDE(), ss.VESDE(), ss.RectifiedFlowSDE(), ss.DiscreteVPSDE.linear(100)],
    ids=lambda sde: type(sde).__name__,
)
@pytest.mark.parametrize("predictor", [ss.DDIM(), ss.Heun()], ids=repr)
def test_grids_for_every_sde(sde: ss.LinearSDE, predictor: ss.Predictor) -> None:
    spectrum = torch.tensor([1.0, 0.05])
    grid = ss.optimal_grid(sde, predictor, 5, spectrum=spectrum)
    times = grid.times(sde, None)
    assert len(times) == 5 and times[0] == sde.T and times[-1] >= sde.t_min
    assert grid.loss < 0.8 * grid.log_snr_loss
    sampler = ss.PredictorCorrector(sde, predictor=predictor, grid=grid)
    w2 = ss.analysis.gaussian_error(sampler, spectrum).w2.item()
    assert grid.relative_w2 == pytest.approx(w2 / math.sqrt(1.05), rel=1e-6)


@pytest.mark.parametrize("surrogate", ["mixture", "gaussian"])
def test_the_parts_of_the_data_weigh_one(surrogate: str) -> None:
    data = two_blobs(100)
    parts = neighbourhoods(data, surrogate, surrogate_of(data, None, surrogate, 0), 0)
    assert len(parts) > 1 and sum(weight for weight, _ in parts) == pytest.approx(1)


def test_the_loss_is_the_documented_one() -> None:
    """A quarter of the weighted error, three of the plain one and a hundredth of the path's."""
    errors = TrajectoryDistance(*torch.tensor([1.0, 10.0, 100.0], dtype=F64))
    search = Search(ss.VPSDE(), ss.DDIM(), -4.0, 4.0, likelihood_weight=0.25)
    loss = search.loss(search.equal(3), None, lambda *tableaux, sde, times: errors)
    assert loss.item() == pytest.approx(0.75 * 1 + 0.25 * 10 + 0.01 * 100)


def test_the_start_and_the_result_are_judged_on_half_of_the_trajectories(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half, rounded up; the start's are among those of the search, and the result's are others."""
    module = sys.modules["sdescore.analysis.optimal_grid.optimal"]
    honest, flows = module.trajectory_error, []

    def spy(*args: Any, flow: FlowTrajectories, **options: Any) -> Any:
        if not flows or flow is not flows[-1]:
            flows.append(flow)
        return honest(*args, flow=flow, **options)

    monkeypatch.setattr(module, "trajectory_error", spy)
    for name in ("TRIAL", "TIMES"):
        monkeypatch.setattr(module, name, 1)

    def counts(**options: Any) -> list[int]:
        flows.clear()
        ss.optimal_grid(ss.VPSDE(), ss.DDIM(), 3, **options)
        return [len(flow.x) for flow in flows]

    data, spectrum = two_blobs(100), torch.tensor([1.0, 0.1])
    assert counts(data=data, trajectories=5) == [3, 5, 3]
    rough, fitted, held_out = (flow.x for flow in flows)
    assert torch.equal(rough, fitted[:3])
    assert not torch.isclose(held_out[:, None], fitted).all(2).any()
    assert counts(data=data, trajectories=1) == [1, 1, 1]
    monkeypatch.setattr(module, "MOST", 10)
    monkeypatch.setattr(module, "ENOUGH", 24)  # over three directions: 8
    assert counts(data=data) == [4, 8, 4]
    assert counts(spectrum=spectrum) == [5, 10, 5]


@pytest.mark.slow
def test_a_grid_is_deterministic_and_rebuilds_from_its_repr() -> None:
    sde, predictor = ss.VPSDE(), ss.DDIM()
    data = two_blobs(200)
    state = torch.get_rng_state()
    one, two, other = (
        ss.optimal_grid(sde, predictor, 3, data=data, trajectories=4, seed=s) for s in (0, 0, 1)
    )
    assert one == two != other and torch.equal(torch.get_rng_state(), state)
    assert eval(repr(one), {"OptimalGrid": ss.analysis.OptimalGrid}) == one


def test_a_checkpoint_holds_a_grid(tmp_path: Path) -> None:
    sde = ss.VPSDE()
    grid = ss.optimal_grid(sde, ss.DDIM(), 3, spectrum=torch.tensor([1.0, 0.1]))
    model = ss.ScoreModel(ss.MLP(2, hidden=4), sde, prediction="epsilon")
    ss.save(tmp_path / "m.safetensors", model, info={"grid": dataclasses.asdict(grid)})
    info = read_manifest(tmp_path / "m.safetensors")["info"]
    assert ss.analysis.OptimalGrid(**info["grid"]) == grid
    with pytest.raises(ss.errors.ScheduleError, match="expected a Grid instance, or times as"):
        ss.analysis.OptimalGrid(**{**info["grid"], "values": "soon"})


@pytest.mark.slow
def test_likelihood_moves_the_end_towards_the_data() -> None:
    """Local precision sees the finest mode, which an early last denoise flattens."""
    sde, predictor = ss.VPSDE(), ss.ExponentialAdams()
    ends = [
        ss.optimal_grid(
            sde, predictor, 6, spectrum=torch.tensor([2.0, 1e-3]), likelihood_weight=b
        ).values[-1]
        for b in (0.0, 1.0)
    ]
    assert ends[0] > 2 * ends[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tensor", "array", "bytes"])
def test_a_model_knows_the_scale_of_its_data(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The times are those for the states. A model of unit scale is as good as its SDE."""
    for name in ("TRIAL", "TIMES", "MOST"):  # equal searches need not be long
        monkeypatch.setattr(sys.modules["sdescore.analysis.optimal_grid.optimal"], name, 6)
    sde, x = ss.VPSDE(), 500 + 100 * two_blobs(200, seed=0).float()
    data: Any = x
    if kind == "array":
        data = x.numpy()
    if kind == "bytes":
        data = (x - x.min()).div(x.max() - x.min()).mul(255).to(torch.uint8)
        x = data.double() / 127.5 - 1
    mean, std = x.mean(0).tolist(), x.std(0).tolist()
    model = ss.ScoreModel(ss.MLP(3), sde, data_mean=mean, data_std=std)
    states = (x.double() - torch.tensor(mean, dtype=F64)) / torch.tensor(std, dtype=F64)
    expected = ss.recommended_sampler(sde, 4, data=states)
    found = ss.recommended_sampler(model, 4, data=data)
    assert found.sde == sde
    assert found.grid.values == pytest.approx(expected.grid.values, rel=1e-3)
    if kind != "tensor":
        return
    raw = ss.recommended_sampler(sde, 4, data=x)
    assert raw.grid.values != pytest.approx(expected.grid.values, rel=1e-2)
    plain = ss.ScoreModel(ss.MLP(3), sde)
    assert ss.recommended_sampler(plain, 4, data=x).grid == raw.grid
