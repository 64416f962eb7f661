"""Spherical interpolation against SciPy's, and by its geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import geometric_slerp

import sdescore as ss
from sdescore.samplers import slerp


@pytest.mark.parametrize("d", [2, 3, 192])
def test_it_is_scipys_on_the_unit_sphere_and_scales(d: int) -> None:
    """Each sample with a weight of its own, at a prior of any width."""
    a, b = torch.nn.functional.normalize(torch.randn(2, 5, d, dtype=torch.float64), dim=2)
    w = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    wanted = torch.tensor(
        np.stack([geometric_slerp(*pair, t) for *pair, t in zip(a, b, w.tolist(), strict=True)])
    )
    for std in (1.0, 50.0, 1e-3):
        found = slerp(std * a, std * b, w)
        torch.testing.assert_close(found, std * wanted, rtol=1e-12, atol=1e-14 * std)


def test_every_weight_turns_by_its_share_of_the_angle() -> None:
    """Between states of different lengths, in images; the ends are the ends."""
    a, b = 3 * torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    assert torch.equal(slerp(a, b, 0.0), a)
    assert torch.equal(slerp(a, b, 1), b)
    norms = torch.stack([x.flatten(1).norm(dim=1) for x in (a, b, slerp(a, b, 0.5))])
    assert bool((norms[2] > norms[:2].amin(0)).all() and (norms[2] < norms[:2].amax(0)).all())


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-8, 1e-3, 3.1, 3.1415])
def test_small_and_large_angles(angle: float) -> None:
    """In the plane the state between is known: its angle is the weight's share."""
    ends = torch.tensor([0.0, angle, 0.3 * angle], dtype=torch.float64)
    a, b, wanted = 2 * torch.stack([ends.cos(), ends.sin()], 1)[:, None]
    torch.testing.assert_close(slerp(a, b, 0.3), wanted, rtol=1e-11, atol=1e-15)


def test_states_between_draws_are_as_long_as_draws() -> None:
    """A chi distribution of 3,072 degrees has a relative spread of 1.3 %: 6 of them are 8 %."""
    sde = ss.VESDE()
    a, b = (sde.prior_sample((50, 3, 32, 32), seed=seed) for seed in (0, 1))
    lengths = slerp(a, b, torch.linspace(0, 1, 50)).flatten(1).norm(dim=1)
    assert (lengths / (sde.prior_std() * 3072**0.5) - 1).abs().max() < 0.08
    assert slerp(a, b, 0.5).dtype == torch.float32
