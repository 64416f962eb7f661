"""Two processes that hold half of the weights each train what one process trains."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import sdescore as ss
from tests.helpers.checkpoints import read
from tests.helpers.ranks import run_ranks, said
from tests.helpers.sharded import (
    HELD_OUT,
    NETS,
    RUNS,
    X,
    run,
)

pytestmark = pytest.mark.slow

# What each of two ranks does; it writes its results to a folder of its own.
ON_A_RANK = """
import json
import shutil
import warnings

from torch.distributed.fsdp import FSDPModule

import sdescore as ss
from tests.helpers.ranks import outcome
from tests.helpers.sharded import *

own, said, held = folder / str(rank), {}, []
own.mkdir()

def looked_at(model, x0, **options):
    held[:] = model.net.named_parameters()
    said["blocks"] = [name for name, m in model.net.named_modules() if isinstance(m, FSDPModule)]
    return ss.denoising_loss(model, x0, **options)

for name, options in RUNS.items():
    model, result = run(seed=rank, shard=True, **options)
    averaged = result.model.state_dict(), result.ema.shadow, result.ema.num_updates
    torch.save((result.losses, model.state_dict(), *averaged), own / name)
run(data=X, net="own", steps=1, objective=looked_at, shard=True)
said["held"] = {name: [len(p.to_local()), len(p)] for name, p in held}
one = {"data": X, "schedule": "constant", "shard": True, "save_every": 4}
run(steps=5, path=folder / "two.safetensors", **one)
shutil.copy(folder / "two.safetensors", own / "5.safetensors")

def at_five(told):  # when the last file is the one of step 4
    if told["step"] == 5:
        shutil.copy(folder / "during.safetensors", own / "4.safetensors")

run(steps=5, path=folder / "during.safetensors", callback=at_five, **one)
for name in ("two", "one"):
    path = folder / f"{name}.safetensors"
    _, result = run(seed=rank + 3, path=path, resume=True, **one)
    said[name] = result.losses
for name, options in {
    "energy": {"net": "energy"},
    "scalar": {"net": "scalar", "data": IMAGES},
    "twice": {"objective": ss.losses.implicit_loss},
    "parts": {"batch_size": 7, "accumulate": 2},
    "differ": {"shard": rank == 0},
    "compile": {"compile": True},
}.items():
    said[name] = outcome(lambda: run(**{"data": X, "shard": True, **options}))
parts = {**one, "net": "own", "save_every": 2}
run(steps=5, path=folder / "parts.dcp", **parts)
torch.distributed.barrier()
if rank == 0:  # what a killed run leaves
    shutil.copytree(folder / "parts.dcp" / "step-5", folder / "parts.dcp" / "step-7")
    (folder / "parts.dcp" / "step-7" / "manifest.json").unlink()
    shutil.copytree(folder / "parts.dcp", folder / "five.dcp")
    damaged = folder / "damaged.dcp"
    shutil.copytree(folder / "five.dcp", damaged)
    file = next((damaged / "step-5").glob("shard-00002*"))
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    file.write_bytes(raw)
torch.distributed.barrier()
_, result = run(seed=rank + 3, path=folder / "parts.dcp", resume=True, **parts)
said["resumed"] = result.losses
for name, lr in {"five": 1.0, "damaged": 2e-3}.items():
    options = {**parts, "path": folder / f"{name}.dcp", "resume": True, "lr": lr}
    said[f"{name}.dcp"] = outcome(lambda: run(**options))
if rank == 0:
    (folder / "full.dcp").mkdir()
    (folder / "full.dcp" / "step-2").write_text("no space left")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    run(steps=3, path=folder / "full.dcp", **parts)
