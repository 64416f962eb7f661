"""Gradients through a chain: the same samples, and derivatives known from elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from tests.helpers.affine import CONSTANT, START, Modes, coefficients
from tests.helpers.memory import Peak

SDE = ss.VPSDE()
PARTS: dict[str, Any] = {
    "default": {},
    "ancestral, Langevin": {"predictor": ss.Ancestral(), "corrector": ss.Langevin(snr=0.1)},
    "Adams corrected": {"predictor": ss.ExponentialAdams(points=3, corrector_points=4)},
    "Heun with churn": {"predictor": ss.Heun(s_churn=2.0)},
    "two stages with noise": {"predictor": ss.ExponentialRungeKutta(eta=1.0), "denoise": "flow"},
}
CHAINS = {
    name: ss.PredictorCorrector(SDE, grid=ss.LogSNRGrid(), steps=11, **parts)
    for name, parts in PARTS.items()
}


class Obeying(nn.Module):
    """A network of the state and a condition ``(B, 2)``, without symmetry, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 2))

    def forward(self, x: Tensor, c: Tensor, label: Tensor) -> Tensor:
        # The square's derivative needs the state itself, as it was at the call.
        return self.layers(torch.cat([x, c[:, None], label], 1)) + 0.1 * x.square()


def network() -> ss.ScoreModel:
    torch.manual_seed(0)
    return ss.ScoreModel(Obeying(), SDE, "x0", data_mean=[1.0, 2.0], data_std=3.0).double()


class Shifted(nn.Module):
    """The score of ``N(mean, variance)``; the mean is a parameter."""

    def __init__(self, variance: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.variance = variance

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = SDE.marginal(t)
        return -(x - alpha * self.mean) / (alpha.square() * self.variance + sigma.square())


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_samples_are_those_of_an_ordinary_run(name: str, dtype: torch.dtype) -> None:
    model, label = network().to(dtype), torch.randn(6, 2, dtype=dtype)
    options: dict[str, Any] = {"label": label, "seed": 3, "dtype": dtype}
    plain = CHAINS[name].sample(model, (6, 2), **options)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    for more in ({}, {"max_batch": 4}, {"samples": range(2, 5)}):
        x = CHAINS[name].sample(model, (6, 2), differentiable=True, **options, **more)
        own = plain[more["samples"]] if "samples" in more else plain
        assert x.requires_grad and not plain.requires_grad
        torch.testing.assert_close(x, own, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CHAINS)
def test_gaussian_data_have_their_exact_derivatives(name: str) -> None:
    """Every sample is an affine function of the data's mean and of its start, known in numpy."""
    score, chain = Shifted(0.3), CHAINS[name]
    init = torch.randn(4, 1, dtype=torch.float64, requires_grad=True)
    x = chain.sample(score, init=init, seed=1, differentiable=True)
    at_mean, at_start = torch.autograd.grad(x.sum(), [score.mean, init])
    exact = coefficients(chain, Modes.of((1.0, 0.3)))[0]
    assert at_mean.item() == pytest.approx(4 * exact[CONSTANT], rel=1e-10)
    wanted = torch.full_like(at_start, exact[START])
    torch.testing.assert_close(at_start, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("max_batch", [None, 2])
def test_finite_differences(name: str, max_batch: int | None) -> None:
    """Of a network's parameters, its conditions and the start, in one random direction each."""
    model, chain = network(), CHAINS[name]
    label, init = (torch.randn(3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    leaves = [*model.parameters(), label, init]
    weight = torch.randn(3, 2, dtype=torch.float64)

    def value(differentiable: bool) -> Tensor:
        options: dict[str, Any] = {"differentiable": differentiable, "max_batch": max_batch}
        with torch.no_grad():  # which differentiable=True overrules
            x = chain.sample(model, init=init, label=label, seed=2, **options)
        return (weight * x).sum()

    gradients = torch.autograd.grad(value(True), leaves)
    h = 1e-6
    for leaf, gradient in zip(leaves, gradients, strict=True):
        direction = torch.randn_like(leaf)
        found = []
        for sign in (1, -1):
            with torch.no_grad():
                leaf.add_(direction, alpha=sign * h)
                found.append(value(False).item())
                leaf.sub_(direction, alpha=sign * h)
        difference = (found[0] - found[1]) / (2 * h)
        assert (gradient * direction).sum().item() == pytest.approx(difference, rel=1e-5, abs=1e-7)


def test_a_network_in_train_mode_is_run_in_eval_mode_both_ways() -> None:
    """Its dropout would draw other numbers in backward than in forward."""
    model, label = network(), torch.randn(4, 2, dtype=torch.float64)
    gradients = []
    for training in (True, False):
        model.train(training)
        x = CHAINS["default"].sample(model, (4, 2), label=label, differentiable=True)
        gradients.append(torch.autograd.grad(x.square().sum(), list(model.parameters())))
        assert model.training == training
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_memory_grows_as_the_square_root_of_the_steps() -> None:
    """Both ways, of a score that saves the state itself; backward calls it once more."""
    calls, peaks = 0, []

    def score(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return -(x * mean)

    mean = torch.ones((), requires_grad=True)
    for steps in (16, 196):
        chain = ss.PredictorCorrector(SDE, predictor=ss.DDIM(), steps=steps)
        calls, init = 0, torch.ones(1, 100_000)
        with Peak() as memory:
            x = chain.sample(score, init=init, differentiable=True)
            assert calls == steps
            x.sum().backward()
        assert calls == 2 * steps
        peaks.append(memory.peak / init.nbytes)
    assert peaks[1] < 5 * peaks[0] and peaks[1] < 5 * 14, peaks  # 14 = √196
