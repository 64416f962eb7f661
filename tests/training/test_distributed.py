"""Two processes train what one trains, end together, and write one file."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import sdescore as ss
from sdescore.training.distributed import own_device
from tests.helpers.distributed import (
    RUNS,
    Read,
    X,
    run,
)
from tests.helpers.ranks import run_ranks, said

# What each of two ranks does; it writes its results to a folder of its own.
ON_A_RANK = """
import json
import os
import shutil
import signal

import sdescore as ss
from tests.helpers import ROOT
from tests.helpers.distributed import *
from tests.helpers.ranks import outcome

own, said, seen = folder / str(rank), {}, []
own.mkdir()
for name, options in RUNS.items():
    model, result = run(seed=rank, **options)
    best = result.best and result.best.state_dict()
    torch.save((result.losses, model.state_dict(), best), own / name)
    torch.save(result.model.state_dict(), own / f"{name}-average")

def called(values):
    seen.append(values)
    if len(seen) == 12:
        raise KeyError("callback")

one = {"data": X, "path": folder / "m.safetensors", "save_every": 4, "schedule": "constant"}
run(steps=10, callback=seen.append, validation=X[:20], **one)
said["callbacks"] = [[v["step"], v["validation_loss"]] for v in seen]
os.chdir(own)
run(data=X, steps=3, path="m.safetensors", validation=X[:20])
os.chdir(ROOT)
shutil.copy(folder / "m.safetensors", own / "ten.safetensors")
_, result = run(steps=15, resume=True, seed=rank, **one)
said["resumed"] = result.losses
seen.clear()
said["callback"] = outcome(lambda: run(data=X, steps=40, callback=called))
said["late"] = [run(data=X, steps=10**6, max_seconds=0.2 + 9 * rank)[1].finished]
said["transform"] = outcome(lambda: run(data=X, transform=transform(rank, 6, lambda: 1 / 0)))
said["nan"] = outcome(lambda: run(data=X, objective=spoilt(rank, 3)))
said["lr"] = outcome(lambda: run(data=X, lr=1e-3 + rank))
said["data"] = outcome(lambda: run(data=X + rank))
said["validation"] = outcome(lambda: run(data=X, validation=sharded(rank)))
wide = Labelled()
wide.register_buffer("wide", torch.ones(1).expand(3))
said["wide"] = outcome(lambda: ss.train(ss.ScoreModel(wide, ss.VPSDE()), X, progress=False))
said["small"] = outcome(lambda: run(data=X, batch_size=1))
said["empty"] = outcome(lambda: run(data=X[: N * (1 - rank)]))
seen.clear()
watched = lambda x: seen.append(x.clone()) or x
_, result = run(data=sharded(rank), batch_size=None, transform=watched, standardize=False, steps=14)
torch.save((seen, result.losses), own / "sharded")
_, result = run(data=iter([(X[9 * i :][:9],) for i in range(6)]), batch_size=None)
said["ended"] = [len(result.losses), result.finished]
seen.clear()
drawing = lambda x: seen.append(torch.rand(()).item()) or x
run(data=X, transform=drawing, steps=3)
said["drawn"] = seen[-3:]
read = Read()
run(data=read, steps=3, batch_size=7)
said["read"] = read.read
said["after"] = outcome(lambda: run(data=X))
(own / "said.json").write_text(json.dumps(said))
kill = lambda: signal.raise_signal(signal.SIGTERM)
one |= {"path": folder / "stop", "transform": transform(rank, 6, kill), "steps": 40}
end = outcome(lambda: run(**one))
(own / "end").write_text(end)
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    (status, err), (other, other_err) = run_ranks(ON_A_RANK, 2, folder)
    assert (status, other) == (0, -signal.SIGTERM), err + other_err
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_have_the_losses_and_the_weights_of_one(ranks: Path, name: str) -> None:
    """To rounding. The ranks began with other weights, and took those of rank 0."""
    model, one = run(**RUNS[name])
    parameters = dict(model.named_parameters())
    for rank in range(2):
        losses, weights, _ = torch.load(ranks / str(rank) / name)
        assert losses == pytest.approx(one.losses, rel=1e-5)
        for key, value in parameters.items():
            assert torch.allclose(weights[key], value, atol=1e-5), key


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_all_ranks_end_in_the_same_bits(ranks: Path, name: str) -> None:
    (losses, weights, best), (losses_1, weights_1, best_1) = (
        torch.load(ranks / str(rank) / name) for rank in range(2)
    )
    average, average_1 = (torch.load(ranks / str(rank) / f"{name}-average") for rank in range(2))
    assert losses == losses_1
    for a, b in ((weights, weights_1), (average, average_1), (best or {}, best_1 or {})):
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_rank_0_alone_writes_and_calls_back(ranks: Path) -> None:
    """Each rank trained in a folder of its own. The validation losses are those of one process."""
    files = {path.name for path in (ranks / "0").glob("m*.safetensors")}
    assert files == {"m.safetensors", "m.best.safetensors"}
    assert not list((ranks / "1").glob("m*.safetensors"))
    seen: list[Any] = []
    run(data=X, schedule="constant", steps=10, validation=X[:20], callback=seen.append)
    first, second = said(ranks, "callbacks")
    assert not second and [step for step, _ in first] == list(range(1, 11))
    assert first[-1][1] == pytest.approx(seen[-1]["validation_loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["two", "one"])
def test_a_file_of_two_processes_goes_on_as_one_run(
    ranks: Path, tmp_path: Path, where: str
) -> None:
    """On two processes or on one, to the losses of a run that nobody stopped."""
    options: dict[str, Any] = {"data": X, "schedule": "constant"}
    whole = run(**options)[1].losses
    if where == "two":
        assert all(
            losses == pytest.approx(whole[10:], rel=1e-5) for losses in said(ranks, "resumed")
        )
        return
    path = tmp_path / "m.safetensors"
    shutil.copy(ranks / "0" / "ten.safetensors", path)
    model, result = run(seed=5, path=path, resume=True, **options)
    assert result.losses == pytest.approx(whole[10:], rel=1e-5)
    for key, value in dict(run(**options)[0].named_parameters()).items():
        assert torch.allclose(dict(model.named_parameters())[key], value, atol=1e-5), key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "failing", "error"),
    [
        ("callback", 0, "KeyError: 'callback'"),
        ("transform", 1, "ZeroDivisionError: division by zero"),
        ("nan", 1, "DivergenceError: expected a finite loss"),
        ("empty", 1, "ShapeError: expected at least one sample"),
    ],
)
def test_a_failing_rank_ends_both(ranks: Path, what: str, failing: int, error: str) -> None:
    messages = said(ranks, what)
    assert messages[failing].startswith(error)
    assert messages[1 - failing].startswith(f"RankError: rank {failing} of 2 failed: {error}")
    assert said(ranks, "after") == ["done", "done"]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["lr", "data", "validation"])
