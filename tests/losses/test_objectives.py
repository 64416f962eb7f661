"""Score matching without noise, against quadrature, brute-force Jacobians and closed forms.

Expectations over a mixture are sums over a grid, spectrally accurate for a smooth density that
vanishes at its ends; expectations over probes are enumerated, for the objectives are quadratic in
them. Statistical tests have fixed seeds and a false-positive rate of 1e-6 each.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import sdescore as ss
from sdescore.checks import part_name
from sdescore.losses import (
    Loss,
    at_levels,
    explicit_loss,
    finite_difference_loss,
    implicit_loss,
    kernel_density_score,
    sliced_loss,
)
from sdescore.losses.times import ImportanceTimes
from sdescore.score.divergence import exact_trace, probe_traces, probes_from_normal
from tests.helpers import ROOT

F64 = torch.float64
Z = scipy.stats.norm.isf(0.5e-6)  # two-sided, alpha = 1e-6
LAWS = ["rademacher", "gaussian", "sphere"]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ones(sde: ss.LinearSDE, t: Tensor) -> Tensor:
    return torch.ones_like(t)


def still(x: Tensor) -> dict[str, Any]:
    """Options that leave clean data where they are at any time: α = 1, no noise, λ = 1."""
    return {"sde": ss.EDMSDE(), "noise": torch.zeros_like(x), "weighting": ones}


# A mixture in the plane, its score by autograd, and a grid for its expectations.

PARTS = torch.distributions.MixtureSameFamily(
    torch.distributions.Categorical(torch.tensor([0.6, 0.4], dtype=F64)),
    torch.distributions.MultivariateNormal(
        torch.tensor([[-1.0, 0.3], [1.0, -0.5]], dtype=F64),
        torch.tensor([[[0.5, 0.2], [0.2, 0.4]], [[0.3, -0.1], [-0.1, 0.6]]], dtype=F64),
    ),
    validate_args=False,
)


def log_p(x: Tensor) -> Tensor:
    return PARTS.log_prob(x)


true_score = ss.EnergyModel(log_p)


@functools.cache
def grid() -> tuple[Tensor, Tensor]:
    """Nodes ``(N, 2)`` and weights ``(N,)`` of the expectation under the mixture."""
    axis = torch.linspace(-6.5, 6.5, 131, dtype=F64)  # fine enough for any tanh of Bumps
    x = torch.cartesian_prod(axis, axis)
    w = log_p(x).exp() * (axis[1] - axis[0]) ** 2
    assert abs(w.sum().item() - 1) < 1e-12
    return x, w


class Bumps(nn.Module):
    """The truth plus ``W`` times features: W = 0 is the truth. As a score, or as an energy."""

    def __init__(self, energy: bool, weight: float = 0.0) -> None:
        super().__init__()
        self.energy = energy
        self.register_buffer("inner", draw(2, 5, seed=1))
        start = weight * draw(5, 1 if energy else 2, seed=2)
        self.W = nn.Parameter(start)

    def forward(self, x: Tensor) -> Tensor:
        bumps = torch.tanh(x @ self.inner + 0.3) @ self.W
        return log_p(x) + bumps[:, 0] if self.energy else true_score(x) + bumps


def bumps(kind: str, weight: float = 0.0) -> nn.Module:
    energy = Bumps(kind == "energy", weight)
    return ss.EnergyModel(energy) if kind == "energy" else energy


def signs(x: Tensor) -> Tensor:
    """All Rademacher probes of the plane, for every sample: ``(4, N, 2)``."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=x.dtype)
    return corners[:, None].expand(4, *x.shape)


def axes(x: Tensor) -> Tensor:
    """±√d eᵢ, the smallest set on the sphere whose mean of vvᵀ is the identity."""
    eye = math.sqrt(x.shape[1]) * torch.eye(x.shape[1], dtype=x.dtype)
    points = torch.cat([eye, -eye])
    return points[:, None].expand(len(points), *x.shape)


OBJECTIVES: dict[str, Callable[[Any, Tensor], Loss]] = {
    "explicit": lambda s, x: explicit_loss(s, x, true_score),
    "implicit": lambda s, x: implicit_loss(s, x),
    "hutchinson": lambda s, x: implicit_loss(s, x, trace="hutchinson", probes=signs(x)),
    "reduced": lambda s, x: sliced_loss(s, x, probes=axes(x), reduced_variance=True),
    "sliced": lambda s, x: sliced_loss(s, x, probes=signs(x)),
    "sliced-axes": lambda s, x: sliced_loss(s, x, probes=axes(x)),
}


def expected(objective: Callable[[Any, Tensor], Loss], model: nn.Module) -> tuple[float, Tensor]:
    """The expectation over the mixture and its gradient in W."""
    x, w = grid()
    value = (w * objective(model, x).per_sample).sum()
    (weight,) = model.parameters()
    (gradient,) = torch.autograd.grad(value, weight)
    return value.item(), gradient


