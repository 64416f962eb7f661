"""A run that was stopped goes on bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.checkpoint.container import write
from sdescore.checkpoint.store import read_manifest
from tests.helpers import ROOT
from tests.helpers.checkpoints import read
from tests.helpers.training import Dropping, assert_same_file, make, run


@pytest.mark.parametrize("stop", [1, 6, 7, 8, 29])
def test_resume_is_exact(tmp_path: Path, stop: int) -> None:
    run(make(), tmp_path / "whole.safetensors")

    def interrupt(seen: dict[str, Any]) -> None:
        if seen["step"] == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(make(), tmp_path / "parts.safetensors", callback=interrupt)
    assert read_manifest(tmp_path / "parts.safetensors")["training"]["step"] == stop
    ss.load(tmp_path / "parts.safetensors", net=Dropping())
    result = run(make(seed=99), tmp_path / "parts.safetensors", resume=True)
    assert result.step == 30 and len(result.losses) == 30 - stop
    assert_same_file(tmp_path / "whole.safetensors", tmp_path / "parts.safetensors")


@pytest.mark.parametrize("labels", [False, True])
def test_resume_again_and_again(tmp_path: Path, labels: bool) -> None:
    """One step a run, with stratified levels of a discrete SDE, labels and their dropout."""
    options: dict[str, Any] = {
        "times": ss.losses.LevelTimes(stratified=True),
        "weighting": "likelihood",
    }
    if labels:
        options |= {"labels": torch.arange(64) % 3, "label_dropout": 0.5}
    sde = ss.DiscreteVPSDE.linear(20)

    def model() -> ss.ScoreModel:
        torch.manual_seed(0)
        return ss.ScoreModel(Dropping(), sde, prediction="epsilon")

    run(model(), tmp_path / "whole.safetensors", steps=5, **options)

    def interrupt(seen: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            run(
                model(), tmp_path / "parts.safetensors", steps=5, resume=True, callback=interrupt,
                **options,
            )  # fmt: skip
    again = run(model(), tmp_path / "parts.safetensors", steps=5, resume=True, **options)
    assert again.losses == () and again.step == 5 and again.finished
    assert_same_file(tmp_path / "whole.safetensors", tmp_path / "parts.safetensors")


KILLS = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from pathlib import Path
from tests.helpers.training import make, run

folder = Path({folder!r})
options = dict(steps=60, save_every=1)
whole, parts = folder / "whole.safetensors", folder / "parts.safetensors"
began = time.monotonic()
run(make(), whole, **options)
duration = time.monotonic() - began

def child(before):
    pid = os.fork()
    if pid == 0:
        before()
        run(make(seed=7 if parts.exists() else 0), parts, resume=True, **options)
        os._exit(0)
    return pid

def die_in(name, call, after):
    def before():
        real, count = getattr(os, name), [0]
        def wrapped(*args):
            count[0] += 1
            if count[0] == call and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*args)
            if count[0] == call:
                os.kill(os.getpid(), signal.SIGKILL)
        setattr(os, name, wrapped)
    return before

# Inside a save: at the sync of the file or the directory, the second name, either rename.
killed = 0
for name, call in [("fsync", 3), ("fsync", 4), ("link", 2), ("replace", 4), ("replace", 5)]:
    for after in (False, True):
        _, status = os.waitpid(child(die_in(name, call, after)), 0)
        killed += os.WIFSIGNALED(status)
assert killed == 10, killed

# At any moment.
draw = random.Random(0)
for _ in range(8):
    pid = child(lambda: None)
    time.sleep(draw.uniform(0.02, 0.3) * duration)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

_, status = os.waitpid(child(lambda: None), 0)
assert status == 0, status
print("done")
"""


