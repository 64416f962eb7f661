"""What a run keeps, refuses or leaves alone where a user's own code does the unusual."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sdescore as ss
from tests.helpers.checkpoints import read
from tests.helpers.training import cloud, make, run

NORMS = torch.arange(5.0).repeat_interleave(50)[:, None] * torch.ones(2)


def mlp(**options: Any) -> ss.ScoreModel:
    torch.manual_seed(0)
    return ss.ScoreModel(ss.MLP(2, hidden=8, depth=1, **options), ss.VPSDE())


class Plain(nn.Module):
    """A network of one layer, to which a test gives an attribute."""

    def __init__(self, inputs: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(inputs, 2)

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        rows = [x, c[:, None], *([] if label is None else [label])]
        return self.layer(torch.cat(rows, 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["list", "loader"])
def test_a_transform_may_work_in_place(kind: str) -> None:
    """Each batch is transformed once, also those that were read ahead, and the data stay."""
    batches: Any = [block.clone() for block in (10 + 2 * cloud(60)).split(10)]
    before, means = [batch.clone() for batch in batches], []

    def standardise(x: Tensor) -> Tensor:
        x.sub_(12).div_(2)
        means.append(x.mean().item())
        return x

    data = DataLoader(TensorDataset(torch.cat(batches)), batch_size=10)
    data = batches if kind == "list" else data
    ss.train(mlp(), data, steps=18, transform=standardise, progress=False)
    assert means == pytest.approx([batch.sub(12).div(2).mean().item() for batch in before] * 4)
    assert all(torch.equal(*pair) for pair in zip(batches, before, strict=True))


def test_a_loader_may_fill_one_buffer() -> None:
    class Reusing:
        def __iter__(self) -> Iterator[np.ndarray[Any, Any]]:
            buffer = np.empty((50, 2), np.float32)
            for block in NORMS.split(50):
                buffer[:] = block
                yield buffer

    seen: list[float] = []

    def look(x: Tensor) -> Tensor:
        seen.append(x.mean().item())
        return x

    model = mlp()
    ss.train(model, Reusing(), steps=5, transform=look, progress=False)
    assert seen == [0, 1, 2, 3, 4] * 2
    assert model.data_scale.mean == pytest.approx((2, 2))


def test_a_network_that_keeps_its_activations_can_be_trained(tmp_path: Path) -> None:
    """Which copy.deepcopy refuses after the last step; the copy is made before the first."""
    net = Plain()
    net.register_forward_hook(lambda module, inputs, y: setattr(module, "seen", y))
    data, best = cloud(), {"validation": cloud(5), "validate_every": 1}
    result = ss.train(ss.ScoreModel(net, ss.VPSDE()), data, steps=3, progress=False, **best)
    assert result.best is not None
    assert torch.equal(result.model.net.layer.weight, result.ema.shadow["layer.weight"])
    net.lock = threading.Lock()  # type: ignore[assignment]
    calls: list[int] = []
    net.register_forward_hook(lambda *a: calls.append(1))
    with pytest.raises(ss.errors.IncompatibleError, match=r"a network for copy\.deepcopy"):
        ss.train(ss.ScoreModel(net, ss.VPSDE()), data, steps=3, progress=False)
    assert not calls


@pytest.mark.parametrize("what", ["data", "callback", "transform", "scheduler"])
def test_an_error_of_the_users_code_leaves_the_steps_before(tmp_path: Path, what: str) -> None:
    """As Ctrl-C does; the run goes on exactly from the file."""
    path, whole = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    calls, failing = list[int](), [True]
    batches = [cloud(8, seed=n) for n in range(130)]  # of which 1,000 samples are read ahead

    def twelve(*ignored: Any) -> Any:
        calls.append(1)
        if failing[0] and len(calls) > 12 + 2 * (what == "transform"):
            raise OSError("no such image")
        return ignored[0] if ignored else None

    class Twelve(torch.optim.lr_scheduler.LambdaLR):
        def step(self, *a: Any) -> None:
            if len(calls) == 12 and failing[0]:
                raise OSError("no more steps")
            calls.append(1)
            super().step()

    options: dict[str, Any] = {
        "data": {"data": [*batches, torch.full((8, 2), torch.nan)]},
        "callback": {"callback": twelve},
        "transform": {"transform": twelve},
        "scheduler": {"lr_scheduler": lambda o: Twelve(o, lambda n: 1.0)},
    }[what]
    common = {"batch_size": None if what == "data" else 8, "warmup": 4, "progress": False}
    if what == "scheduler":
        del common["warmup"]
    data = options.pop("data", cloud())
    train = lambda **more: ss.train(make(), data, **common, **options, **more)  # noqa: E731
    with pytest.raises((OSError, ss.errors.ParameterError), match=r"no such|no more|finite"):
        train(steps=150, path=path, save_every=1000)
    done = {"data": 130, "callback": 13, "transform": 12, "scheduler": 12}[what]
    assert read(path)[0]["training"]["step"] == done
    if what in ("callback", "transform"):
        failing[0] = False
        train(steps=150, path=path, resume=True)
        train(steps=150, path=whole)
        for key, value in read(whole)[1].items():
            assert torch.equal(read(path)[1][key], value), key


def test_a_run_that_never_began_leaves_no_scale() -> None:
    model = mlp(classes=3)
    labels = torch.zeros(64, 1, dtype=torch.int64)  # which the network refuses when it is called
    with pytest.raises(ss.errors.ShapeError):
        ss.train(model, cloud() * 30, labels=labels, steps=3, progress=False)
    assert model.data_scale.plain and not model.label_required
    ss.train(model, cloud(), steps=3, progress=False)
    assert max(model.data_scale.std) < 1


@pytest.mark.parametrize("what", ["shape", "range", "kind"])
def test_held_out_data_that_do_not_fit_are_refused_before_the_first_step(what: str) -> None:
    labels = torch.arange(64) % 3
    held_out = {
        "shape": TensorDataset(torch.ones(20, 3), labels[:20]),
        "range": TensorDataset(cloud(), labels + 5),
        "kind": TensorDataset(cloud(), torch.ones(64, 3)),
    }[what]
    steps: list[Any] = []
    with pytest.raises(ss.errors.SDEScoreError):
        ss.train(
            mlp(classes=3), cloud(), labels=labels, steps=5, progress=False,
            validation=held_out, validate_every=4, callback=steps.append,
        )  # fmt: skip
    assert not steps


def test_a_held_out_loss_that_is_no_number_ends_the_run() -> None:
    conditions = torch.ones(20, 3)
    conditions[7, 0] = 3e38
    model, data = ss.ScoreModel(Plain(6), ss.VPSDE()), cloud()
    options: dict[str, Any] = {"validation": TensorDataset(cloud(20), conditions)}
    with pytest.raises(ss.errors.ParameterError, match=r"a finite loss on the held-out data.*at s"):
        ss.train(model, data, labels=torch.ones(64, 3), steps=5, progress=False, **options)


@pytest.mark.parametrize("dataset", [False, True])
def test_labels_from_one_are_refused(dataset: bool) -> None:
    """Number 3 of 3 classes would be the label that means no label."""
    labels = torch.arange(64) % 3 + 1
    options: dict[str, Any] = {} if dataset else {"labels": labels}
    data: Any = TensorDataset(cloud(), labels) if dataset else cloud()
    with pytest.raises(ss.errors.ShapeError, match="number the classes from 0"):
        ss.train(mlp(classes=3), data, label_dropout=0.3, steps=9, progress=False, **options)


@pytest.mark.parametrize(("labels", "got"), [([-1, 0, 1], "-1 … 1"), ([1, 2, 3], "1 … 3")])
def test_labels_outside_the_classes_are_shown(labels: list[int], got: str) -> None:
    rows = torch.tensor(labels).repeat(20)
    with pytest.raises(ss.errors.ShapeError, match=f"labels in 0 … 2; got {got};"):
        ss.train(mlp(classes=3), cloud(60), labels=rows, steps=9, progress=False)


def test_the_null_label_of_a_model_that_never_learned_it_is_refused() -> None:
    result = ss.train(mlp(classes=3), cloud(), labels=torch.arange(64) % 3, steps=2, progress=False)
    sampler, label = ss.PredictorCorrector(ss.VPSDE(), steps=2), torch.tensor([0, 3])
    with pytest.raises(ss.errors.IncompatibleError, match="trained with labels alone"):
        sampler.sample(result.model, (2, 2), label=label)
    with pytest.raises(ss.errors.IncompatibleError, match="trained with labels alone"):
        sampler.sample(ss.guidance.condition(result.model, 3), (2, 2))
    assert sampler.sample(result.model, (2, 2), label=label % 3).isfinite().all()


def test_a_frozen_mask_of_infinities_stays_in_the_average() -> None:
    net = Plain()
    net.mask = nn.Parameter(torch.tensor([0.0, -torch.inf]), requires_grad=False)
    ema = ss.EMA(net)
    ema.update(net)
    assert ema.shadow["mask"].tolist() == [0.0, -torch.inf]
    net.mask.data[0] = 1.0
    ema.update(net)
    assert ema.shadow["mask"].tolist() == [1.0, -torch.inf]


class Counting(torch.optim.Optimizer):
    """Gradient descent with a rate that falls with a count of its own, a Python number."""

    state_of = staticmethod(lambda n: n)

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            if p.grad is not None:
                n = self.state[p].get("count", 0) + 1
                self.state[p] |= {"count": n, "scale": 1.0 / n, "other": self.state_of(n)}
                p.data -= self.param_groups[0]["lr"] * self.state[p]["scale"] * p.grad


def test_an_optimiser_that_counts_in_python_goes_on(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    options: dict[str, Any] = {"optimizer": Counting, "schedule": "constant"}
    run(make(), path, steps=5, **options)
    run(make(), path, steps=11, resume=True, **options)
    run(make(), whole, steps=11, **options)
    tensors = read(whole)[1]
    assert tensors["optim/body.0.weight/number:count"] == 11
    assert all(torch.equal(read(path)[1][key], value) for key, value in tensors.items())


def test_what_cannot_be_saved_is_refused_at_the_first_step(tmp_path: Path) -> None:
    class Listing(Counting):
        state_of = staticmethod(lambda n: [n])

    steps: list[Any] = []
    with pytest.raises(ss.errors.CheckpointError, match="numbers in the optimiser's state"):
        run(make(), tmp_path / "a.safetensors", optimizer=Listing, callback=steps.append)
    assert not steps
    model = make()
    model.net.register_buffer("median", torch.full((2,), torch.nan))
    with pytest.raises(ss.errors.CheckpointError, match="NaN in net/median; give it a finite"):
        run(model, tmp_path / "b.safetensors", callback=steps.append)
    assert not steps


def test_a_part_in_evaluation_mode_stays_so() -> None:
    net = nn.Sequential()
    net.body, net.norm = Plain(), nn.BatchNorm1d(2)
    net.forward = lambda x, c: net.body(net.norm(x), c)  # type: ignore[method-assign]
    net.norm.eval().running_var.fill_(4.0)
    ss.train(ss.ScoreModel(net, ss.VPSDE()), cloud(), steps=3, progress=False)
    assert net.training and net.body.training and not net.norm.training
    assert net.norm.running_var.tolist() == [4.0, 4.0]
    net.eval()
    ss.train(ss.ScoreModel(net, ss.VPSDE()), cloud(), steps=3, progress=False)
    assert net.norm.running_var.tolist() != [4.0, 4.0] and not net.body.training


class Learned(Plain):
    """A network whose null condition is a mark, in whose place forward puts a parameter."""

    def __init__(self) -> None:
        super().__init__(6)
        self.register_buffer("null_condition", torch.full((3,), torch.inf))
        self.nothing = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        label = self.null_condition.expand(len(x), 3) if label is None else label
        return super().forward(x, c, torch.where(label.isinf(), self.nothing, label))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_null_condition_is_learned_in_the_place_of_a_mark(
    accumulate: int, tmp_path: Path
) -> None:
    model = ss.ScoreModel(Learned(), ss.VPSDE())
    options: dict[str, Any] = {"labels": torch.ones(64, 3), "accumulate": accumulate}
    options |= {"label_dropout": 0.5, "steps": 3, "progress": False, "path": tmp_path / "a.st"}
    found = ss.train(model, cloud(), **options).model
    assert bool((found.net.nothing != 0).all())
    assert torch.equal(found.net.null_condition, torch.full((3,), torch.inf))
    x, t, mark = torch.ones(4, 2), 0.5, torch.full((4, 3), torch.inf)
    assert torch.equal(found(x, t), found(x, t, mark))
    assert not torch.equal(found(x, t), found(x, t, torch.ones(4, 3)))
    guided = ss.guidance.classifier_free(found, found, 2.0)
    expected = 2 * found(x, t, torch.ones(4, 3)) - found(x, t)
    torch.testing.assert_close(guided(x, t, torch.ones(4, 3)), expected)


def test_a_null_condition_that_no_step_would_train_is_refused() -> None:
    net, parameter = Plain(6), nn.Parameter(torch.zeros(3))
    model, data = ss.ScoreModel(net, ss.VPSDE()), cloud()
    options: dict[str, Any] = {"steps": 3, "progress": False, "label_dropout": 0.1}
    net.null_condition = parameter
    with pytest.raises(ss.errors.IncompatibleError, match=r"a buffer as null_condition.*isinf"):
        ss.train(model, data, labels=torch.ones(64, 3), **options)
    net = Plain(6)
    net.__dict__["null_condition"] = {"a": torch.zeros(3), "b": 2 * parameter}
    model, labels = ss.ScoreModel(net, ss.VPSDE()), {k: torch.ones(64, 3) for k in "ab"}
    with pytest.raises(ss.errors.IncompatibleError, match="a buffer as null_condition"):
        ss.train(model, data, labels=labels, **options)
