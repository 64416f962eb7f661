"""What is refused before the first step, what survives a failed save, and whose settings stay."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.checkpoint.store import read_manifest
from sdescore.training import data as data_module
from sdescore.training.data import blocks, fingerprint
from tests.helpers import ROOT
from tests.helpers.training import Dropping, assert_same_file, cloud, make, run

# What cannot be saved is refused before the first step.


@pytest.mark.parametrize(
    ("info", "error"),
    [
        ([1], ss.errors.IncompatibleError),
        ({"x": object()}, ss.errors.CheckpointError),
        ({"x": float("nan")}, ss.errors.CheckpointError),
        ({"x": torch.ones(1)}, ss.errors.CheckpointError),
    ],
)
def test_notes_that_cannot_be_saved(tmp_path: Path, info: Any, error: type[Exception]) -> None:
    model = make()
    with pytest.raises(error):
        run(model, tmp_path / "m.safetensors", info=info)
    assert model.net.calls == 0 and not list(tmp_path.iterdir())


def test_a_network_that_cannot_be_saved(tmp_path: Path) -> None:
    model = make()
    model.net.register_buffer("odd", torch.ones(2, dtype=torch.complex64))
    with pytest.raises(ss.errors.CheckpointError, match="net/odd"):
        run(model, tmp_path / "m.safetensors")
    assert model.net.calls == 0
    run(model, steps=1)  # without a file nothing is asked of it


def test_numpy_scalars_are_numbers(tmp_path: Path) -> None:
    """A run with them is the run with Python's, in the file too."""
    options = {
        "lr": np.float32(0.5), "batch_size": np.int64(8), "warmup": np.int32(4), "seed": np.int8(3),
        "clip": np.float16(0.5), "weight_decay": np.float64(0.25), "steps": np.int64(9),
    }  # fmt: skip
    run(make(), tmp_path / "a.safetensors", **options)
    plain = {name: value.item() for name, value in options.items()}
    run(make(), tmp_path / "b.safetensors", **plain)
    assert_same_file(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert run(make(), tmp_path / "a.safetensors", resume=True, **plain).losses == ()


def test_a_model_of_numpy_numbers_is_saved(tmp_path: Path) -> None:
    sde = ss.VPSDE(beta_min=np.float32(0.125), beta_max=np.int64(20))
    model = ss.ScoreModel(Dropping(), sde, sigma_data=np.float32(0.5))
    run(model, tmp_path / "m.safetensors", steps=1)
    assert ss.load(tmp_path / "m.safetensors", net=Dropping()).sde == sde


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"callback": 3}, ss.errors.IncompatibleError, "callback"),
        ({"device": "cuda:99"}, ss.errors.ParameterError, "device"),
        ({"device": "meta"}, ss.errors.ParameterError, "device"),
        ({"lr": torch.tensor(0.1)}, ss.errors.ParameterError, r"lr.*\.item\(\)"),
        ({"lr": True}, ss.errors.ParameterError, "lr"),
        ({"times": 1}, ss.errors.IncompatibleError, "times"),
        ({"ema_decay": "0.9"}, ss.errors.ParameterError, "ema_decay"),
    ],
)
def test_options_refused_before_the_first_step(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    model = make()
    with pytest.raises(error, match=match):
        run(model, **options)
    assert model.net.calls == 0


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in kilobytes")
def test_looking_at_the_data_takes_no_copy_of_it() -> None:
    """200 MB are looked at for NaN, and hashed, within 40 MB more."""
    code = """
import resource, torch
from sdescore.training.data import source_of
data = torch.randn(50_000, 1000)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source_of(data[:100], None, None, "data").record(); before = peak()
source_of(data, None, None, "data").record()
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert int(done.stdout) < 40_000


@pytest.mark.parametrize("where", [0, 30, 63])
def test_nan_is_found_in_every_block(monkeypatch: pytest.MonkeyPatch, where: int) -> None:
    monkeypatch.setattr(data_module, "BLOCK", 40)
    data = cloud()
    assert [len(block) for block in blocks(data)] == [5] * 12 + [4]
    assert torch.equal(torch.cat(list(blocks(data))), data)
    data[where, 1] = torch.nan
    with pytest.raises(ss.errors.ParameterError, match="finite data"):
        ss.train(make(), data, steps=1, progress=False)


# A save that fails.


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], None]]:
    """``full_disk(a, b)``: the saves number a … b − 1 from now on find no room."""
    real, count, span = os.fsync, [0], [0, 0]

    def sync(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            return real(handle)
        count[0] += 1
        if span[0] <= count[0] < span[1]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle)

    monkeypatch.setattr(os, "fsync", sync)

    def set_span(a: int, b: int) -> None:
        count[0], span[:] = 0, [a, b]

    yield set_span


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_save_that_fails_in_between_is_made_up_for(
    tmp_path: Path, full_disk: Callable[[int, int], None]
) -> None:
    run(make(), tmp_path / "whole.safetensors")
    full_disk(2, 4)
    with pytest.warns(RuntimeWarning, match=r"step (14|21) was not saved.*No space"):
        result = run(make(), tmp_path / "parts.safetensors")
    assert result.finished
    assert_same_file(tmp_path / "whole.safetensors", tmp_path / "parts.safetensors")


@pytest.mark.guards("W03")
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_last_save_that_fails_leaves_the_result(
    tmp_path: Path, full_disk: Callable[[int, int], None]
) -> None:
    path, whole = tmp_path / "m.safetensors", run(make())
    full_disk(5, 100)
    with pytest.warns(RuntimeWarning), pytest.raises(ss.errors.CheckpointError) as caught:
        run(make(), path)
    result = caught.value.result
    assert isinstance(result, ss.training.TrainingResult) and result.step == 30
    assert result.losses == whole.losses and isinstance(caught.value.__cause__, OSError)
    for a, b in zip(result.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert read_manifest(path)["training"]["step"] == 28
    assert not list(tmp_path.glob(".*"))
    full_disk(0, 0)
    ss.save(path, result.model, ema=result.ema)


# SIGTERM.

TERMINATED = """
import os, signal, sys, torch
from pathlib import Path
import sdescore as ss
from tests.helpers.training import Dropping, run

class Net(Dropping):
    def forward(self, x, c, label=None):
        if self.calls == {call}:
            for _ in range({times}):
                os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(x, c, label)

torch.manual_seed(0)
model = ss.ScoreModel(Net(), ss.VPSDE())
Net.__module__, Net.__qualname__ = Dropping.__module__, Dropping.__qualname__
run(model, Path(sys.argv[1]))
print("went on")
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM")
@pytest.mark.parametrize(("call", "times", "saved"), [(4, 1, 5), (9, 2, 7)])
def test_sigterm_saves_and_then_ends_the_process(
    tmp_path: Path, call: int, times: int, saved: int
) -> None:
    """In the middle of a network call; the second one does not wait for the step's end."""
    path = tmp_path / "m.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", TERMINATED.format(call=call, times=times), path],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == -signal.SIGTERM and done.stdout == "", done.stderr
    assert read_manifest(path)["training"]["step"] == saved
    run(make(), tmp_path / "whole.safetensors")
    run(make(seed=9), path, resume=True)
    assert_same_file(tmp_path / "whole.safetensors", path)


