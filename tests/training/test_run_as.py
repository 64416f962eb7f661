"""How a step is computed: in parts, in bfloat16, compiled, by any optimiser and schedule."""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedules

import sdescore as ss
from sdescore.losses import Loss
from sdescore.training.guards import Recipe
from tests.helpers.checkpoints import read
from tests.helpers.training import Dropping, assert_same_file, cloud, make, run


class Plain(Dropping):
    """Without dropout; it notes how large its batches are, and in what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.body[2].p = 0.0
        self.sizes: list[int] = []
        self.dtypes: list[torch.dtype] = []

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        self.sizes.append(len(x))
        self.dtypes.append(self.body[0](torch.cat([x, c[:, None]], dim=1)).dtype)
        return super().forward(x, c, label)


def plain(seed: int = 0) -> ss.ScoreModel:
    torch.manual_seed(seed)
    return ss.ScoreModel(Plain(), ss.VPSDE(), prediction="epsilon")


def weights(model: ss.ScoreModel) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.net.parameters()])


# Gradient accumulation.


def same_noise(model: Any, x0: Tensor, *, t: Any, label: Any = None, generator: Any = None) -> Loss:
    return ss.denoising_loss(model, x0, t=t, label=label, noise=(37 * x0).sin())


@pytest.mark.parametrize(("parts", "sizes"), [(3, [3, 3, 2]), (8, [1] * 8), (100, [1] * 8)])
def test_the_gradient_in_parts_is_that_of_the_batch(parts: int, sizes: list[int]) -> None:
    """With parts of different size, labels and a limit of the gradient's norm."""
    options: dict[str, Any] = {
        "steps": 3, "objective": same_noise, "labels": torch.arange(64) % 3, "clip": 0.05,
    }  # fmt: skip
    whole, split = plain(), plain()
    one = run(whole, **options)
    two = run(split, accumulate=parts, **options)
    assert split.net.sizes == 3 * sizes
    assert torch.equal(torch.cat(split.net.labels), torch.cat(whole.net.labels))
    assert two.losses == pytest.approx(one.losses, rel=1e-5)
    torch.testing.assert_close(weights(split), weights(whole), rtol=1e-4, atol=1e-6)


# bfloat16.


def test_bf16_is_the_networks_alone(tmp_path: Path) -> None:
    """Close to the run in float32 and not it; everything that stays is float32."""
    seen: list[torch.dtype] = []

    def objective(model: Any, x0: Tensor, *, t: Any, label: Any = None, generator: Any) -> Loss:
        seen.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        return ss.denoising_loss(model, x0, t=t, generator=generator)

    model, path = plain(), tmp_path / "m.safetensors"
    options: dict[str, Any] = {"objective": objective, "steps": 5}
    result = run(model, path, precision="bf16", **options)
    assert set(model.net.dtypes) == {torch.bfloat16} and set(seen) == {torch.float32}
    full = run(plain(), **options)
    assert result.losses != full.losses
    assert result.losses == pytest.approx(full.losses, rel=0.05)
    tensors = read(path)[1].values()
    assert {value.dtype for value in tensors if value.is_floating_point()} == {torch.float32}
    assert "forward" not in vars(model.net)
    with pytest.raises(ss.errors.CheckpointError, match="precision"):
        run(plain(), path, resume=True, **options)


# torch.compile, and networks in a wrapper.


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``torch.compile`` without a compiler: its graphs run as they are."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    yield
    torch._dynamo.reset()


