"""Classifier guidance is Bayes' rule: exact on Gaussians."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import nn

import sdescore as ss
from tests.helpers.guided import (
    COVARIANCE,
    F64,
    MEAN,
    SCORE,
    SDES,
    Y,
    log_prob_y,
    posterior,
)

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_classifier_guidance_is_bayes_rule(sde: ss.LinearSDE) -> None:
    exact = ss.GaussianScore(*posterior(), sde)
    guided = ss.classifier_guidance(ss.GaussianScore(MEAN, COVARIANCE, sde), log_prob_y(sde))
    x = torch.randn(20, 2, dtype=F64)
    for t in (0.01, 0.3, 1.0):
        time = torch.tensor(t, dtype=F64)
        with torch.no_grad():
            torch.testing.assert_close(guided(x, time), exact(x, time), rtol=1e-9, atol=1e-9)


def test_classifier_scale_multiplies_the_gradient() -> None:
    sde = SDES[0]
    score, log_prob = ss.GaussianScore(MEAN, COVARIANCE, sde), log_prob_y(sde)
    x, t = torch.randn(5, 2, dtype=F64), torch.tensor(0.4, dtype=F64)
    plain = score(x, t)
    once = ss.classifier_guidance(score, log_prob, 1.0)(x, t) - plain
    thrice = ss.classifier_guidance(score, log_prob, 3.0)(x, t) - plain
    torch.testing.assert_close(thrice, 3 * once, rtol=1e-12, atol=1e-12)


def test_guided_sampling_draws_from_the_posterior() -> None:
    """Mean (z) and variance (χ²) of 4000 samples per axis, two-sided at alpha = 1e-6 each, with
    3 % of a standard deviation allowed for the sampler's own error at 200 steps."""
    sde, n, alpha = ss.VPSDE(), 4000, 1e-6
    guided = ss.classifier_guidance(ss.GaussianScore(MEAN, COVARIANCE, sde), log_prob_y(sde))
    sampler = ss.PredictorCorrector(sde, predictor=ss.Ancestral(), steps=200)
    x = sampler.sample(guided, (n, 2), seed=4).double()
    mean, covariance = posterior()
    std = covariance.diagonal().sqrt()
    slack = stats.norm.isf(alpha / 2) / math.sqrt(n) + 0.03
    assert ((x.mean(0) - mean) / std).abs().max() < slack
    ratio = x.var(0) / std**2
    low, high = stats.chi2.ppf([alpha / 2, 1 - alpha / 2], n - 1) / (n - 1)
    assert ratio.min() > low * 0.94
    assert ratio.max() < high * 1.06
    # Labels reach the classifier, chunk by chunk.
    label = torch.full((n,), Y)
    chunked = sampler.sample(guided, (n, 2), seed=4, label=label, max_batch=1500)
    torch.testing.assert_close(chunked.double(), x, rtol=0, atol=1e-4)


def test_guidance_works_without_gradients_and_in_inference_mode() -> None:
    sde = SDES[0]
    guided = ss.classifier_guidance(ss.GaussianScore(MEAN, COVARIANCE, sde), log_prob_y(sde))
    x, t = torch.randn(3, 2), torch.tensor(0.5)
    expected = guided(x, t)
    assert not expected.requires_grad
    with torch.inference_mode():
        inside = guided(x.clone(), t.clone())
    torch.testing.assert_close(inside, expected)
    # Even where the derivative needs the time and the label themselves.
    table = nn.Embedding(3, 2)
    direct = ss.classifier_guidance(SCORE, lambda x, t, y: t * (x * table(y)).sum(1))
    with torch.inference_mode():
        inside = direct(x.clone(), t.clone(), torch.tensor([2, 0, 1]))
    torch.testing.assert_close(inside, SCORE(x, t) + 0.5 * table.weight[[2, 0, 1]])


def test_a_guided_score_can_be_differentiated() -> None:
    """The likelihood of a guided score needs its derivative: Bayes' rule holds for that too."""
    sde, t = SDES[0], torch.tensor(0.3, dtype=F64)
    guided = ss.classifier_guidance(ss.GaussianScore(MEAN, COVARIANCE, sde), log_prob_y(sde))
    exact = ss.GaussianScore(*posterior(), sde)
    x = torch.randn(4, 2, dtype=F64, requires_grad=True)
    v = torch.randn(4, 2, dtype=F64)
    got = torch.autograd.grad(guided(x, t), x, v)[0]
    torch.testing.assert_close(got, torch.autograd.grad(exact(x, t), x, v)[0])
    flow = ss.ProbabilityFlow(sde, rtol=1e-7, atol=1e-7)
    states = x.detach()
    both = [flow.log_likelihood(s, states).log_prob for s in (guided, exact)]
    torch.testing.assert_close(both[0], both[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", ["full", "diagonal"])
def test_the_posterior_covariance_of_a_guided_score(form: str) -> None:
    """Of a Gaussian given y it is exact, by forward mode over the classifier's own gradient."""
    sde, t = SDES[0], torch.tensor(0.4, dtype=F64)
    guided = ss.classifier_guidance(ss.GaussianScore(MEAN, COVARIANCE, sde), log_prob_y(sde))
    exact = ss.GaussianScore(*posterior(), sde)
    x = torch.tensor([[0.3, -1.0], [2.0, 0.1]], dtype=F64)
    covariance = exact.covariance(x, t)
    expected = covariance if form == "full" else covariance.diagonal(dim1=1, dim2=2)
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            got = ss.tweedie_covariance(lambda x: guided(x, t), x, *sde.marginal(t), form=form)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
