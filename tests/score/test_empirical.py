"""The ideal denoiser of a data set."""

from __future__ import annotations

import math

import pytest
import torch

import sdescore as ss
from sdescore.score.empirical import EmpiricalScore
from sdescore.score.mixture import MixtureScore
from tests.helpers.exact_scores import (
    close,
    every_sde,
    f64,
    normal,
    times,
)


@pytest.mark.parametrize("t", [0.003, 0.05, 0.5, 1.0])
def test_empirical_is_brute_force(t):
    """More data than one chunk and more rows than one chunk, against one big softmax."""
    sde, data = ss.VPSDE(), normal(2500, 3) + 4
    score = EmpiricalScore(data, sde)
    alpha, sigma = sde.marginal(t)
    x = alpha * data[:1300] + 3 * sigma * normal(1300, 3, seed=3)
    logits = -0.5 * (x.unsqueeze(1) - alpha * data).square().sum(-1) / sigma**2
    weights = logits.softmax(1)
    mean = weights @ data
    close(score.denoise(x, t), mean, 1e-12)
    assert (score(x, t) - (alpha * mean - x) / sigma**2).abs().max() <= 1e-11 / sigma**2
    log_p = logits.logsumexp(1) - math.log(2500) - 1.5 * math.log(2 * math.pi * sigma.item() ** 2)
    close(score.log_prob(x, t), log_p, 1e-11)
    part = slice(40)
    spread = data - mean[part].unsqueeze(1)
    covariance = torch.einsum("bn,bni,bnj->bij", weights[part], spread, spread)
    close(score.covariance(x[part], t), covariance, 1e-10)


@every_sde
def test_empirical_is_the_mixture_of_points(sde):
    """Components of zero variance are a data set, in every method."""
    data = normal(7, 2, 2)
    empirical = EmpiricalScore(data, sde)
    mixture = MixtureScore([1 / 7] * 7, data, [0.0] * 7, sde)
    for t in times(sde, 3):
        alpha, sigma = sde.marginal(t)
        x = alpha * data[:5] + sigma * normal(5, 2, 2, seed=4)
        for name in ("__call__", "epsilon", "denoise", "log_prob"):
            close(getattr(empirical, name)(x, t), getattr(mixture, name)(x, t), 1e-9)
        error = empirical.covariance(x, t) - mixture.covariance(x, t)
        assert error.abs().max() <= 1e-12


def test_empirical_at_small_sigma_in_float32():
    """σ = 1e-5 beside data of size 1e2: the nearest datum wins, wrong ones overflow nothing."""
    sde = ss.EDMSDE(sigma_min=1e-5, sigma_max=80.0)
    data = 100 + normal(50, 8).float()
    score = EmpiricalScore(data, sde)
    x = data + 1e-5 * normal(50, 8, seed=1).float()
    assert torch.equal(score.denoise(x, 1e-5), data)
    expected = (data.double() - x.double()) / float(torch.tensor(1e-5).double()) ** 2
    close(score(x, 1e-5).double(), expected, 1e-6)
    assert score.covariance(x[:4], 1e-5).abs().max() == 0
    far = 1e3 * normal(4, 8, seed=2).float()
    assert score(far, 1e-5).isfinite().all() and score.log_prob(far, 1e-5).isfinite().all()


def test_empirical_between_two_close_data_in_float32():
    """Two data 2e-5 apart at σ = 1e-5, far from the centre: the softmax decides by distances
    that float32 squares would lose."""
    sde = ss.EDMSDE(sigma_min=1e-5, sigma_max=80.0)
    data = torch.tensor([[-1.0, 2.0], [1.0, 0.5], [1.00002, 0.5]])
    x = torch.tensor([[1.000005, 0.5], [1.00001, 0.50001], [1.000013, 0.49999]])
    distances = (x.double().unsqueeze(1) - data.double()).square().sum(-1)
    weights = (-0.5 * distances / 1e-10).softmax(1)
    assert (weights > 0.01).sum(1).max() == 2
    # Exact would be (x0 − 1): the answer's own rounding to float32 is 6e-8 of it.
    error = EmpiricalScore(data, sde).denoise(x, 1e-5).double() - weights @ data.double()
    assert error.abs().max() <= 1.2e-7
    s = EmpiricalScore(data, sde)(x, 1e-5).double()
    close(s, (weights @ data.double() - x.double()) / 1e-10, 1e-5)


def test_empirical_memory_is_bounded():
    """No intermediate has more than 2²⁰ numbers, though B·n is 6·10⁷ and n·d 1.2·10⁶."""
    largest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    score, x = EmpiricalScore(normal(20_000, 2), ss.VPSDE()), normal(3000, 2)
    large = EmpiricalScore(normal(600_000, 2), ss.VPSDE())
    with Watch():
        score(x, 0.3)
        score.covariance(x[:700], 0.3)
        large(x[:2], 0.3)
    assert 20_000 < largest <= 2**20


def test_empirical_derivatives():
    """The Jacobian through several chunks is σ⁻⁴α² Cov − σ⁻² I."""
    sde = ss.VPSDE()
    score = EmpiricalScore(normal(2100, 2), sde)
    x, t = normal(3, 2, seed=1), 0.3
    alpha, sigma = sde.marginal(t)
    C = score.covariance(x, t)
    expected = (alpha / sigma**2) ** 2 * C - torch.eye(2, dtype=f64) / sigma**2
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: score(row[None], t)[0]))(x)
    close(jacobian, expected, 1e-11)
    forward = torch.func.vmap(torch.func.jacfwd(lambda row: score(row[None], t)[0]))(x)
    close(forward, expected, 1e-11)
