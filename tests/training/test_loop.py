"""Training: it learns, it stops and resumes to the bit, and it refuses what it cannot use."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.checkpoint.container import write
from sdescore.checkpoint.store import read_manifest
from sdescore.training.guards import Recipe
from sdescore.training.loop import step_seed
from tests.helpers import ROOT
from tests.helpers.checkpoints import read
from tests.helpers.training import Dropping, assert_same_file, cloud, make, run

# It learns.


def test_finds_the_score_of_a_gaussian() -> None:
    """A linear network's optimum is known; the loss nears its closed-form minimum."""
    sde, mean, std = ss.VPSDE(), 1.0, 0.5
    model = ss.ScoreModel(ss.MLP(2, hidden=32, depth=2), sde, time_input="log_snr")
    data = mean + std * torch.randn(4000, 2, generator=torch.Generator().manual_seed(1))
    result = ss.train(model, data, steps=800, progress=False, lr=5e-3, ema_decay=0.99)
    exact = ss.GaussianScore(torch.full((2,), mean), std**2 * torch.eye(2), sde)

    generator = torch.Generator().manual_seed(2)
    x0 = mean + std * torch.randn(20_000, 2, generator=generator)
    noise = torch.randn(20_000, 2, generator=generator)
    t = ss.losses.UniformTimes().sample(sde, 20_000, generator)
    with torch.no_grad():
        learned = ss.denoising_loss(result.model, x0, t=t, noise=noise).mean.item()
        least = ss.denoising_loss(exact, x0, t=t, noise=noise).mean.item()
        zero = ss.denoising_loss(lambda x, t: 0 * x, x0, t=t, noise=noise, sde=sde).mean.item()
    assert least < learned < least + 0.03 * (zero - least)
    assert result.finished and result.step == 800 and len(result.losses) == 800
    assert sum(result.losses[-100:]) / 100 == pytest.approx(least, rel=0.15)


def test_labels_are_learned() -> None:
    """Two classes at ±2: with the label the mean is known, without it the null label's is 0."""
    sde = ss.VPSDE()
    torch.manual_seed(0)
    net = ss.MLP(1, hidden=32, depth=2, classes=2)
    model = ss.ScoreModel(net, sde, prediction="x0", time_input="log_snr")
    labels = torch.arange(400) % 2
    data = (4.0 * labels - 2.0)[:, None] + 0.05 * torch.randn(400, 1)
    result = ss.train(
        model, data, labels=labels, label_dropout=0.3, steps=400, progress=False, ema_decay=0.98
    )
    x = torch.randn(200, 1)
    means = [result.model.denoise(x, 1.0, torch.full((200,), y)).mean().item() for y in (0, 1, 2)]
    assert means == pytest.approx([-2.0, 2.0, 0.0], abs=0.3)


