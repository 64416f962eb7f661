"""Refusals of the training room."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sdescore as ss
from tests.helpers import ROOT
from tests.helpers.training import Dropping, cloud, make, run


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"data": torch.zeros(4, 2, dtype=torch.int64)},
            ss.errors.ShapeError,
            "data in floating point",
        ),
        ({"data": torch.zeros(0, 2)}, ss.errors.ShapeError, "at least one sample"),
        ({"data": torch.tensor([[math.nan, 0.0]])}, ss.errors.ParameterError, "finite data"),
        ({"data": [[0.0]]}, ss.errors.ShapeError, "torch.Tensor"),
        ({"steps": 0}, ss.errors.ParameterError, "steps >= 1"),
        ({"steps": 2.0}, ss.errors.ParameterError, "steps >= 1"),
        ({"batch_size": 0}, ss.errors.ParameterError, "batch_size"),
        ({"lr": 0.0}, ss.errors.ParameterError, "lr"),
        ({"lr": math.inf}, ss.errors.ParameterError, "lr"),
        ({"schedule": "linear"}, ss.errors.ParameterError, "constant, cosine"),
        ({"warmup": -1}, ss.errors.ParameterError, "warmup"),
        ({"weight_decay": -1.0}, ss.errors.ParameterError, "weight_decay"),
        ({"clip": 0.0}, ss.errors.ParameterError, "clip"),
        ({"ema_decay": 1.0}, ss.errors.ParameterError, "decay"),
        ({"seed": 0.5}, ss.errors.ParameterError, "seed"),
        ({"max_seconds": 0}, ss.errors.ParameterError, "max_seconds"),
        ({"save_every": 0}, ss.errors.ParameterError, "save_every"),
        ({"resume": True}, ss.errors.IncompatibleError, "path="),
        ({"path": "/"}, ss.errors.IncompatibleError, "path="),
        ({"weighting": "none"}, ss.errors.IncompatibleError, "weighting"),
        ({"times": ss.losses.LevelTimes()}, ss.errors.IncompatibleError, "LevelTimes"),
        ({"label_dropout": 0.1}, ss.errors.IncompatibleError, "labels="),
        ({"label_dropout": 1.5}, ss.errors.ParameterError, "label_dropout"),
        ({"labels": torch.zeros(64)}, ss.errors.ShapeError, "int64"),
        (
            {"labels": torch.zeros(63, dtype=torch.int64)},
            ss.errors.ShapeError,
            "one label per sample",
        ),
        ({"labels": torch.full((64,), 3)}, ss.errors.ShapeError, "labels in 0 … 2"),
        ({"labels": torch.full((64,), -1)}, ss.errors.ShapeError, "labels in 0 … 2"),
    ],
)
def test_bad_input_is_refused_before_the_network(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    model = make()
    with pytest.raises(error, match=match):
        ss.train(model, **{"data": cloud(), "steps": 2, "progress": False, **options})
    assert model.net.calls == 0


@pytest.mark.parametrize(
    "model",
    [
        lambda x, t: x,
        ss.ScoreModel(lambda x, c: x, ss.VPSDE(), prediction="epsilon"),
        ss.ScoreModel(nn.Identity(), ss.VPSDE(), prediction="epsilon"),
    ],
)
def test_only_trainable_models_are_trained(model: Any) -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="expected"):
        ss.train(model, cloud(), steps=1, progress=False)


def test_a_wrapped_model_is_refused_by_its_name() -> None:
    with pytest.raises(ss.errors.IncompatibleError, match=r"got DataParallel; pass its \.module"):
        ss.train(nn.DataParallel(make()), cloud(), steps=1, progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["objective", "optimizer", "path", "validation", "info"])
def test_a_refused_run_leaves_the_model_without_a_scale(tmp_path: Path, bad: str) -> None:
    """What was measured is set when everything was accepted, so that other data can follow."""
    options: dict[str, Any] = {
        "objective": {"objective": 3},
        "optimizer": {"optimizer": lambda p: 3},
        "path": {"path": tmp_path},
        "validation": {"validation": iter([cloud()])},
        "info": {"info": {"x": object()}, "path": tmp_path / "m.safetensors"},
    }
    model = make()
    with pytest.raises(ss.errors.SDEScoreError):
        ss.train(model, cloud(), steps=1, progress=False, **options[bad])
    assert model.data_scale.plain and not model.label_required
    ss.train(model, cloud() + 7, steps=1, progress=False)
    assert model.data_scale.mean == pytest.approx((8, 8), abs=0.2)  # not the first data's 1


def test_label_dropout_needs_a_null_label() -> None:
    model = ss.ScoreModel(ss.MLP(2), ss.VPSDE(), prediction="epsilon")
    labels = torch.zeros(64, dtype=torch.int64)
    with pytest.raises(ss.errors.IncompatibleError, match=r"config\[.classes.\] or null_condition"):
        ss.train(model, cloud(), labels=labels, label_dropout=0.1, steps=1, progress=False)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_model_says_whether_it_was_trained_without_labels(tmp_path: Path, dropout: float) -> None:
    """What it does without one is untrained where none was dropped; a checkpoint keeps that."""
    model, path = make(), tmp_path / "m.safetensors"
    labels = torch.arange(64) % 3
    run(model, path, steps=2, labels=labels, label_dropout=dropout)
    sampler = ss.PredictorCorrector(model.sde, predictor=ss.ReverseDiffusion(), steps=2)
    for trained in (model, ss.load(path, net=Dropping())):
        assert trained.label_required == (dropout == 0)
        assert sampler.sample(trained, (3, 2), label=labels[:3]).isfinite().all()
        if dropout == 0:
            with pytest.raises(ss.errors.IncompatibleError, match="label_dropout"):
                sampler.sample(trained, (3, 2))
    resumed = make()
    run(resumed, path, steps=2, labels=labels, label_dropout=dropout, resume=True)
    assert resumed.label_required == (dropout == 0)


def test_a_model_trained_without_labels_refuses_one(tmp_path: Path) -> None:
    """Its network takes a third argument, whose embedding no step has trained."""
    model, path = make(), tmp_path / "m.safetensors"
    run(model, path, steps=2)
    sampler, label = ss.PredictorCorrector(model.sde, steps=2), torch.zeros(3, dtype=torch.int64)
    for trained in (model, ss.load(path, net=Dropping())):
        assert sampler.sample(trained, (3, 2)).isfinite().all()
        with pytest.raises(ss.errors.IncompatibleError, match="trained without labels"):
            sampler.sample(trained, (3, 2), label=label)
    run(model, tmp_path / "again.safetensors", steps=1, labels=torch.arange(64) % 3)
    assert sampler.sample(model, (3, 2), label=label).isfinite().all()


DYING = """
import os
import signal
import torch
import sdescore as ss
from torch.utils.data import DataLoader, Dataset, get_worker_info

