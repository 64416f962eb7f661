"""Local spectra, and what holds of both."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import scipy.optimize
import scipy.spatial
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import sdescore as ss
from sdescore.analysis import pca
from sdescore.analysis.pca import local_spectra, principal_axes
from tests.helpers.covariances import F64, normal, uneven, variances_of


def by_tree(x: Tensor, k: int) -> Tensor:
    """The local spectra of all data, in their order."""
    nearest = torch.from_numpy(scipy.spatial.cKDTree(x.numpy()).query(x.numpy(), k)[1])
    return torch.stack([variances_of(x[row])[: k - 1] for row in nearest])


@given(st.integers(1, 8), st.integers(2, 20), st.integers(0, 2**31))
def test_local_spectra_are_those_of_the_nearest_data(d: int, k: int, seed: int) -> None:
    x = uneven(20, d, seed)
    found = local_spectra(x, neighbourhoods=20, neighbours=k, seed=seed)
    wanted = by_tree(x, k)
    assert found.shape == (20, min(k - 1, d)) and found.dtype == F64
    # All data are centres, each once, in an order drawn from the seed.
    order = torch.cdist(found, wanted).argmin(1)
    torch.testing.assert_close(found, wanted[order], rtol=1e-8, atol=1e-12)
    totals = found.sum(1).sort().values, wanted.sum(1).sort().values
    torch.testing.assert_close(*totals, rtol=1e-8, atol=1e-12)


def test_two_far_flat_discs_have_the_discs_spectra() -> None:
    each, stds = 2000, torch.tensor([1.0, 0.5, 0.02], dtype=F64)
    turns = torch.linalg.qr(normal(2, 3, 3, seed=3)).Q
    discs = torch.einsum("knd,ked->kne", normal(2, each, 3) * stds, turns)
    x = torch.cat([discs[0] - 50, discs[1] + 50])
    x = x[torch.randperm(2 * each, generator=torch.Generator().manual_seed(2))]
    found = local_spectra(x, neighbourhoods=8, neighbours=each)
    wanted = torch.stack([variances_of(disc) for disc in discs])
    which = torch.cdist(found, wanted).argmin(1)
    torch.testing.assert_close(found, wanted[which])
    assert set(which.tolist()) == {0, 1}
    # The distribution's own, within sampling error: log λ has variance 2/k; 1e-6 over six figures.
    z = wanted.div(stds.square()).log() / math.sqrt(2 / each)
    assert z.abs().max() < scipy.stats.norm.isf(0.5e-6 / 6)


def test_half_the_data_is_searched_where_there_are_twice_the_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pca, "SEARCHED", 100)
    x = uneven(200, 2)
    # The whole of what is searched is one neighbourhood: its variances are a sample's of half.
    found = local_spectra(x, neighbourhoods=3, neighbours=100)
    torch.testing.assert_close(found, found[:1].expand(3, -1))
    assert not torch.allclose(found[0], variances_of(x), rtol=1e-6)
    assert not torch.allclose(found[0], variances_of(x[:100]), rtol=1e-6)
    explicit = local_spectra(x, neighbourhoods=10, neighbours=10)
    assert torch.equal(local_spectra(x, neighbourhoods=10), explicit)
    with pytest.raises(ss.errors.ParameterError, match="neighbours >= 2 and at most 100"):
        local_spectra(x, neighbours=101)


@pytest.mark.parametrize(("n", "J", "k"), [(64, 16, 4), (70, 16, 4), (10, 8, 2), (2, 2, 2)])
def test_by_default_the_neighbourhoods_share_out_the_data(n: int, J: int, k: int) -> None:
    x = uneven(n, 3)
    explicit = local_spectra(x, neighbourhoods=J, neighbours=k)
    assert torch.equal(local_spectra(x, neighbourhoods=J), explicit)
    if n >= 16:
        assert torch.equal(local_spectra(x), explicit)


def test_data_on_a_line_have_one_variance_and_no_negative_ones() -> None:
    x = normal(200, 1) * torch.tensor([[3.0, -1.0, 0.1, 7.0, 1e-3, 2.0]], dtype=F64)
    found = local_spectra(x, neighbours=20)
    assert found.min() >= 0 and (found[:, 1:] / found[:, :1]).max() < 1e-12


def test_centres_depend_on_the_seed_alone() -> None:
    x = uneven(100, 3)
    first, again, other = (local_spectra(x, neighbours=10, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_mean_far_away_costs_no_digits() -> None:
    x = (normal(300, 4) * 2**20).round() / 2**20  # exact after the shift
    options: dict[str, Any] = {"neighbourhoods": 30, "neighbours": 10}
    near, far = local_spectra(x, **options), local_spectra(x + 2.0**26, **options)
    torch.testing.assert_close(near, far, rtol=1e-6, atol=0)
    near, far = principal_axes(x, 2).spectrum, principal_axes(x + 2.0**26, 2).spectrum
    torch.testing.assert_close(near, far, rtol=1e-6, atol=0)


# Both


BOTH: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "exact": lambda x: principal_axes(x, 2)[:2],
    "randomised": lambda x: pca.randomised(x, x.mean(0, dtype=F64), 2, 0),
    "local": lambda x: (local_spectra(x, neighbourhoods=4, neighbours=9), torch.ones(())),
}


every = pytest.mark.parametrize("of", BOTH.values(), ids=BOTH.keys())


@every
def test_chunks_change_nothing(of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = uneven(53, 7)
    whole = of(x)
    for chunk in (1, 20, 53 * 7 - 1):
        monkeypatch.setattr(pca, "CHUNK", chunk)
        for a, b in zip(of(x), whole, strict=True):
            torch.testing.assert_close(a.abs(), b.abs(), rtol=1e-9, atol=1e-12)


class Largest(TorchDispatchMode):
    """Remembers the largest float64 tensor that was made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(part, Tensor) and part.dtype == F64:
                self.numel = max(self.numel, part.numel())
        return out


@pytest.mark.parametrize(
    ("of", "most"),
    [(BOTH["exact"], 500), (BOTH["local"], 4 * 3000), (lambda x: principal_axes(x, 2), 500)],
    ids=["exact", "local", "randomised"],
)
def test_the_data_are_never_copied_whole(
    of: Any, most: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pca, "CHUNK", 500)
    monkeypatch.setattr(pca, "EXACT", 0 if "randomised" in request.node.name else 4096)
    x = uneven(3000, 10).float()
    with Largest() as made:
        of(x)
    assert 0 < made.numel <= most


@pytest.mark.parametrize(("n", "d", "k"), [(50, 300, 9), (250, 3, 200)])
def test_the_smaller_of_the_two_products_is_formed(n: int, d: int, k: int) -> None:
    x = uneven(n, d).float()
    with Largest() as made:
        local_spectra(x, neighbourhoods=4, neighbours=k)
    assert made.numel <= max(d * n, 4 * n)


@every
@given(scale=st.sampled_from([2.0**-12, 0.5, 2.0**12]), seed=st.integers(0, 2**31))
def test_scaled_data_have_a_scaled_spectrum(of: Any, scale: float, seed: int) -> None:
    x = uneven(40, 5, seed)
    (spectrum, axes), (scaled, same) = of(x), of(scale * x)
    torch.testing.assert_close(scaled, scale**2 * spectrum, rtol=1e-9, atol=scale**2 * 1e-12)
    torch.testing.assert_close(same.abs(), axes.abs(), rtol=0, atol=1e-9)
