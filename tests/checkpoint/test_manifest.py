"""What a file may hold, and what reading it costs."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

import sdescore as ss
from sdescore.checkpoint.manifest import NETS
from sdescore.checkpoint.store import read_manifest
from tests.helpers.checkpoints import forge, read
from tests.helpers.files import is_model, posix, python, small


class Odd(nn.Module):
    """A network with one buffer of some kind."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("odd", value)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.layer(x)


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2, 2).to_sparse(),
        torch.ones(2).to(torch.float8_e4m3fn),
        torch.ones(2, device="meta"),
    ],
    ids=["complex", "sparse", "float8", "meta"],
)
def test_tensors_that_the_format_cannot_hold(tmp_path: Path, value: Tensor) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(ss.errors.CheckpointError, match="net/odd"):
        ss.save(path, ss.ScoreModel(Odd(value), ss.VPSDE(), prediction="epsilon"))
    assert not list(tmp_path.iterdir())


def test_what_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Extra(Odd):
        def get_extra_state(self) -> object:
            return {"x": 1}

        def set_extra_state(self, state: object) -> None: ...

    model = ss.ScoreModel(Extra(torch.ones(1)), ss.VPSDE(), prediction="epsilon")
    with pytest.raises(ss.errors.CheckpointError, match="_extra_state"):
        ss.save(tmp_path / "m.safetensors", model)


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(2, 3).T,
        torch.ones(0, 3),
        torch.tensor(2.5, dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.arange(5, dtype=torch.uint8)[::2],
        torch.tensor([1 + 2j]).conj().imag,
        torch.full((3,), -torch.inf, dtype=torch.float16),
    ],
)
def test_views_and_every_kind_of_item_come_back(tmp_path: Path, value: Tensor) -> None:
    path = tmp_path / "m.safetensors"
    ss.save(path, ss.ScoreModel(Odd(value), ss.VPSDE(), prediction="epsilon"))
    again = ss.load(path, net=Odd(torch.zeros_like(value))).net.odd
    assert again.dtype == value.dtype and torch.equal(again, value.resolve_neg())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_nan_is_neither_saved_nor_loaded(tmp_path: Path, dtype: torch.dtype) -> None:
    path, model = tmp_path / "m.safetensors", small().to(dtype)
    ss.save(path, model, ema=ss.EMA(model.net))
    manifest, tensors = read(path)
    for name in ("net/last.bias", "ema/shadow.last.bias"):
        forge(path, manifest, {**tensors, name: torch.full_like(tensors[name], torch.nan)})
        mine = small(5).to(dtype)
        with pytest.raises(ss.errors.CheckpointError, match=f"NaN in {name}"):
            ss.load(path, net=mine.net)
        assert torch.equal(mine.net.last.weight, small(5).to(dtype).net.last.weight)
    with torch.no_grad():
        model.net.last.bias[1] = torch.nan
    with pytest.raises(ss.errors.CheckpointError, match=r"NaN in net/last\.bias"):
        ss.save(tmp_path / "n.safetensors", model)
    assert not list(tmp_path.glob("*n.safetensors*"))


def test_notes_of_numpy_numbers(tmp_path: Path) -> None:
    note = {"lr": np.float32(0.5), "n": np.int64(3), "deep": [np.float64(2.0)], "yes": np.True_}
    ss.save(tmp_path / "m.safetensors", small(), info=note)
    again = read_manifest(tmp_path / "m.safetensors")["info"]
    assert again == {"lr": 0.5, "n": 3, "deep": [2.0], "yes": True}
    assert type(again["n"]) is int and again["yes"] is True


@pytest.mark.parametrize("info", [[1], "note", 3])
def test_notes_are_a_dict(tmp_path: Path, info: Any) -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="info as a dict"):
        ss.save(tmp_path / "m.safetensors", small(), info=info)


def test_a_network_that_loads_in_its_own_way(tmp_path: Path) -> None:
    """BatchNorm reads its buffers itself; a hook may return copies as the state."""

    class Copies(Odd):
        def __init__(self) -> None:
            super().__init__(torch.ones(2))
            self.norm = nn.BatchNorm1d(2)

        def state_dict(self, *args: Any, **options: Any) -> Any:
            state = super().state_dict(*args, **options)
            return {name: value.clone() for name, value in state.items()}

    model, other = (ss.ScoreModel(Copies(), ss.VPSDE(), prediction="epsilon") for _ in range(2))
    nn.init.normal_(model.net.norm.running_mean)
    ss.save(tmp_path / "m.safetensors", model)
    again = ss.load(tmp_path / "m.safetensors", net=other.net)
    for name, value in model.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[name], value), name


