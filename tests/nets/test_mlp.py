"""The MLP, and the embeddings of the time that all networks share."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sdescore.errors import IncompatibleError, ParameterError
from sdescore.nets import MLP, FourierEmbedding, PositionalEmbedding, UNet
from tests.helpers.nets import SMALL


def test_positional_frequencies_are_vaswanis() -> None:
    c = torch.tensor([0.0, 1.0, 999.0], dtype=torch.float64)
    features = PositionalEmbedding(8, scale=1.0)(c)
    for b, level in enumerate(c.tolist()):
        for k in range(4):
            angle = level / 10000 ** (k / 3)
            assert features[b, k].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert features[b, 4 + k].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_fourier_kernel_is_gaussian() -> None:
    # Bochner: the mean of cos(ω δ) over ω ~ N(0, (2π s)²) is exp(-(2π s δ)²/2). 20,000
    # frequencies with a fixed seed; each mean's standard error is at most
    # 1/sqrt(40,000) = 0.005, and two-sided alpha = 1e-6 is 4.9 of them.
    scale, delta = 0.7, torch.tensor([0.0, 0.05, 0.1, 0.3, 1.0])
    embedding = FourierEmbedding(40_000, scale)
    kernel = embedding(delta) @ embedding(torch.zeros(1))[0] / 20_000
    torch.testing.assert_close(
        kernel, torch.exp(-0.5 * (2 * math.pi * scale * delta) ** 2), rtol=0, atol=0.025
    )


def test_fourier_draws_from_its_own_seed() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = FourierEmbedding(8).omega
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(FourierEmbedding(8, 2.0).omega, 2.0 * first)
    assert not torch.equal(FourierEmbedding(8, seed=1).omega, first)
    assert "condition.time.omega" in UNet(1, **SMALL, embedding="fourier").state_dict()


def test_bfloat16_angles_are_computed_in_float32() -> None:
    c = torch.tensor([0.3, 512.0], dtype=torch.bfloat16)  # as the tensor has them, exactly
    embedding = PositionalEmbedding(16)
    exact = embedding(c.double())
    assert (embedding(c).double() - exact).abs().max() < 2.0**-8  # only the output is rounded


RANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "t": lambda t: t,
    "999 t": lambda t: 999.0 * t,
    "log sigma": lambda t: 0.5 * torch.log(-torch.expm1(-(0.1 * t + 9.95 * t**2))),
}


@pytest.mark.parametrize("time_input", RANGES)
@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        ("positional", {"t": None, "999 t": None, "log sigma": None}),
        ("fourier", {"t": 4.0, "999 t": 0.004, "log sigma": 0.3}),
    ],
)
def test_recommended_scales_give_good_features(
    kind: str, scale: dict[str, float | None], time_input: str
) -> None:
    """A ridge regression on 64 features, fitted on half of 2,000 times, recovers VP's log sigma(t).

    A scale that aliases leaves nearly all of the spread (error 1).
    """
    t = torch.linspace(1e-3, 1.0, 2000, dtype=torch.float64)
    target = RANGES["log sigma"](t)
    net = MLP(1, embedding=kind, embedding_dim=64, embedding_scale=scale[time_input])
    features = net.condition.time(RANGES[time_input](t))
    features = torch.cat([features, torch.ones(2000, 1, dtype=torch.float64)], dim=1)
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    train, test = order[:1000], order[1000:]
    gram = features[train].T @ features[train] + 1e-2 * torch.eye(65, dtype=torch.float64)
    weights = torch.linalg.solve(gram, features[train].T @ target[train])
    error = (features[test] @ weights - target[test]).square().mean().sqrt() / target.std()
    assert error < 0.1


@pytest.mark.parametrize("name", ["dim", "hidden", "depth", "classes"])
def test_mlp_arguments_out_of_range(name: str) -> None:
    with pytest.raises(ParameterError, match=f"expected an integer {name} >= 1; got {name}=-1"):
        MLP(**{"dim": 2, name: -1})
    with pytest.raises(IncompatibleError, match="expected embedding among"):
        MLP(2, embedding="sine")


@pytest.mark.parametrize("embedding", ["positional", "fourier"])
def test_the_frequencies_are_those_of_no_default(embedding: str) -> None:
    """A network made under another default dtype or device embeds time as any other does."""
    plain = MLP(2, hidden=4, depth=1, embedding=embedding).condition.time.omega
    before = torch.get_default_dtype()
    try:
        for dtype in (torch.bfloat16, torch.float64):
            torch.set_default_dtype(dtype)
            net = MLP(2, hidden=4, depth=1, embedding=embedding)
            assert torch.equal(net.condition.time.omega, plain)
            assert net.first.weight.dtype == dtype  # the weights are as PyTorch makes them
    finally:
        torch.set_default_dtype(before)
    with torch.device("meta"):
        net = MLP(2, hidden=4, depth=1, embedding=embedding, classes=3)
    assert {tensor.device.type for tensor in net.state_dict().values()} == {"meta"}