@pytest.mark.slow
@pytest.mark.guards("B12")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_sigkill_at_any_point_loses_no_bit(tmp_path: Path) -> None:
    """18 kills, 10 of them inside a save; the last resume ends in the uninterrupted run's bits."""
    code = KILLS.format(tests=str(ROOT), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "done" in done.stdout, done.stderr
    assert_same_file(tmp_path / "whole.safetensors", tmp_path / "parts.safetensors")
    assert {p.name for p in tmp_path.iterdir()} <= {
        f"{stem}{middle}.safetensors" for stem in ("whole", "parts") for middle in ("", ".previous")
    }


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_step_and_saves(tmp_path: Path) -> None:
    """A real SIGINT in the middle of a network call."""
    path = tmp_path / "m.safetensors"

    class Net(Dropping):
        def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
            if self.calls == 4:
                os.kill(os.getpid(), signal.SIGINT)
            return super().forward(x, c, label)

    model = ss.ScoreModel(Net(), ss.VPSDE(), prediction="epsilon")
    with pytest.raises(KeyboardInterrupt):
        run(model, path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert read_manifest(path)["training"]["step"] == 5
    ss.load(path, net=Net())


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    class Net(Dropping):
        def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
            if self.calls == 9:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            return super().forward(x, c, label)

    with pytest.raises(KeyboardInterrupt):
        run(ss.ScoreModel(Net(), ss.VPSDE(), prediction="epsilon"), tmp_path / "m.safetensors")
    assert read_manifest(tmp_path / "m.safetensors")["training"]["step"] == 7
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_somebody_elses_handler_stays(tmp_path: Path) -> None:
    def mine(*args: object) -> None: ...

    before = signal.signal(signal.SIGINT, mine)
    try:
        seen: list[object] = []
        run(make(), steps=1, callback=lambda *a: seen.append(signal.getsignal(signal.SIGINT)))
        assert seen == [mine]
    finally:
        signal.signal(signal.SIGINT, before)


def test_trains_outside_the_main_thread() -> None:
    results: list[ss.training.TrainingResult] = []
    thread = threading.Thread(target=lambda: results.append(run(make(), steps=2)))
    thread.start()
    thread.join()
    assert results[0].step == 2


def test_time_budget(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    result = run(make(), path, steps=10**7, max_seconds=0.3, schedule="constant")
    assert not result.finished and 0 < result.step < 10**7
    assert result.seconds > 0.3
    assert read_manifest(path)["training"]["step"] == result.step
    more = {"steps": result.step + 2, "schedule": "constant"}
    assert run(make(), path, resume=True, **more).step == result.step + 2


def test_resume_without_a_file_starts(tmp_path: Path) -> None:
    assert len(run(make(), tmp_path / "m.safetensors", resume=True).losses) == 30


def test_without_resume_the_file_is_replaced(tmp_path: Path) -> None:
    run(make(), tmp_path / "m.safetensors")
    assert len(run(make(), tmp_path / "m.safetensors").losses) == 30


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"lr": 1e-3}, "lr"),
        ({"seed": 1}, "seed"),
        ({"batch_size": 9}, "batch_size"),
        ({"times": ss.losses.UniformTimes(stratified=True)}, "times"),
        ({"weighting": "likelihood"}, "weighting"),
        ({"labels": torch.zeros(64, dtype=torch.int64)}, "labels"),
        ({"ema_decay": 0.8}, "decay"),
        ({"clip": None}, "clip"),
        ({"schedule": "constant"}, "schedule"),
        ({"transform": torch.nn.functional.tanh}, "transform"),
    ],
)
def test_resume_refuses_another_run(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    path = tmp_path / "m.safetensors"
    run(make(), path, steps=3)
    model = make(seed=4)
    with pytest.raises(ss.errors.CheckpointError, match=match):
        run(model, path, steps=3, resume=True, **change)
    assert torch.equal(model.net.body[0].weight, make(seed=4).net.body[0].weight)


def test_resume_refuses_another_model_or_no_training(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    run(make(), path, steps=3)
    for model in (
        ss.ScoreModel(Dropping(), ss.VESDE(), prediction="epsilon"),
        ss.ScoreModel(Dropping(), ss.VPSDE(), prediction="v"),
        ss.ScoreModel(ss.MLP(2), ss.VPSDE(), prediction="epsilon"),
    ):
        with pytest.raises(ss.errors.CheckpointError, match="of this model"):
            run(model, path, resume=True)
    manifest, tensors = read(path)
    write(path, tensors, {**manifest, "ema": {"decay": 0.9, "warmup": False}})
    with pytest.raises(ss.errors.CheckpointError, match="warmup"):
        run(make(), path, resume=True)
    ss.save(path, make())
    with pytest.raises(ss.errors.CheckpointError, match="resume=False"):
        run(make(), path, resume=True)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ss.errors.CheckpointError, match=r"previous\.safetensors"):
        run(make(), path, resume=True)


@pytest.mark.parametrize("what", ["missing", "shape", "dtype", "more"])
def test_resume_refuses_a_forged_optimiser(tmp_path: Path, what: str) -> None:
    path = tmp_path / "m.safetensors"
    run(make(), path, steps=3)
    manifest, tensors = read(path)
    name = "optim/body.0.bias/exp_avg"
    if what == "missing":
        del tensors[name]
    elif what == "more":
        tensors["optim/body.9.bias/exp_avg"] = torch.ones(1)
    else:
        tensors[name] = torch.ones(1) if what == "shape" else tensors[name].double()
    write(path, tensors, manifest)
    model = make(seed=4)
    with pytest.raises(ss.errors.CheckpointError, match="AdamW"):
        run(model, path, steps=3, resume=True)
    assert torch.equal(model.net.body[0].weight, make(seed=4).net.body[0].weight)
