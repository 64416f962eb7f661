"""Principal axes, exact and randomised."""

from __future__ import annotations

import math
from typing import Any

import pytest
import scipy.optimize
import scipy.spatial
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sdescore.analysis import pca
from sdescore.analysis.pca import local_spectra, principal_axes
from tests.helpers.covariances import F64, normal, uneven, variances_of


def with_covariance(variances: Tensor, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Data whose sample covariance has these eigenvalues exactly, and the eigenvectors."""
    d = len(variances)
    white = normal(n, d, seed=seed)
    white = torch.linalg.qr(white - white.mean(0)).Q * math.sqrt(n - 1)
    axes = torch.linalg.qr(normal(d, d, seed=seed + 1)).Q
    return white * variances.sqrt() @ axes.T - 2.0, axes


# Principal axes, exact


@given(st.integers(2, 30), st.integers(1, 12), st.integers(0, 2**31), st.data())
def test_small_dimensions_are_decomposed_exactly(
    n: int, d: int, seed: int, draw: st.DataObject
) -> None:
    x = uneven(n, d, seed)
    rank = draw.draw(st.integers(1, d))
    spectrum, axes, mean = principal_axes(x, rank)
    assert spectrum.shape == (d,) and axes.shape == (d, rank) and mean.shape == (d,)
    assert bool((spectrum >= 0).all() and (spectrum.diff() <= 0).all())
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(spectrum, variances_of(x), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(axes.T @ axes, torch.eye(rank, dtype=F64), rtol=0, atol=1e-12)
    along = (x - x.mean(0)) @ axes
    torch.testing.assert_close(along.square().sum(0) / (n - 1), spectrum[:rank], atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("event", [(), (6,), (1, 2, 3)])
def test_data_of_any_shape_and_dtype(event: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (100 + 30 * normal(40, *event)).to(dtype)
    exact = x.double().reshape(40, -1)
    for found in (principal_axes(x, 1), principal_axes(exact, 1)):
        assert all(part.dtype == F64 for part in found)
        torch.testing.assert_close(found.spectrum, variances_of(exact))
    options: dict[str, Any] = {"neighbourhoods": 3, "neighbours": 12, "seed": 1}
    assert torch.equal(local_spectra(x, **options), local_spectra(exact, **options))


def test_the_largest_dimension_that_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    x = uneven(50, 20)
    monkeypatch.setattr(pca, "EXACT", 20)
    torch.testing.assert_close(principal_axes(x, 2).spectrum, variances_of(x))
    monkeypatch.setattr(pca, "EXACT", 19)
    found = principal_axes(x, 2).spectrum
    assert (found / variances_of(x)).log().abs().max() > 0.1
    torch.testing.assert_close(found.sum(), x.var(0).sum())


# Principal axes, randomised


@pytest.fixture
def always_randomised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pca, "EXACT", 0)


INDEX = torch.arange(1, 301, dtype=F64)


RANK = 20


@pytest.mark.usefixtures("always_randomised")
def test_a_power_spectrum_is_found_whole() -> None:
    variances = 5 * INDEX**-1.5
    x, truth = with_covariance(variances, 400)
    spectrum, axes, mean = principal_axes(x, RANK)
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(axes.T @ axes, torch.eye(RANK, dtype=F64), rtol=0, atol=1e-12)
    # Ritz values never exceed the eigenvalues (Cauchy), and fall short of them by little.
    low = 1 - spectrum[:RANK] / variances[:RANK]
    assert low.min() > -1e-12 and low.max() < 0.1 and low[:10].max() < 2e-3
    assert (spectrum / variances).log().abs().max() < 0.1
    torch.testing.assert_close(spectrum.sum(), variances.sum(), rtol=1e-12, atol=0)
    captured = (truth[:, :RANK].T @ axes).square().sum(0)
    assert captured.min() > 0.9 and captured[0] > 1 - 1e-9
    along = ((x - x.mean(0)) @ axes).square().sum(0) / (len(x) - 1)
    torch.testing.assert_close(along, spectrum[:RANK])


@pytest.mark.usefixtures("always_randomised")
@pytest.mark.parametrize(
    ("variances", "error"),
    [
        (torch.exp(-INDEX / 30), 6.0),
        (1 / (1 + INDEX), 0.1),
        (1 + 1 / INDEX, 0.4),
        (torch.ones(300, dtype=F64), 0.4),
    ],
    ids=["exponential", "bent", "floor", "flat"],
)
def test_any_spectrum_keeps_its_total_and_falls(variances: Tensor, error: float) -> None:
    x, _ = with_covariance(variances, 400)
    found = principal_axes(x, RANK).spectrum
    assert found.shape == (300,) and bool((found.diff() <= 0).all() and (found >= 0).all())
    torch.testing.assert_close(found.sum(), variances.sum(), rtol=1e-12, atol=0)
    assert (found / variances).log().abs().max() < error


@pytest.mark.usefixtures("always_randomised")
@pytest.mark.parametrize(
    ("n", "d", "rank"), [(5, 40, 10), (4, 8, 8), (50, 6, 6), (50, 6, 5), (2, 3, 1)]
)
@pytest.mark.parametrize("seed", range(4))
def test_few_data_and_high_ranks(n: int, d: int, rank: int, seed: int) -> None:
    x = uneven(n, d, seed)
    spectrum, axes, _ = principal_axes(x, rank)
    assert spectrum.min() >= 0
    torch.testing.assert_close(spectrum, variances_of(x), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(axes.T @ axes, torch.eye(rank, dtype=F64), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("always_randomised")
def test_the_randomised_method_is_deterministic_in_its_seed() -> None:
    x = uneven(60, 30)
    first, again, other = (principal_axes(x, 3, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.axes, other.axes)


@given(st.floats(0.05, 8), st.integers(1, 40), st.integers(1, 40), st.floats(1e-6, 1e6))
def test_the_tail_is_the_power_that_sums_to_what_is_left(
    power: float, rank: int, more: int, last: float
) -> None:
    d = rank + more
    ratio = torch.arange(rank + 1, d + 1, dtype=F64) / rank
    left = (last * ratio**-power).sum().item()

    def excess(p: float) -> float:
        return math.log(last * sum((i / rank) ** -p for i in range(rank + 1, d + 1)) / left)

    p = scipy.optimize.brentq(excess, 0, 100, xtol=1e-13)
    torch.testing.assert_close(pca.tail(last, rank, d, left), last * ratio**-p, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("last", "left", "wanted"),
    [(1.0, 9.0, 3.0), (0.0, 6.0, 2.0), (1.0, 0.0, 0.0), (0.0, 0.0, 0.0)],
    ids=["more than fits", "nothing before", "nothing left", "nothing"],
)
def test_a_tail_without_a_power(last: float, left: float, wanted: float) -> None:
    assert pca.tail(last, 2, 5, left).tolist() == [wanted] * 3
    assert pca.tail(last, 5, 5, left).shape == (0,)
