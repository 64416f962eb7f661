"""Finite differences along probes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.losses import (
    Loss,
    finite_difference_loss,
    implicit_loss,
    sliced_loss,
)
from tests.helpers.objectives import (
    F64,
    PARTS,
    Bumps,
    axes,
    bumps,
    draw,
    gradients,
)


@pytest.mark.parametrize("kind", ["score", "energy"])
def test_finite_differences_are_second_order(kind: str) -> None:
    """Value and gradient against sliced score matching: slope 2 ± 0.05 in the step."""
    x, v = draw(20, 2), draw(2, 20, 2, seed=1)
    steps = (0.02, 0.01, 0.005)
    for what in ("value", "gradient"):

        def result(objective: Callable[..., Loss], what: str = what, **options: Any) -> Tensor:
            model = bumps(kind, 0.5)
            loss = objective(model, x, probes=v, **options)
            return loss.per_sample.detach() if what == "value" else gradients(loss.mean, model)

        exact = result(sliced_loss)
        errors = [(result(finite_difference_loss, epsilon=h) - exact).norm().item() for h in steps]
        for coarse, fine in itertools.pairwise(errors):
            assert math.log2(coarse / fine) == pytest.approx(2, abs=0.05)
        assert 1e-6 < errors[-1] / exact.norm().item() < 1e-2


def test_an_energy_s_differences_need_no_derivative() -> None:
    calls: list[tuple[str, tuple[int, ...]]] = []

    class Values:
        def __call__(self, x: Tensor) -> Tensor:
            raise AssertionError("the score was called")

        def log_density(self, x: Tensor) -> Tensor:
            calls.append(("f", tuple(x.shape)))
            assert not x.requires_grad
            return -0.5 * x.square().sum(1)

    finite_difference_loss(Values(), draw(4, 2), probes=3)
    assert calls == [("f", (4, 2))] * 7
    # A constant in the energy changes nothing; nor does whether it is ReLU'd.
    kinked = ss.EnergyModel(lambda x: -x.abs().sum(1))
    v = torch.ones(1, 1, 1, dtype=F64)
    at_kink = finite_difference_loss(kinked, torch.zeros(1, 1).double(), probes=v, epsilon=0.1)
    assert at_kink.mean.item() == pytest.approx(-20.0)  # −2ε/ε², where autograd sees 0
    exact = ss.GaussianScore(torch.zeros(2), 1.0, ss.VPSDE())
    x = draw(3, 2)
    torch.testing.assert_close(
        finite_difference_loss(exact, x, t=0.5, probes=axes(x), noise=0 * x).per_sample,
        implicit_loss(exact, x, t=0.5, noise=0 * x).per_sample,
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("kind", ["score", "energy"])
def test_each_sample_may_have_a_step_of_its_own(kind: str) -> None:
    model, x, v = bumps(kind, 0.5), draw(4, 2), draw(2, 4, 2, seed=1)
    steps = torch.tensor([0.01, 0.3, 0.1, 1.0])
    together = finite_difference_loss(model, x, probes=v, epsilon=steps).per_sample
    for i, step in enumerate(steps.double()):
        alone = finite_difference_loss(model, x, probes=v, epsilon=step).per_sample
        assert torch.equal(
            alone, finite_difference_loss(model, x, probes=v, epsilon=step.item()).per_sample
        )
        torch.testing.assert_close(together[i], alone[i], rtol=1e-12, atol=0)
        assert not torch.isclose(together, alone)[[j for j in range(4) if j != i]].any()


def test_a_constant_in_an_energy_of_float64_costs_nothing() -> None:
    """Float32 holds 1e5 to 4e-3: over ε² = 9e-4, an error of 9 if it were rounded first."""
    x, v = draw(20, 2, dtype=torch.float32), draw(1, 20, 2, seed=1, dtype=torch.float32)
    model = ss.EnergyModel(lambda x: 1e5 - 0.5 * x.double().square().sum(1))
    loss = finite_difference_loss(model, x, probes=v)
    exact = sliced_loss(lambda x: -x, x, probes=v)
    assert loss.per_sample.dtype == loss.mean.dtype == torch.float32
    torch.testing.assert_close(loss.per_sample, exact.per_sample, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("kind", ["score", "energy"])
def test_the_default_step_survives_float32(kind: str) -> None:
    """The gradient's error in float32 is below 1 %, and a tiny step's, all rounding, is larger."""
    errors = {}
    x, v = draw(2048, 2), draw(1, 2048, 2, seed=1)
    exact_model = bumps(kind, 0.5)
    exact = gradients(sliced_loss(exact_model, x, probes=v).mean, exact_model)
    for step in (None, 1e-5):
        model = bumps(kind, 0.5)
        (weight,) = model.parameters()

        net = model.net.float() if kind == "energy" else model.float()
        score = ss.EnergyModel(Float(net)) if kind == "energy" else Float(net)
        loss = finite_difference_loss(score, x.float(), probes=v.float(), epsilon=step)
        (gradient,) = torch.autograd.grad(loss.mean, weight)
        errors[step] = ((gradient.double().flatten() - exact).norm() / exact.norm()).item()
    assert errors[None] < 0.01
    assert errors[1e-5] > 2 * errors[None]


class Float(nn.Module):
    """The bumps in float32 throughout, without the mixture's float64."""

    def __init__(self, net: Bumps) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        inside = torch.tanh(x @ self.net.inner + 0.3) @ self.net.W
        if self.net.energy:
            return single_log_p(x) + inside[:, 0]
        return torch.func.grad(lambda y: single_log_p(y).sum())(x) + inside


def single_log_p(x: Tensor) -> Tensor:
    base, parts = PARTS.component_distribution, []
    for k in range(2):
        y = x - base.loc[k].float()
        precision = base.precision_matrix[k].float()
        log_det = base.covariance_matrix[k].logdet().float()
        weight = PARTS.mixture_distribution.probs[k].log().float()
        parts.append(weight - 0.5 * ((y @ precision) * y).sum(1) - 0.5 * log_det)
    return torch.logsumexp(torch.stack(parts), 0) - math.log(2 * math.pi)
