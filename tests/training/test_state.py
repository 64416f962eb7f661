"""A resume is of the same run, and the caller's settings change no bit."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.training.state import divergence
from tests.helpers.training import Dropping, assert_same_file, cloud, make, run


def labels(shift: int = 0) -> Tensor:
    return (torch.arange(64) + shift) % 3


@pytest.mark.guards("W07")
@pytest.mark.parametrize(
    ("data", "label", "match"),
    [
        (cloud(seed=1), labels(), "data"),
        (cloud().double(), labels(), "data"),
        (torch.cat([cloud()[:63], cloud()[:1]]), labels(), "data"),
        (cloud(), labels(1), "labels"),
        (cloud(), None, "labels"),
    ],
)
def test_other_data_of_the_same_shape(
    tmp_path: Path, data: Tensor, label: Tensor | None, match: str
) -> None:
    path = tmp_path / "m.safetensors"
    options: dict[str, Any] = {"steps": 3, "batch_size": 8, "progress": False, "path": path}
    ss.train(make(), cloud(), labels=labels(), **options)
    with pytest.raises(ss.errors.CheckpointError, match=f"first {match}: .*Pass the"):
        ss.train(make(), data, labels=label, resume=True, **options)
    whole = ss.train(make(), cloud(), labels=labels(), resume=True, **options)
    assert whole.step == 3


@pytest.mark.guards("W07")
def test_the_cosine_schedule_is_part_of_the_run(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    run(make(), path, steps=15)
    with pytest.raises(ss.errors.CheckpointError, match=r'final one from the start.*"constant"'):
        run(make(), path, steps=40, resume=True)


def test_a_run_of_constant_rate_can_be_prolonged(tmp_path: Path) -> None:
    run(make(), tmp_path / "whole.safetensors", steps=40, schedule="constant")
    run(make(), tmp_path / "parts.safetensors", steps=15, schedule="constant")
    again = run(make(1), tmp_path / "parts.safetensors", steps=40, schedule="constant", resume=True)
    assert len(again.losses) == 25
    assert_same_file(tmp_path / "whole.safetensors", tmp_path / "parts.safetensors")


# The caller's settings.


def default_dtype(dtype: torch.dtype) -> Callable[[], None]:
    return lambda: torch.set_default_dtype(dtype)


SETTINGS: dict[str, Callable[[], Any]] = {
    "float64": default_dtype(torch.float64),
    "bfloat16": default_dtype(torch.bfloat16),
    "meta": lambda: torch.set_default_device("meta"),
}


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "device": lambda: torch.device("meta"),
}


@pytest.fixture
def settings() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("name", [*SETTINGS, *CONTEXTS])
def test_the_callers_settings_change_no_bit(tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {"labels": labels(), "label_dropout": 0.3}
    whole, model, data = run(make(), **options), make(), cloud()
    path = tmp_path / "m.safetensors"

    def train(**more: Any) -> ss.training.TrainingResult:
        settings = {"steps": 30, "batch_size": 8, "warmup": 4, "save_every": 7, "ema_decay": 0.9}
        return ss.train(model, data, progress=False, path=path, **options, **settings, **more)

    if name in SETTINGS:
        SETTINGS[name]()
        result = train()
        assert train(resume=True).losses == ()
    else:
        with CONTEXTS[name]():
            result = train()
            assert train(resume=True).losses == ()
    assert result.losses == whole.losses
    for a, b in zip(result.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_data_made_under_inference_mode() -> None:
    with torch.inference_mode():
        data = cloud()
        net = Dropping()
    assert ss.train(make(), data, steps=2, progress=False).step == 2
    with pytest.raises(ss.errors.IncompatibleError, match="inference_mode"):
        ss.train(
            ss.ScoreModel(net, ss.VPSDE(), prediction="epsilon"), data, steps=2, progress=False
        )


def test_threads_leave_the_global_generator_and_each_other_alone() -> None:
    """Four runs with dropout at once, each with the losses that it has alone."""
    alone = [run(make(seed), seed=seed).losses for seed in range(4)]
    models = [make(seed) for seed in range(4)]
    together: dict[int, tuple[float, ...]] = {}

    def work(seed: int) -> None:
        together[seed] = run(models[seed], seed=seed).losses

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [together[seed] for seed in range(4)] == alone


def test_a_run_gives_no_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(make(), tmp_path / "m.safetensors", steps=3)
        run(make(), tmp_path / "m.safetensors", steps=3, resume=True)
        ss.load(tmp_path / "m.safetensors", net=Dropping())


def test_a_diverged_step_names_its_first_bad_sample() -> None:
    """Its time; and the index of every one, in order."""
    losses, t = torch.tensor([1.0, math.nan, 2.0, math.inf]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    error = divergence(7, math.nan, losses, t, torch.tensor([40, 30, 20, 10]), None)
    assert error.step == 7 and error.t == pytest.approx(0.2) and error.samples == [10, 30]
    error = divergence(7, 2.0, torch.tensor([1.0, 3.0]), t[:2], torch.tensor([40, 30]), None)
    assert error.t == pytest.approx(0.2) and error.samples == []
