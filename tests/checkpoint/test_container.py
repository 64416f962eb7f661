"""No damaged or forged file is loaded."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

import sdescore as ss
from tests.helpers.checkpoints import forge, read, seal
from tests.helpers.files import posix
from tests.helpers.stored import same_weights, small

Tensors = dict[str, Tensor]


def test_the_file_is_plain_safetensors(tmp_path: Path, intact: bytes) -> None:
    """Others can read the weights without this library, and there is no pickle in it."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(intact)
    with safetensors.safe_open(path, "pt") as file:
        names = set(file.keys())
    assert {"net/last.bias", "ema/shadow.last.bias", "optim/last.bias/exp_avg"} <= names


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


@posix
def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.symlink_to(path)
    with pytest.raises(ss.errors.CheckpointError, match="symbolic links"):
        ss.load(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(to_bytes({"net/a": torch.ones(1)}))  # safetensors, but not ours
    with pytest.raises(ss.errors.CheckpointError, match=r"sdescore\.interop has loaders"):
        ss.load(path)
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(ss.errors.CheckpointError, match=r"sdescore\.interop has loaders"):
        ss.load(path)
    missing = tmp_path / "none.safetensors"
    match = f"expected a checkpoint at {re.escape(str(missing))}; got no file there"
    for error in (FileNotFoundError, ss.errors.CheckpointError):
        with pytest.raises(error, match=match):
            ss.load(missing)


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
