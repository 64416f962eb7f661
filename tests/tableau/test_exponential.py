"""The φ-functions and the weights made of them."""

from __future__ import annotations

import math

import mpmath
import pytest
import scipy.integrate
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdescore as ss
from sdescore.tableau.exponential import ExponentialStep, exponential_step, phi
from tests.helpers.adams import EVERY, F64


@pytest.mark.parametrize(
    "z", [-40.0, -3.0, -1.51, -1.49, -1e-3, -1e-9, 0.0, 1e-6, 0.7, 1.499, 1.501, 9.0]
)
def test_phi_is_its_integral(z: float) -> None:
    found = phi(torch.tensor(z, dtype=F64), 5).tolist()
    for k in range(6):
        with mpmath.workdps(40):
            exact = (
                mpmath.e ** mpmath.mpf(z)
                if k == 0
                else mpmath.quad(
                    lambda u, k=k: (
                        mpmath.e ** ((1 - u) * z) * u ** (k - 1) / mpmath.factorial(k - 1)
                    ),
                    [0, 1],
                )
            )
        assert found[k] == pytest.approx(float(exact), rel=2e-14)


def test_phi_has_gradients_on_both_sides_of_the_switch() -> None:
    z = torch.tensor([-20.0, -1.5, 0.0, 1.4, 1.6, 5.0], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: phi(v, 4), z)


# Weights


@given(
    h=st.floats(1e-4, 6.0),
    rate=st.sampled_from([-2.0, -1.25, -1.0, 1.0]),
    coefficients=st.lists(st.floats(-2, 2), min_size=1, max_size=4),
    gaps=st.lists(st.floats(0.3, 2.0), min_size=4, max_size=4),
)
def test_weights_integrate_polynomials_exactly(
    h: float, rate: float, coefficients: list[float], gaps: list[float]
) -> None:
    """Under the exponential, through nodes behind the step."""
    p = len(coefficients)
    nodes = -h * torch.tensor([sum(gaps[:j]) for j in range(p)], dtype=F64)
    one = torch.ones(1, dtype=F64)
    step = ExponentialStep(h * one, one, one, one, rate)
    weights = step.weights(nodes[None])[0]

    def poly(u: float) -> float:
        return sum(c * (u / h) ** m for m, c in enumerate(coefficients))

    exact = scipy.integrate.quad(lambda u: math.exp(rate * (h - u)) * poly(u), 0, h, epsabs=0)[0]
    got = sum(w * poly(u) for w, u in zip(weights.tolist(), nodes.tolist(), strict=True))
    size = sum(abs(w * poly(u)) for w, u in zip(weights.tolist(), nodes.tolist(), strict=True))
    assert got == pytest.approx(exact, rel=1e-9, abs=1e-12 * size)


@EVERY
@pytest.mark.parametrize("output", ["x0", "epsilon"])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_a_step_is_exact_where_the_output_is_constant(
    sde: ss.LinearSDE, output: str, eta: float
) -> None:
    """x₀ constant: the distribution stays N(α x₀, σ²) at every η. ε constant: x − σε scales as
    α."""
    t, s = torch.tensor([0.7], dtype=F64) * sde.T, torch.tensor([0.3], dtype=F64) * sde.T
    step = exponential_step(sde, t, s, output, eta)
    on_output = step.weights(torch.zeros(1, 1, dtype=F64))[0, 0]
    (alpha_t, sigma_t), (alpha_s, sigma_s) = sde.marginal(t), sde.marginal(s)
    if output == "x0":
        torch.testing.assert_close(step.a * alpha_t + on_output, alpha_s, rtol=1e-10, atol=1e-12)
        variance = (step.a * sigma_t).square() + step.c.square()
        torch.testing.assert_close(variance, sigma_s.square(), rtol=1e-10, atol=0.0)
    elif eta == 0:
        torch.testing.assert_close(step.a * alpha_t, alpha_s, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(step.a * sigma_t + on_output, sigma_s, rtol=1e-9, atol=1e-12)
    else:
        # The noise of d(x/α) = … + √2 η (σ/α) dλ-Brownian, by quadrature.
        lam_t, lam_s = sde.half_log_snr(t).item(), sde.half_log_snr(s).item()
        added = scipy.integrate.quad(lambda v: 2 * eta**2 * math.exp(-2 * v), lam_t, lam_s)[0]
        assert step.c.item() == pytest.approx(alpha_s.item() * math.sqrt(added), rel=1e-8)
