"""Checkpoints: what is saved comes back, and nothing else does."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import given
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

import sdescore as ss
from sdescore.checkpoint.manifest import SDES
from sdescore.checkpoint.store import TrainingRecord, read_manifest
from tests.helpers.checkpoints import forge, read, seal
from tests.helpers.strategies import continuous_sdes, discrete_sdes

Tensors = dict[str, Tensor]


class Foreign(nn.Module):
    """A network this library has never heard of."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("table", torch.arange(width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.layer(x)


def small(seed: int = 0, **options: Any) -> ss.ScoreModel:
    torch.manual_seed(seed)
    net = ss.MLP(2, hidden=8, depth=1, embedding_dim=4)
    for p in net.parameters():
        nn.init.normal_(p)
    return ss.ScoreModel(net, ss.VPSDE(), **options)


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(
        torch.equal(one[k], two[k]) and one[k].dtype == two[k].dtype for k in one
    )


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

    model = ss.ScoreModel(ss.MLP(1, hidden=2, depth=1, embedding_dim=2), sde)
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
    model = ss.ScoreModel(net, ss.DiscreteVPSDE.linear(20), time_input="continuous_level")
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
    model = ss.ScoreModel(Foreign(), sde)
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

    model = ss.ScoreModel(MLP(2, hidden=8, depth=1), ss.VPSDE())
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
    for model in (ss.MLP(2), ss.ScoreModel(lambda x, c: x, ss.VPSDE())):
        with pytest.raises(ss.errors.IncompatibleError, match="ScoreModel"):
            ss.save(tmp_path / "m.safetensors", model)


# Damage.


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("intact") / "m.safetensors"
    model = small()
    optimizer = {"last.bias/exp_avg": torch.ones(2), "last.bias/step": torch.tensor(3.0)}
    record = TrainingRecord(3, {"seed": 1}, optimizer)
    ss.save(path, model, ema=ss.EMA(model.net), training=record)
    return path.read_bytes()


@pytest.mark.guards("B13")
def test_no_damage_is_loaded(tmp_path: Path, intact: bytes) -> None:
    """500 truncations and 500 bit flips, and every bit of the header's last 200 bytes."""
    path, draw = tmp_path / "m.safetensors", random.Random(0)
    path.write_bytes(intact)
    ss.load(path)
    header = 8 + int.from_bytes(intact[:8], "little")
    bits = [draw.randrange(8 * len(intact)) for _ in range(250)]
    bits += [draw.randrange(8 * header) for _ in range(250)]  # the header is the smaller part
    digest = 8 * intact.index(b'"sha256"')
    bits += range(digest, digest + 8 * 80)
    damaged = [intact[: draw.randrange(len(intact))] for _ in range(500)]
    for bit in bits:
        flipped = bytearray(intact)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    damaged += [b"", intact + b"\0", intact + intact, intact[::-1]]
    assert len(damaged) > 1000
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(ss.errors.CheckpointError, match="whole sdescore checkpoint"):
            ss.load(path)


def test_the_error_names_the_previous_version(tmp_path: Path, intact: bytes) -> None:
    path = tmp_path / "m.safetensors"
    ss.save(path, small(0))
    path.write_bytes(intact[:-1])
    with pytest.raises(ss.errors.CheckpointError, match="train or save it again"):
        ss.load(path)
    ss.save(path, small(0))
    ss.save(path, small(1))
    path.write_bytes(intact[:-1])
    with pytest.raises(ss.errors.CheckpointError, match=r"m\.previous\.safetensors"):
        ss.load(path)
    assert same_weights(ss.load(tmp_path / "m.previous.safetensors"), small(0))


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(to_bytes({"net/a": torch.ones(1)}))  # safetensors, but not ours
    with pytest.raises(ss.errors.CheckpointError, match="not written by sdescore"):
        ss.load(path)
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(ss.errors.CheckpointError, match="not written by sdescore"):
        ss.load(path)
    with pytest.raises(FileNotFoundError):
        ss.load(tmp_path / "none.safetensors")


# Malice: the digest is right, the contents are not.


def _set(*keys: str) -> Callable[[Any], Callable[[dict[str, Any], Tensors], None]]:
    def to(value: Any) -> Callable[[dict[str, Any], Tensors], None]:
        def change(manifest: dict[str, Any], tensors: Tensors) -> None:
            entry: Any = manifest
            for key in keys[:-1]:
                entry = entry[key]
            entry[keys[-1]] = value

        return change

    return to


def _rename(old: str, new: str) -> Callable[[dict[str, Any], Tensors], None]:
    return lambda manifest, tensors: tensors.update({new: tensors.pop(old)})


def _replace(name: str, value: Tensor) -> Callable[[dict[str, Any], Tensors], None]:
    return lambda manifest, tensors: tensors.update({name: value})


def _remove(name: str) -> Callable[[dict[str, Any], Tensors], None]:
    return lambda manifest, tensors: tensors.__delitem__(name)


