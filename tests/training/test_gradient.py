"""The gradient of a step, in parts; and its clipping, which has the bits of torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import sdescore as ss
from sdescore.training.data import Batch
from sdescore.training.guards import add_gradient, clipper
from tests.helpers.training import cloud

SINGLE, DOUBLE = torch.float32, torch.float64


@pytest.mark.parametrize("parts", [1, 3])
def test_the_gradient_is_that_of_the_mean_times_the_factor(parts: int) -> None:
    """Of a batch in parts of other sizes, 5 in 2 + 2 + 1; the loss itself has no factor."""
    model, data = ss.ScoreModel(ss.MLP(2, hidden=8), ss.VPSDE()), cloud(5)
    torch.nn.init.ones_(model.net.last.weight)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)

    def squares(model: ss.ScoreModel, x: torch.Tensor, *rest: Any) -> ss.losses.Loss:
        return ss.losses.Loss.of(model(x, rest[1]).square().sum(1))

    weights = list(model.net.parameters())
    wanted = torch.autograd.grad(squares(model, data, None, t).mean, weights, allow_unused=True)
    batch = Batch(data, None, None, 0, 5)
    found = add_gradient(squares, model, parts, batch, t, torch.Generator(), factor=0.25)
    torch.testing.assert_close(found.mean, squares(model, data, None, t).mean.detach())
    for weight, gradient in zip(weights, wanted, strict=True):
        if gradient is not None:
            torch.testing.assert_close(weight.grad, 0.25 * gradient, rtol=1e-4, atol=1e-6)


def weights_with(norm: float, *dtypes: torch.dtype) -> list[nn.Parameter]:
    """Two weights for each dtype and one without a gradient; the gradient has this norm."""
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.zeros(n, dtype=d)) for d in dtypes for n in (3, 50)]
    drawn = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in weights]
    factor = norm / torch.cat(drawn).norm()
    for weight, gradient in zip(weights, drawn, strict=True):
        weight.grad = (factor * gradient).to(weight.dtype)
    return [*weights, nn.Parameter(torch.zeros(2, dtype=dtypes[0]))]


@pytest.mark.parametrize("largest", [1.0, 10.0, 0.1])
@pytest.mark.parametrize("share", [1e-3, 1 - 2e-6, 1 - 1e-7, 1.0, 1 + 1e-7, 7.0])
@pytest.mark.parametrize(
    "dtypes",
    [(torch.float32,), (torch.float64,), (torch.bfloat16,), (torch.float32, torch.float64)],
)
def test_a_gradient_is_clipped_as_torch_clips_it(
    largest: float, share: float, dtypes: tuple[torch.dtype, ...]
) -> None:
    ours, torchs = (weights_with(share * largest, *dtypes) for _ in range(2))
    norm = nn.utils.clip_grad_norm_(torchs, largest)
    assert clipper(ours, largest)() == norm.item()
    for own, other in zip(ours, torchs, strict=True):
        assert (own.grad is None) == (other.grad is None)
        if own.grad is not None and other.grad is not None:
            assert torch.equal(own.grad, other.grad)


@pytest.mark.parametrize(("clip", "scaled"), [(2.0, 0), (None, 0), (0.5, 1)])
def test_a_small_gradient_is_not_scaled(
    clip: float | None, scaled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, scale = list[int](), torch._foreach_mul_

    def counted(tensors: list[torch.Tensor], factor: torch.Tensor) -> None:
        calls.append(len(tensors))
        scale(tensors, factor)

    monkeypatch.setattr(torch, "_foreach_mul_", counted)
    assert clipper(weights_with(1.0, torch.float32), clip)() == pytest.approx(1.0)
    assert len(calls) == scaled


def test_a_norm_that_is_not_finite_is_returned() -> None:
    weights = weights_with(1.0, torch.float32)
    weights[0].grad[0] = torch.nan  # type: ignore[index]
    assert clipper(weights, 1.0)() != clipper(weights, None)()  # NaN is unlike itself


def test_no_gradient_at_all_has_norm_zero() -> None:
    weights = weights_with(1.0, torch.float32)
    for weight in weights:
        weight.grad = None
    assert clipper(weights, 1.0)() == 0
