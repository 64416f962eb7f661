"""What one sees of a run: the relative loss, the callback, held-out data and the best weights."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sdescore as ss
from sdescore.checkpoint.store import read_manifest
from sdescore.losses import Loss
from tests.helpers.checkpoints import read
from tests.helpers.training import Dropping, assert_same_file, cloud, make, run

# The relative loss.


class Constant(nn.Module):
    """Returns the same number everywhere, and learns next to nothing at a rate of 1e-12."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.p.expand(x.shape)


def relative(model: ss.ScoreModel, data: Tensor, **options: Any) -> tuple[float, float]:
    """The mean of the relative loss, and its standard error."""
    seen: list[float] = []
    ss.train(
        model, data, steps=60, batch_size=500, lr=1e-12, progress=False,
        callback=lambda step: seen.append(step["relative_loss"]), **options,
    )  # fmt: skip
    values = torch.tensor(seen, dtype=torch.float64)
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


SIGNS = 1.5 * (2.0 * (torch.rand(64, 16, generator=torch.Generator().manual_seed(0)) < 0.8) - 1)


@pytest.mark.parametrize(
    ("sde", "options"),
    [
        (ss.VPSDE(), {}),
        (ss.VPSDE(), {"weighting": "likelihood", "times": ss.losses.ImportanceTimes()}),
        (ss.VESDE(sigma_max=5.0), {"weighting": ss.losses.EDMWeighting(1.5)}),
        (ss.EDMSDE(sigma_max=5.0), {"times": ss.losses.LogSNRTimes(stratified=True)}),
        (ss.DiscreteVPSDE.linear(50), {"weighting": ss.losses.MinSNR()}),
    ],
)
def test_a_network_that_scales_its_input_has_a_relative_loss_of_one(
    sde: ss.LinearSDE, options: dict[str, Any]
) -> None:
    """F = 0 is that network; five standard errors, which at 5 cases err once in 10⁵."""
    model = ss.ScoreModel(Constant(), sde, prediction="F", sigma_data=1.5)
    mean, error = relative(model, SIGNS, **options)
    assert error < 0.02
    assert abs(mean - 1) < 5 * error


def test_the_relative_loss_is_that_of_standardised_states() -> None:
    """Data around 300 with a spread of 60; five standard errors."""
    scale: dict[str, Any] = {"data_mean": 300.0, "data_std": 40.0}
    model = ss.ScoreModel(Constant(), ss.VPSDE(), prediction="F", sigma_data=1.5, **scale)
    mean, error = relative(model, 300 + 40 * SIGNS)
    assert abs(mean - 1) < 5 * error < 0.1


def test_a_network_that_knows_the_data_has_a_relative_loss_of_zero() -> None:
    model = ss.ScoreModel(Constant(1.5), ss.VPSDE(), prediction="x0")
    mean, _ = relative(model, torch.full((8, 3), 1.5), standardize=False)
    assert 0 <= mean < 1e-9


