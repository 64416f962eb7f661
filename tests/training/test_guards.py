"""What cannot be saved is refused first; a save that fails loses nothing; SIGTERM saves."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sdescore as ss
from sdescore.checkpoint.store import read_manifest
from sdescore.training import data as data_module
from sdescore.training import guards
from sdescore.training.data import blocks
from tests.helpers import ROOT
from tests.helpers.training import Dropping, assert_same_file, cloud, make, run


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
    model = ss.ScoreModel(Dropping(), sde, sigma_data=np.float32(0.5), prediction="epsilon")
    run(model, tmp_path / "m.safetensors", steps=1)
    assert ss.load(tmp_path / "m.safetensors", net=Dropping()).sde == sde


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"callback": 3}, ss.errors.IncompatibleError, "callback"),
        ({"callback": lambda: 0}, ss.errors.IncompatibleError, r"callback\(x\)"),
        ({"transform": lambda x, y: x}, ss.errors.IncompatibleError, r"transform\(x\)"),
        ({"steps": 10**400}, ss.errors.ParameterError, "steps >= 1 and at most 9223"),
        ({"batch_size": 2**64}, ss.errors.ParameterError, "an integer batch_size"),
        ({"device": "cuda:99"}, ss.errors.ParameterError, "device"),
        ({"device": "meta"}, ss.errors.ParameterError, "device"),
        ({"lr": torch.tensor(0.1)}, ss.errors.ParameterError, r"lr.*\.item\(\)"),
        ({"lr": True}, ss.errors.ParameterError, "lr"),
        ({"progress": "no"}, ss.errors.ParameterError, "progress as True or False"),
        ({"resume": "no"}, ss.errors.ParameterError, "resume as True or False"),
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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in kilobytes")
def test_looking_at_the_data_takes_no_copy_of_it() -> None:
    """200 MB are looked at for NaN, and hashed, within 40 MB more."""
    code = """
import resource, torch
from sdescore.training.guards import source_of
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
model = ss.ScoreModel(Net(), ss.VPSDE(), "epsilon")
Net.__module__, Net.__qualname__ = Dropping.__module__, Dropping.__qualname__
run(model, Path(sys.argv[1]))
print("went on")
"""


@pytest.mark.slow
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


def test_a_run_with_nothing_else_said(tmp_path: Path) -> None:
    """What a model predicts by default decides the weight and the times; ε keeps its paper's."""
    wanted = {
        "F": ("EDM", "LogNormalTimes(stratified=True, mean=-1.49"),
        "epsilon": ("sigma2", "UniformTimes(stratified=False)"),
    }
    for prediction, (weighting, times) in wanted.items():
        path = tmp_path / f"{prediction}.safetensors"
        options = {} if prediction == "F" else {"prediction": prediction}
        model = ss.ScoreModel(ss.MLP(2, hidden=8), ss.VPSDE(), **options)
        assert model.options["time_input"] == ("quarter_log_sigma" if not options else "t")
        ss.train(model, cloud(), steps=1, path=path, progress=False)
        recorded = read_manifest(path)["training"]["options"]
        assert recorded["weighting"] == weighting and recorded["times"].startswith(times)


def test_times_of_an_sde_without_a_finite_log_snr_are_uniform() -> None:
    sde = ss.LinearSDE.from_marginal(lambda t: 1 - 0.5 * t, torch.clone, T=1.0, t_min=0.0)
    model = ss.ScoreModel(ss.MLP(2, hidden=8), sde)
    assert isinstance(guards.training_times(None, model, 2), ss.losses.UniformTimes)


@pytest.mark.parametrize(
    ("size", "median"), [(2, 0.2234), (10, 0.356), (64, 0.6065), (3072, 0.6065)]
)
def test_a_larger_sample_is_learned_at_more_noise(size: int, median: float) -> None:
    """The median of σ/α is 0.1827 size^0.29 σ_data, and no more than EDM's e^-0.5 σ_data."""
    for sigma_data in (1.0, 0.5):
        model = ss.ScoreModel(ss.MLP(2, hidden=8), ss.EDMSDE(), sigma_data=sigma_data)
        times = guards.training_times(None, model, size)
        t = times.sample(model.sde, 10_001, torch.Generator().manual_seed(0)).sort().values
        assert t[5000].item() == pytest.approx(median * sigma_data, rel=0.01)
        assert (t[8413] / t[5000]).log().item() == pytest.approx(1.2, rel=0.02)  # one deviation
