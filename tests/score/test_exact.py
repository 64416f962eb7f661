"""What the exact scores refuse, and that nothing of the caller's changes a number."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdescore as ss
from sdescore.score.empirical import EmpiricalScore
from sdescore.score.mixture import GaussianScore, MixtureScore
from tests.helpers.exact_scores import (
    close,
    f64,
    normal,
    parameters,
    reference,
)


def test_any_object_with_marginals_will_do():
    class Line:
        def marginal(self, t):
            t = torch.as_tensor(t, dtype=f64)
            return torch.ones_like(t), 2 * t

    x = torch.tensor([[3.0]])
    assert GaussianScore([0.0], 1.0, Line())(x, 1.0).item() == pytest.approx(-0.6)


@pytest.mark.parametrize("chunk", [None, 1])
def test_bad_states_and_times_are_refused(chunk, monkeypatch):
    if chunk:
        monkeypatch.setattr(MixtureScore, "_chunk_numel", chunk)
        monkeypatch.setattr(EmpiricalScore, "_chunk_numel", chunk)
    wrong = [torch.zeros(2), torch.zeros(2, 3), torch.zeros(2, 2, 1), torch.zeros(2, 2).int(), 1.0]
    for score in (
        MixtureScore(*parameters(2, 2), ss.VPSDE()),
        EmpiricalScore(normal(3, 2), ss.VPSDE()),
    ):
        for name in ("__call__", "epsilon", "denoise", "log_prob", "covariance"):
            method = getattr(score, name)
            for x in wrong:
                with pytest.raises(ss.errors.ShapeError):
                    method(x, 0.5)
            for t in (torch.full((3,), 0.5), torch.full((2, 1), 0.5)):
                with pytest.raises(ss.errors.ShapeError):
                    method(torch.zeros(2, 2), t)
            for t in (-0.1, 1.5, math.nan):
                with pytest.raises(ss.errors.TimeError):
                    method(torch.zeros(2, 2), t)
        with pytest.raises(ss.errors.ShapeError):
            score.sample(-1)


def test_a_distribution_without_density_is_refused_where_sigma_is_zero():
    sde, x = ss.VPSDE(), torch.zeros(1, 2)
    v = normal(2, 1)
    rank_one = v @ v.T  # its zero eigenvalue may come out as rounding error of either sign
    for score in (
        GaussianScore([0.0, 0.0], rank_one, sde),
        GaussianScore([0.0, 0.0], [1.0, 0.0], sde),
        EmpiricalScore(torch.zeros(3, 2), sde),
    ):
        with pytest.raises(ss.errors.TimeError, match="no density"):
            score(x, 0.0)
        with pytest.raises(ss.errors.TimeError, match="no density"):
            score.log_prob(torch.zeros(2, 2), torch.tensor([0.5, 0.0]))
        assert score(x, 1e-6).isfinite().all()
        assert score.sample(3).isfinite().all()
    for seed in range(10):
        v = normal(5, 2, seed=seed)
        rank_two = GaussianScore([0.0] * 5, v @ v.T, sde)
        assert (rank_two.eigenvalues > 0).sum() == 2
        with pytest.raises(ss.errors.TimeError, match="no density"):
            rank_two(torch.zeros(1, 5), 0.0)
    smooth = GaussianScore([0.0, 0.0], 1.0, sde)
    assert torch.equal(smooth.denoise(x + 1, 0.0), x + 1)


def test_singular_covariance_of_float32_data_is_accepted():
    points = normal(4, 6).float()
    C = torch.cov(points.T)  # rank 3 of 6: float32 noise makes eigenvalues slightly negative
    score = GaussianScore(points.mean(0), C, ss.VPSDE())
    assert (score.eigenvalues >= 0).all()


# Any SDE, any time, any distribution.


positive = st.floats(0.05, 10.0)


@st.composite
def sdes(draw):
    low = draw(positive)
    high = low + draw(positive)
    return draw(
        st.sampled_from(
            [
                ss.VPSDE(beta_min=low, beta_max=high),
                ss.SubVPSDE(beta_min=low, beta_max=high),
                ss.VESDE(sigma_min=low / 10, sigma_max=high),
                ss.EDMSDE(sigma_min=low / 10, sigma_max=high),
                ss.CosineVPSDE(offset=low / 10),
                ss.RectifiedFlowSDE(),
            ]
        )
    )


@given(
    sde=sdes(),
    fraction=st.floats(0.01, 1.0),
    components=st.integers(1, 5),
    d=st.integers(1, 4),
    kind=st.sampled_from(["full", "diagonal", "isotropic"]),
    seed=st.integers(0, 10**6),
)
def test_any_mixture_is_consistent(sde, fraction, components, d, kind, seed):
    """Density against torch.distributions, score against its gradient, Tweedie for the mean,
    and a posterior covariance that is symmetric, non-negative and Tweedie's."""
    t = fraction * sde.T
    given_parameters = parameters(components, d, kind, seed)
    score = MixtureScore(*given_parameters, sde)
    alpha, sigma = sde.marginal(t)
    x = (alpha * score.sample(3, seed=seed, dtype=f64)).requires_grad_()
    log_p = reference(given_parameters, d, alpha, sigma).log_prob(x)
    close(score.log_prob(x, t).detach(), log_p.detach(), 1e-10)
    expected = torch.autograd.grad(log_p.sum(), x)[0]
    x = x.detach()
    precision = (1 / (alpha**2 * score.eigenvalues.min() + sigma**2)).item()
    assert (score(x, t) - expected).abs().max() <= 1e-12 * precision * (1 + x.abs().max())
    tweedie = (x + sigma**2 * expected) / alpha
    assert (score.denoise(x, t) - tweedie).abs().max() <= 1e-10 * (1 + x.abs().max() / alpha)
    covariance = score.covariance(x, t)
    close(covariance, covariance.mT, 1e-12)
    lowest = torch.linalg.eigvalsh(covariance).min()
    assert lowest >= -1e-12 * covariance.abs().max()
    by_jacobian = ss.tweedie_covariance(lambda x: score(x, t), x, alpha, sigma)
    assert (covariance - by_jacobian).abs().max() <= 1e-10 * (1 + (sigma / alpha) ** 2)