sde_class, sde_fields = _set("sde", "class"), _set("sde", "fields")
net_class, net_config = _set("net", "class"), _set("net", "config")

MALICE = {
    "format": _set("format")(2),
    "format true": _set("format")(True),
    "format text": _set("format")("1"),
    "no sde": _set("sde")(None),
    "sde list": _set("sde")([]),
    "class of builtins": sde_class("os.system"),
    "class that is abstract": sde_class("LinearSDE"),
    "class from marginal": sde_class("MarginalSDE"),
    "class number": sde_class(3),
    "class list": sde_class(["VPSDE"]),
    "fields list": sde_fields([1.0]),
    "fields text": sde_fields({"beta_min": "0.1"}),
    "fields bool": sde_fields({"beta_min": True}),
    "fields unknown": sde_fields({"beta": 1.0}),
    "fields nested": sde_fields({"beta_min": [[1.0]]}),
    "fields object": sde_fields({"beta_min": {"class": "VPSDE"}}),
    "fields null": sde_fields({"beta_min": None}),
    "fields huge": sde_fields({"beta_max": 10**400}),
    "fields negative": sde_fields({"beta_min": -1.0}),
    "net of torch": net_class("torch.nn.Linear"),
    "net class number": net_class(1),
    "config unknown": net_config({"dim": 2, "evil": 1}),
    "config list": net_config([2]),
    "config text": net_config({"dim": "2"}),
    "width huge": _set("net", "config", "hidden")(2**40),
    "width within the file's size": _set("net", "config", "hidden")(200),
    "width beyond int64": _set("net", "config", "hidden")(10**30),
    "width negative": _set("net", "config", "hidden")(-8),
    "depth huge": _set("net", "config", "depth")(10**9),
    "depth list": _set("net", "config", "depth")([1]),
    "depth text": _set("net", "config", "depth")("1"),
    "classes": _set("net", "config", "classes")(3),
    "embedding": _set("net", "config", "embedding")("__class__"),
    "scale": _set("net", "config", "embedding_scale")({}),
    "unet": lambda manifest, tensors: manifest.update(
        net={"class": "UNet", "dtype": "float32", "config": {
            "channels": 1, "blocks": 10**5, "multipliers": [1] * 10**5}}
    ),
    "unet of texts": lambda manifest, tensors: manifest.update(
        net={"class": "UNet", "dtype": "float32", "config": {
            "channels": 1, "blocks": 1, "width": 10**12, "multipliers": ["x"]}}
    ),
    "unet without blocks": lambda manifest, tensors: manifest.update(
        net={"class": "UNet", "dtype": "float32", "config": {"channels": 1}}
    ),
    "dtype": _set("net", "dtype")("load"),
    "dtype integer": _set("net", "dtype")("int64"),
    "dtype other": _set("net", "dtype")("float64"),
    "prediction": _set("convention", "prediction")("forward"),
    "prediction list": _set("convention", "prediction")([]),
    "sigma_data": _set("convention", "sigma_data")("0.5"),
    "sigma_data bool": _set("convention", "sigma_data")(True),
    "sigma_data negative": _set("convention", "sigma_data")(-0.5),
    "convention unknown": _set("convention", "net")("x"),
    "convention short": lambda manifest, tensors: manifest["convention"].popitem(),
    "convention missing": lambda manifest, tensors: manifest.pop("convention"),
    "levels of a continuous sde": _set("convention", "time_input")("level"),
    "tensor renamed": _rename("net/last.bias", "net/last.b"),
    "tensor of no part": _rename("net/last.bias", "last.bias"),
    "tensor of another part": _rename("net/last.bias", "os/last.bias"),
    "tensor missing": _remove("net/last.bias"),
    "tensor too many": _replace("net/more", torch.ones(1)),
    "shape": _replace("net/last.bias", torch.ones(3)),
    "shape that broadcasts": _replace("net/last.bias", torch.ones(1)),
    "dtype of a tensor": _replace("net/last.bias", torch.ones(2, dtype=torch.float64)),
    "average renamed": _rename("ema/shadow.last.bias", "ema/shadow.b"),
    "average shape": _replace("ema/shadow.last.bias", torch.ones(1)),
    "average dtype": _replace("ema/shadow.last.bias", torch.ones(2, dtype=torch.int64)),
    "average count": _replace("ema/num_updates", torch.tensor(-1)),
    "average count float": _replace("ema/num_updates", torch.tensor(1.0)),
    "average missing": lambda manifest, tensors: [
        tensors.pop(k) for k in list(tensors) if k.startswith("ema/shadow")
    ],
}  # fmt: skip