def mlp(classes: int | None = None) -> ss.ScoreModel:
    torch.manual_seed(0)
    net = ss.MLP(2, hidden=8, depth=1, classes=classes)
    return ss.ScoreModel(net, ss.VPSDE(), time_input="log_snr", prediction="epsilon")


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("precision", [None, "bf16"])
def test_a_compiled_run_is_the_plain_one(tmp_path: Path, precision: str | None) -> None:
    options: dict[str, Any] = {
        "steps": 4, "precision": precision, "labels": torch.arange(64) % 3, "label_dropout": 0.3,
    }  # fmt: skip
    torch._dynamo.utils.counters.clear()
    run(mlp(3), tmp_path / "a.safetensors", compile=True, **options)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    run(mlp(3), tmp_path / "b.safetensors", **options)
    assert_same_file(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    ss.load(tmp_path / "a.safetensors")


def part_compiled(net: nn.Module) -> nn.Module:
    net.condition = torch.compile(net.condition)  # type: ignore[assignment]
    return net


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": lambda net: torch.compile(net),  # type: ignore[return-value]
    "parallel": nn.DataParallel,
    "both": lambda net: torch.compile(nn.DataParallel(net)),  # type: ignore[return-value]
    "a part": part_compiled,
}


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_network_is_saved_as_the_plain_one(tmp_path: Path, name: str) -> None:
    def wrapped() -> ss.ScoreModel:
        model = mlp()
        model.net = WRAPPERS[name](model.net)
        return model

    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    run(mlp(), whole, steps=6)
    model = wrapped()
    result = run(model, parts, steps=6, max_seconds=1e-9, validation=cloud(5))
    assert result.step == 1
    result = run(wrapped(), parts, steps=6, resume=True, validation=cloud(5))
    assert_same_file(whole, parts)
    x = cloud(3)
    expected = ss.load(parts)(x, 0.5)
    assert torch.equal(result.model(x, 0.5), expected)
    assert torch.equal(result.best(x, 0.5), ss.load(tmp_path / "parts.best.safetensors")(x, 0.5))
    assert torch.equal(ss.load(parts, net=wrapped().net)(x, 0.5), expected)
    ss.save(tmp_path / "saved.safetensors", model)
    assert torch.equal(ss.load(tmp_path / "saved.safetensors")(x, 0.5), model.eval()(x, 0.5))
    ema = ss.EMA(model.net)
    ema.update(model.net)
    assert not [name for name in ema.shadow if "_orig_mod" in name or name.startswith("module.")]


# Optimisers.


class Weight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.p * x


def slope(model: Any, x0: Tensor, *, t: Any, label: Any = None, generator: Any = None) -> Loss:
    """Its gradient in p is 3."""
    return Loss.of(3 * model.net.p * torch.ones(len(x0)))


def descend(**options: Any) -> tuple[float, list[float]]:
    """p after 10 steps, and the learning rates."""
    rates: list[float] = []
    model = ss.ScoreModel(Weight(), ss.VPSDE(), prediction="epsilon")
    ss.train(
        model, cloud(), steps=10, objective=slope, progress=False, clip=None,
        callback=lambda seen: rates.append(seen["lr"]), **options,
    )  # fmt: skip
    return model.net.p.item(), rates


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01)


def test_the_schedule_scales_an_optimisers_own_rate() -> None:
    p, rates = descend(optimizer=sgd, schedule="constant", warmup=0)
    assert p == pytest.approx(1 - 10 * 0.03) and rates == [0.01] * 10
    p, rates = descend(optimizer=sgd, warmup=1)
    rise = [0.5] + [1.0] * 9
    expected = [0.005 * rise[n] * (1 + math.cos(math.pi * n / 10)) for n in range(10)]
    assert rates == pytest.approx(expected) and p == pytest.approx(1 - 3 * sum(expected))


def test_momentum_and_groups() -> None:
    """v ← 0.9 v + 3 and p ← p − 0.02 v, in closed form."""
    p, _ = descend(
        optimizer=lambda w: torch.optim.SGD([{"params": w, "momentum": 0.9}], lr=0.02),
        schedule="constant", warmup=0,
    )  # fmt: skip
    assert p == pytest.approx(1 - 0.6 * sum(1 - 0.9**n for n in range(1, 11)), rel=1e-6)


def test_a_schedule_of_torch() -> None:
    p, rates = descend(optimizer=sgd, lr_scheduler=lambda o: schedules.StepLR(o, 4, gamma=0.1))
    assert rates == pytest.approx([0.01] * 4 + [0.001] * 4 + [0.0001] * 2)
    assert p == pytest.approx(1 - 3 * sum(rates))
    _, rates = descend(lr=0.5, lr_scheduler=lambda o: schedules.LinearLR(o, 0.5, total_iters=2))
    assert rates == pytest.approx([0.25, 0.375] + [0.5] * 8)


