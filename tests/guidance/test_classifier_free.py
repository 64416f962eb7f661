"""Classifier-free guidance: sums of precisions, and one network as both scores."""

from __future__ import annotations

import pytest
import torch

import sdescore as ss
from tests.helpers.guided import COVARIANCE, F64, MEAN, Labelled, posterior

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("weight", [0.5, 0.0, 0.3, 1.0, 2.5])
def test_classifier_free_mixes_scores_of_gaussians(weight: float) -> None:
    """Two Gaussians' mixed score has precision ωP₁ + (1−ω)P₀ and information likewise."""
    sde, t = ss.VPSDE(), torch.tensor(0.3, dtype=F64)
    alpha, sigma = sde.marginal(t)
    m1, C1 = posterior()
    guided = ss.classifier_free(
        ss.GaussianScore(m1, C1, sde), ss.GaussianScore(MEAN, COVARIANCE, sde), weight
    )
    eye = torch.eye(2, dtype=F64)
    P1 = torch.linalg.inv(alpha**2 * C1 + sigma**2 * eye)
    P0 = torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * eye)
    P = weight * P1 + (1 - weight) * P0
    information = weight * P1 @ (alpha * m1) + (1 - weight) * P0 @ (alpha * MEAN)
    x = torch.randn(6, 2, dtype=F64)
    torch.testing.assert_close(guided(x, t), information - x @ P, rtol=1e-11, atol=1e-11)


def test_one_network_serves_as_both_scores() -> None:
    model, x, t = Labelled(), torch.randn(4, 2), torch.tensor(0.5)
    label = torch.tensor([0, 1, 2, 3])
    expected = 3.0 * (label[:, None] - x) - 2.0 * (7 - x)
    guided = ss.classifier_free(model, model, 3.0)
    torch.testing.assert_close(guided(x, t, label), expected)
    null = ss.classifier_free(model, ss.guidance.condition(model, 7), 3.0)
    torch.testing.assert_close(null(x, t, label), expected)
    bound = ss.classifier_free(ss.guidance.condition(model, 2), model, 3.0)
    torch.testing.assert_close(bound(x, t), 3.0 * (2 - x) - 2.0 * (7 - x))


def test_chunks_slice_labels_and_modules_are_in_eval_mode() -> None:
    model = Labelled().train()
    guided = ss.classifier_free(model, ss.guidance.condition(model, 7), 1.5)
    sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.ReverseDiffusion(), steps=5)
    label = torch.arange(10) % 4
    whole = sampler.sample(guided, (10, 3), label=label, seed=2)
    model.seen.clear()
    assert torch.equal(whole, sampler.sample(guided, (10, 3), label=label, seed=2, max_batch=3))
    assert model.training
    assert guided.training
    assert {training for training, _ in model.seen} == {False}
    assert {n for _, n in model.seen} == {
        6,
        4,
        2,
    }  # 4: two samples looked at
    assert len(list(guided.parameters())) == 1
