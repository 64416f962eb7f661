"""Checkpoints come back whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

import sdescore as ss
from sdescore.checkpoint.manifest import SDES
from sdescore.checkpoint.store import read_manifest
from tests.helpers.stored import same_weights, small
from tests.helpers.strategies import continuous_sdes, discrete_sdes


class Foreign(nn.Module):
    """A network this library has never heard of."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("table", torch.arange(width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.layer(x)


# Round trips.


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prediction": "v", "time_input": "log_snr"},
        {"prediction": "F", "time_input": "quarter_log_sigma", "sigma_data": 0.3},
        {"prediction": "x0", "input_scaling": "unit", "sigma_data": 2},
    ],
)
def test_a_model_comes_back(tmp_path: Path, options: dict[str, Any]) -> None:
    model = small(**options)
    ss.save(tmp_path / "m.safetensors", model)
    again = ss.load(tmp_path / "m.safetensors")
    assert same_weights(again, model)
    assert again.sde == model.sde and again.options == model.options
    assert again.net.config == model.net.config and not again.training
    x = torch.randn(5, 2)
    assert torch.equal(again(x, 0.3), model(x, 0.3))


@given(continuous_sdes())
def test_every_sde_of_the_package_comes_back(sde: ss.LinearSDE) -> None:
    check_sde(sde)


@given(discrete_sdes())
def test_every_discrete_sde_comes_back(sde: ss.LinearSDE) -> None:
    check_sde(sde)


def check_sde(sde: ss.LinearSDE) -> None:
    from sdescore.checkpoint.manifest import build_model, describe_model, from_json, to_json

    model = ss.ScoreModel(ss.MLP(1, hidden=2, depth=1, embedding_dim=2), sde, prediction="epsilon")
    manifest = from_json(to_json({"format": 1, **describe_model(model)}))
    given_sde = None if type(sde).__name__ in SDES else sde
    again = build_model(manifest, model.net.state_dict(), net=None, sde=given_sde)
    assert again.sde == sde and type(again.sde) is type(sde)


def test_the_table_holds_every_closed_form_sde() -> None:
    linear = {n for n in ss.__all__ if n.endswith("SDE") and hasattr(getattr(ss, n), "kernel")}
    exported = linear - {"LinearSDE"}
    assert set(SDES) == exported


def test_a_unet_comes_back_with_its_configuration(tmp_path: Path) -> None:
    net = ss.UNet(
        1, width=8, multipliers=(1, 2), blocks=1, attention=(1,), dropout=0.1, classes=10,
        embedding="fourier",
    )  # fmt: skip
    model = ss.ScoreModel(
        net, ss.DiscreteVPSDE.linear(20), time_input="continuous_level", prediction="epsilon"
    )
    ss.save(tmp_path / "m.safetensors", model, info={"seed": 3})
    again = ss.load(tmp_path / "m.safetensors")
    assert isinstance(again.net, ss.UNet) and again.net.config == net.config
    assert same_weights(again, model) and again.sde == model.sde
    assert read_manifest(tmp_path / "m.safetensors")["info"] == {"seed": 3}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    model = small().to(dtype)
    ss.save(tmp_path / "m.safetensors", model, ema=ss.EMA(model.net))
    assert same_weights(ss.load(tmp_path / "m.safetensors"), model)


def test_raw_and_averaged_weights(tmp_path: Path) -> None:
    model = small(0)
    ema = ss.EMA(model.net, decay=0.9, warmup=False)
    raw = small(1)
    ema.update(raw.net)
    path = tmp_path / "m.safetensors"
    ss.save(path, raw, ema=ema)
    assert same_weights(ss.load(path, weights="raw"), raw)
    averaged = ss.load(path)
    ema.copy_to(model.net)
    assert same_weights(averaged, model) and not same_weights(averaged, raw)
    with pytest.raises(ss.errors.ParameterError, match="ema, raw"):
        ss.load(path, weights="shadow")
    ss.save(path, raw)  # no average: the raw weights are all there is
    assert same_weights(ss.load(path), raw)


@pytest.mark.slow
def test_loading_needs_nothing_but_the_path(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    ss.save(path, small())
    call = f"sdescore.load({str(path)!r})(torch.ones(1, 2), 0.5).sum().item()"
    code = f"import sdescore, torch; print({call})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(small()(torch.ones(1, 2), 0.5).sum().item())


def test_foreign_parts_are_named_and_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    sde = ss.LinearSDE.from_marginal(torch.ones_like, lambda t: t + 0.01)
    model = ss.ScoreModel(Foreign(), sde, prediction="epsilon")
    ss.save(path, model)
    assert read_manifest(path)["net"]["class"].endswith("Foreign")
    with pytest.raises(ss.errors.CheckpointError, match="sde="):
        ss.load(path)
    with pytest.raises(ss.errors.CheckpointError, match=r"Foreign.*net="):
        ss.load(path, sde=sde)
    again = ss.load(path, sde=sde, net=Foreign())
    assert same_weights(again, model) and again.sde is sde
    with pytest.raises(ss.errors.CheckpointError, match="net/table"):
        ss.load(path, sde=sde, net=Foreign(width=4))


def test_a_subclass_is_foreign(tmp_path: Path) -> None:
    """Else it would come back as its parent, silently."""

    class MLP(ss.MLP):
        pass

    model = ss.ScoreModel(MLP(2, hidden=8, depth=1), ss.VPSDE(), prediction="epsilon")
    ss.save(tmp_path / "m.safetensors", model)
    with pytest.raises(ss.errors.CheckpointError, match="net="):
        ss.load(tmp_path / "m.safetensors")


def test_another_sde_than_the_saved_one_is_refused(tmp_path: Path) -> None:
    ss.save(tmp_path / "m.safetensors", small())
    assert ss.load(tmp_path / "m.safetensors", sde=ss.VPSDE()).sde == ss.VPSDE()
    with pytest.raises(ss.errors.CheckpointError, match="leave sde= out"):
        ss.load(tmp_path / "m.safetensors", sde=ss.VESDE())


@pytest.mark.parametrize("info", [{"x": float("nan")}, {"x": torch.ones(1)}, {"x": object()}])
def test_notes_must_be_json(tmp_path: Path, info: dict[str, Any]) -> None:
    with pytest.raises(ss.errors.CheckpointError, match="JSON"):
        ss.save(tmp_path / "m.safetensors", small(), info=info)
    assert not list(tmp_path.iterdir())


def test_notes_cannot_imitate_the_digest(tmp_path: Path) -> None:
    note = {"sha256": "0" * 64, '"sha256":"' + "a" * 64 + '"': '"sha256":"' + "b" * 64 + '"'}
    ss.save(tmp_path / "m.safetensors", small(), info=note)
    assert read_manifest(tmp_path / "m.safetensors")["info"] == note


def test_only_models_are_saved(tmp_path: Path) -> None:
    for model in (ss.MLP(2), ss.ScoreModel(lambda x, c: x, ss.VPSDE(), prediction="epsilon")):
        with pytest.raises(ss.errors.IncompatibleError, match="ScoreModel"):
            ss.save(tmp_path / "m.safetensors", model)


def test_a_score_made_of_others_is_saved_by_its_models(tmp_path: Path) -> None:
    with pytest.raises(ss.errors.IncompatibleError, match=r"_Clipped; save the model inside"):
        ss.save(tmp_path / "m.safetensors", ss.guidance.clipped(small()))  # type: ignore[arg-type]
