"""Guided scores of Gaussians are known in closed form: Bayes' rule, and sums of precisions."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import sdescore as ss

pytestmark = pytest.mark.fast

F64 = torch.float64
SDES = [ss.VPSDE(), ss.VESDE(sigma_min=0.05, sigma_max=10.0), ss.SubVPSDE()]
MEAN = torch.tensor([1.0, -0.5], dtype=F64)
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.8]], dtype=F64)
# y = H x₀ + noise, so that x₀ | y is Gaussian and p(y | x_t) too.
H = torch.tensor([[1.0, 2.0]], dtype=F64)
R = 0.3
Y = 1.5


def posterior() -> tuple[Tensor, Tensor]:
    """Mean and covariance of x₀ given y, by the information form."""
    precision = torch.linalg.inv(COVARIANCE) + H.T @ H / R
    covariance = torch.linalg.inv(precision)
    information = torch.linalg.inv(COVARIANCE) @ MEAN + H[0] * Y / R
    return covariance @ information, covariance


def log_prob_y(sde: ss.LinearSDE):
    """``log p(y | x_t)``: y = H x₀ + r with x₀ | x_t Gaussian; Kalman's formulas in t."""

    def log_prob(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        alpha, sigma = (c.to(x).reshape(-1, 1, 1) for c in sde.marginal(t))  # one, or one each
        C, m, h = COVARIANCE.to(x), MEAN.to(x), H.to(x)
        V = alpha**2 * C + sigma**2 * torch.eye(2).to(x)
        gain = alpha * C @ torch.linalg.inv(V)
        mean = m + (gain @ (x - alpha[:, 0] * m)[:, :, None])[:, :, 0]
        variance = (h @ (C - alpha * gain @ C) @ h.T).flatten() + R
        y = Y if label is None else label.to(x)
        return -0.5 * (y - mean @ h[0]) ** 2 / variance

    return log_prob


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
    thrice = ss.classifier_guidance(score, log_prob, -3.0)(x, t) - plain
    torch.testing.assert_close(thrice, -3 * once, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weight", [-0.5, 0.0, 0.3, 1.0, 2.5])
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


class Labelled(nn.Module):
    """A score that depends on the label; without one it is label 7's. Counts training calls."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0))
        self.seen: list[tuple[bool, int]] = []

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.seen.append((self.training, -1 if label is None else len(label)))
        if label is None:
            label = torch.full(x.shape[:1], 7)
        return self.factor * (label.to(x)[:, None] - x)


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
    assert {n for _, n in model.seen} == {6, 2}  # both halves of a chunk in one call
    assert len(list(guided.parameters())) == 1


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


def test_guidance_knows_its_sde() -> None:
    sde = ss.VPSDE()
    score = ss.GaussianScore(MEAN, COVARIANCE, sde)
    assert ss.classifier_free(score, score, 1.0).sde == sde
    assert ss.classifier_guidance(score, log_prob_y(sde)).sde == sde
    model = ss.ScoreModel(ss.MLP(2, hidden=4, classes=2), sde, prediction="epsilon")
    assert ss.guidance.condition(model, 1).sde == sde
    assert not hasattr(ss.guidance.condition(Labelled(), 1), "sde")
    with pytest.raises(ss.errors.IncompatibleError, match="SDE"):
        ss.PredictorCorrector(ss.VESDE(), predictor=ss.ReverseDiffusion(), steps=3).sample(
            ss.classifier_free(score, score, 2.0), (2, 2)
        )


SCORE = ss.GaussianScore(MEAN, COVARIANCE, ss.VPSDE())


# What guidance asks of its parts before a sampler calls them.


@pytest.mark.guards("W08")
def test_a_network_that_never_went_without_a_label_is_not_asked_without() -> None:
    """Nothing trained the row of its null label."""
    model = ss.ScoreModel(
        ss.MLP(1, hidden=4, classes=2), ss.VPSDE(), label_required=True, prediction="epsilon"
    )
    label = torch.zeros(2, dtype=torch.int64)
    sampler, x = (
        ss.PredictorCorrector(ss.VPSDE(), predictor=ss.ReverseDiffusion(), steps=2),
        torch.ones(2, 1),
    )
    flow = ss.ProbabilityFlow(ss.VPSDE(), method="euler", steps=2)
    moved = model.under(ss.VESDE())
    calls = [lambda: ss.classifier_free(model, model, 2.0), lambda: model(x, 0.5)]
    calls += [lambda: moved.denoise(x, 0.5), lambda: flow.log_likelihood(model, x)]
    calls += [lambda: ss.classifier_guidance(model, lambda x, t: x.sum(1))]
    calls += [
        lambda score=score: ss.PredictorCorrector(
            score.sde, predictor=ss.ReverseDiffusion(), steps=2
        ).sample(score, (2, 1))
        for score in (model, moved, ss.under(nn.DataParallel(model), ss.VESDE()))
    ]
    calls += [lambda: sampler.sample(nn.DataParallel(model), (2, 1))]
    free = ss.classifier_free(model, ss.guidance.condition(model, 1), 2.0)
    calls += [lambda: sampler.sample(free, (2, 1))]
    for call in calls:
        with pytest.raises(ss.errors.IncompatibleError, match="label_dropout"):
            call()
    for score in (model, nn.DataParallel(model), free):
        assert sampler.sample(score, (2, 1), label=label).isfinite().all()
    assert sampler.sample(ss.guidance.condition(model, 1), (2, 1)).isfinite().all()
    assert ss.ScoreModel(model.net, model.sde, **model.options).label_required
    assert moved.label_required


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.optim.swa_utils.AveragedModel])
def test_a_wrapper_does_not_hide_the_sde(wrap: type) -> None:
    """A model sampled on another SDE than its own came out 0.25 wide for 0.316."""
    model = ss.ScoreModel(ss.MLP(1, hidden=4), ss.VPSDE(), prediction="epsilon")
    wrapped = wrap(wrap(model))
    with pytest.raises(ss.errors.IncompatibleError, match="VPSDE"):
        ss.PredictorCorrector(ss.VESDE(), predictor=ss.ReverseDiffusion(), steps=2).sample(
            wrapped, (2, 1)
        )
    with pytest.raises(ss.errors.IncompatibleError, match="one SDE"):
        ss.classifier_free(wrapped, ss.GaussianScore([0.0], 1.0, ss.VESDE()), 2.0)
    assert ss.under(wrapped, ss.VESDE()).own_sde == ss.VPSDE()
    sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.ReverseDiffusion(), steps=5)
    torch.testing.assert_close(sampler.sample(wrapped, (4, 1)), sampler.sample(model, (4, 1)))


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
