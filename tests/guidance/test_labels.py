"""Which score gets which label: parts of it, negative ones, and a classifier's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss

VP = ss.VPSDE()
F64 = torch.float64
MEANS = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [0.5, -2.0]], dtype=F64)


class ByClass(nn.Module):
    """The score of N(mean of the class, 1/2); without a label of N(0, 1). Counts samples."""

    def __init__(self) -> None:
        super().__init__()
        self.sde, self.sizes = VP, []
        self.classes = [ss.GaussianScore(mean, 0.5, VP) for mean in MEANS]
        self.free = ss.GaussianScore([0.0, 0.0], 1.0, VP)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.sizes.append(len(x))
        if label is None:
            return self.free(x, t)
        all_scores = torch.stack([score(x, t) for score in self.classes])
        return all_scores[label, torch.arange(len(x))]


def log_prob(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
    """A classifier's log p(y | x), quadratic, with y a point ``(B, 2)``."""
    return -0.25 * (x - label.to(x)).square().sum(1)


MODEL = ByClass()
PART = ss.guidance.label_part
CLASS, OTHER = torch.tensor([0, 1, 2, 1, 0]), torch.tensor([2, 2, 0, 0, 1])
POINT = torch.linspace(-1, 1, 10).reshape(5, 2)
SAMPLERS: dict[str, Any] = {
    "chain": ss.PredictorCorrector(VP, predictor=ss.Ancestral(), steps=8),
    "adaptive": ss.AdaptiveSampler(VP, rtol=0.2, atol=0.2),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_negative_condition_of_each_sample(name: str) -> None:
    """By condition() on both sides, sample by sample."""
    guided = ss.classifier_free(PART(MODEL, "class"), PART(MODEL, "not"), 1.4)
    label = {"class": CLASS, "not": OTHER}
    x = SAMPLERS[name].sample(guided, (5, 2), label=label, seed=1, max_batch=3)
    for i in range(5):
        bound = [ss.guidance.condition(MODEL, int(one[i])) for one in (CLASS, OTHER)]
        own = ss.classifier_free(*bound, 1.4)
        alone = SAMPLERS[name].sample(own, (5, 2), seed=1, samples=range(i, i + 1))
        torch.testing.assert_close(x[i : i + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_classifier_and_labels_of_each_sample(name: str) -> None:
    """A conditional score by its class, and a classifier by its point, in chunks too."""
    guided = ss.classifier_guidance(PART(MODEL, "class"), PART(log_prob, "point"), 2.0)
    sampler = SAMPLERS[name]
    x = sampler.sample(guided, (5, 2), label={"class": CLASS, "point": POINT}, seed=1, max_batch=2)
    for i in range(5):
        own = ss.classifier_guidance(
            ss.guidance.condition(MODEL, int(CLASS[i])),
            lambda x, t, i=i: log_prob(x, t, POINT[i]),
            2.0,
        )
        alone = sampler.sample(own, (5, 2), seed=1, samples=range(i, i + 1))
        torch.testing.assert_close(x[i : i + 1], alone, rtol=1e-4, atol=1e-4)
    free = ss.classifier_guidance(MODEL, log_prob, 2.0)  # whose labels are the classifier's alone
    y, t = torch.ones(5, 2, dtype=F64), torch.tensor(0.4, dtype=F64)
    expected = MODEL(y, t) - (y - POINT)
    torch.testing.assert_close(free(y, t, POINT), expected)


@pytest.mark.parametrize("form", ["full", "diagonal", "product"])
def test_the_covariance_of_a_classifiers_score_with_labels(form: str) -> None:
    """Quadratic in x, so the Jacobian is a constant: that of the class less the classifier's."""
    guided = ss.classifier_guidance(PART(MODEL, "class"), PART(log_prob, "point"), 2.0)
    x, t = torch.randn(5, 2, dtype=F64), torch.tensor(0.4, dtype=F64)
    label = {"class": CLASS, "point": POINT}
    alpha, sigma = VP.marginal(t)
    jacobian = -1 / (alpha**2 * 0.5 + sigma**2) - 1.0
    size = (sigma / alpha) ** 2 * (1 + sigma**2 * jacobian)
    vector = torch.randn(5, 2, dtype=F64) if form == "product" else None
    expected = {
        "full": size * torch.eye(2, dtype=F64).expand(5, 2, 2),
        "diagonal": size * torch.ones(5, 2, dtype=F64),
        "product": None if vector is None else size * vector,
    }[form]
    found = ss.tweedie_covariance(
        lambda x: guided(x, t, label), x, alpha, sigma, form=form, vector=vector
    )
    torch.testing.assert_close(found, expected)


def test_the_likelihood_under_a_classifier_with_labels() -> None:
    guided = ss.classifier_guidance(PART(MODEL, "class"), PART(log_prob, "point"))
    x, label = torch.randn(5, 2, dtype=F64), {"class": CLASS, "point": POINT}
    flow = ss.ProbabilityFlow(VP, method="rk4", steps=10)
    both = flow.log_likelihood(guided, x, label=label).log_prob
    own = ss.classifier_guidance(
        ss.guidance.condition(MODEL, int(CLASS[3])), lambda x, t: log_prob(x, t, POINT[3])
    )
    alone = flow.log_likelihood(own, x[3:4]).log_prob
    torch.testing.assert_close(both[3:4], alone, rtol=1e-6, atol=1e-6)


def test_autoguidance_gives_both_the_label() -> None:
    weaker = ByClass()
    guided = ss.guidance.autoguidance(MODEL, weaker, 2.0)
    x, t = torch.randn(5, 2, dtype=F64), torch.tensor(0.4, dtype=F64)
    torch.testing.assert_close(guided(x, t, CLASS), MODEL(x, t, CLASS))  # the same score
    shifted = ss.guidance.autoguidance(
        MODEL, lambda x, t, y: MODEL(x, t, y) + y[:, None], w=1.5, interval=None
    )
    expected = MODEL(x, t, CLASS) - 1.5 * CLASS[:, None]
    torch.testing.assert_close(shifted(x, t, CLASS), expected)


def test_what_is_called_is_asked_for() -> None:
    """A score or classifier that needs a label is refused without, before any call."""
    sampler = SAMPLERS["chain"]

    def needs(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        raise AssertionError("called")

    scores = [needs, ss.classifier_free(needs, MODEL, 2.0), ss.classifier_guidance(MODEL, needs)]
    scores += [
        ss.guidance.product([MODEL, needs]),
        ss.under(ss.classifier_free(needs, MODEL, 2), VP),
    ]
    for score in scores:
        with pytest.raises(ss.errors.IncompatibleError, match="without a label"):
            sampler.sample(score, (2, 2))
    with pytest.raises(ss.errors.IncompatibleError, match="without a label"):
        ss.classifier_free(MODEL, needs, 2.0)


# A network with parts of it taken out.
