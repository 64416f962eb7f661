"""The time that a network is given: a function of t, a real level, the nearest integer level."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.errors import CheckpointError, IncompatibleError, ShapeError, TimeError
from sdescore.score.mixture import GaussianScore

pytestmark = pytest.mark.fast

DOUBLE = torch.float64
TABLE = ss.DiscreteVPSDE.linear(20, 1e-3, 0.3)
LADDER = ss.DiscreteVESDE.geometric(sigma_max=4.0, sigma_min=0.05, levels=9)


class Recorder(nn.Module):
    """A network that remembers the times it was given."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((), 0.5, dtype=dtype))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        self.seen.append(c)
        return self.weight * x


def ten(t: Tensor) -> Tensor:
    return 10 * t


# A function of t.


@pytest.mark.parametrize("function", [lambda t: 1000 * t, ten, torch.log1p])
def test_a_network_is_given_a_function_of_t(function) -> None:
    net = Recorder()
    model = ss.ScoreModel(net, ss.VPSDE(), "epsilon", function)
    t = torch.tensor([0.1, 0.4, 1.0], dtype=DOUBLE)
    model(torch.ones(3, 2), t)
    assert net.seen[0].dtype == torch.float32
    assert torch.equal(net.seen[0], function(t).float())
    sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.DDIM(), steps=5)
    net.seen.clear()
    sampler.sample(model, (4, 2))
    got = torch.stack(net.seen)
    assert torch.equal(got, function(sampler.times).float()[:, None].expand(5, 4))


def test_a_function_is_computed_in_float64() -> None:
    """In float32, 1000 t of t = 1 − 1e-9 is 1000; the rounding comes after the function."""
    found = []

    def function(t: Tensor) -> Tensor:
        found.append(t.dtype)
        return 1e6 * (1 - t)

    net = Recorder()
    ss.ScoreModel(net, ss.VPSDE(), "epsilon", function)(torch.ones(1, 2), 1 - 1e-9)
    assert found == [DOUBLE]
    assert math.isclose(net.seen[0].item(), 1e-3, rel_tol=1e-6)


def test_whole_numbers_stay_whole() -> None:
    net = Recorder()
    model = ss.ScoreModel(net, TABLE, "epsilon", lambda t: (20 * t).round().int() - 1)
    model(torch.ones(1, 2), 0.25)
    assert net.seen[0].dtype == torch.int64 and net.seen[0].item() == 4


def test_the_same_network_on_ten_times_the_time() -> None:
    """A network trained on [0, 10], by a function and by a wrapper, gives the same bits."""
    score = GaussianScore([1.0, -1.0], 0.3, ss.VPSDE())
    late = ss.ScoreModel(lambda x, c: score(x, c / 10), score.sde, "score", ten)
    sampler = ss.PredictorCorrector(score.sde, steps=6)
    exact = sampler.sample(score, (3, 2), seed=1)
    torch.testing.assert_close(sampler.sample(late, (3, 2), seed=1), exact, rtol=1e-5, atol=1e-5)
    moved = late.under(ss.VESDE(sigma_max=20.0))
    want = score.under(moved.sde)(torch.ones(1, 2), 0.7)
    torch.testing.assert_close(moved(torch.ones(1, 2), 0.7), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "error", "match"),
    [
        (lambda t: 1.0, IncompatibleError, r"float; compute with torch"),
        (lambda t: t > 0.5, IncompatibleError, "real tensor.*bool"),
        (lambda t: t + 0j, IncompatibleError, "real tensor.*complex"),
        (lambda t: t[None], ShapeError, r"shape \(2,\).*\(1, 2\)"),
        (lambda t: t.mean(), ShapeError, r"shape \(2,\).*\(\)"),
    ],
)
def test_functions_that_return_something_else(function, error, match) -> None:
    net = Recorder()
    model = ss.ScoreModel(net, ss.VPSDE(), "epsilon", function)
    with pytest.raises(error, match=match):
        model(torch.ones(2, 2), torch.tensor([0.2, 0.3]))
    assert not net.seen


def test_a_class_is_no_function() -> None:
    with pytest.raises(IncompatibleError, match="time_input as a function of t, or one of t, 999t"):
        ss.ScoreModel(Recorder(), ss.VPSDE(), "epsilon", float)


def test_the_repr_names_the_function_without_an_address() -> None:
    shown = repr(ss.ScoreModel(Recorder(), ss.VPSDE(), "epsilon", ten))
    assert "time_input='ten'" in shown and "0x" not in shown


def test_a_checkpoint_keeps_the_name_and_takes_the_function_again(tmp_path: Path) -> None:
    net = ss.MLP(2, hidden=4)
    model, path = ss.ScoreModel(net, ss.VPSDE(), "epsilon", ten), tmp_path / "m.safetensors"
    ss.save(path, model)
    with pytest.raises(CheckpointError, match=r"'ten' of t; got none.*load\(path, time_input="):
        ss.load(path)
    with pytest.raises(IncompatibleError, match="time_input to be callable"):
        ss.load(path, time_input="t")  # type: ignore[arg-type]
    again, x = ss.load(path, time_input=ten), torch.ones(3, 2)
    assert torch.equal(again(x, 0.3), model(x, 0.3))
    ss.save(path, ss.ScoreModel(net, ss.VPSDE(), "epsilon", "999t"))
    with pytest.raises(CheckpointError, match="own time input, '999t'; got time_input=ten"):
        ss.load(path, time_input=ten)