said["full.dcp"] = [str(warning.message) for warning in caught]
seen = []
options = {**HELD_OUT, "path": folder / "held.safetensors", "shard": True}
model, result = run(seed=rank, callback=seen.append, **options)
said["held out"] = [v["validation_loss"] for v in seen]
torch.save((result.losses, result.best.state_dict(), model.state_dict()), own / "best")
said["again"] = outcome(lambda: run(seed=rank, resume=True, **options))
failing = Failing(X, rank)
said["failing"] = outcome(lambda: run(data=X, shard=True, validation=failing, validate_every=3))
torch.manual_seed(0)
model = ss.ScoreModel(NETS["mlp"](), ss.VPSDE())
spoil = {"steps": 9, "batch_size": 16, "warmup": 2, "progress": False, "objective": spoilt(rank, 3)}
said["nan"] = outcome(lambda: ss.train(model, X, schedule="constant", shard=True, **spoil))
torch.save(model.state_dict(), own / "good")
said["after"] = outcome(lambda: run(data=X))
(own / "said.json").write_text(json.dumps(said))
run(data=X, shard=True, objective=spoilt(rank, 3, lambda: 1 / 0))
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    run(data=X, schedule="constant", steps=5, path=folder / "one.safetensors", save_every=4)
    (first, err), (second, other) = run_ranks(ON_A_RANK, 2, folder)
    # The last run fails on rank 1 in the network's call. Rank 0 does not wait for it.
    assert (first, second) == (1, 1), err + other
    assert "ZeroDivisionError" in other and "Connection closed" in err, err + other
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_halves_train_what_one_process_trains(ranks: Path, name: str) -> None:
    """Losses, weights and average, to rounding: gradients are added up in another order."""
    model, result = run(**RUNS[name])
    expected = model.state_dict(), result.model.state_dict(), result.ema.shadow
    rel, atol = (1e-2, 5e-3) if name == "bf16" else (1e-5, 1e-5)
    for rank in range(2):
        losses, *found, updates = torch.load(ranks / str(rank) / name)
        assert losses == pytest.approx(result.losses, rel=rel)
        assert updates == result.ema.num_updates
        for theirs, ours in zip(found, expected, strict=True):
            assert theirs.keys() == ours.keys()
            for key, value in ours.items():
                assert type(theirs[key]) in (Tensor, nn.Parameter)
                close = torch.allclose(theirs[key], value, atol=atol)
                assert close or key.endswith("mean"), key  # a rank's own batches


def test_the_ranks_agree_to_the_bit(ranks: Path) -> None:
    for name in RUNS:
        (_, *first, _), (_, *second, _) = (torch.load(ranks / str(r) / name) for r in range(2))
        for one, other in zip(first, second, strict=True):
            assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_rank_holds_half_of_each_block(ranks: Path) -> None:
    """Half of the rows of each weight, rounded up on rank 0; one at a time is collected whole."""
    blocks = ["", "levels.0.0", "levels.0.1", "levels.1.0", "levels.1.1"]
    assert said(ranks, "blocks") == [blocks, blocks]
    for rank, held in enumerate(said(ranks, "held")):
        assert all(here == (rows + 1 - rank) // 2 for here, rows in held.values())


@pytest.mark.parametrize("first", ["one", "two"])
def test_a_file_goes_on_at_two_halves(ranks: Path, first: str) -> None:
    """A file of one process, or of two halves."""
    whole = run(data=X, schedule="constant")[1].losses
    for losses in said(ranks, first):
        assert losses == pytest.approx(whole[5:], rel=1e-5)


@pytest.mark.parametrize("steps", [4, 5])
def test_a_file_of_two_halves_is_that_of_one_process(
    ranks: Path, tmp_path: Path, steps: int
) -> None:
    """The same tensors and manifest, to rounding; one process goes on from it.

    The file of 4 steps was written during a run of 5, as one that is killed leaves it.
    """
    path, own = tmp_path / "m.safetensors", ranks / "0" / f"{steps}.safetensors"
    run(data=X, schedule="constant", steps=steps, path=path)
    (manifest, tensors), (theirs, halves) = read(path), read(own)
    assert theirs == manifest and halves.keys() == tensors.keys()
    for key, value in tensors.items():
        assert torch.allclose(halves[key], value, atol=1e-5), key
    shutil.copy(own, path)
    losses = run(seed=5, data=X, schedule="constant", path=path, resume=True)[1].losses
    assert losses == pytest.approx(run(data=X, schedule="constant")[1].losses[steps:], rel=1e-5)


def test_a_folder_of_parts_goes_on_and_becomes_one_file(ranks: Path, tmp_path: Path) -> None:
    """Each rank wrote its half. Step 7 was cut short, and the two newest whole steps stay."""
    _, result = run(data=X, schedule="constant", net="own")
    for losses in said(ranks, "resumed"):
        assert losses == pytest.approx(result.losses[5:], rel=1e-5)
    steps = sorted(file.parent.name for file in ranks.glob("parts.dcp/*/manifest.json"))
    assert steps == ["step-6", "step-8"]
    files = sorted(ranks.glob("parts.dcp/step-8/shard-*"), key=lambda file: file.name)
    with safe_open(files[1], "pt") as half:
        assert half.get_slice("net/first.weight").get_shape() == [3, 3]  # of 7 rows
    path, folder = tmp_path / "one.safetensors", tmp_path / "five.dcp"
    shutil.copytree(ranks / "five.dcp", folder)
    ss.checkpoint.export(folder, path)
    own = tmp_path / "own.safetensors"
    run(data=X, schedule="constant", net="own", steps=5, path=own)
    (manifest, tensors), (theirs, parts) = read(own), read(path)
    assert theirs == manifest and parts.keys() == tensors.keys()
    for key, value in tensors.items():
        assert parts[key].dtype == value.dtype
        assert torch.allclose(parts[key], value, atol=1e-5) or key.endswith("mean"), key
    assert ss.checkpoint.read_manifest(folder) == manifest
    loaded = [ss.load(place, net=NETS["own"]()).state_dict() for place in (folder, path)]
    assert all(torch.equal(value, loaded[1][key]) for key, value in loaded[0].items())
    again = run(data=X, schedule="constant", net="own", path=path, resume=True)[1].losses
    assert again == pytest.approx(result.losses[5:], rel=1e-5)


def test_a_folder_that_cannot_be_used(ranks: Path, tmp_path: Path) -> None:
    """Other options, a flipped bit (which rank 1 looks at), a step that cannot be written."""
    for text in said(ranks, "five.dcp"):
        assert text.startswith("CheckpointError: expected the options of the run")
    first, second = said(ranks, "damaged.dcp")
    assert second.startswith("CheckpointError: expected a whole checkpoint") and "SHA-256" in second
    assert first.startswith("RankError: rank 1 of 2 failed: CheckpointError")
    for (warning,) in said(ranks, "full.dcp"):
        assert warning.startswith("step 2 was not saved: expected") and "full.dcp" in warning
    assert (ranks / "full.dcp" / "step-3" / "manifest.json").exists()
    with pytest.raises(ss.errors.CheckpointError, match="the SHA-256 of shard-00002"):
        ss.checkpoint.export(ranks / "damaged.dcp", tmp_path / "one.safetensors")
    (tmp_path / "empty.dcp").mkdir()
    with pytest.raises(ss.errors.CheckpointError, match="a whole checkpoint in the folder"):
        ss.load(tmp_path / "empty.dcp")
    with pytest.raises(ss.errors.IncompatibleError, match="shard=True for a folder"):
        run(data=X, path=tmp_path / "new.dcp")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("energy", "expected a network that does not differentiate itself"),
        ("scalar", "expected parameters with at least one dimension"),
        ("twice", "expected an objective that differentiates the network once"),
        ("parts", "expected as many samples on every rank for accumulate= with shard=True"),
        ("differ", "expected the same run on every rank"),
        ("compile", "expected shard=True or compile=True"),
    ],
)
def test_what_is_refused_on_both(ranks: Path, what: str, message: str) -> None:
    for text in said(ranks, what):
        assert text.startswith(f"IncompatibleError: {message}") and "\n" not in text