def test_another_objective_has_no_relative_loss(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[dict[str, Any]] = []
    run(make(), steps=2, objective=ss.denoising_loss, callback=seen.append, progress=True)
    assert [step["relative_loss"] for step in seen] == [None, None]
    assert " loss=" in capsys.readouterr().err


# The callback.


def test_callback_sees_every_step() -> None:
    seen: list[dict[str, Any]] = []
    result = run(make(), steps=4, warmup=1, lr=0.5, schedule="constant", callback=seen.append)
    assert [step["step"] for step in seen] == [1, 2, 3, 4]
    assert [step["loss"] for step in seen] == list(result.losses)
    assert [step["lr"] for step in seen] == [0.25, 0.5, 0.5, 0.5]
    assert [step["validation_loss"] for step in seen] == [None] * 4
    ratios = [step["loss"] / step["relative_loss"] for step in seen]
    assert ratios == pytest.approx([ratios[0]] * 4, rel=1e-12)


# Held-out data.


def drifting(model: Any, x0: Tensor, *, t: Any, label: Any = None, generator: Any = None) -> Loss:
    """Drives p up, and says of held-out data how far p is from 0.3."""
    p = model.net.p
    return Loss.of((-p if model.training else (p - 0.3).square()) * torch.ones(len(x0)))


def drift(path: Path | None = None, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "steps": 20, "batch_size": 4, "lr": 0.1, "warmup": 0, "schedule": "constant",
        "ema_decay": 0.0, "objective": drifting, "validation": cloud(5), "validate_every": 3,
        "progress": False, "path": path, "save_every": 5,
    }  # fmt: skip
    model = ss.ScoreModel(Constant(-1.0), ss.VPSDE(), prediction="epsilon")
    return ss.train(model, cloud(), **settings | options)


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    """p is −1, −0.9, …; of steps 3, 6, …, 18 and 20 the one nearest to 0.3 is 12."""
    seen: dict[int, float] = {}

    def note(step: dict[str, Any]) -> None:
        if step["validation_loss"] is not None:
            seen[step["step"]] = step["validation_loss"]

    path = tmp_path / "m.safetensors"
    result = drift(path, callback=note, info={"by": "me"})
    expected = {n: (-1 + 0.1 * n - 0.3) ** 2 for n in (3, 6, 9, 12, 15, 18, 20)}
    assert seen == {n: pytest.approx(loss, abs=1e-5) for n, loss in expected.items()}
    assert result.best.net.p.item() == pytest.approx(0.2, abs=1e-5)
    assert result.model.net.p.item() == pytest.approx(1.0, abs=1e-5)
    assert not result.best.training
    best = ss.load(tmp_path / "m.best.safetensors", net=Constant())
    assert torch.equal(best.net.p, result.best.net.p)
    manifest = read_manifest(tmp_path / "m.best.safetensors")
    assert manifest["training"]["step"] == 12 and manifest["info"]["by"] == "me"
    assert manifest["info"]["validation_loss"] == seen[12]
    assert drift(validation=None).best is None


def test_a_resume_remembers_the_best(tmp_path: Path) -> None:
    drift(tmp_path / "whole.safetensors")
    for steps in (8, 11, 16, 20):
        result = drift(tmp_path / "parts.safetensors", steps=steps, resume=True)
    assert result.best.net.p.item() == pytest.approx(0.2, abs=1e-5)
    (_, whole), (_, parts) = (read(tmp_path / f"{n}.best.safetensors") for n in ("whole", "parts"))
    assert torch.equal(whole["net/p"], parts["net/p"])
    other = drift(tmp_path / "parts.safetensors", steps=21, resume=True, validation=cloud(6))
    assert other.best.net.p.item() == pytest.approx(1.1, abs=1e-5)


def values(model: Any, x0: Tensor, *, t: Any, label: Any = None, generator: Any = None) -> Loss:
    return Loss.of(x0[:, 0] + 0 * model.net.p)


@pytest.mark.parametrize(
    "data",
    [
        torch.arange(7.0)[:, None],
        TensorDataset(torch.arange(7.0)[:, None]),
        DataLoader(TensorDataset(torch.arange(7.0)[:, None]), batch_size=3),
        [torch.arange(6.0)[:, None], torch.tensor([[6.0]])],
    ],
)
def test_every_held_out_sample_counts_once(data: Any) -> None:
    seen: list[dict[str, Any]] = []
    drift(objective=values, validation=data, callback=seen.append)
    losses = [step["validation_loss"] for step in seen if step["validation_loss"] is not None]
    assert losses == [3.0] * 7


def test_held_out_batches_are_made_on_the_cpu() -> None:
    """A loader that shuffles draws its order when its first batch is asked for."""
    held_out = DataLoader(TensorDataset(torch.arange(7.0)[:, None]), batch_size=3, shuffle=True)
    seen: list[dict[str, Any]] = []
    model, data = ss.ScoreModel(Constant(), ss.VPSDE()), cloud()
    options: dict[str, Any] = {"validation": held_out, "callback": seen.append}
    with torch.device("meta"):
        ss.train(model, data, steps=1, objective=values, progress=False, **options)
    assert seen[0]["validation_loss"] == 3.0


def test_held_out_data_that_are_there_once_are_refused() -> None:
    class Once:
        def __init__(self) -> None:
            self.batches = iter([cloud()])

        def __iter__(self) -> Any:
            return self.batches

    with pytest.raises(ss.errors.ParameterError, match="none the second time"):
        run(make(), steps=1, validation=Once())


def test_the_averaged_weights_are_judged_at_fixed_noise_and_in_evaluation_mode() -> None:
    """Weights that do not move have one loss, and dropout is off; those of the average count."""
    seen: list[dict[str, Any]] = []
    options: dict[str, Any] = {"validation": cloud(40, seed=1), "validate_every": 1}
    result = run(make(), lr=1e-12, steps=3, callback=seen.append, **options)
    losses = [step["validation_loss"] for step in seen]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-9)
    assert len(set(result.losses)) == 3
    result = run(make(), lr=0.1, steps=3, callback=seen.append, **options)
    again = run(result.model, lr=1e-12, steps=1, callback=seen.append, **options)
    assert seen[-1]["validation_loss"] == pytest.approx(seen[-2]["validation_loss"], rel=1e-6)
    assert again.step == 1


