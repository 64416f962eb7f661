"""Every guided score with every sampler, other SDE, likelihood and checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.methods import CORRECTORS, PREDICTORS

F64 = torch.float64
VP, VE = ss.VPSDE(), ss.VESDE(sigma_min=0.01, sigma_max=50.0)
EVENT, TIMES = (2,), [0.05, 0.4, 0.9]


def exact(sde: ss.LinearSDE) -> tuple[ss.MixtureScore, ss.MixtureScore]:
    means = torch.tensor([[-1.0, 0.5], [1.0, 0.0]])
    one = ss.MixtureScore([0.3, 0.7], means, torch.tensor([0.1, 0.3]), sde)
    return one, ss.MixtureScore([0.6, 0.4], -means, torch.tensor([0.5, 0.8]), sde)


def log_prob_y(sde: ss.LinearSDE) -> Callable[[Tensor, Tensor], Tensor]:
    """A classifier of the state x/α, so that it is the same one on every SDE."""

    def log_prob(x: Tensor, t: Tensor) -> Tensor:
        ratio = sde.noise_ratio(t).to(x)
        clean = x[:, 0] / sde.marginal(t)[0].to(x)
        return torch.nn.functional.logsigmoid(2 * clean / (1 + ratio**2))

    return log_prob


SCORES: dict[str, Callable[[ss.LinearSDE], Any]] = {
    "classifier_free": lambda sde: ss.classifier_free(*exact(sde), 1.8),
    "classifier_free, schedule": lambda sde: ss.classifier_free(
        *exact(sde), w={0.1: 0.0, 1.0: 2.0, 9.0: 0.5}, interval=(0.0, 20.0)
    ),
    "classifier_free, rescaled": lambda sde: ss.classifier_free(*exact(sde), 2.0, rescale=0.7),
    "autoguidance": lambda sde: ss.guidance.autoguidance(*exact(sde), 1.5, interval=(0.05, 5.0)),
    "classifier_guidance": lambda sde: ss.classifier_guidance(exact(sde)[0], log_prob_y(sde), 2.0),
    "product": lambda sde: ss.guidance.product(exact(sde), [1.0, 0.5]),
    "mixture": lambda sde: ss.guidance.mixture(exact(sde), [0.0, -1.0]),
    "condition": lambda sde: ss.guidance.condition(labelled(sde), 1),
    "label_part": lambda sde: ss.guidance.product(
        [ss.guidance.condition(ss.guidance.label_part(labelled(sde), "of"), {"of": ONE})]
    ),
    "clipped": lambda sde: ss.guidance.clipped(exact(sde)[0], 2.0, quantile=0.9),
}
ONE = torch.tensor(1)
DENSITIES = sorted(SCORES.keys() - {"classifier_free, rescaled", "clipped"})


def labelled(sde: ss.LinearSDE) -> Any:
    class Labelled:
        def __init__(self) -> None:
            self.sde, self.scores = sde, exact(sde)

        def __call__(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
            return torch.where(label[:, None] == 0, *(score(x, t) for score in self.scores))

        def log_density(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
            return torch.where(label == 0, *(score.log_prob(x, t) for score in self.scores))

    return Labelled()


def noise(n: int = 4) -> Tensor:
    return torch.randn(n, *EVENT, generator=torch.Generator().manual_seed(1), dtype=F64)


def test_no_kind_of_guidance_is_left_out() -> None:
    made = {name.partition(",")[0] for name in SCORES}
    assert made | {"GuidedScore", "perturbed"} == set(ss.guidance.__all__)


@cache
def samplers() -> list[Any]:
    """One of each kind, with few steps; made once, for that takes longer than the runs."""
    chains: list[Any] = [
        ss.AdaptiveSampler(VP, rtol=0.5, atol=0.5),
        ss.ProbabilityFlow(VP, method="euler", steps=3),
        ss.recommended_sampler(VP, 3, spectrum=torch.tensor([1.0, 0.1])),
    ]
    kinds = {type(method): method for method in reversed([*PREDICTORS, *CORRECTORS])}
    for kind, method in kinds.items():
        if issubclass(kind, ss.Predictor) and method.grid_times is None:
            corrector = ss.Langevin(snr=0.1) if kind is ss.NoPredictor else ss.NoCorrector()
            chains.append(ss.PredictorCorrector(VP, method, corrector, steps=3))
        elif issubclass(kind, ss.Corrector):
            chains.append(ss.PredictorCorrector(VP, corrector=method, steps=3))
    return chains


@pytest.mark.parametrize("name", SCORES)
def test_every_sampler(name: str) -> None:
    """Draws, and in chunks the same. MALA refuses what has no density."""
    model = SCORES[name](VP)
    for sampler in samplers():
        if "MALA" in repr(sampler) and name not in DENSITIES:
            with pytest.raises(ss.errors.IncompatibleError, match="log density"):
                sampler.sample(model, (4, *EVENT))
            continue
        x = sampler.sample(model, (4, *EVENT), seed=3, dtype=F64)
        assert x.isfinite().all() and x.shape == (4, *EVENT), sampler
        parts = sampler.sample(model, (4, *EVENT), seed=3, dtype=F64, max_batch=3)
        assert (parts - x).abs().max() < 1e-6, sampler


@pytest.mark.parametrize("name", SCORES)
def test_under_another_sde(name: str) -> None:
    """Guidance of the parts under the other SDE, and the guided score under it."""
    there, moved = SCORES[name](VE), ss.under(SCORES[name](VP), VE)
    for t in (*TIMES[:2], torch.linspace(0.05, 0.7, 4, dtype=F64)):
        sigma = VE.marginal(t)[1].reshape(-1, 1)
        x = 2 * sigma * noise()
        torch.testing.assert_close(moved(x, t) * sigma, there(x, t) * sigma, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", DENSITIES)
def test_the_score_is_the_gradient_of_the_log_density(name: str) -> None:
    """On its own SDE and under another one."""
    for model in (SCORES[name](VP), ss.under(SCORES[name](VP), VE)):
        for t in (0.1, torch.linspace(0.05, 0.7, 4, dtype=F64)):
            x = noise().requires_grad_()
            time = torch.as_tensor(t, dtype=F64)
            (expected,) = torch.autograd.grad(model.log_density(x, time).sum(), x)
            torch.testing.assert_close(model(x, time), expected)
    assert model.has_log_density


@pytest.mark.parametrize("name", SCORES)
def test_the_exact_divergence(name: str) -> None:
    """By central differences of the score; its error is O(1e-10). And a likelihood."""
    model, x, t, h = SCORES[name](VP), noise(), torch.tensor(0.3, dtype=F64), 1e-5
    steps = h * torch.eye(2, dtype=F64)
    columns = [(model(x + e, t) - model(x - e, t)) / (2 * h) for e in steps]
    expected = sum(column[:, i] for i, column in enumerate(columns))
    y = x.clone().requires_grad_()
    found = sum(torch.autograd.grad(model(y, t)[:, i].sum(), y)[0][:, i] for i in range(2))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    columns_forward = ss.tweedie_covariance(lambda y: model(y, t), x, 1.0, 1.0)
    trace = columns_forward.diagonal(dim1=1, dim2=2).sum(1) - 2  # of I + ∂s/∂x
    torch.testing.assert_close(trace, expected, rtol=1e-6, atol=1e-6)
    flow = ss.ProbabilityFlow(VP, method="euler", steps=3)
    assert flow.log_likelihood(model, x).log_prob.isfinite().all()


def test_the_likelihood_of_a_mixture_of_scores_is_that_of_the_mixture() -> None:
    model, (one, other) = SCORES["mixture"](VP), exact(VP)
    share = torch.tensor([0.0, -1.0], dtype=F64).softmax(0)
    whole = ss.MixtureScore(
        torch.cat([share[0] * one.weights, share[1] * other.weights]),
        torch.cat([one.means, other.means]),
        torch.cat([one.eigenvalues, other.eigenvalues]),
        VP,
    )
    flow = ss.ProbabilityFlow(VP)
    found, expected = (flow.log_likelihood(score, noise()).log_prob for score in (model, whole))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SCORES)
def test_the_denoised_state(name: str) -> None:
    """Tweedie's formula in numpy's letters; in scores that are sums, the same sum of x̂₀."""
    model, x = SCORES[name](VP), noise()
    for t in TIMES:
        alpha, sigma = (v.item() for v in VP.marginal(t))
        torch.testing.assert_close(model.denoise(x, t), (x + sigma**2 * model(x, t)) / alpha)
    if name == "classifier_free":
        one, other = (score.denoise(x, t) for score in exact(VP))
        torch.testing.assert_close(model.denoise(x, t), 1.8 * one - 0.8 * other)
    with pytest.raises(ss.errors.IncompatibleError, match="SDE"):
        ss.guidance.product([lambda x, t: x]).denoise(x, 0.5)


def test_a_model_from_a_checkpoint(tmp_path: Path) -> None:
    """Saved and loaded, it guides as it did, with all that the room has for a network."""
    torch.manual_seed(0)
    model = ss.ScoreModel(ss.MLP(2, hidden=8, classes=3), VP)
    ss.save(tmp_path / "model.safetensors", model)
    again = ss.load(tmp_path / "model.safetensors")
    sampler, label = ss.PredictorCorrector(VP, steps=3), torch.arange(3)
    draws = []
    for one in (model, again):
        weaker = ss.guidance.perturbed(one, ["net"], lambda module, inputs, y: 0.9 * y)
        free = ss.classifier_free(one, one, 2.0, rescale=0.5)
        both = ss.guidance.product([free, ss.guidance.autoguidance(one, weaker, 2.0)])
        draws.append(sampler.sample(ss.guidance.clipped(both, 3.0), (3, 2), label=label))
    assert torch.equal(*draws) and draws[0].isfinite().all()
