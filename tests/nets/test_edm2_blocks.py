"""The layers of EDM2's network keep the magnitude of what they are handed."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad

from sdescore.nets import blocks_edm2 as blocks


def test_silu_of_a_normal_number_has_magnitude_one() -> None:
    def density(z: float) -> float:
        silu = z / (1 + math.exp(-z))
        return silu**2 * math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)

    magnitude = math.sqrt(quad(density, -12, 12)[0])
    assert blocks.mp_silu(torch.tensor(1.0)).item() == pytest.approx(
        1 / (1 + math.exp(-1)) / magnitude, rel=1e-3
    )


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_sums_of_independent_parts_keep_their_magnitude(share: float) -> None:
    one, none = torch.ones(1), torch.zeros(1)
    a, b = blocks.mp_sum(one, none, share).item(), blocks.mp_sum(none, one, share).item()
    assert a**2 + b**2 == pytest.approx(1) and b / a == pytest.approx(share / (1 - share))


def test_concatenated_parts_contribute_by_their_share() -> None:
    y = blocks.mp_cat(torch.ones(1, 3, 1, 1), torch.ones(1, 12, 1, 1), 0.25).flatten()
    first, second = y[:3].square().sum().item(), y[3:].square().sum().item()
    assert first + second == pytest.approx(15)  # magnitude 1 over all 15 channels
    assert second / first == pytest.approx((0.25 / 0.75) ** 2)


def test_fourier_features_are_their_formula() -> None:
    torch.manual_seed(0)
    part, c = blocks.MPFourier(6).double(), torch.tensor([-1.0, 0.3]).double()
    expected = [
        [math.sqrt(2) * math.cos(w * x + phi) for w, phi in zip(part.freqs, part.phases)]  # noqa: B905
        for x in c.tolist()
    ]
    torch.testing.assert_close(part(c), torch.tensor(expected, dtype=torch.float64))
    assert [*part.parameters()] == []


@pytest.mark.parametrize("kernel", [0, 1, 3])
def test_an_output_has_the_variance_of_independent_inputs(kernel: int) -> None:
    """The sum of squared weights of an output is 1, whatever the parameters' size."""
    torch.manual_seed(0)
    layer = blocks.MPConv(5, 4, kernel).double()
    with torch.no_grad():
        layer.weight.mul_(
            torch.tensor([0.1, 1.0, 3.0, 50.0]).reshape(4, *(1,) * (layer.weight.ndim - 1))
        )
    shape = (5, kernel, kernel) if kernel else (5,)
    x = torch.zeros(1, *shape, dtype=torch.float64, requires_grad=True)
    y = layer(x, 2.0)
    middle = y[0, :, kernel // 2, kernel // 2] if kernel else y[0]
    for i in range(4):
        (gradient,) = torch.autograd.grad(middle[i], x, retain_graph=True)
        # The magnitude of row 0 is near 0.1, to which 1e-4 is added.
        assert gradient.square().sum().item() == pytest.approx(4, rel=3e-3 if i == 0 else 3e-4)