def test_held_out_data_change_no_bit_of_the_run(tmp_path: Path) -> None:
    labels = torch.arange(64) % 3
    options: dict[str, Any] = {"labels": labels, "label_dropout": 0.3}
    run(make(), tmp_path / "a.safetensors", **options)
    held_out = TensorDataset(cloud(9), labels[:9])
    run(make(), tmp_path / "b.safetensors", validation=held_out, validate_every=4, **options)
    assert_same_file(tmp_path / "a.safetensors", tmp_path / "b.safetensors")


def test_the_loss_of_a_linear_networks_optimum_is_known() -> None:
    """ε̂ = 0 has the loss d/2; 20,000 samples, five standard errors."""
    seen: list[dict[str, Any]] = []
    model = ss.ScoreModel(Constant(), ss.VPSDE(), prediction="epsilon")
    held_out = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(3))
    ss.train(
        model, cloud(), steps=1, lr=1e-12, progress=False, callback=seen.append, validation=held_out
    )
    assert seen[0]["validation_loss"] == pytest.approx(1.0, abs=5 / math.sqrt(20_000))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"validation": iter([cloud()])}, "read many times"),
        ({"validation": TensorDataset(cloud(), torch.zeros(64).long())}, "or in none"),
        ({"validation": cloud() * torch.nan}, "finite validation"),
        ({"validation": []}, "at least one batch"),
        ({"validation": cloud(), "validate_every": 0}, "validate_every"),
    ],
)
def test_bad_held_out_data_are_refused_at_the_door(options: dict[str, Any], match: str) -> None:
    model = make()
    with pytest.raises(ss.errors.SDEScoreError, match=match):
        run(model, **options)
    assert model.net.calls == 0


def test_the_bar_shows_the_held_out_loss(capsys: pytest.CaptureFixture[str]) -> None:
    run(
        ss.ScoreModel(Dropping(), ss.VPSDE(), prediction="epsilon"),
        progress=True,
        validation=cloud(4),
        steps=2,
    )
    assert "validation_relative_loss=" in capsys.readouterr().err


def test_the_bars_numbers_are_the_callbacks(capsys: pytest.CaptureFixture[str]) -> None:
    """At the end: the mean of the last 100 relative losses, and the held-out loss in their unit."""
    seen: list[dict[str, Any]] = []
    model = ss.ScoreModel(Constant(), ss.VESDE(sigma_max=5.0), prediction="F", sigma_data=1.5)
    ss.train(
        model, SIGNS, steps=103, batch_size=8, lr=1e-12, validation=SIGNS[:20],
        callback=seen.append, progress=True, weighting="likelihood",
    )  # fmt: skip
    last, recent = seen[-1], [step["relative_loss"] for step in seen[-100:]]
    unit = last["loss"] / last["relative_loss"]
    assert not 0.8 < unit < 1.2
    said = capsys.readouterr().err
    for name, value in (
        (" relative_loss", sum(recent) / 100),
        (" validation_relative_loss", last["validation_loss"] / unit),
    ):
        shown = said.rpartition(name + "=")[2]
        assert float(re.match(r"[\d.e+-]+", shown)[0]) == pytest.approx(value, abs=1e-4)  # type: ignore[index]