def test_the_step_is_adamw_on_the_clipped_gradient() -> None:
    """Three steps of the documented recipe, written out again."""
    ours, theirs = make(), make()
    for model in (ours, theirs):
        model.net.body[2].p = 0.0
    options = {"lr": 0.02, "warmup": 2, "clip": 0.05, "weight_decay": 0.1, "batch_size": 8}
    result = ss.train(ours, cloud(), steps=3, seed=5, progress=False, ema_decay=0.5, **options)

    net, sde = theirs.net, theirs.sde
    parameters = [*net.body.parameters(), net.unused]
    optimizer = torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.1)
    ema = ss.EMA(net, 0.5)
    losses = []
    for n in range(3):
        generator = torch.Generator().manual_seed((5 * 0x9E3779B1 + n) % 2**32)
        x0 = cloud()[torch.randint(64, (8,), generator=generator)]
        t = 1e-3 + (1 - 1e-3) * torch.rand(8, generator=generator, dtype=torch.float64)
        z = torch.randn(8, 2, generator=generator)
        output = theirs.epsilon(sde.perturb(x0, t, z), t)
        loss = 0.5 * (output - z).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in net.body.parameters()]).norm()
        assert norm > 0.05
        for p in net.body.parameters():
            p.grad.mul_(0.05 / (norm + 1e-6))
        factor = (n + 1) / 3 if n < 2 else 1.0
        optimizer.param_groups[0]["lr"] = 0.02 * factor * (1 + math.cos(math.pi * n / 3)) / 2
        optimizer.step()
        ema.update(net)
        losses.append(loss.item())
    assert result.losses == pytest.approx(losses, rel=1e-5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    ema.copy_to(net)
    for a, b in zip(result.model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_the_result_holds_the_average_and_the_model_the_raw_weights(tmp_path: Path) -> None:
    model = make()
    result = run(model, tmp_path / "m.safetensors")
    raw = ss.load(tmp_path / "m.safetensors", weights="raw", net=Dropping())
    averaged = ss.load(tmp_path / "m.safetensors", net=Dropping())
    assert torch.equal(raw.net.body[0].weight, model.net.body[0].weight)
    assert torch.equal(averaged.net.body[0].weight, result.model.net.body[0].weight)
    assert torch.equal(result.ema.shadow["body.0.weight"], averaged.net.body[0].weight)
    assert not torch.equal(raw.net.body[0].weight, averaged.net.body[0].weight)
    assert not result.model.training and model.net.training
    assert torch.equal(model.net.frozen, torch.ones(2))


def test_trains_in_training_mode_and_gives_the_mode_back() -> None:
    modes: list[bool] = []
    model = make().eval()
    run(model, steps=2, callback=lambda step, loss: modes.append(model.net.body[2].training))
    assert modes == [True, True] and not model.net.training


def recipe(**options: Any) -> Recipe:
    defaults: dict[str, Any] = {
        "label_dropout": 0, "weighting": "sigma2", "times": "UniformTimes()", "batch_size": 8,
        "lr": 1.0, "schedule": "constant", "warmup": 0, "weight_decay": 0, "clip": None,
        "ema_decay": 0, "seed": 0,
    }  # fmt: skip
    return Recipe(**defaults | options)


def test_learning_rate() -> None:
    constant = [recipe(warmup=3).learning_rate(n, 10) for n in range(10)]
    assert constant == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 7)
    cosine = [recipe(lr=2.0, schedule="cosine").learning_rate(n, 10) for n in range(10)]
    assert cosine == pytest.approx([1 + math.cos(math.pi * n / 10) for n in range(10)])


def test_step_seeds_are_far_apart() -> None:
    """No two of 1,000 seeds and two domains share a step's seed within a million steps."""
    starts = sorted(step_seed(s, 0, d) for s in range(1000) for d in (0, 1))
    gaps = [b - a for a, b in zip(starts, [*starts[1:], starts[0] + 2**32], strict=True)]
    assert min(gaps) > 10**6
    assert step_seed(3, 17) - step_seed(3, 0) == 17


# Randomness.


def test_runs_repeat_and_seeds_differ() -> None:
    a, b, c = run(make()), run(make()), run(make(), seed=1)
    assert a.losses == b.losses and a.losses != c.losses


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    model = ss.ScoreModel(ss.MLP(2, hidden=8, depth=1), ss.VPSDE())
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    run(model, tmp_path / "m.safetensors")
    ss.load(tmp_path / "m.safetensors")
    assert torch.equal(torch.rand(3), expected)


def test_dropout_is_seeded_apart_from_the_noise() -> None:
    """Whatever the caller's generator, dropout repeats; and it never draws the noise's numbers."""
    losses = []
    for state in (1, 2):
        model = make()
        torch.manual_seed(state)
        losses.append(run(model).losses)
    assert losses[0] == losses[1]
    seeds: set[int] = set()

    class Net(Dropping):
        def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
            seeds.add(torch.initial_seed())  # of the generator that dropout draws from
            return super().forward(x, c, label)

    run(ss.ScoreModel(Net(), ss.VPSDE()))
    assert len(seeds) == 30
    assert not seeds & {step_seed(0, step) for step in range(30)}


def test_label_dropout() -> None:
    """Of 24,000 labels 30 % become null: within 5.6 standard errors, alpha = 1e-6 and less."""
    model = make()
    labels = torch.arange(64) % 3
    ss.train(
        model, cloud(), labels=labels, label_dropout=0.3, steps=30, batch_size=800, progress=False
    )
    seen = torch.cat(model.net.labels)
    share = (seen == 3).double().mean().item()
    assert abs(share - 0.3) < 5.6 * math.sqrt(0.21 / len(seen))
    assert set(seen.tolist()) == {0, 1, 2, 3}


def test_labels_go_with_their_data() -> None:
    class Net(Dropping):
        def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
            assert label is not None
            assert ((x[:, 0] > 0) == (label == 1)).all()
            return super().forward(x, c, label)

    labels = torch.arange(64) % 2
    data = (200.0 * labels - 100.0)[:, None].expand(64, 2).clone()
    model = ss.ScoreModel(Net(), ss.VESDE(sigma_max=1.0))
    ss.train(model, data, labels=labels, steps=3, progress=False)


# Stopping and resuming.


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own handler: a process started in the background inherits an ignored SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("stop", [1, 6, 7, 8, 29])
def test_resume_is_exact(tmp_path: Path, stop: int) -> None:
    run(make(), tmp_path / "whole.safetensors")

    def interrupt(step: int, loss: float) -> None:
        if step == stop:
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
        return ss.ScoreModel(Dropping(), sde)

    run(model(), tmp_path / "whole.safetensors", steps=5, **options)

    def interrupt(step: int, loss: float) -> None:
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

    model = ss.ScoreModel(Net(), ss.VPSDE())
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
        run(ss.ScoreModel(Net(), ss.VPSDE()), tmp_path / "m.safetensors")
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
        ss.ScoreModel(Dropping(), ss.VESDE()),
        ss.ScoreModel(Dropping(), ss.VPSDE(), prediction="v"),
        ss.ScoreModel(ss.MLP(2), ss.VPSDE()),
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


# Divergence.


class Exploding(Dropping):
    """Its loss (or only its gradient) is not finite from the tenth call on."""

    gradient = False

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        y = super().forward(x, c, label)
        if self.calls <= 9:
            return y
        if self.gradient:
            return y + (0 * y).clamp(min=0).sqrt()
        return torch.where(torch.arange(len(y))[:, None] == 3, math.inf * y, y)


@pytest.mark.parametrize("gradient", [False, True])
def test_divergence_keeps_the_last_good_weights(tmp_path: Path, gradient: bool) -> None:
    path = tmp_path / "m.safetensors"
    model = ss.ScoreModel(Exploding(), ss.VPSDE())
    model.net.gradient = gradient
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    with pytest.raises(ss.errors.DivergenceError, match=r"step 9 .*m\.safetensors") as caught:
        run(model, path)
    assert caught.value.step == 9 and 0 <= caught.value.t <= 1
    assert len(caught.value.samples) == (0 if gradient else 1)
    assert all(p.isfinite().all() for p in model.parameters())
    assert read_manifest(path)["training"]["step"] == 7
    assert torch.equal(torch.random.get_rng_state(), state)
    ss.load(path, net=Exploding())


def test_divergence_without_a_file() -> None:
    with pytest.raises(ss.errors.DivergenceError, match="no checkpoint was written"):
        run(ss.ScoreModel(Exploding(), ss.VPSDE()))


# Watching.


def test_progress_bar_shows_the_running_loss(capsys: pytest.CaptureFixture[str]) -> None:
    run(make(), progress=True)
    shown = capsys.readouterr().err
    assert "training" in shown and "30/30" in shown and "loss=" in shown
    run(make(), progress=False)
    assert capsys.readouterr().err == ""


def test_callback_sees_every_step() -> None:
    seen: list[tuple[int, float]] = []
    result = run(make(), steps=4, callback=lambda step, loss: seen.append((step, loss)))
    assert seen == list(zip((1, 2, 3, 4), result.losses, strict=True))


# Refusals.


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
        ({"labels": torch.full((64,), 4)}, ss.errors.ShapeError, "labels in 0 … 3"),
        ({"labels": torch.full((64,), -1)}, ss.errors.ShapeError, "labels in 0 … 3"),
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
        ss.ScoreModel(lambda x, c: x, ss.VPSDE()),
        ss.ScoreModel(nn.Identity(), ss.VPSDE()),
    ],
)
def test_only_trainable_models_are_trained(model: Any) -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="expected"):
        ss.train(model, cloud(), steps=1, progress=False)