@pytest.mark.guards("B14")
@pytest.mark.parametrize("name", MALICE)
def test_malice_is_refused(tmp_path: Path, intact: bytes, name: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(intact)
    manifest, tensors = read(path)
    forge(path, manifest, tensors)
    ss.load(path)  # the forger's own tools are right
    MALICE[name](manifest, tensors)
    forge(path, manifest, tensors)
    with pytest.raises(ss.errors.CheckpointError):
        ss.load(path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", "NaN", '{"format": NaN}', "[" * 100_000, "9" * 5000, '"\\ud800"', "{}"],
)
def test_manifests_that_are_none(tmp_path: Path, text: str) -> None:
    forge(tmp_path / "m.safetensors", text, {"net/a": torch.ones(1)})
    with pytest.raises(ss.errors.CheckpointError):
        ss.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "header",
    [
        {"__metadata__": {"sha256": "0" * 64}},
        {"__metadata__": {"sha256": "0" * 64, "manifest": {"format": 1}}},
        {"x": {"sha256": "0" * 64}},
        {"__metadata__": [], "x": {"sha256": "0" * 64}},
        {"__metadata__": {"sha256": "0" * 64, "manifest": "{}"},
         "a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 4]}},
        {"__metadata__": {"sha256": "0" * 64, "manifest": "{}"},
         "a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"__metadata__": {"sha256": "0" * 64, "manifest": "{}"},
         "a": {"dtype": "object", "shape": [1], "data_offsets": [0, 4]}},
    ],
)  # fmt: skip
def test_headers_that_are_none(tmp_path: Path, header: dict[str, Any]) -> None:
    text = json.dumps(header, separators=(",", ":")).encode()
    seal(tmp_path / "m.safetensors", len(text).to_bytes(8, "little") + text + b"\0" * 4)
    with pytest.raises(ss.errors.CheckpointError):
        ss.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "net",
    [
        ("MLP", {"dim": 2, "depth": 10**9, "hidden": 8}),
        ("UNet", {"channels": 1, "width": 8, "blocks": 20, "multipliers": [1] * 20}),
        ("UNet", {"channels": 1, "width": 2**20, "blocks": 1, "multipliers": [2**20]}),
    ],
)
def test_small_files_cannot_ask_for_big_networks(
    tmp_path: Path, intact: bytes, net: tuple[str, dict[str, Any]]
) -> None:
    """Refused by their size, before any layer is made: some would take hours without memory."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(intact)
    manifest, tensors = read(path)
    manifest["net"] = {"class": net[0], "config": net[1], "dtype": "float32"}
    forge(path, manifest, tensors)
    with pytest.raises(
        ss.errors.CheckpointError, match=r"expected a network of \d+ tensors and \d+ weights"
    ):
        ss.load(path)


def test_a_damaged_file_changes_no_given_network(tmp_path: Path, intact: bytes) -> None:
    path, mine = tmp_path / "m.safetensors", small(5)
    path.write_bytes(intact)
    manifest, tensors = read(path)
    tensors["ema/shadow.last.bias"] = torch.ones(1)
    forge(path, manifest, tensors)
    with pytest.raises(ss.errors.CheckpointError):
        ss.load(path, net=mine.net)
    assert same_weights(mine, small(5))


# Atomic writes.


@pytest.mark.parametrize("function", ["fsync", "link", "replace"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_crash_in_a_save_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, call: int
) -> None:
    """The save stops dead at the n-th call of fsync, link or replace, before or after it."""
    path = tmp_path / "m.safetensors"
    for before in (True, False):
        ss.save(path, small(0))
        ss.save(path, small(1))
        real, count = getattr(os, function), 0

        def crash(*args: Any, real: Any = real, before: bool = before) -> Any:
            nonlocal count
            count += 1
            if count == call and before:
                raise SystemExit
            value = real(*args)
            if count == call:
                raise SystemExit
            return value

        with monkeypatch.context() as patch:
            patch.setattr(os, function, crash)
            try:
                ss.save(path, small(2))
                assert count < call
            except SystemExit:
                pass
        now, previous = ss.load(path), ss.load(tmp_path / "m.previous.safetensors")
        assert same_weights(now, small(1)) or same_weights(now, small(2))
        assert same_weights(previous, small(0)) or same_weights(previous, small(1))
        ss.save(path, small(3))
        assert same_weights(ss.load(path), small(3))
        assert {p.name for p in tmp_path.iterdir()} == {"m.safetensors", "m.previous.safetensors"}


def test_without_hard_links_the_previous_version_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    for seed in range(3):
        ss.save(tmp_path / "deep" / "er" / "m.safetensors", small(seed))
    folder = tmp_path / "deep" / "er"
    assert same_weights(ss.load(folder / "m.safetensors"), small(2))
    assert same_weights(ss.load(folder / "m.previous.safetensors"), small(1))
    assert len(list(folder.iterdir())) == 2


def test_everything_is_synced_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, real=real, name=name: (events.append(name), real(*a))[1]
        )
    ss.save(tmp_path / "m.safetensors", small())
    assert events == ["fsync", "replace", "fsync"]  # the file, its name, the directory


def test_the_file_is_plain_safetensors(tmp_path: Path, intact: bytes) -> None:
    """Others can read the weights without this library, and there is no pickle in it."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(intact)
    with safetensors.safe_open(path, "pt") as file:
        names = set(file.keys())
    assert {"net/last.bias", "ema/shadow.last.bias", "optim/last.bias/exp_avg"} <= names