OPTIMIZERS: dict[str, Any] = {
    "momentum": lambda w: torch.optim.SGD(w, lr=0.1, momentum=0.9),
    "amsgrad": lambda w: torch.optim.Adam(w, lr=0.01, amsgrad=True),
    "two groups": lambda w: torch.optim.AdamW(
        [{"params": w[:1], "lr": 0.1}, {"params": w[1:], "weight_decay": 0.0}]
    ),
    "NAdam": torch.optim.NAdam,
    "Adagrad": torch.optim.Adagrad,
    "RMSprop": torch.optim.RMSprop,
}
SCHEDULERS: dict[str, Any] = {
    "one cycle": lambda o: schedules.OneCycleLR(o, 0.1, total_steps=30),
    "in sequence": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.1, total_iters=5), schedules.ExponentialLR(o, 0.9)], [5]
    ),
    "lambda": lambda o: schedules.LambdaLR(o, lambda n: 1 / (1 + n)),
}
CASES = [({"optimizer": make_one}) for make_one in OPTIMIZERS.values()]
CASES += [
    {"lr_scheduler": schedule, "warmup": 100, "optimizer": OPTIMIZERS["momentum"]}
    for schedule in SCHEDULERS.values()
]


@pytest.mark.parametrize("options", CASES, ids=[*OPTIMIZERS, *SCHEDULERS])
def test_resume_is_exact(tmp_path: Path, options: dict[str, Any]) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(make(), whole, **options)

        def stop(seen: dict[str, Any]) -> None:
            if seen["step"] in (11, 12):
                raise KeyboardInterrupt

        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                run(make(), parts, resume=True, callback=stop, **options)
        assert len(run(make(3), parts, resume=True, **options).losses) == 18
    assert_same_file(whole, parts)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"optimizer": lambda w: torch.optim.SGD(w, lr=0.2)}, "optimizer"),
        ({"optimizer": torch.optim.Adam}, "optimizer"),
        ({"optimizer": None}, "optimizer"),
        ({"lr_scheduler": lambda o: schedules.StepLR(o, 5)}, "lr_scheduler"),
        ({"accumulate": 2}, "accumulate"),
    ],
)
def test_resume_refuses_another_descent(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    path = tmp_path / "m.safetensors"
    options: dict[str, Any] = {"steps": 3, "warmup": 100, "schedule": "cosine"}
    options |= {"optimizer": sgd, "lr_scheduler": lambda o: schedules.StepLR(o, 4)}
    run(make(), path, **options)
    with pytest.raises(ss.errors.CheckpointError, match=match):
        run(make(), path, resume=True, **options | change)


# Refusals.


def other_weights(w: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)


def another_schedule(optimizer: torch.optim.Optimizer) -> schedules.LRScheduler:
    return schedules.StepLR(sgd(list(Weight().parameters())), 1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"accumulate": 0}, "accumulate"),
        ({"precision": "fp16"}, "bf16"),
        ({"compile": "yes"}, "compile"),
        ({"optimizer": 3}, "optimizer to be callable"),
        ({"optimizer": lambda w: None}, "Optimizer"),
        ({"optimizer": lambda w: torch.optim.SGD(w[:1], lr=0.1)}, "all of them"),
        ({"optimizer": other_weights}, "no others"),
        ({"optimizer": torch.optim.LBFGS}, "needs no argument"),
        ({"optimizer": sgd, "lr": 0.1}, "lr left out beside optimizer="),
        ({"optimizer": sgd, "weight_decay": 0.1}, "weight_decay left out"),
        ({"lr_scheduler": 3}, "lr_scheduler to be callable"),
        ({"lr_scheduler": lambda o: o}, "LRScheduler"),
        ({"lr_scheduler": lambda o: schedules.ReduceLROnPlateau(o)}, "needs no argument"),
        (
            {"lr_scheduler": lambda o: schedules.StepLR(sgd(list(Weight().parameters())), 1)},
            "run's",
        ),
        ({"lr_scheduler": lambda o: schedules.StepLR(o, 1), "warmup": 3}, "warmup left out"),
        ({"lr_scheduler": lambda o: schedules.StepLR(o, 1), "schedule": "constant"}, "schedule"),
    ],
)
def test_refused_before_the_network(options: dict[str, Any], match: str) -> None:
    model = make()
    with pytest.raises(ss.errors.SDEScoreError, match=match):
        ss.train(model, cloud(), **{"steps": 2, "progress": False, **options})
    assert model.net.calls == 0


def test_bf16_needs_float32_weights() -> None:
    model = ss.ScoreModel(Dropping().double(), ss.VPSDE(), prediction="epsilon")
    with pytest.raises(ss.errors.IncompatibleError, match="float32 network"):
        run(model, precision="bf16")


def test_the_recipes_defaults_are_those_of_train() -> None:
    """By which an option beside another that replaces it is seen."""
    parameters = inspect.signature(ss.train).parameters
    for name in ("lr", "weight_decay", "schedule", "warmup"):
        assert parameters[name].default == getattr(Recipe, name)
