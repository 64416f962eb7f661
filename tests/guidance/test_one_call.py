"""Both halves of classifier-free guidance come from one call, and are those of two calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss

pytestmark = pytest.mark.fast

SDE = ss.VPSDE()
B = 5
LABELS: dict[str, tuple[Any, Any]] = {  # labels of a batch, and the one that means "no label"
    "class": (torch.tensor([0, 1, 2, 1, 0]), 3),
    "vector": (torch.linspace(-1, 1, B * 2).reshape(B, 2), torch.tensor([0.5, -9.0])),
    "image": (torch.linspace(0, 1, B * 16).reshape(B, 1, 4, 4), -torch.ones(1, 4, 4)),
    "dict": (
        {"kind": torch.arange(B), "size": {"of": torch.ones(B, 2).cumsum(0)}, "unused": None},
        {"kind": torch.tensor(7), "size": {"of": torch.tensor([0.0, 2.0])}, "unused": None},
    ),
}


def total(label: Any) -> Any:
    if isinstance(label, dict):
        return sum(total(part) for part in label.values() if part is not None)
    return label.reshape(len(label), -1).double().sum(1)


class Network(nn.Module):
    """A function of state, time and label that notes the size of the batch of each call."""

    def __init__(self, null: Any = None, declares: bool = True) -> None:
        super().__init__()
        self.own_null, self.calls = null, []
        if declares:
            self.null_condition = null
        self.weight = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor, c: Tensor, label: Any = None) -> Tensor:
        self.calls.append(len(x))
        if label is None:
            label = rows(self.own_null, len(x))
        shift = torch.sin(total(label)).to(x)[:, None]
        return self.weight * torch.tanh(x) * (1 + c[:, None]) + shift


def rows(one: Any, n: int) -> Any:
    if isinstance(one, dict):
        return {key: part if part is None else rows(part, n) for key, part in one.items()}
    one = torch.as_tensor(one)
    return one.expand(n, *one.shape)


def mixed(score: Any, x: Tensor, t: Tensor, label: Any, null: Any, weight: float) -> Tensor:
    """Ho & Salimans 2022, eq. 6, with ω = 1 + w: two calls and the mean that the paper writes."""
    w = weight - 1
    return (1 + w) * score(x, t, label) - w * score(x, t, rows(null, len(x)))


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("t", [torch.tensor(0.4), torch.linspace(0.1, 0.9, B)], ids=["one", "each"])
@pytest.mark.parametrize("bound", ["null label", "none"])
def test_one_call_has_the_numbers_of_two(kind: str, t: Tensor, bound: str) -> None:
    label, null = LABELS[kind]
    net = Network(torch.as_tensor(null) if kind == "class" else null)
    model = ss.ScoreModel(net, SDE)
    free = ss.guidance.condition(model, null) if bound == "null label" else model
    x = torch.randn(B, 3, generator=torch.Generator().manual_seed(0))
    expected = mixed(model, x, t, label, null, 2.5)
    net.calls.clear()
    found = ss.classifier_free(model, free, 2.5)(x, t, label)
    assert net.calls == [2 * B]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    net.calls.clear()
    two = ss.classifier_free(model, free, 2.5, batched=False)(x, t, label)
    assert net.calls == [B, B]
    torch.testing.assert_close(two, expected, rtol=1e-5, atol=1e-5)


def test_two_bound_labels_share_a_call() -> None:
    net = Network()
    model, x, t = ss.ScoreModel(net, SDE), torch.randn(B, 3), torch.tensor(0.3)
    for label, null in ((torch.tensor(2), torch.tensor(0)), (torch.ones(2), torch.zeros(2))):
        expected = mixed(model, x, t, rows(label, B), null, 3.0)
        condition = ss.guidance.condition
        net.calls.clear()
        found = ss.classifier_free(condition(model, label), condition(model, null), 3.0)(x, t)
        assert net.calls == [2 * B]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_network_of_classes_knows_its_null_label() -> None:
    """The library's networks say in their config how many classes they have."""
    torch.manual_seed(0)
    net, sizes = ss.MLP(2, hidden=8, classes=3), []
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    model = ss.ScoreModel(net, SDE, prediction="epsilon")
    sampler = ss.PredictorCorrector(SDE, steps=4)
    label = torch.tensor([0, 1, 2, 0])
    draws = {
        batched: sampler.sample(
            ss.classifier_free(model, model, 2.0, batched=batched), (4, 2), label=label, seed=1
        )
        for batched in (True, False)
    }
    # First of all, whether the second of two samples depends on the first.
    assert sizes == [4, 2] + 4 * [8] + [2, 2, 1, 1] + 8 * [4]
    torch.testing.assert_close(draws[True], draws[False], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("net", "null", "label"),
    [
        (Network(torch.tensor(3), declares=False), None, torch.arange(B)),
        (Network(torch.zeros(2)), 0, torch.ones(B, 2)),
        (Network(torch.tensor([0.5, 0.5])), None, torch.arange(2 * B).reshape(B, 2)),
        (Network({"a": torch.zeros(2)}), None, {"a": torch.ones(B, 2), "b": torch.arange(B)}),
        (Network({"a": torch.zeros(2)}), None, {"a": None, "b": torch.ones(B, 2)}),
        (Network({"a": 0.5}), None, {"a": torch.ones(B, 1)}),
    ],
    ids=["by None alone", "another shape", "no integers", "fewer parts", "other parts", "a number"],
)
def test_where_two_calls_remain(net: Network, null: Any, label: Any) -> None:
    model, x, t = ss.ScoreModel(net, SDE), torch.randn(B, 3), torch.tensor(0.3)
    free = model if null is None else ss.guidance.condition(model, null)
    expected = 1.5 * model(x, t, label) - 0.5 * free(x, t)
    net.calls.clear()
    found = ss.classifier_free(model, free, 1.5)(x, t, label)
    assert net.calls == [B, B]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_two_models_are_two_calls() -> None:
    nets = [Network(torch.tensor(3)), Network(torch.tensor(3))]
    one, other = (ss.ScoreModel(net, SDE) for net in nets)
    guided = ss.classifier_free(one, ss.guidance.condition(other, 3), 2.0)
    guided(torch.randn(B, 3), torch.tensor(0.3), torch.arange(B))
    assert [net.calls for net in nets] == [[B], [B]]


def test_a_guided_score_in_one_call_has_its_derivative() -> None:
    """By the two calls' own derivative."""
    model = ss.ScoreModel(Network(torch.tensor(3)), SDE)
    x, t = torch.randn(B, 3, requires_grad=True), torch.tensor(0.5)
    label, v = torch.arange(B), torch.randn(B, 3)
    expected = mixed(model, x, t, label, torch.tensor(3), 2.0)
    found = ss.classifier_free(model, model, 2.0)(x, t, label)
    torch.testing.assert_close(
        torch.autograd.grad(found, x, v)[0], torch.autograd.grad(expected, x, v)[0]
    )


def test_batched_is_a_flag() -> None:
    model = ss.ScoreModel(Network(torch.tensor(3)), SDE)
    with pytest.raises(ss.errors.ParameterError, match="batched"):
        ss.classifier_free(model, model, 2.0, batched=1)  # type: ignore[arg-type]