# The nearest level.


@pytest.mark.parametrize("sde", [TABLE, LADDER], ids=["table", "ladder"])
@pytest.mark.parametrize("prediction", ["score", "epsilon", "x0", "v", "F", "velocity"])
def test_the_output_is_a_prediction_at_the_nearest_level(sde, prediction) -> None:
    """The nearest level by trying all; then p x₀ + q ε = y and α x₀ + σ ε = x are solved."""
    net = Recorder(DOUBLE)
    model = ss.ScoreModel(net, sde, prediction, "level", snap=True, sigma_data=0.7)
    t, x = torch.tensor([0.26, 0.512, 0.97], dtype=DOUBLE), torch.randn(3, 1, dtype=DOUBLE)
    score = model(x, t)
    levels = sde.level_times()
    nearest = (t[:, None] - levels).abs().argmin(1)
    assert torch.equal(net.seen[0], nearest) and net.seen[0].dtype == torch.int64
    alpha, sigma = sde.marginal(t)
    a, s = sde.marginal(levels[nearest])
    f, g2 = sde.rates(levels[nearest])
    norm, one, none = torch.hypot(0.7 * a, s), torch.ones(3, dtype=DOUBLE), torch.zeros(3)
    p, q = {
        "score": (none, -1 / s),
        "epsilon": (none, one),
        "x0": (one, none),
        "v": (-s, a),
        "velocity": (f * a, f * s + g2 / (2 * s)),
        "F": (s / (0.7 * norm), -0.7 * a / norm),
    }[prediction]
    scale = 1 / torch.hypot(0.7 * alpha, sigma) if prediction == "F" else one
    y = 0.5 * scale[:, None] * x
    matrix = torch.stack([torch.stack([alpha, sigma], 1), torch.stack([p, q], 1)], 1)
    epsilon = torch.linalg.solve(matrix, torch.stack([x, y], 1))[:, 1]
    torch.testing.assert_close(score, -epsilon / sigma[:, None], rtol=1e-12, atol=1e-13)


def test_at_the_levels_nothing_changes() -> None:
    options = {"prediction": "epsilon", "time_input": "level"}
    plain, snapping = (ss.ScoreModel(Recorder(), TABLE, snap=s, **options) for s in (False, True))
    sampler = ss.PredictorCorrector(TABLE, predictor=ss.DDIM(), steps=7)
    assert torch.equal(*(sampler.sample(m, (3, 2), seed=1) for m in (plain, snapping)))
    assert snapping.convention.log_snr_change(sampler.times).abs().max() < 1e-12


def test_the_change_of_the_log_snr_is_that_of_the_table() -> None:
    model = ss.ScoreModel(Recorder(), TABLE, "epsilon", "level", snap=True)
    bars = [math.prod(1 - b for b in TABLE.betas[: i + 1]) for i in range(20)]
    t = torch.tensor([0.26, 0.512], dtype=DOUBLE)  # nearest to levels 4 and 9, t = 0.25 and 0.5
    level = torch.tensor([math.log(bars[i] / (1 - bars[i])) for i in (4, 9)], dtype=DOUBLE)
    got = model.convention.log_snr_change(t)
    torch.testing.assert_close(got, level - TABLE.log_snr(t), rtol=1e-12, atol=1e-13)
    assert (got > 0).all()  # the level has less noise
    ve = ss.VESDE(sigma_min=0.05, sigma_max=3.0)
    moved = model.under(ve).convention
    log_snr = ve.log_snr(torch.tensor(0.5, dtype=DOUBLE)).item()
    level = min(range(20), key=lambda i: abs(TABLE.time_at_log_snr(log_snr) - (i + 1) / 20))
    want = math.log(bars[level] / (1 - bars[level])) - log_snr
    assert math.isclose(moved.log_snr_change(0.5).item(), want, rel_tol=1e-10)
    free = ss.ScoreModel(Recorder(), TABLE, "epsilon", "continuous_level")
    assert torch.equal(free.convention.log_snr_change(t), torch.zeros(2, dtype=DOUBLE))


def test_snapping_lets_every_grid_run() -> None:
    net = nn.Embedding(20, 1)
    model = ss.ScoreModel(lambda x, c: net(c).detach() * x, TABLE, "epsilon", "level", snap=True)
    sampler = ss.PredictorCorrector(TABLE, grid=ss.LogSNRGrid(), steps=6)
    assert sampler.sample(model, (2, 3)).isfinite().all()


def test_snapping_refusals() -> None:
    model = ss.ScoreModel(Recorder(), TABLE, "epsilon", "level", snap=True)
    with pytest.raises(TimeError, match=r"half a level below.*t down to 0.02"):
        model(torch.ones(1, 2), 0.02)
    with pytest.raises(IncompatibleError, match="time_input='level' for snap=True"):
        ss.ScoreModel(Recorder(), TABLE, "epsilon", "continuous_level", snap=True)
    with pytest.raises(ss.errors.ParameterError, match="snap as True or False"):
        ss.ScoreModel(Recorder(), TABLE, "epsilon", "level", snap=1)  # type: ignore[arg-type]


def test_a_checkpoint_keeps_snap(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model = ss.ScoreModel(nn.Linear(2, 2), TABLE, "epsilon", "level", snap=True)
    ss.save(path, model)
    again = ss.load(path, net=nn.Linear(2, 2))
    assert again.options == model.options and again.options["snap"]
    assert "snap=True" in repr(again)