# The caller's global state.


FULL, CLEAN, STATE = parameters(3, 3), normal(50, 3).float(), normal(4, 3).float()


def each_score() -> list[ss.score.ExactScore]:
    sde = ss.VPSDE()
    return [
        GaussianScore([0.3, -0.2, 1.0], [[1.0, 0.4, 0.1], [0.4, 2.0, 0.3], [0.1, 0.3, 0.5]], sde),
        MixtureScore(*FULL, sde),
        MixtureScore([0.4, 0.6], [[0.5, 1.0, 2.0], [0.1, 0.2, 0.3]], [0.1, 0.2], sde),
        EmpiricalScore(CLEAN, sde),
    ]


def all_numbers() -> list[torch.Tensor]:
    scores = each_score()
    draws = [score.sample(5, seed=2) for score in scores]
    return draws + [getattr(score, name)(STATE, 0.4) for score in scores for name in NAMES]


NAMES = ("__call__", "denoise", "epsilon", "log_prob", "covariance")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_no_number(dtype):
    """Matrix products in bfloat16 were 0.4 to 10 % off."""
    expected = all_numbers()
    with torch.autocast("cpu", dtype):
        got = all_numbers()
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other) and one.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_default_dtype_and_device_change_no_number(dtype):
    expected = all_numbers()
    torch.set_default_dtype(dtype)
    torch.set_default_device("meta")
    try:
        got = all_numbers()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_data_are_not_copied_to_find_their_mean():
    """The mean in float64 at once took twice the data; peak of the allocator, in a process."""
    code = (
        "import resource, torch, sdescore as ss; data = torch.zeros(1 << 14, 1 << 12); "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "ss.EmpiricalScore(data, ss.VPSDE()); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    code = code.replace("before =", "ss.EmpiricalScore(data[:2], ss.VPSDE()); before =", 1)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100 << 10  # of 256 MiB of data, in KiB