class Dying(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        if index >= 48 and get_worker_info() is not None:
            os._exit(1)
        return torch.full((2,), float(index))

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
model = ss.ScoreModel(ss.MLP(2), ss.VPSDE())
ss.train(model, DataLoader(Dying(), batch_size=8, num_workers=1), steps=20, progress=False)
"""


@pytest.mark.slow
def test_a_worker_process_that_dies_is_told_in_one_line() -> None:
    """In a process of its own, where the signal is blocked: torch's handler raises anywhere."""
    done = subprocess.run([sys.executable, "-c", DYING], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    # The last words are ours or, if torch saw the death first, torch's.
    assert re.search(r"Error: .*worker.*(num_workers=0|exited)", done.stderr), done.stderr


@pytest.mark.parametrize("error", [ConnectionResetError, EOFError])
def test_a_batch_that_a_dead_worker_began_to_send(error: type[Exception]) -> None:
    """Torch hands over the error of the pipe, and which one depends on what was sent."""

    def batches() -> Iterator[torch.Tensor]:
        yield torch.zeros(8, 2)
        raise error

    with pytest.raises(ss.errors.IncompatibleError, match=r"one that died.*num_workers=0"):
        ss.train(make(), batches(), steps=3, progress=False)


def test_batches_with_another_number_of_features_are_refused() -> None:
    batches = [torch.zeros(8, 2), torch.zeros(8, 3)]
    with pytest.raises(ss.errors.ShapeError, match=r"one number of features; got \(2, 3\)"):
        ss.train(make(), batches, steps=3, progress=False)