def test_other_options_or_data_are_refused_on_both(ranks: Path, what: str) -> None:
    for message in said(ranks, what):
        assert message.startswith("IncompatibleError: expected the same run on every rank")
        assert f"got another {what} on rank 1 than on rank 0" in message


@pytest.mark.slow
def test_a_batch_has_a_sample_for_each_rank(ranks: Path) -> None:
    assert all("batch_size >= 2" in message for message in said(ranks, "small"))
    assert all("got 'wide' that expand() made" in message for message in said(ranks, "wide"))


@pytest.mark.slow
def test_one_clock_or_one_stream_that_ends_ends_both(ranks: Path) -> None:
    assert said(ranks, "late") == [[False], [False]]
    assert said(ranks, "ended") == [[6, False], [6, False]]


@pytest.mark.slow
def test_a_sharded_loader_gives_each_rank_its_own_batches(ranks: Path) -> None:
    """In each epoch of 6 steps the two ranks see every sample once, in another order."""
    seen = [torch.load(ranks / str(rank) / "sharded") for rank in range(2)]
    assert seen[0][1] == seen[1][1]
    # The first calls are of the measurement.
    steps = [torch.stack(batches[-14:]) for batches, _ in seen]
    epochs = [torch.cat([rows[6 * e : 6 * e + 6].flatten(0, 1) for rows in steps]) for e in (0, 1)]
    for epoch in epochs:
        assert torch.equal(epoch.sort(0).values, X.sort(0).values)
    assert not torch.equal(*epochs)


@pytest.mark.slow
def test_a_rank_reads_its_rows_of_the_batch_of_one_process(ranks: Path) -> None:
    one = Read()
    run(data=one, steps=3, batch_size=7)
    first, second = said(ranks, "read")
    assert (len(first), len(second)) == (len(one.read) - 12, len(one.read) - 9)
    steps = torch.tensor(first[-9:]).view(3, 3), torch.tensor(second[-12:]).view(3, 4)
    assert torch.cat(steps, 1).flatten().tolist() == one.read[-21:]


@pytest.mark.slow
def test_what_a_transform_draws_is_a_ranks_own(ranks: Path) -> None:
    """By seed, step and rank; rank 0's is that of one process."""
    seen: list[float] = []
    run(data=X, transform=lambda x: seen.append(torch.rand(()).item()) or x, steps=3)
    drawn = said(ranks, "drawn")
    assert drawn[0] == seen[-3:] and not set(drawn[0]) & set(drawn[1])


def test_a_gpu_is_that_of_the_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    own = own_device
    assert own(torch.device("cuda", 0)) == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert own(torch.device("cuda")) == own(torch.device("cuda", 0)) == torch.device("cuda", 3)
    assert own(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert own(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # as some launchers do
    assert own(torch.device("cuda")) == torch.device("cuda", 0)


@pytest.mark.slow
def test_a_signal_to_one_rank_saves_and_ends_both(ranks: Path) -> None:
    """Rank 1 ended by SIGTERM (the fixture looks); the step under way was not made."""
    assert (ranks / "0" / "end").read_text().startswith("RankError: another rank got Ctrl-C")
    assert not (ranks / "1" / "end").exists()
    step = ss.checkpoint.read_manifest(ranks / "stop")["training"]["step"]  # type: ignore[index]
    assert 3 <= step <= 6