def test_a_sharded_model_is_validated(ranks: Path, tmp_path: Path) -> None:
    """Losses, best weights and their file are those of one process; training does not notice."""
    seen: list[Any] = []
    path = tmp_path / "held.safetensors"
    model, result = run(**HELD_OUT, path=path, callback=seen.append)
    found = said(ranks, "held out")[0]  # the callback is rank 0's
    losses = [step["validation_loss"] for step in seen]
    assert [loss is None for loss in found] == [loss is None for loss in losses]
    assert losses[2] is not None
    expected = [loss for loss in losses if loss is not None]
    assert [loss for loss in found if loss is not None] == pytest.approx(expected, rel=1e-5)
    assert result.best is not None
    for rank in range(2):
        losses, best, raw = torch.load(ranks / str(rank) / "best")
        assert losses == pytest.approx(result.losses, rel=1e-5)
        for key, value in result.best.state_dict().items():
            assert torch.allclose(best[key], value, atol=1e-5), key
            assert torch.allclose(raw[key], model.state_dict()[key], atol=1e-5), key
    (manifest, tensors), (theirs, halves) = (
        read(folder / "held.best.safetensors") for folder in (tmp_path, ranks)
    )
    lowest = manifest["info"].pop("validation_loss")
    assert theirs["info"].pop("validation_loss") == pytest.approx(lowest, rel=1e-5)
    assert theirs == manifest and halves.keys() == tensors.keys()
    for key, value in tensors.items():
        assert torch.allclose(halves[key], value, atol=1e-5), key
    assert said(ranks, "again") == ["done", "done"]


def test_a_rank_that_cannot_read_held_out_data_ends_all(ranks: Path) -> None:
    first, second = said(ranks, "failing")
    assert second.startswith("OSError: no such image")
    assert first.startswith("RankError: rank 1 of 2 failed: OSError")


def test_shards_need_a_process_group() -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="a process group for shard=True"):
        run(data=X, shard=True)


def test_a_diverged_run_leaves_the_last_good_weights(ranks: Path) -> None:
    first, second = said(ranks, "nan")
    assert second.startswith("DivergenceError: expected a finite loss")
    assert first.startswith("RankError: rank 1 of 2 failed: DivergenceError")
    model, _ = run(data=X, schedule="constant", steps=2)
    for rank in range(2):
        found = torch.load(ranks / str(rank) / "good")
        for key, value in model.state_dict().items():
            assert torch.allclose(found[key], value, atol=1e-5), key
    assert said(ranks, "after") == ["done", "done"]
