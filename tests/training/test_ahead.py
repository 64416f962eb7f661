"""Numbers that are computed for many steps at once are those of each step by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.losses.times import TimeDistribution
from sdescore.sde.linear import LinearSDE
from sdescore.training import ahead, loop

CPU = {"device": "cpu", "dtype": torch.float32}


class ByLevel(torch.nn.Module):
    """A network that looks an integer level up in a table."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(100, 2, **CPU))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.weight[c] * x


STEPS = ahead.STEPS + 3  # more than one block
BYTES = torch.arange(80, device="cpu").reshape(40, 2).to(torch.uint8)


def points(n: int = 40) -> Tensor:
    return 3 + 2 * torch.randn(n, 2, generator=torch.Generator().manual_seed(0), **CPU)


def run(
    sde: LinearSDE, *convention: Any, data: Any = None, **options: Any
) -> tuple[tuple[float, ...], Tensor]:
    """The losses of a run, and the weights that it leaves, in one vector."""
    torch.manual_seed(0)
    net = ByLevel() if "level" in convention else ss.MLP(2, hidden=8, depth=1, classes=3)
    model = ss.ScoreModel(net, sde, *convention)
    options = {"steps": STEPS, "batch_size": 5, "progress": False} | options
    result = ss.train(model, points() if data is None else data, **options)
    return result.losses, torch.cat([p.detach().flatten() for p in model.parameters()])


LABELS = {"labels": torch.arange(40, device="cpu") % 3}
SDES = [ss.VPSDE(), ss.VESDE(), ss.CosineVPSDE(), ss.EDMSDE(), ss.DiscreteVPSDE.linear(100)]
RUNS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    *(((sde, kind), {}) for sde in SDES for kind in ("F", "epsilon", "v", "x0", "score")),
    ((ss.RectifiedFlowSDE(), "velocity"), {}),
    ((ss.DiscreteVPSDE.linear(100), "epsilon", "level"), {}),
    ((ss.VPSDE(),), LABELS | {"label_dropout": 0.5}),
    ((ss.VPSDE(),), LABELS | {"accumulate": 2}),
    ((ss.VPSDE(),), {"data": BYTES}),
    ((ss.VPSDE(),), {"data": points().double()}),
    ((ss.VPSDE(),), {"data": torch.utils.data.TensorDataset(points())}),
    ((ss.VPSDE(),), {"precision": "bf16"}),
    ((ss.VPSDE(), "epsilon"), {"weighting": ss.losses.MinSNR()}),
    ((ss.VPSDE(), "F"), {"weighting": "sigma2"}),
    (
        (ss.VPSDE(), "epsilon"),
        {"weighting": "likelihood", "times": ss.losses.ImportanceTimes(stratified=True)},
    ),
]


@pytest.mark.parametrize(("model", "options"), RUNS)
def test_losses_and_weights_are_those_of_a_run_step_by_step(
    model: tuple[Any, ...], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = run(*model, **options)

    def alone(evaluate: Any, default: bool, *rest: Any) -> Any:
        assert default
        return ahead.of_steps(evaluate, False, *rest)

    monkeypatch.setattr(loop, "of_steps", alone)
    losses, weights = run(*model, **options)
    assert together[0] == losses
    assert torch.equal(together[1], weights)


def test_a_block_is_computed_for_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    marginal = ss.VPSDE._marginal

    def counted(sde: ss.VPSDE, t: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(t.numel())
        return marginal(sde, t)

    monkeypatch.setattr(ss.VPSDE, "_marginal", counted)
    run(ss.VPSDE(), "epsilon")
    assert calls.count(5 * ahead.STEPS) == 1
    assert calls.count(5) == 0


@dataclass(frozen=True)
class Counted(TimeDistribution):
    """A user's times, which may change from step to step."""

    def quantile(self, sde: LinearSDE, u: Tensor) -> Tensor:
        ASKED.append(u.numel())
        return sde.t_min + (sde.T - sde.t_min) * u


ASKED: list[int] = []


def test_what_a_user_wrote_is_asked_at_every_step() -> None:
    def weight(sde: LinearSDE, t: Tensor) -> Tensor:
        asked.append(len(t))
        return torch.ones_like(t)

    def time(t: Tensor) -> Tensor:
        inputs.append(t.numel())
        return 10 * t

    def sigma(t: Tensor) -> Tensor:
        sigmas.append(t.numel())
        return t

    asked, inputs, sigmas = list[int](), list[int](), list[int]()
    ASKED.clear()
    run(ss.VPSDE(), "epsilon", times=Counted())
    assert ASKED.count(5) == STEPS
    run(ss.VPSDE(), "epsilon", weighting=weight)
    assert asked.count(5) == STEPS
    run(ss.VPSDE(), "epsilon", time)
    assert inputs.count(5) == STEPS
    run(ss.LinearSDE.from_marginal(torch.ones_like, sigma), "epsilon", "sigma")
    assert sigmas.count(5) >= STEPS
