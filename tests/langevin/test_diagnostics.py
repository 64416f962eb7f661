"""Effective sample size and R-hat against their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

import sdescore as ss
from sdescore.langevin.chains import LangevinRun, chains
from sdescore.langevin.diagnostics import effective_sample_size, r_hat
from tests.helpers.langevin import X, gaussian


def autoregression(n: int, chains: int, rhos: tuple[float, ...], elements: int) -> Tensor:
    """``(n, chains, len(rhos), elements)``, stationary from the start, variance 1."""
    generator = torch.Generator().manual_seed(11)
    rho = torch.tensor(rhos, dtype=torch.float64)[:, None]
    z = torch.randn(n, chains, len(rhos), elements, dtype=torch.float64, generator=generator)
    path = [z[0]]
    for k in range(1, n):
        path.append(rho * path[-1] + (1 - rho**2).sqrt() * z[k])
    return torch.stack(path)


def test_the_effective_sample_size_of_an_autoregression() -> None:
    """Its integrated autocorrelation time is (1 + ρ)/(1 − ρ): the mean of 40, within 5 %."""
    rhos = (-0.4, 0.0, 0.5, 0.9)
    worth = effective_sample_size(autoregression(2000, 4, rhos, 40))
    time = torch.tensor([(1 + r) / (1 - r) for r in rhos], dtype=torch.float64)
    torch.testing.assert_close(
        worth.mean(1) * time / 8000, torch.ones(4).double(), rtol=0.05, atol=0
    )


@pytest.mark.slow
def test_the_effective_sample_size_of_langevin_on_a_gaussian() -> None:
    """ULA on N(0, S) is an autoregression with ρ = 1 − τ/S: the means of 16, within 6 %.

    Over seeds these means spread by 0.7, 0.8 and 1.1 %, so that 1 seed in 10⁷ gives a false alarm.
    """
    S, tau = torch.tensor([0.5, 1.0, 3.0]), 0.4
    each = S.repeat_interleave(16)
    run = chains(gaussian(each), torch.zeros(16, 48), tau, 3000, burn_in=100, return_path=True)
    rho = 1 - tau / S.double()
    expected = 16 * 3000 * (1 - rho) / (1 + rho)
    worth = run.effective_sample_size().view(3, 16).mean(1)
    torch.testing.assert_close(worth, expected, rtol=0.06, atol=0.0)
    assert bool((run.r_hat() < 1.02).all())
    assert bool(
        (
            chains(gaussian(S), 9 * torch.randn(16, 3), 0.01, 50, return_path=True).r_hat() > 1.5
        ).all()
    )


def split(path: np.ndarray) -> np.ndarray:
    half = len(path) // 2
    return np.concatenate([path[:half], path[-half:]], axis=1)


def spelled_out(path: np.ndarray) -> tuple[float, float]:
    """R̂ and effective sample size of ``(n, chains)``, sum by sum."""
    x = split(path)
    n, m = x.shape
    means, s2 = x.mean(0), x.var(0, ddof=1)
    W, B = s2.mean(), n * means.var(ddof=1)
    plus = (n - 1) / n * W + B / n
    rho = []
    for lag in range(n):
        own = [
            sum((x[i, c] - means[c]) * (x[i + lag, c] - means[c]) for i in range(n - lag)) / (n - 1)
            for c in range(m)
        ]
        rho.append(1 - (W - np.mean(own)) / plus if lag else 1.0)
    total, smallest = 0.0, math.inf
    for k in range(n // 2):
        pair = rho[2 * k] + rho[2 * k + 1]
        if pair <= 0:
            break
        smallest = min(smallest, pair)
        total += smallest
    tau = max(-1 + 2 * total, 1 / math.log10(n * m))
    return math.sqrt(plus / W), n * m / tau


@pytest.mark.parametrize("n", [8, 33, 60])
def test_diagnostics_are_their_definitions(n: int) -> None:
    path = autoregression(n, 3, (-0.9, 0.3, 0.95), 2)
    got = r_hat(path, ranked=False), effective_sample_size(path)
    for i in range(3):
        for j in range(2):
            both = spelled_out(path[..., i, j].numpy())
            assert [g[i, j].item() for g in got] == pytest.approx(both, rel=1e-9)


def ranked_by_counting(path: np.ndarray) -> float:
    """Rank normalised and folded R̂, ranks by comparing each with each."""

    def scores(x: np.ndarray) -> np.ndarray:
        below = (x.ravel()[None] < x.ravel()[:, None]).sum(1)
        ties = (x.ravel()[None] == x.ravel()[:, None]).sum(1)
        rank = below + (ties + 1) / 2
        return scipy.stats.norm.ppf((rank - 3 / 8) / (x.size + 1 / 4)).reshape(x.shape)

    def plain(x: np.ndarray) -> float:
        n = len(x)
        W = x.var(0, ddof=1).mean()
        return math.sqrt(((n - 1) / n * W + x.mean(0).var(ddof=1)) / W)

    x = split(path)
    return max(plain(scores(x)), plain(scores(np.abs(x - np.median(x)))))


@pytest.mark.parametrize("ties", [True, False])
def test_the_ranked_r_hat_is_its_definition(ties: bool) -> None:
    path = autoregression(40 if ties else 8, 3, (0.5,), 4)[:, :, 0]
    path = (2 * path).round() / 2 if ties else path
    got = r_hat(path)
    for j in range(4):
        assert got[j].item() == pytest.approx(ranked_by_counting(path[..., j].numpy()), rel=1e-9)


def test_what_r_hat_sees() -> None:
    """Chains at other places, of other widths (the folded ranks alone), and a drift."""
    calm = autoregression(500, 4, (0.0,), 1)[:, :, 0, 0]
    assert r_hat(calm) < 1.02 and r_hat(calm, ranked=False) < 1.02
    assert r_hat(calm + torch.tensor([0.0, 0, 0, 2])) > 1.1
    wide = calm * torch.tensor([1.0, 1, 1, 5])
    assert r_hat(wide, ranked=False) < 1.03 < 1.1 < r_hat(wide)
    drift = calm[:, :1] + torch.linspace(0, 3, 500)[:, None]
    assert r_hat(drift) > 1.3, "one chain, whose halves disagree"
    cauchy = calm / autoregression(500, 4, (0.0,), 2)[:, :, 0, 1]
    assert r_hat(cauchy) < 1.05 and r_hat(1e200 * calm).isfinite()


def test_what_does_not_move_has_no_diagnostics() -> None:
    path = torch.randn(26, 3, 200, dtype=torch.float64)
    path[..., 1:] = torch.rand(199, dtype=torch.float64)  # the variance of some rounds away from 0
    for found in (effective_sample_size(path), r_hat(path), r_hat(path, ranked=False)):
        assert found[0].isfinite() and found[1:].isnan().all()
    stuck = torch.arange(3.0).expand(20, 3)
    assert r_hat(stuck, ranked=False).isinf()


@pytest.mark.parametrize("diagnostic", [effective_sample_size, r_hat])
def test_a_path_with_a_gradient_is_a_path(diagnostic: Callable[[Tensor], Tensor]) -> None:
    path = autoregression(20, 3, (0.3,), 2)[:, :, 0]
    got = diagnostic(path.clone().requires_grad_())
    assert torch.equal(got, diagnostic(path)) and not got.requires_grad


@pytest.mark.parametrize("diagnostic", [effective_sample_size, r_hat])
def test_bad_paths(diagnostic: Callable[[Tensor], Tensor]) -> None:
    for path in (torch.randn(7, 2), torch.randn(20), torch.randn(20, 0)):
        with pytest.raises(ss.errors.ShapeError, match="n >= 8"):
            diagnostic(path)
    with pytest.raises(ss.errors.ShapeError):
        diagnostic(np.zeros((20, 2)))  # type: ignore[arg-type]
    path = torch.randn(20, 2)
    path[3, 1] = math.nan
    with pytest.raises(ss.errors.ParameterError, match="finite"):
        diagnostic(path)
    with pytest.raises(ss.errors.IncompatibleError, match="return_path"):
        LangevinRun(X, None, None, 1).r_hat()
