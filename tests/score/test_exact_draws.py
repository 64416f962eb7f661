"""Samples from the exact scores, in every shape and dtype."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import linalg, stats

import sdescore as ss
from sdescore.score.empirical import EmpiricalScore
from sdescore.score.mixture import GaussianScore, MixtureScore
from tests.helpers.exact_scores import (
    close,
    f64,
    normal,
    parameters,
)


def test_sample_moments():
    """Mean and covariance of 40,000 draws, each entry within 4.9σ of its exact value.

    alpha = 1e-6 per entry, two-sided; the entries' variances are the exact Gaussian ones of
    each component, with fourth moments estimated from a second, independent run.
    """
    weights, means, C = parameters(3, 3)  # in 2-D eigenvectors may equal their transpose
    score = MixtureScore(weights, means, C, ss.VPSDE())
    x = score.sample(40_000, seed=3, dtype=f64)
    mean = weights @ means
    spread = means - mean
    covariance = torch.einsum("k,kij->ij", weights, C) + spread.T @ (weights[:, None] * spread)
    centred = x - mean
    z = centred.mean(0) / (covariance.diagonal() / len(x)).sqrt()
    assert z.abs().max() <= 4.9
    products = centred.unsqueeze(2) * centred.unsqueeze(1)
    other = score.sample(40_000, seed=4, dtype=f64) - mean
    scale = (other.unsqueeze(2) * other.unsqueeze(1)).std(0) / math.sqrt(len(x))
    assert ((products.mean(0) - covariance) / scale).abs().max() <= 4.9


@pytest.mark.parametrize("seed", [0, 11])
def test_sample_distribution_in_one_dimension(seed):
    """Kolmogorov–Smirnov against the exact distribution function; alpha = 1e-6."""
    weights, means, stds = [0.2, 0.5, 0.3], [-2.0, 0.0, 1.0], [0.3, 0.1, 0.8]
    score = MixtureScore(weights, [[m] for m in means], [[[s * s]] for s in stds], ss.VPSDE())
    x = score.sample(20_000, seed=seed)[:, 0].numpy()

    def cdf(v):
        parts = zip(weights, means, stds, strict=True)
        return sum(w * stats.norm(m, s).cdf(v) for w, m, s in parts)

    assert stats.kstest(x, cdf).pvalue > 1e-6


def test_empirical_sample_is_uniform_over_the_data():
    """Chi-square over 20 data points; alpha = 1e-6."""
    data = torch.arange(20.0).reshape(20, 1)
    x = EmpiricalScore(data, ss.VPSDE()).sample(20_000, seed=5)
    assert stats.chisquare(np.bincount(x[:, 0].long().numpy(), minlength=20)).pvalue > 1e-6


def test_a_sample_depends_on_its_seed_and_index_alone():
    score = MixtureScore(*parameters(3, 2), ss.VPSDE())
    many = score.sample(100, seed=2)
    assert torch.equal(score.sample(9, seed=2), many[:9])
    assert not torch.equal(score.sample(9, seed=3), many[:9])
    assert score.sample(0).shape == (0, 2)
    assert score.sample(2, dtype=f64).dtype == f64


def test_clean_draws_are_independent_of_the_prior_of_the_same_seed():
    """Correlation of 20,000 pairs below 4.9/√n; alpha = 1e-6 each."""
    sde, n = ss.VPSDE(), 20_000
    x = GaussianScore([0.0, 0.0], 1.0, sde).sample(n, seed=0)
    z = sde.prior_sample((n, 2), seed=0)
    correlation = np.corrcoef(torch.cat([x, z], 1).T.numpy())[:2, 2:]
    assert np.abs(correlation).max() <= 4.9 / math.sqrt(n)


# Shapes, times, dtypes, transforms.


@pytest.mark.parametrize("event_shape", [(), (1,), (3,), (2, 2)])
@pytest.mark.parametrize("kind", ["mixture", "empirical"])
def test_event_shapes_and_forms_of_time(event_shape, kind):
    sde, points = ss.VPSDE(), normal(3, *event_shape)
    score = (
        MixtureScore([0.2, 0.3, 0.5], points, points.square() + 0.1, sde)
        if kind == "mixture"
        else EmpiricalScore(points, sde)
    )
    assert score.event_shape == event_shape and score.sde is sde
    x, t = normal(4, *event_shape, seed=1), torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=f64)
    for name in ("__call__", "epsilon", "denoise", "log_prob", "covariance"):
        method = getattr(score, name)
        rows = torch.cat([method(x[k : k + 1], float(t[k])) for k in range(4)])
        close(method(x, t), rows, 1e-12)
        close(method(x, t[1]), method(x, 0.4), 1e-14)
        close(method(x, t[1:2]), method(x, 0.4), 1e-14)
        assert method(x[:0], 0.4).shape == rows[:0].shape
        assert method(x[:0], t[:0]).shape == rows[:0].shape
    assert score.sample(5).shape == (5, *event_shape)


@pytest.mark.parametrize("per_sample", [False, True])
def test_chunks_change_nothing(per_sample, monkeypatch):
    sde = ss.SubVPSDE()
    scores = [MixtureScore(*parameters(3, 2), sde), EmpiricalScore(normal(9, 2), sde)]
    x = normal(11, 2, seed=2)
    t = torch.linspace(0.1, 1.0, 11, dtype=f64) if per_sample else torch.tensor(0.2)
    for score in scores:
        for name in ("__call__", "epsilon", "denoise", "log_prob", "covariance"):
            method = getattr(score, name)
            with monkeypatch.context() as patch:
                whole = method(x, t)
                patch.setattr(type(score), "_chunk_numel", 1)
                close(method(x, t), whole, 1e-13)


def test_full_and_diagonal_covariances_agree():
    weights, means, variances = parameters(3, 4, "diagonal")
    sde = ss.VPSDE()
    diagonal = MixtureScore(weights, means, variances, sde)
    full = MixtureScore(weights, means, torch.diag_embed(variances), sde)
    x = normal(5, 4)
    for name in ("__call__", "epsilon", "denoise", "log_prob", "covariance"):
        close(getattr(diagonal, name)(x, 0.3), getattr(full, name)(x, 0.3), 1e-12)


def test_a_gaussian_is_the_mixture_of_equal_components():
    _, means, C = parameters(1, 3)
    sde, x = ss.VPSDE(), normal(5, 3)
    one = GaussianScore(means[0], C[0], sde)
    many = MixtureScore([0.25, 0.75], means.expand(2, 3), C.expand(2, 3, 3), sde)
    for name in ("__call__", "epsilon", "denoise", "log_prob", "covariance"):
        close(getattr(one, name)(x, 0.3), getattr(many, name)(x, 0.3), 1e-12)


def test_autograd_after_inference_mode_and_after_transforms():
    """Casts of the parameters that were made elsewhere must not poison a later call."""
    for make in (
        lambda: MixtureScore(*parameters(2, 2), ss.VPSDE()),
        lambda: EmpiricalScore(normal(4, 2), ss.VPSDE()),
    ):
        with torch.inference_mode():
            score = make()
            before = score(torch.ones(1, 2), 0.5)
        torch.func.jvp(lambda x, s=score: s(x, 0.5), (torch.ones(1, 2),), (torch.ones(1, 2),))
        x = torch.ones(1, 2, requires_grad=True)
        after = score(x, 0.5)
        after.sum().backward()
        assert torch.equal(before, after) and x.grad.isfinite().all()


def test_parameters_are_copied_in_full_precision():
    means = torch.tensor([[0.5]], dtype=f64)
    score = MixtureScore([1.0], means, [0.1], ss.VPSDE())
    means += 7
    assert score.means.item() == 0.5
    assert score.eigenvalues.item() == 0.1  # not float32's 0.1


def test_draws_are_by_the_symmetric_root():
    """By scipy's root, also where the covariance leaves its eigenvectors open.

    Their signs, and their turns where eigenvalues are equal, differ between machines.
    """
    Q = torch.linalg.qr(normal(5, 5, seed=1)).Q
    C = Q @ torch.diag(torch.tensor([2.0, 2.0, 0.5, 0.5, 0.1], dtype=f64)) @ Q.T
    C = 0.5 * (C + C.T)
    mean = normal(5, seed=2)
    standard = GaussianScore(torch.zeros(5), torch.eye(5), ss.VPSDE()).sample(50, dtype=f64)
    x = GaussianScore(mean, C, ss.VPSDE()).sample(50, dtype=f64)
    expected = mean + standard @ torch.from_numpy(linalg.sqrtm(C.numpy()))
    assert (x - expected).abs().max() <= 1e-12