def test_handlers_are_put_back() -> None:
    def mine(*args: object) -> None: ...

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        run(make(), steps=1)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        signal.signal(signal.SIGTERM, mine)
        seen: list[object] = []
        run(make(), steps=1, callback=lambda *a: seen.append(signal.getsignal(signal.SIGTERM)))
        assert seen == [mine] and signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


# A resume is of the same run.


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


def test_fingerprints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the values, however they lie in memory; of a large set, of parts all over it."""
    data = torch.randn(1000, 3, 4)
    first = fingerprint(data)
    assert first["shape"] == [1000, 3, 4] and first["dtype"] == "float32"
    view = data.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not view.is_contiguous() and fingerprint(view) == first
    monkeypatch.setattr(data_module, "PART", 7 * 48)  # how it is read changes nothing
    assert fingerprint(data) == first
    monkeypatch.setattr(data_module, "HASHED_WHOLE", 1000)
    monkeypatch.setattr(data_module, "PARTS", 5)
    large = fingerprint(data)
    for where, same in ((0, False), (999, False), (497, False), (100, True)):
        other = data.clone()
        other[where, 1, 1] += 1
        assert (fingerprint(other) == large) is same, where
    for dtype in (torch.bfloat16, torch.float64, torch.int64):
        assert fingerprint(data.to(dtype))["sha256"] != first["sha256"]
    assert fingerprint(torch.ones(5))["shape"] == [5]


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
        ss.train(ss.ScoreModel(net, ss.VPSDE()), data, steps=2, progress=False)


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