def test_networks_are_found_by_their_config() -> None:
    kinds = [kind for kind in vars(ss.nets).values() if inspect.isclass(kind)]
    found = {kind.__name__ for kind in kinds if "config" in inspect.get_annotations(kind)}
    assert {"MLP", "UNet"} <= set(NETS) == found


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta", 1.5])
def test_no_such_device(tmp_path: Path, device: Any) -> None:
    ss.save(tmp_path / "m.safetensors", small())
    with pytest.raises(ss.errors.ParameterError, match="device"):
        ss.load(tmp_path / "m.safetensors", device=device)


# What reading costs.


@pytest.fixture
def parameters_made() -> Iterator[list[int]]:
    made = [0]

    def count(*args: object) -> None:
        made[0] += 1

    hook = register_module_parameter_registration_hook(count)
    yield made
    hook.remove()


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("MLP", {"dim": 2, "hidden": 2, "depth": 2000, "embedding_dim": 2}),
        ("UNet", {"channels": 1, "width": 4, "blocks": 1, "multipliers": [1] * 2000}),
    ],
)
def test_many_tensors_do_not_pay_for_a_deep_network(
    tmp_path: Path, kind: str, config: dict[str, Any], parameters_made: list[int]
) -> None:
    """A file of 2,000 tensors is refused after 2,000 parameters, not after 100,000."""
    path = tmp_path / "m.safetensors"
    ss.save(path, small())
    manifest, _ = read(path)
    manifest["net"] = {"class": kind, "config": config, "dtype": "float32"}
    manifest["ema"] = None
    forge(path, manifest, {f"net/{n}": torch.ones(100) for n in range(2000)})
    parameters_made[0] = 0
    with pytest.raises(ss.errors.CheckpointError, match="a larger one"):
        ss.load(path)
    assert parameters_made[0] <= 2001


def test_the_manifest_alone_is_checked_and_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    ss.save(path, small(), info={"note": "three"})
    intact = path.read_bytes()
    manifest = read_manifest(path)
    length = 8 + int.from_bytes(intact[:8], "little")
    start, end = intact.index(b'"manifest":'), intact.index(b'"sha256":')
    for bit in range(8 * start, 8 * end, 7):
        flipped = bytearray(intact)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(ss.errors.CheckpointError):
            read_manifest(path)
    for data in (intact[:-1], intact[:length], intact + b"\0"):
        path.write_bytes(data)
        with pytest.raises(ss.errors.CheckpointError, match="whole sdescore checkpoint"):
            read_manifest(path)
    path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))  # the weights are another question
    assert read_manifest(path) == manifest
    with pytest.raises(ss.errors.CheckpointError, match="SHA-256"):
        ss.load(path)


def test_a_file_without_a_digest_of_the_manifest_is_checked_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    ss.save(path, small())
    manifest, tensors = read(path)
    forge(path, manifest, tensors)  # as versions before wrote it
    assert read_manifest(path) == manifest and is_model(path, 0)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ss.errors.CheckpointError, match="SHA-256"):
        read_manifest(path)


@pytest.mark.slow
@pytest.mark.guards("W06")
@posix
@pytest.mark.parametrize("call", ["save", "load", "manifest"])
def test_memory_stays_near_one_copy_of_the_weights(tmp_path: Path, call: str) -> None:
    """Network, average and 134 MB each: a save adds a tenth of that, a load the network alone."""
    path = tmp_path / "m.safetensors"
    code = """
import resource, sys, torch, sdescore as ss
from sdescore.checkpoint.store import read_manifest
path, call = sys.argv[1:]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
def model():
    return ss.ScoreModel(ss.MLP(2, hidden=1672, depth=3), ss.VPSDE())
if call == "save":
    big = model(); ema = ss.EMA(big.net); before = peak()
    ss.save(path, big, ema=ema)
else:
    ss.load(sys.argv[1] + "-"); before = peak()
    (ss.load if call == "load" else read_manifest)(path)
print(before, peak())
"""
    ss.save(f"{path}-", small())
    big = ss.ScoreModel(ss.MLP(2, hidden=1672, depth=3), ss.VPSDE(), prediction="epsilon")
    size = sum(p.numel() for p in big.parameters()) * 4 / 1e6
    if call != "save":
        ss.save(path, big, ema=ss.EMA(big.net))
    before, after = map(float, python(code, path, call).split())
    allowed = {"save": 0.2, "load": 1.35, "manifest": 0.05}[call]
    assert after - before < allowed * size
    assert json.dumps(read_manifest(path)["net"]["config"])  # it is the file that was meant


def test_other_peoples_files_read_alike(tmp_path: Path) -> None:
    """What we write by hand is what safetensors itself would write, but for the digests."""
    path = tmp_path / "m.safetensors"
    ss.save(path, small(), ema=ss.EMA(small().net))
    _, tensors = read(path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    theirs = to_bytes(tensors, header["__metadata__"])
    theirs_length = int.from_bytes(theirs[:8], "little")
    assert json.loads(theirs[8 : 8 + theirs_length]) == header
    assert theirs[8 + theirs_length :] == data[8 + length :]