def test_label_dropout_needs_a_null_label() -> None:
    model = ss.ScoreModel(ss.MLP(2), ss.VPSDE())
    labels = torch.zeros(64, dtype=torch.int64)
    with pytest.raises(ss.errors.IncompatibleError, match="null label"):
        ss.train(model, cloud(), labels=labels, label_dropout=0.1, steps=1, progress=False)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_model_says_whether_it_was_trained_without_labels(tmp_path: Path, dropout: float) -> None:
    """What it does without one is untrained where none was dropped; a checkpoint keeps that."""
    model, path = make(), tmp_path / "m.safetensors"
    labels = torch.arange(64) % 3
    run(model, path, steps=2, labels=labels, label_dropout=dropout)
    sampler = ss.PredictorCorrector(model.sde, steps=2)
    for trained in (model, ss.load(path, net=Dropping())):
        assert trained.label_required == (dropout == 0)
        assert sampler.sample(trained, (3, 2), label=labels[:3]).isfinite().all()
        if dropout == 0:
            with pytest.raises(ss.errors.IncompatibleError, match="label_dropout"):
                sampler.sample(trained, (3, 2))
    resumed = make()
    run(resumed, path, steps=2, labels=labels, label_dropout=dropout, resume=True)
    assert resumed.label_required == (dropout == 0)
