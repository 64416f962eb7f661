"""``sample --out FOLDER``, by one process and under torchrun."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor, distributed

import sdescore as ss
from sdescore.__main__ import main
from tests.helpers import ROOT

N = 600


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    net = ss.MLP(2, hidden=8)
    for p in net.parameters():  # the last layer is zero when made
        torch.nn.init.normal_(p, std=0.1)
    path = tmp_path / "m.safetensors"
    ss.save(path, ss.ScoreModel(net, ss.VPSDE(), prediction="epsilon"), info={"event_shape": [2]})
    return path


def arguments(checkpoint: Path, out: Path) -> list[str]:
    rest = ["--steps", "4", "--predictor", "ddim", "--corrector", "none", "--seed", "3"]
    return ["sample", str(checkpoint), "-n", str(N), *rest, "--out", str(out)]


def read(folder: Path) -> Tensor:
    shards = [numpy.load(path) for path in sorted(folder.glob("*.npy"))]
    return torch.from_numpy(numpy.concatenate(shards))


def by_hand(checkpoint: Path) -> Tensor:
    model = ss.load(checkpoint)
    sampler = ss.PredictorCorrector(model.sde, predictor=ss.DDIM(), steps=4)
    return sampler.sample(model, (N, 2), seed=3)


def test_a_file_of_a_run_knows_its_shape_and_draws_a_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run without notes: its event shape. A class is that of every sample."""
    x, path, out = torch.randn(40, 2), tmp_path / "m.safetensors", tmp_path / "x.npy"
    labels, model = torch.arange(40) % 3, ss.ScoreModel(ss.MLP(2, hidden=8, classes=3), ss.VPSDE())
    options = {"steps": 3, "lr": 0.1, "warmup": 0, "progress": False, "path": path}
    ss.train(model, x, labels=labels, **options)
    call = arguments(path, out)
    assert main(call) == 2 and "label" in capsys.readouterr().err
    assert main([*call, "--label", "2"]) == 0
    trained = ss.load(path)
    sampler = ss.PredictorCorrector(trained.sde, predictor=ss.DDIM(), steps=4)
    label = torch.full((N,), 2)
    expected = sampler.sample(trained, (N, 2), seed=3, label=label, max_batch=256)
    assert torch.equal(torch.from_numpy(numpy.load(out)), expected)
    assert not torch.equal(expected, sampler.sample(trained, (N, 2), seed=3, label=label - 1))
    assert main([*call, "--label", "3"]) == 2  # which means no label


@pytest.mark.slow
def test_two_processes_write_a_folder_that_one_goes_on_with(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "many"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, "-m", "sdescore", *arguments(checkpoint, folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{N} samples in {folder}"]  # one rank says it
    assert len(list(folder.glob("*.npy"))) == 3
    x, whole = by_hand(checkpoint), read(folder)
    assert (whole - x).abs().max() <= 1e-5 * x.abs().max()
    (folder / "samples-000000000256.npy").unlink()
    assert main(arguments(checkpoint, folder)) == 0
    assert (read(folder) - x).abs().max() <= 1e-5 * x.abs().max()
    assert main([*arguments(checkpoint, folder), "--seed", "4"]) == 2
    assert "one of others, by seed: 3, not 4" in capsys.readouterr().err


def test_what_torchrun_says_makes_a_group(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_PORT": port}
    for name, value in {**said, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, str(value))
    groups = []
    begin = distributed.init_process_group
    monkeypatch.setattr(
        distributed, "init_process_group", lambda name: (groups.append(name), begin(name))
    )
    out = tmp_path / "x.npy"
    assert main([*arguments(checkpoint, out), "--max-batch", "1000"]) == 0
    assert groups == ["gloo"] and not distributed.is_initialized()
    assert torch.equal(torch.from_numpy(numpy.load(out)), by_hand(checkpoint))