@pytest.mark.parametrize("kind", ["score", "energy"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_truth_is_a_stationary_point_and_all_agree_elsewhere(name: str, kind: str) -> None:
    """At any W the gradient is that of ½ E‖s − ∇log p‖², written out here; at W = 0 it is 0."""
    assert expected(OBJECTIVES[name], bumps(kind))[1].abs().max() < 1e-11
    model = bumps(kind, 0.5)
    x, w = grid()
    (weight,) = model.parameters()
    fisher = 0.5 * (w * (model(x) - true_score(x)).square().sum(1)).sum()
    (oracle,) = torch.autograd.grad(fisher, weight)
    assert oracle.abs().max() > 0.01
    torch.testing.assert_close(expected(OBJECTIVES[name], model)[1], oracle, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["score", "energy"])
def test_implicit_and_explicit_differ_by_half_the_squared_score(kind: str) -> None:
    x, w = grid()
    constant = 0.5 * (w * true_score(x).square().sum(1)).sum().item()
    for weight in (0.0, 0.7):
        model = bumps(kind, weight)
        explicit = expected(OBJECTIVES["explicit"], model)[0]
        for name in list(OBJECTIVES)[1:]:
            implicit = expected(OBJECTIVES[name], model)[0]
            assert explicit - implicit == pytest.approx(constant, rel=1e-10), name
    assert expected(OBJECTIVES["explicit"], bumps(kind))[0] == 0


@pytest.mark.parametrize("kind", ["score", "energy"])
def test_denoising_is_implicit_plus_half_d_over_sigma_squared(kind: str) -> None:
    """E over clean nodes × noise nodes; ½ E‖ε/σ‖² = d/2σ² is all that denoising adds."""
    sde, t = ss.VPSDE(), 0.15
    sigma = sde.marginal(t)[1].item()
    nodes, weights = np.polynomial.hermite_e.hermegauss(48)
    nodes, weights = torch.tensor(nodes), torch.tensor(weights / weights.sum())
    clean = torch.cat([-1.0 + 0.5 * nodes, 0.8 + 0.3 * nodes])
    share = torch.cat([0.3 * weights, 0.7 * weights])
    x0, noise = torch.cartesian_prod(clean, nodes).unsqueeze(2).unbind(1)
    w = torch.outer(share, weights).flatten()

    def field(x: Tensor, t: Tensor) -> Tensor:
        return -torch.sin(1.3 * x) - 0.2 * x

    def log_field(x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        return (torch.cos(1.3 * x) / 1.3 - 0.1 * x.square()).sum(1)

    score = field if kind == "score" else ss.EnergyModel(log_field)
    dsm = ss.denoising_loss(score, x0, sde=sde, t=t, noise=noise, weighting=ones)
    options: dict[str, Any] = {"sde": sde, "t": t, "noise": noise, "weighting": ones}
    for loss in (
        implicit_loss(score, x0, **options),
        sliced_loss(score, x0, probe_distribution="sphere", **options),
        implicit_loss(lambda x: score(x, torch.tensor(t)), sde.perturb(x0, t, noise)),
    ):
        gap = (w * (dsm.per_sample - loss.per_sample)).sum().item()
        assert gap == pytest.approx(1 / (2 * sigma**2), rel=1e-9)


# The minimiser: a linear score has a quadratic objective, solved to rounding.


def cloud(n: int = 50, d: int = 3) -> Tensor:
    return draw(n, d, seed=3) @ draw(d, d, seed=4) + torch.tensor([1.0, -0.5, 2.0])[:d]


EXACT: dict[str, Callable[[Any, Tensor], Loss]] = {
    "implicit": lambda s, x: implicit_loss(s, x, chunk_size=2),
    "hutchinson": lambda s, x: implicit_loss(s, x, trace="hutchinson", probes=axes(x)),
    "sliced": lambda s, x: sliced_loss(s, x, probes=axes(x)),
    # Differences are exact here, for any step: the score is linear, the energy quadratic.
    "finite-difference": lambda s, x: finite_difference_loss(s, x, probes=axes(x), epsilon=0.3),
}


@pytest.mark.parametrize("kind", ["score", "energy"])
@pytest.mark.parametrize("name", EXACT)
def test_the_minimiser_is_the_inverse_covariance(name: str, kind: str) -> None:
    """s = b − A x: A is the inverse of the data's covariance (over n) and b = A mean."""
    x, d = cloud(), 3
    rows, columns = torch.tril_indices(d, d)

    def unpack(theta: Tensor) -> tuple[Tensor, Tensor]:
        if kind == "score":
            return theta[: d * d].reshape(d, d), theta[d * d :]
        lower = torch.zeros(d, d, dtype=F64).index_put((rows, columns), theta[:-d])
        return lower + lower.tril(-1).T, theta[-d:]

    def loss(theta: Tensor) -> Tensor:
        A, b = unpack(theta)
        if kind == "score":
            return EXACT[name](lambda x: b - x @ A.T, x).mean
        return EXACT[name](ss.EnergyModel(lambda x: x @ b - 0.5 * ((x @ A) * x).sum(1)), x).mean

    zero = torch.zeros(d * d + d if kind == "score" else len(rows) + d, dtype=F64)
    hessian = torch.autograd.functional.hessian(loss, zero)
    gradient = torch.autograd.functional.jacobian(loss, zero)
    if name in ("sliced", "finite-difference"):
        assert torch.linalg.eigvalsh(hessian).min() > 0
    A, b = unpack(torch.linalg.solve(hessian, -gradient))
    precision = torch.linalg.inv(torch.cov(x.T, correction=0))
    torch.testing.assert_close(A, precision, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(b, precision @ x.mean(0), rtol=1e-7, atol=1e-9)


# Variances of the probes.

A = torch.tensor([[-1.0, 0.5, 0.0], [0.1, -2.0, 0.7], [-0.4, 0.3, 0.5]], dtype=F64)
POINT = torch.tensor([0.4, -1.1, 0.8], dtype=F64)


def quadratic_form(matrix: Tensor, law: str) -> tuple[float, float]:
    """Mean and variance of vᵀMv, from the fourth moments of v."""
    S, d = (matrix + matrix.T) / 2, len(matrix)
    off, trace = S - S.diag().diag(), S.trace().item()
    return trace, {
        "rademacher": 2 * off.square().sum().item(),
        "gaussian": 2 * S.square().sum().item(),
        "sphere": 2 * d / (d + 2) * (S.square().sum().item() - trace**2 / d),
    }[law]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("reduced", [True, False])
@pytest.mark.parametrize("probes", [1, 3])
def test_mean_and_variance_of_the_probes(law: str, reduced: bool, probes: int) -> None:
    """One point many times over: a quadratic form in v, whose moments are known."""
    n = 60_000
    s = A @ POINT
    M = A if reduced else A + 0.5 * torch.outer(s, s)
    mean, variance = quadratic_form(M, law)
    mean, variance = mean + (0.5 * s @ s).item() * reduced, variance / probes
    loss = sliced_loss(
        lambda x: x @ A.T,
        POINT.expand(n, 3),
        probes=probes,
        probe_distribution=law,
        reduced_variance=reduced,
        generator=torch.Generator().manual_seed(5),
    )
    values = loss.per_sample
    assert abs(values.mean().item() - mean) < Z * math.sqrt(variance / n)
    squared = (values - mean).square()
    assert abs(squared.mean().item() - variance) < Z * squared.std().item() / math.sqrt(n)


@pytest.mark.parametrize("d", [2, 8])
def test_reduced_variance_saves_at_the_truth_in_more_than_two_dimensions(d: int) -> None:
    """N(0, I), s = −x, Gaussian probes: the variance from v is d²/2 + d, or 2d reduced.

    Given x it is 2‖−I + ½xxᵀ‖² = 2d − 2‖x‖² + ½‖x‖⁴; two probes' half squared gap estimates it.
    """
    x, generator = draw(40_000, d), torch.Generator().manual_seed(6)
    for reduced, variance in ((False, d**2 / 2 + d), (True, 2 * d)):
        one, two = (
            sliced_loss(lambda x: -x, x, reduced_variance=reduced, generator=generator).per_sample
            for _ in range(2)
        )
        estimates = 0.5 * (one - two).square()
        error = Z * estimates.std().item() / math.sqrt(len(x))
        assert abs(estimates.mean().item() - variance) < error
    assert (d**2 / 2 + d > 2 * d) == (d > 2)


def test_distributions_of_the_probes() -> None:
    normal = draw(4, 1000, 2, 3)
    rademacher, sphere = (probes_from_normal(law, normal) for law in ("rademacher", "sphere"))
    assert torch.equal(rademacher, normal.sign())
    torch.testing.assert_close(
        sphere.flatten(2).square().sum(2), torch.full((4, 1000), 6.0).double()
    )
    torch.testing.assert_close(
        sphere.flatten(2) * normal.flatten(2).norm(dim=2, keepdim=True),
        math.sqrt(6) * normal.flatten(2),
    )
    assert torch.equal(probes_from_normal("gaussian", normal), normal)
    one = draw(2, 50)
    torch.testing.assert_close(probes_from_normal("sphere", one), one.sign())  # no dimension
    assert probes_from_normal("sphere", draw(2, 5, 0)).shape == (2, 5, 0)


def test_defaults_are_the_papers() -> None:
    """Gaussian probes for sliced, signs for Hutchinson, the sphere for differences."""
    x, seeded = cloud(), lambda: torch.Generator().manual_seed(1)
    s = lambda x: torch.sin(x) - x  # noqa: E731
    energy = ss.EnergyModel(lambda x: -(x.square() / 2 + x.cos()).sum(1))
    for defaults, law in (
        (sliced_loss(s, x, generator=seeded()), "gaussian"),
        (implicit_loss(s, x, trace="hutchinson", generator=seeded()), "rademacher"),
        (finite_difference_loss(energy, x, generator=seeded()), "sphere"),
        (finite_difference_loss(s, x, generator=seeded()), "sphere"),
    ):
        v = probes_from_normal(law, torch.randn(1, 50, 3, generator=seeded(), dtype=F64))
        by_hand = [
            sliced_loss(s, x, probes=v),
            implicit_loss(s, x, trace="hutchinson", probes=v),
            finite_difference_loss(energy, x, probes=v),
            finite_difference_loss(s, x, probes=v),
        ]
        assert any(torch.equal(defaults.per_sample, other.per_sample) for other in by_hand), law
    torch.testing.assert_close(
        finite_difference_loss(energy, x, generator=seeded()).mean,
        finite_difference_loss(energy, x, epsilon=0.03, generator=seeded()).mean,
    )
    torch.testing.assert_close(
        finite_difference_loss(s, x, generator=seeded()).mean,
        finite_difference_loss(s, x, epsilon=0.005, generator=seeded()).mean,
    )


# Derivatives against brute force.


class Soft(nn.Module):
    """A scalar network of any event."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(numel, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def forward(self, x: Tensor, c: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        scale = 0.1 if label is None else 0.1 + label
        return self.layers(x.reshape(len(x), -1))[:, 0] - scale * x.square().flatten(1).sum(1)


def randomised(net: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return net.double()


def networks() -> dict[str, tuple[nn.Module, Tensor, float | None]]:
    torch.manual_seed(0)
    unet = ss.UNet(1, width=8, multipliers=(1, 2), blocks=1, attention=(1,))
    sde = ss.VPSDE()
    return {
        "mlp": (ss.ScoreModel(randomised(ss.MLP(3, hidden=8, depth=1)), sde), draw(4, 3), 0.4),
        "unet": (ss.ScoreModel(randomised(unet), sde), draw(2, 1, 4, 4), 0.6),
        "energy": (ss.EnergyModel(Soft(6)), draw(3, 2, 3), None),
        "energy-model": (
            ss.ScoreModel(ss.EnergyModel(Soft(4)), sde, prediction="epsilon"),
            draw(3, 4),
            0.3,
        ),
    }


def call(model: nn.Module, x: Tensor, t: float | None) -> Tensor:
    return model(x) if t is None else model(x, torch.tensor(t, dtype=F64))


def jacobians(model: nn.Module, x: Tensor, t: float | None) -> Tensor:
    """``(B, d, d)``, sample by sample, differentiable."""
    return torch.stack(
        [
            torch.autograd.functional.jacobian(
                lambda y: call(model, y[None], t)[0], row, create_graph=True
            ).reshape(row.numel(), row.numel())
            for row in x
        ]
    )


def gradients(value: Tensor, model: nn.Module) -> Tensor:
    found = torch.autograd.grad(
        value, list(model.parameters()), allow_unused=True, retain_graph=True
    )
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for g, p in zip(found, model.parameters(), strict=True)
        ]
    )


@pytest.mark.parametrize("name", networks())
def test_values_and_parameter_gradients_agree_with_brute_force(name: str) -> None:
    model, x, t = networks()[name]
    J = jacobians(model, x, t)
    s = call(model, x, t).flatten(1)
    half = 0.5 * s.square().sum(1)
    v = draw(2, *x.shape, seed=7)
    flat = v.flatten(2)
    # Data that end at the state x at the time t, without noise.
    level: dict[str, Any] = {}
    if t is not None:
        level = {"t": t, "noise": torch.zeros_like(x), "weighting": ones}
        x = x / model.sde.marginal(t)[0]
    along = torch.einsum("kbi,bij,kbj->kb", flat, J, flat)
    cases = {
        "exact": (
            half + J.diagonal(dim1=1, dim2=2).sum(1),
            lambda c: implicit_loss(model, x, chunk_size=c, **level),
        ),
        "hutchinson": (
            half + along.mean(0),
            lambda c: implicit_loss(model, x, trace="hutchinson", probes=v, chunk_size=c, **level),
        ),
        "sliced": (
            (along + 0.5 * torch.einsum("kbi,bi->kb", flat, s).square()).mean(0),
            lambda c: sliced_loss(model, x, probes=v, chunk_size=c, **level),
        ),
    }
    for case, (oracle, objective) in cases.items():
        for chunk_size in (None, 1, 3):
            loss = objective(chunk_size)
            torch.testing.assert_close(loss.per_sample, oracle, rtol=1e-9, atol=1e-10, msg=case)
            assert loss.mean.item() == pytest.approx(oracle.mean().item(), rel=1e-9)
        torch.testing.assert_close(
            gradients(loss.mean, model),
            gradients(oracle.mean(), model),
            rtol=1e-7,
            atol=1e-9,
            msg=case,
        )


@given(d=st.integers(1, 9), n=st.integers(1, 5), chunk=st.one_of(st.none(), st.integers(1, 12)))
def test_trace_of_a_linear_field(d: int, n: int, chunk: int | None) -> None:
    """Each sample has a matrix of its own, so rows and elements cannot be mixed up."""
    matrices = draw(n, d, d)
    x = draw(n, d, seed=1).requires_grad_()
    s = torch.einsum("bij,bj->bi", matrices, x)
    trace = exact_trace(s, x, chunk_size=chunk)
    torch.testing.assert_close(trace, matrices.diagonal(dim1=1, dim2=2).sum(1))
    v = draw(3, n, d, seed=2)
    products = probe_traces(s, x, v, chunk_size=chunk)
    torch.testing.assert_close(products, torch.einsum("kbi,bij,kbj->bk", v, matrices, v))


def test_traces_are_summed_in_float32() -> None:
    """1 + 2⁻⁷ is exact in bfloat16, three of them are not."""
    x = torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True)
    trace = exact_trace(x * (1 + 2**-7), x)
    assert trace.dtype == torch.float32 and trace.tolist() == [3 + 3 * 2**-7] * 2


@pytest.mark.parametrize("event", [(), (1,), (2, 1, 3), (0,)])
def test_any_event(event: tuple[int, ...]) -> None:
    """s = −x + x³/3: ½‖s‖² + Σ(x² − 1), element by element."""
    x = draw(5, *event)
    score = lambda x: x**3 / 3 - x  # noqa: E731
    flat = x.reshape(5, math.prod(event))
    half = 0.5 * score(flat).square().sum(1)
    oracle = half + (flat.square() - 1).sum(1)
    torch.testing.assert_close(implicit_loss(score, x).per_sample, oracle)
    # Rademacher is exact on a diagonal Jacobian.
    hutchinson = implicit_loss(score, x, trace="hutchinson", probes=2)
    torch.testing.assert_close(hutchinson.per_sample, oracle)
    target = torch.zeros_like(x)
    torch.testing.assert_close(explicit_loss(score, x, target).per_sample, half)
    v = draw(1, 5, *event, seed=1)
    w = v[0].reshape(flat.shape)
    sliced = (w.square() * (flat.square() - 1)).sum(1) + 0.5 * (w * score(flat)).sum(1).square()
    torch.testing.assert_close(sliced_loss(score, x, probes=v).per_sample, sliced)
    different = finite_difference_loss(score, x, probes=v, epsilon=1e-4)
    torch.testing.assert_close(different.per_sample, sliced, rtol=1e-6, atol=1e-7)
    assert different.per_sample.shape == (5,)
    reduced = finite_difference_loss(score, x, probes=v, epsilon=1e-4, reduced_variance=True)
    other = sliced_loss(score, x, probes=v, reduced_variance=True)
    torch.testing.assert_close(reduced.per_sample, other.per_sample, rtol=1e-6, atol=1e-7)


# Finite differences.


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


# Time, weights, dtypes, generators.

SCORE_ONLY = {
    "explicit": lambda s, x, **k: explicit_loss(s, x, torch.zeros_like(x), **k),
    "implicit": implicit_loss,
    "sliced": lambda s, x, **k: sliced_loss(s, x, probes=draw(1, *x.shape).to(x), **k),
    "reduced": lambda s, x, **k: sliced_loss(
        s, x, probes=draw(1, *x.shape).to(x), reduced_variance=True, **k
    ),
    "finite-difference": lambda s, x, **k: finite_difference_loss(
        s, x, probes=draw(1, *x.shape).to(x), **k
    ),
}


@pytest.mark.parametrize("name", SCORE_ONLY)
def test_time_and_weight(name: str) -> None:
    objective, x = SCORE_ONLY[name], cloud(5)
    seen: list[Tensor] = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return -x * t[:, None]

    t = torch.tensor([0.1, 0.2, 0.5, 1.0, 3.0])
    many = objective(score, x, t=t, **still(x)).per_sample
    assert all(s.shape == (5,) and s.dtype == F64 for s in seen)
    for i in range(5):
        alone = objective(lambda x, i=i: -x * t[i].double(), x).per_sample[i]
        torch.testing.assert_close(many[i], alone)
    seen.clear()
    objective(score, x, t=0.5, **still(x))
    assert all(s.tolist() == [0.5] * 5 for s in seen)
    plain = lambda x: -x  # noqa: E731
    weight = torch.tensor([0.0, 1.0, 2.0, 0.5, 3.0])
    whole = objective(plain, x)
    torch.testing.assert_close(whole.mean, whole.per_sample.mean())
    loss = objective(plain, x, weight=weight)
    torch.testing.assert_close(loss.per_sample, weight.double() * whole.per_sample)
    torch.testing.assert_close(loss.mean, loss.per_sample.mean())
    torch.testing.assert_close(objective(plain, x, weight=2.0).mean, 2 * whole.mean)
    timed = objective(score, x, t=t, weight=weight, **still(x)).per_sample
    torch.testing.assert_close(timed, weight.double() * many)


class Placed:
    """A score with an SDE of its own, and no checks."""

    sde = ss.VPSDE()

    def __init__(self) -> None:
        self.times: list[Tensor] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(t)
        return -x


@pytest.mark.parametrize("name", SCORE_ONLY)
def test_an_sde_s_times_are_checked_and_keep_their_precision(name: str) -> None:
    score = Placed()
    with pytest.raises(ss.errors.TimeError, match="expected"):
        SCORE_ONLY[name](score, cloud(5), t=2.0)
    assert not score.times
    SCORE_ONLY[name](score, cloud(5).float(), t=0.1)
    assert all(t.tolist() == [0.1] * 5 for t in score.times) and score.times


@pytest.mark.parametrize("name", SCORE_ONLY)
def test_values_do_not_need_autograd_switched_on(name: str) -> None:
    model, x, t = networks()["mlp"]
    t64 = torch.tensor(t, dtype=F64)
    noise = torch.zeros_like(x)
    outside = SCORE_ONLY[name](model, x, t=t64, noise=noise)
    assert outside.mean.requires_grad
    with torch.no_grad():
        inside = SCORE_ONLY[name](model, x, t=t64, noise=noise, weight=torch.ones(4))
    assert not inside.mean.requires_grad and not inside.per_sample.requires_grad
    torch.testing.assert_close(inside.per_sample, outside.per_sample)
    with torch.inference_mode():
        again = SCORE_ONLY[name](
            model, x.clone(), t=t64.clone(), noise=noise.clone(), weight=torch.ones(4)
        )
    torch.testing.assert_close(again.per_sample, outside.per_sample)


def test_inference_mode_s_probes_and_times() -> None:
    model, x, _ = networks()["mlp"]
    with torch.inference_mode():
        t, v = torch.full((4,), 0.4, dtype=F64), draw(2, 4, 3)
        a = sliced_loss(model, x, t=t, probes=v, noise=0 * x).mean
        b = implicit_loss(model, x, t=t, probes=v, trace="hutchinson", noise=0 * x).mean
        sliced_loss(model, x, t=t)
    c = sliced_loss(model, x, t=0.4, probes=draw(2, 4, 3), noise=0 * x).mean
    torch.testing.assert_close(a.clone(), c)
    assert a != b


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_are_at_least_float32(dtype: torch.dtype) -> None:
    """States and probes are exact in both dtypes and so is s = −x: only sums may round."""
    x, v = cloud(5, 3).to(dtype), draw(2, 5, 3, seed=1).to(dtype)
    for objective in (
        lambda s, x: explicit_loss(s, x, torch.ones_like(x)),
        implicit_loss,
        lambda s, x: implicit_loss(s, x, trace="hutchinson", probes=v),
        lambda s, x: sliced_loss(s, x, probes=v),
    ):
        loss, oracle = (objective(lambda x: -x, y) for y in (x, x.double()))
        assert loss.per_sample.dtype == loss.mean.dtype == torch.float32
        assert oracle.mean.dtype == F64
        torch.testing.assert_close(
            loss.per_sample.double(), oracle.per_sample, rtol=1e-5, atol=1e-5
        )


def test_the_generator_draws_the_probes() -> None:
    x, score = cloud(), lambda x: torch.sin(x)
    for objective in (
        sliced_loss,
        functools.partial(implicit_loss, trace="hutchinson", probe_distribution="gaussian"),
        finite_difference_loss,
    ):
        a, b, c = (
            objective(score, x, generator=torch.Generator().manual_seed(k)).mean for k in (1, 1, 2)
        )
        assert a == b != c
        state = torch.get_rng_state()
        objective(score, x, generator=torch.Generator().manual_seed(1))
        assert torch.equal(state, torch.get_rng_state())
        assert objective(score, x).mean != objective(score, x).mean
    rows = sliced_loss(score, x[:1].expand(9, 3), generator=torch.Generator()).per_sample
    assert len(rows.unique()) == 9  # each sample has directions of its own


@pytest.mark.parametrize("name", SCORE_ONLY)
def test_a_score_that_writes_to_its_input_harms_nothing(name: str) -> None:
    def careless(x: Tensor, t: Tensor) -> Tensor:
        s = -x * t[:, None]
        x.mul_(0.0)
        return s

    x, t = cloud(5), torch.full((5,), 2.0, dtype=F64)
    got = SCORE_ONLY[name](careless, x, t=t, **still(x)).per_sample
    assert torch.equal(x, cloud(5))
    torch.testing.assert_close(got, SCORE_ONLY[name](lambda x: -2 * x, x).per_sample)
    SCORE_ONLY[name](lambda x, t: t.zero_()[:, None] * x, x, t=t, **still(x))
    assert t.tolist() == [2.0] * 5
    writes = lambda y: y.mul_(1.0).square().sum(1).mul_(-1.0) + 0 * y.zero_().sum(1)  # noqa: E731
    finite_difference_loss(ss.EnergyModel(writes), x)
    explicit_loss(lambda y: -y, x, lambda y: y.zero_())
    assert torch.equal(x, cloud(5))


@pytest.mark.parametrize("name", SCORE_ONLY)
def test_the_states_are_data(name: str) -> None:
    x, scale = cloud(5).requires_grad_(), torch.ones((), dtype=F64, requires_grad=True)
    SCORE_ONLY[name](lambda x: -scale * x, x).mean.backward()
    assert scale.grad is not None and x.grad is None


# What is refused.


def untouched(x: Tensor, *t: Tensor) -> Tensor:
    raise RuntimeError("the score was called")


X = torch.zeros(3, 2)


@pytest.mark.parametrize("name", SCORE_ONLY)
@pytest.mark.parametrize(
    ("error", "given"),
    [
        (ss.errors.ShapeError, {"x0": torch.zeros(3, 2).long()}),
        (ss.errors.ShapeError, {"x0": torch.zeros(3, 2, dtype=torch.complex64)}),
        (ss.errors.ParameterError, {"x0": torch.tensor([[0.0, math.nan]])}),
        (ss.errors.ParameterError, {"x0": torch.tensor([[0.0, -math.inf]])}),
        (ss.errors.ShapeError, {"x0": torch.tensor(1.0)}),
        (ss.errors.ShapeError, {"x0": torch.zeros(0, 2)}),
        (ss.errors.ShapeError, {"t": torch.ones(4), "sde": ss.VPSDE()}),
        (ss.errors.ShapeError, {"t": torch.ones(3, 1), "sde": ss.VPSDE()}),
        (ss.errors.TimeError, {"t": math.nan, "sde": ss.VPSDE()}),
        (ss.errors.TimeError, {"t": 0.0, "sde": ss.VPSDE()}),
        (ss.errors.TimeError, {"t": 2.0, "sde": ss.VPSDE()}),
        (ss.errors.IncompatibleError, {"t": 0.5}),
        (ss.errors.IncompatibleError, {"t": 0.5, "sde": ss.VPSDE}),
        (ss.errors.IncompatibleError, {"sde": ss.VPSDE()}),
        (ss.errors.IncompatibleError, {"noise": X}),
        (ss.errors.IncompatibleError, {"weighting": "likelihood"}),
        (ss.errors.IncompatibleError, {"label": torch.zeros(3, dtype=torch.int64)}),
        (ss.errors.IncompatibleError, {"t": 0.5, "sde": ss.VPSDE(), "weighting": "guess"}),
        (ss.errors.ShapeError, {"t": 0.5, "sde": ss.VPSDE(), "noise": X[:2]}),
        (ss.errors.ParameterError, {"t": 0.5, "sde": ss.VPSDE(), "noise": X + math.nan}),
        (ss.errors.ShapeError, {"weight": torch.ones(2)}),
        (ss.errors.ShapeError, {"weight": torch.ones(3, 1)}),
        (ss.errors.ParameterError, {"weight": -1.0}),
        (ss.errors.ParameterError, {"weight": math.inf}),
        (ss.errors.ParameterError, {"weight": torch.tensor([1.0, -1.0, 0.0])}),
        (ss.errors.ParameterError, {"weight": torch.tensor([1.0, math.nan, 0.0])}),
        (ss.errors.ParameterError, {"weight": torch.tensor([1.0, math.inf, 0.0])}),
        (ss.errors.IncompatibleError, {"model": 3.0}),
        (ss.errors.IncompatibleError, {"model": nn.Linear}),
        (ss.errors.IncompatibleError, {"model": ss.ScoreModel(nn.Linear(2, 2), ss.VPSDE())}),
        (ss.errors.TimeError, {"model": ss.ScoreModel(nn.Linear(2, 2), ss.VPSDE()), "t": 2.0}),
        (
            ss.errors.IncompatibleError,
            {"model": ss.ScoreModel(nn.Linear(2, 2), ss.VPSDE()), "t": 0.5, "sde": ss.VESDE()},
        ),
        (ss.errors.ShapeError, {"model": nn.Linear(2, 2, device="meta")}),
    ],
)
def test_bad_requests_are_refused(name: str, error: type[Exception], given: dict[str, Any]) -> None:
    options = {"model": untouched, "x0": X, **given}
    with pytest.raises(error, match="expected"):
        SCORE_ONLY[name](options.pop("model"), options.pop("x0"), **options)


@pytest.mark.parametrize(
    ("error", "objective", "options"),
    [
        (ss.errors.IncompatibleError, implicit_loss, {"trace": "guess"}),
        (ss.errors.IncompatibleError, implicit_loss, {"probes": 2}),
        (ss.errors.IncompatibleError, implicit_loss, {"probes": torch.zeros(1, 3, 2)}),
        (ss.errors.ParameterError, sliced_loss, {"reduced_variance": 1}),
        (ss.errors.ParameterError, implicit_loss, {"chunk_size": 0}),
        (ss.errors.ParameterError, sliced_loss, {"chunk_size": True}),
        (ss.errors.ParameterError, sliced_loss, {"chunk_size": 1.5}),
        (ss.errors.ParameterError, sliced_loss, {"chunk_size": 0, "reduced_variance": True}),
        (ss.errors.ParameterError, finite_difference_loss, {"epsilon": 0.0}),
        (ss.errors.ParameterError, finite_difference_loss, {"epsilon": math.nan}),
        (ss.errors.ParameterError, finite_difference_loss, {"epsilon": "small"}),
        (
            ss.errors.ParameterError,
            finite_difference_loss,
            {"epsilon": torch.tensor([0.1, 0.0, 0.1])},
        ),
        (ss.errors.ParameterError, finite_difference_loss, {"epsilon": torch.tensor(math.inf)}),
        (ss.errors.ShapeError, finite_difference_loss, {"epsilon": torch.ones(2)}),
        (ss.errors.ShapeError, finite_difference_loss, {"epsilon": torch.ones(3, 2)}),
        (ss.errors.IncompatibleError, implicit_loss, {"generator": 3}),
        (ss.errors.IncompatibleError, sliced_loss, {"generator": 3}),
        (ss.errors.IncompatibleError, finite_difference_loss, {"generator": 3, "probes": X[None]}),
        (ss.errors.ParameterError, finite_difference_loss, {"reduced_variance": 1}),
        (ss.errors.ShapeError, finite_difference_loss, {"x0": X.bfloat16()}),
        (ss.errors.IncompatibleError, explicit_loss, {"target": 3.0}),
        (ss.errors.ShapeError, explicit_loss, {"target": torch.zeros(3, 3)}),
        (
            ss.errors.IncompatibleError,
            explicit_loss,
            {"target": ss.VPSDE},
        ),
        *(
            (error, objective, options)
            for objective in (
                sliced_loss,
                finite_difference_loss,
                functools.partial(implicit_loss, trace="hutchinson"),
            )
            for error, options in (
                (ss.errors.ParameterError, {"probes": 0}),
                (ss.errors.ParameterError, {"probes": True}),
                (ss.errors.ParameterError, {"probes": 1.5}),
                (ss.errors.ShapeError, {"probes": torch.zeros(3, 2)}),
                (ss.errors.ShapeError, {"probes": torch.zeros(0, 3, 2)}),
                (ss.errors.ShapeError, {"probes": torch.zeros(1, 3, 2).long()}),
                (ss.errors.IncompatibleError, {"probe_distribution": "cauchy"}),
            )
        ),
    ],
)
def test_bad_options_are_refused(error: type[Exception], objective: Any, options: Any) -> None:
    options = {"x0": X, **options}
    with pytest.raises(error, match="expected"):
        objective(untouched, **options)


@pytest.mark.parametrize(
    "score",
    [lambda x: -x.detach(), lambda x: torch.ones(3, 2, requires_grad=True) * 1, torch.zeros_like],
)
@pytest.mark.parametrize(
    "objective",
    [
        implicit_loss,
        sliced_loss,
        functools.partial(implicit_loss, trace="hutchinson", probes=2),
    ],
)
def test_a_score_without_a_derivative_is_no_score_of_trace_zero(score: Any, objective: Any) -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="differentiate"):
        objective(score, torch.ones(3, 2))


def test_a_score_or_density_of_another_shape_is_refused() -> None:
    for objective in SCORE_ONLY.values():
        with pytest.raises(ss.errors.ShapeError, match="its input's shape"):
            objective(lambda x: x[:, :1], X)
        with pytest.raises(ss.errors.ShapeError, match="one scalar per sample"):
            objective(ss.EnergyModel(lambda x: x), X) if objective is not SCORE_ONLY[
                "explicit"
            ] else explicit_loss(ss.EnergyModel(lambda x: x), X, X)
    with pytest.raises(ss.errors.ShapeError, match="the target"):
        explicit_loss(lambda x: x, X, lambda x: x[:1])

    class Flat:
        def __call__(self, x: Tensor) -> Tensor:
            return x

        def log_density(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(ss.errors.ShapeError, match="log density"):
        finite_difference_loss(Flat(), X)


def test_values_of_an_energy_do_not_know_its_gradient_s_norm() -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="log density"):
        finite_difference_loss(ss.EnergyModel(lambda x: x[:, 0]), X, reduced_variance=True)


class Conditional(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        y: Tensor = self.inner(x)
        return y


def test_dropout_has_no_differences() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    with pytest.raises(ss.errors.IncompatibleError, match="dropout"):
        finite_difference_loss(net, X)
    model, t, label = ss.ScoreModel(Conditional(net), ss.VPSDE()), torch.ones(3), torch.zeros(3)
    for classes in (None, label.long()):
        with pytest.raises(ss.errors.IncompatibleError, match="dropout"):
            finite_difference_loss(model, X, t=t, label=classes)
    far = ss.ScoreModel(Conditional(nn.Linear(2, 2, device="meta")), ss.VPSDE())
    with pytest.raises(ss.errors.ShapeError, match="device"):
        sliced_loss(far, X, t=t, label=label.long())
    assert finite_difference_loss(net.eval(), X).mean.isfinite()
    net[1].p = 0.0
    assert finite_difference_loss(net.train(), X).mean.isfinite()


def test_the_target_is_not_trained() -> None:
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    explicit_loss(a, torch.ones(3, 2), b).mean.backward()
    assert a.weight.grad is not None and b.weight.grad is None
    loss = explicit_loss(
        lambda x, t: t[:, None] * x,
        torch.ones(3, 2),
        lambda x, t: -t[:, None] * x,
        t=0.5,
        **still(torch.ones(3, 2)),
    )
    assert loss.per_sample.tolist() == [1.0] * 3


# The kernel density estimate.


def test_kernel_density_score_is_scipy_s() -> None:
    """SciPy's kernels have the data's covariance, so whiten it; its log density by differences."""
    for d, rule in ((1, "scott"), (2, "silverman")):
        raw = draw(40, d, seed=8).numpy() * 1.7 + 0.3
        L = np.linalg.cholesky(np.atleast_2d(np.cov(raw.T)))
        data = 1.3 * np.linalg.solve(L, raw.T).T
        kde = scipy.stats.gaussian_kde(data.T, bw_method=rule)
        score = kernel_density_score(torch.tensor(data), rule)
        assert score.bandwidth == pytest.approx(1.3 * kde.factor, rel=1e-12)
        x, h = draw(6, d, seed=9), 1e-5
        torch.testing.assert_close(
            score.log_prob(x), torch.tensor(kde.logpdf(x.numpy().T)), rtol=1e-10, atol=1e-10
        )
        for j in range(d):
            step = h * np.eye(d)[j]
            up, down = (kde.logpdf((x.numpy() + sign * step).T) for sign in (1, -1))
            slope = torch.tensor((up - down) / (2 * h))
            torch.testing.assert_close(score(x)[:, j], slope, rtol=1e-6, atol=1e-6)
    given = kernel_density_score(torch.tensor(data), 0.4)
    assert given.bandwidth == 0.4 and kernel_density_score(torch.tensor(data)).bandwidth == (
        pytest.approx(1.3 * 40 ** (-1 / 6))
    )
    # The rules take the root mean square of the elements' deviations, in any event shape.
    uneven = draw(30, 2, 2) * torch.tensor([1.0, 3.0])
    rms = math.sqrt(uneven.numpy().reshape(30, 4).var(0, ddof=1).mean())
    assert kernel_density_score(uneven).bandwidth == pytest.approx(rms * 30 ** (-1 / 8))
    loss = explicit_loss(lambda x: -x, x, given)
    torch.testing.assert_close(loss.per_sample, 0.5 * (x + given(x)).square().sum(1))


@pytest.mark.parametrize(
    ("error", "data", "bandwidth"),
    [
        (ss.errors.ShapeError, torch.zeros(1, 2), "scott"),
        (ss.errors.ParameterError, torch.ones(5, 2), "scott"),
        (ss.errors.ShapeError, [1.0, 2.0], "silverman"),
        (ss.errors.ParameterError, torch.randn(5, 2), 0.0),
        (ss.errors.ParameterError, torch.randn(5, 2), math.nan),
        (ss.errors.ParameterError, torch.tensor([[0.0], [math.nan]]), "scott"),
        (ss.errors.ParameterError, torch.tensor([[0.0], [math.nan]]), 0.5),
        (ss.errors.IncompatibleError, torch.randn(5, 2), "rule of thumb"),
    ],
)
def test_bad_kernel_densities_are_refused(error: Any, data: Any, bandwidth: Any) -> None:
    with pytest.raises(error, match="expected"):
        kernel_density_score(data, bandwidth)


# At noise levels, and in the training loop.


def level_model(seed: int = 0, kind: str = "mlp") -> ss.ScoreModel:
    torch.manual_seed(seed)
    if kind == "energy":
        return ss.ScoreModel(
            ss.EnergyModel(Soft(2).float()), ss.VPSDE(), prediction="score", time_input="log_snr"
        )
    net = ss.MLP(2, hidden=8, depth=1, classes=2)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return ss.ScoreModel(net, ss.VPSDE(), time_input="log_snr")


def test_with_a_time_an_objective_is_that_of_noised_data() -> None:
    """By its own call, and lifted by at_levels, against noise and probes drawn by hand."""
    model, x0 = level_model(), draw(6, 2, dtype=torch.float32)
    t = torch.linspace(0.1, 1.0, 6, dtype=F64)
    label = torch.tensor([0, 1, 2, 1, 0, 2])
    for weighting, power in (("sigma2", 2), (lambda sde, t: sde.marginal(t)[1] ** 3, 3)):
        direct = functools.partial(sliced_loss, weighting=weighting, probes=2)
        lifted = at_levels(sliced_loss, weighting, options={"probes": 2})
        got, same = (
            loss(model, x0, t=t, label=label, generator=torch.Generator().manual_seed(1))
            for loss in (direct, lifted)
        )
        assert torch.equal(got.per_sample, same.per_sample)
        generator = torch.Generator().manual_seed(1)
        alpha, sigma = model.sde.marginal(t)
        noise = torch.randn(6, 2, generator=generator)
        x_t = (alpha[:, None] * x0 + sigma[:, None] * noise).float()
        v = torch.randn(2, 6, 2, generator=generator)
        by_hand = sliced_loss(lambda x: model(x, t, label), x_t, probes=v)
        expected = sigma.float() ** power * by_hand.per_sample
        torch.testing.assert_close(got.per_sample, expected, rtol=1e-4, atol=1e-5)
    unlabelled = direct(model, x0, t=t, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(unlabelled.per_sample, got.per_sample)
    # An energy with labels: differences see it, and them, through its log density alone.
    energy = level_model(kind="energy")
    value, bare, zero = (
        finite_difference_loss(
            energy, x0, t=t, label=y, generator=torch.Generator().manual_seed(1)
        ).per_sample
        for y in (label, None, torch.zeros_like(label))
    )
    torch.testing.assert_close(zero, bare)
    torch.testing.assert_close(value[label == 0], bare[label == 0])
    assert not torch.isclose(value[label > 0], bare[label > 0]).any()
    called = []
    energy.forward = lambda *given: called.append(given)  # type: ignore[method-assign]
    finite_difference_loss(energy, x0, t=t, label=label)
    assert not called
    got = explicit_loss(
        model,
        x0,
        lambda x, t: 0 * x,
        t=t,
        label=label,
        generator=torch.Generator().manual_seed(1),
    )
    s = model(x_t, t, label)
    torch.testing.assert_close(got.per_sample, 0.5 * sigma.float() ** 2 * s.square().sum(1))


@pytest.mark.parametrize(("t", "wanted"), [(0.0, -0.362), (1.0, -0.5)])
@pytest.mark.parametrize("kind", ["energy", "score"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_step_of_differences_follows_the_level(
    t: float, wanted: float, kind: str, dtype: torch.dtype
) -> None:
    """Two points 2σ_min from 0, where a step of 0.03 is three σ_min and one of 0.005 half."""
    sde = ss.VESDE(sigma_min=0.01, sigma_max=50.0)
    exact = ss.EmpiricalScore(torch.tensor([[-0.02], [0.02]], dtype=F64), sde)

    class Score:
        def __init__(self) -> None:
            self.sde = sde

        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            return exact(x, t)

    score = exact if kind == "energy" else Score()
    x0 = torch.tensor([[-0.02], [0.02]], dtype=dtype).repeat(10_000, 1)
    times = torch.full((20_000,), t)
    signs = torch.ones(1, *x0.shape, dtype=dtype)

    def value(objective: Callable[..., Loss], **options: Any) -> float:
        seeded = [torch.Generator().manual_seed(0) for _ in range(2)]
        direct = objective(score, x0, t=times, generator=seeded[0], **options)
        lifted = at_levels(objective, options=options)(score, x0, t=times, generator=seeded[1])
        assert torch.equal(direct.per_sample, lifted.per_sample)
        return direct.mean.item()

    implicit = value(implicit_loss)
    assert implicit == pytest.approx(wanted, abs=0.02)
    assert value(finite_difference_loss, probes=signs) == pytest.approx(implicit, rel=2e-3)
    # One step for all levels, and of a partial, is the user's own affair.
    one = {"energy": 0.03, "score": 0.005}[kind]
    fixed = value(finite_difference_loss, probes=signs, epsilon=one)
    assert fixed == value(functools.partial(finite_difference_loss, epsilon=one), probes=signs)
    if t == 0:
        assert abs(fixed - implicit) > {"energy": 0.2, "score": 0.02}[kind]


def test_labels_are_for_scores_that_take_them() -> None:
    """Neither an exact score nor a network without labels, in any loss that hands them on."""
    sde, t, label = ss.VPSDE(), torch.full((3,), 0.5), torch.zeros(3, dtype=torch.int64)
    exact = ss.GaussianScore(torch.zeros(2), 1.0, sde)
    losses = [
        lambda score, label: at_levels(sliced_loss)(score, X, t=t, label=label),
        lambda score, label: finite_difference_loss(score, X, t=t, label=label),
        lambda score, label: ss.denoising_loss(score, X, t=t, label=label),
    ]
    for loss in losses:
        assert loss(exact, None).mean.isfinite()
        for score in (exact, ss.ScoreModel(nn.Bilinear(2, 1, 2), sde)):
            with pytest.raises(ss.errors.IncompatibleError, match="leave the label out"):
                loss(score, label)
        for bad in (label[:2], label.float(), [0, 0, 0], label[:, None]):
            with pytest.raises(ss.errors.ShapeError, match="one label per sample"):
                loss(level_model(), bad)


class Guided:
    """A score that takes labels, and its log density, which may or may not."""

    sde = ss.VPSDE()

    def __call__(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return -x * (1 + label[:, None])


def test_a_labelled_score_has_a_density_if_it_had_one() -> None:
    class Whole(Guided):
        def log_density(self, x: Tensor, t: Tensor) -> Tensor:
            return -0.5 * x.square().sum(1)

    t, label = torch.full((3,), 0.5), torch.tensor([0, 1, 2])
    got, wanted = (
        loss(
            Guided(),
            X,
            t=t,
            label=label,
            generator=torch.Generator().manual_seed(0),
            probes=torch.ones(1, 3, 2),
        ).per_sample
        for loss in (finite_difference_loss, sliced_loss)
    )
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ss.errors.IncompatibleError, match="leave the label out"):
        finite_difference_loss(Whole(), X, t=t, label=label)


def test_times_and_generators_that_do_not_fit_are_refused_at_every_level() -> None:
    model, lifted = level_model(), at_levels(sliced_loss)
    model.forward = untouched  # type: ignore[method-assign]
    for t in (torch.full((4,), 0.5), torch.full((3, 1), 0.5)):
        with pytest.raises(ss.errors.ShapeError, match="one time"):
            lifted(model, X, t=t)
    for t in (torch.full((3,), 2.0), torch.full((3,), math.nan)):
        with pytest.raises(ss.errors.TimeError, match="expected"):
            lifted(model, X, t=t)
    calls: list[Callable[[Any], object]] = [
        lambda g: lifted(model, X, t=0.5, generator=g),
        lambda g: ss.denoising_loss(model, X, generator=g),
        lambda g: ss.denoising_loss(model, X, t=0.5, noise=X, generator=g),
        lambda g: ss.losses.UniformTimes().sample(model.sde, 3, g),
    ]
    for call in calls:
        with pytest.raises(ss.errors.IncompatibleError, match="expected generator"):
            call(3)


def test_an_objective_of_one_s_own_is_lifted_too() -> None:
    """``generator`` is handed to one that has it, with or without a default."""
    seen: list[torch.Generator] = []

    def draws(score: Any, x: Tensor, *, generator: torch.Generator) -> Loss:
        seen.append(generator)
        return implicit_loss(score, x)

    def plain(score: Any, x: Tensor) -> Loss:
        return implicit_loss(score, x)

    model, t = level_model(), torch.full((3,), 0.5)
    values = [
        at_levels(o)(model, X, t=t, generator=torch.Generator().manual_seed(2)).mean
        for o in (implicit_loss, draws, plain)
    ]
    assert values[0] == values[1] == values[2] and len(seen) == 1


def test_at_levels_has_a_name_without_an_address() -> None:
    lifted = at_levels(
        sliced_loss, ss.losses.sigma2, options={"probes": 2, "probe_distribution": "sphere"}
    )
    assert repr(lifted) == (
        "at_levels(sliced_loss, sigma2, options={'probe_distribution': 'sphere', 'probes': 2})"
    )
    assert lifted == at_levels(
        sliced_loss, ss.losses.sigma2, options={"probe_distribution": "sphere", "probes": 2}
    )
    partial = functools.partial(lifted, 3, label=None)
    assert part_name(partial) == f"{lifted!r}(3, label=None)"
    for score in (true_score, torch.zeros(2), lambda x: x):
        assert "0x" not in repr(at_levels(explicit_loss, options={"target": score}))
    assert "sigma2" in repr(at_levels(implicit_loss))


@pytest.mark.parametrize(
    ("objective", "given"),
    [
        (3, {}),
        (sliced_loss, {"weighting": "guess"}),
        (sliced_loss, {"options": {"probs": 2}}),
        (sliced_loss, {"options": {"generator": None}}),
        (sliced_loss, {"options": {"x": X}}),
        (sliced_loss, {"options": ["probes"]}),
        (sliced_loss, {"options": {1: 2}}),
        (explicit_loss, {}),  # its target is required
        (max, {}),
        (lambda score: None, {}),
        (lambda score, x, *, scale: None, {}),
    ],
)
def test_objectives_that_do_not_fit_are_refused(objective: Any, given: dict[str, Any]) -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="expected"):
        at_levels(objective, **given)


DATA = 0.5 * draw(32, 2, dtype=torch.float32) + 1.0


def run(
    model: ss.ScoreModel, path: Path | None = None, **options: Any
) -> ss.training.TrainingResult:
    settings: dict[str, Any] = {"steps": 8, "batch_size": 8, "warmup": 2, "progress": False}
    return ss.train(model, DATA, **(settings | {"path": path} | options))


@pytest.mark.parametrize("kind", ["mlp", "energy"])
@pytest.mark.parametrize(
    "objective",
    [
        implicit_loss,
        functools.partial(sliced_loss, reduced_variance=True),
        functools.partial(finite_difference_loss, weighting="likelihood"),
        at_levels(implicit_loss),
    ],
    ids=["implicit", "sliced", "differences", "lifted"],
)
def test_a_resumed_run_ends_in_the_same_bits(kind: str, objective: Any, tmp_path: Path) -> None:
    whole, halves = level_model(kind=kind), level_model(kind=kind)
    one = run(whole, objective=objective, schedule="constant")
    file = tmp_path / "m.safetensors"
    first = run(halves, file, objective=objective, steps=3, schedule="constant")
    again = level_model(seed=1, kind=kind)
    second = run(again, file, objective=objective, resume=True, schedule="constant")
    assert one.losses == first.losses + second.losses and len(second.losses) == 5
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_objective_is_another_run(tmp_path: Path) -> None:
    file, one = tmp_path / "m.safetensors", sliced_loss
    run(level_model(), file, objective=one, steps=2)
    others = (None, functools.partial(one, weighting="likelihood"), implicit_loss, at_levels(one))
    for other in others:
        with pytest.raises(ss.errors.CheckpointError, match="objective"):
            run(level_model(), file, objective=other, resume=True)
    plain = tmp_path / "plain.safetensors"
    run(level_model(), plain, steps=2, schedule="constant")
    with pytest.raises(ss.errors.CheckpointError, match="objective"):
        run(level_model(), plain, objective=one, resume=True)
    run(level_model(), plain, resume=True, schedule="constant")


def test_the_loop_calls_the_objective_by_its_names() -> None:
    """Times of the loop's distribution, its generator and its labels; importance weights are
    applied."""
    seen: list[dict[str, Any]] = []

    def objective(
        model: ss.ScoreModel,
        x0: Tensor,
        t: Tensor,
        generator: torch.Generator,
        label: Tensor | None,
    ) -> Loss:
        seen.append({"x0": x0, "t": t, "label": label})
        return ss.denoising_loss(model, x0, t=t, label=label, generator=generator)

    labels = torch.arange(32) % 2
    ours = run(level_model(), objective=objective, labels=labels)
    theirs = run(level_model(), labels=labels)
    assert ours.losses == theirs.losses
    assert seen[0]["label"].shape == (8,) and seen[0]["t"].dtype == F64
    for times in (ImportanceTimes(), ImportanceTimes(stratified=True)):
        ours = run(level_model(), objective=objective, times=times, clip=None)
        theirs = run(level_model(), times=times, clip=None)
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-5)
    assert seen[-1]["label"] is None


def test_objectives_the_loop_cannot_use_are_refused() -> None:
    touched = level_model()
    touched.forward = untouched  # type: ignore[method-assign]
    for bad in (3, "sliced", ss.MLP, max, lambda model, x0, t: None):
        with pytest.raises(ss.errors.IncompatibleError, match="objective="):
            run(touched, objective=bad)
    with pytest.raises(ss.errors.IncompatibleError, match="at_levels"):
        run(touched, objective=lambda score, x: None)
    value = torch.zeros(8, requires_grad=True)
    for detached in (
        Loss(torch.zeros(8), torch.zeros(())),
        Loss(value, value.mean().detach()),
    ):
        with pytest.raises(ss.errors.IncompatibleError, match="without a gradient"):
            run(touched, objective=lambda *args, bad=detached, **named: bad)
    with pytest.raises(ss.errors.IncompatibleError, match="no weighting="):
        run(touched, objective=sliced_loss, weighting="likelihood")
    for bad_loss in (
        torch.zeros(()),
        (torch.zeros(8), torch.zeros(())),
        Loss(torch.zeros(3), torch.zeros(())),
        Loss(torch.zeros(8), torch.zeros(8)),
        Loss(None, None),
    ):
        with pytest.raises(ss.errors.IncompatibleError, match="to return a Loss"):
            run(touched, objective=lambda model, x0, t, generator, label, bad=bad_loss: bad)


def test_training_by_implicit_score_matching_finds_a_gaussian() -> None:
    """No noise is ever compared: the learned score at t is −(x − αm)/(α²s² + σ²)."""
    torch.manual_seed(0)
    model = ss.ScoreModel(ss.MLP(2, hidden=16, depth=1), ss.VPSDE(), time_input="log_snr")
    data = 1.0 + 0.5 * draw(2000, 2, seed=1, dtype=torch.float32)
    options = {"steps": 250, "lr": 1e-2, "ema_decay": 0.97, "progress": False}
    trained = ss.train(model, data, objective=implicit_loss, **options).model
    exact = ss.GaussianScore(torch.ones(2), 0.25, ss.VPSDE())
    for t in (0.1, 0.4):
        alpha, sigma = (c.item() for c in ss.VPSDE().marginal(t))
        x = alpha * (1 + 0.5 * draw(500, 2, seed=2, dtype=torch.float32))
        x = x + sigma * draw(500, 2, seed=3, dtype=torch.float32)
        with torch.no_grad():
            wanted = exact(x, t)
            error = (trained(x, t) - wanted).square().mean() / wanted.square().mean()
        assert error < 0.05


def test_the_flow_takes_the_sphere_too() -> None:
    """∇s = −I: any probe of squared length d gives the trace without error.

    Fewer than 21 estimates that coincide would not say so: their standard error is NaN.
    """
    flow = ss.ProbabilityFlow(ss.VPSDE(), t_min=0.1)
    x = draw(4, 3)
    exact, sphere = (
        flow.log_likelihood(
            lambda x, t: -x, x, divergence=kind, probe_distribution="sphere", probes=21
        )
        for kind in ("exact", "hutchinson")
    )
    torch.testing.assert_close(exact.log_prob, sphere.log_prob)
    assert sphere.standard_error.max() < 1e-6


# The page.


def test_the_page_shows_the_saved_results(script: Callable[[str], ModuleType]) -> None:
    benchmark = script("objectives")
    report = json.loads((ROOT / "benchmarks" / "results" / "objectives-cpu.json").read_text())
    page = (ROOT / "docs" / "howto" / "objectives.md").read_text(encoding="utf-8")
    for d in benchmark.CASES:
        assert benchmark.table(report, d) in page
    assert benchmark.step_table(report) in page
    assert script("machine").machine_sentence(report) in page
    assert f"one run in {report['seconds']} CPU seconds" in page
    assert f"{benchmark.KDE_POINTS} points" in page


def test_the_saved_results_are_what_the_page_concludes(
    script: Callable[[str], ModuleType],
) -> None:
    benchmark = script("objectives")
    report = json.loads((ROOT / "benchmarks" / "results" / "objectives-cpu.json").read_text())
    biased = {f"denoising, σ = {s}" for s in (benchmark.SMALL, benchmark.LARGE)}
    biased |= {"explicit, kernel density"}
    rows = {(r["d"], r["model"], r["objective"]): r for r in report["rows"]}
    for (_, _, name), row in rows.items():
        # One-sided at four standard errors, 46 rows: 1.5e-3 in all for the one saved run.
        if name not in biased:
            assert row["bias_squared"] < 4 * row["bias_squared_standard_error"] + 1e-12
    vr = "implicit, Hutchinson (= SSM-VR)"
    for d in benchmark.CASES:
        assert rows[d, "score", vr]["noise"] < 1.3
        assert rows[d, "score", vr]["time"] < 3
        assert rows[d, "score", "sliced"]["noise"] > 1.5 * rows[d, "score", vr]["noise"]
    assert rows[784, "score", "implicit, exact trace"]["time"] > 100
