"""The chain's exact solution between two times, by uniformisation."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from scipy import linalg, stats

from sdescore.fokker_planck.box import Box
from sdescore.fokker_planck.generator import chain_generator
from sdescore.fokker_planck.uniformisation import poisson_mixture, poisson_weights, uniformise


@pytest.mark.parametrize("m", [1e-12, 0.3, 1.0, 7.5, 300.0, 2.5e4, 1e6])
def test_poisson_weights(m: float) -> None:
    """mpmath's probabilities; what is left out is below 1e-15 and the sum is 1 all the same."""
    first, weights = poisson_weights(m)
    last = first + len(weights) - 1
    assert abs(weights.sum() - 1) <= 1e-15 * 5
    with mpmath.workdps(40):
        for k in {first, math.floor(m), math.floor(m + math.sqrt(m)), last}:
            exact = mpmath.exp(k * mpmath.log(m) - m - mpmath.loggamma(k + 1))
            assert weights[k - first] == pytest.approx(float(exact), rel=1e-10)
    outside = stats.poisson.sf(last, m) + (stats.poisson.cdf(first - 1, m) if first else 0.0)
    assert outside < 1e-15
    assert len(weights) < 30 + 18 * math.sqrt(m)  # no more than ±9 standard deviations
    if m < 1:
        assert len(weights) < 20  # a step of few jumps is cheap


def test_poisson_weights_without_jumps() -> None:
    assert poisson_weights(0.0) == (0, np.ones(1))


@pytest.mark.parametrize("duration", [0.0, 0.01, 0.7, 40.0])
def test_uniformisation_is_the_matrix_exponential(duration: float) -> None:
    box = Box(((-1.0, 1.0), (0.0, 3.0)), (4, 5))
    rng = np.random.default_rng(0)
    Q = chain_generator(box, [3 * rng.standard_normal(len(box.faces(a))) for a in (0, 1)], 0.2)
    p = rng.random(20)
    q, P = uniformise(Q)
    got = poisson_mixture(P, *poisson_weights(q * duration), p)
    np.testing.assert_allclose(got, linalg.expm(duration * Q.toarray()) @ p, rtol=1e-11)


def test_a_chain_that_hardly_moves() -> None:
    """1/q overflows."""
    q, P = uniformise(chain_generator(Box(((0.0, 3.0),), (3,)), [np.full(2, 1e-310)], 0.0))
    assert q == 1e-310
    np.testing.assert_array_equal(P.toarray(), [[0, 0, 0], [1, 0, 0], [0, 1, 1]])


def test_a_chain_at_rest() -> None:
    q, P = uniformise(chain_generator(Box(((0.0, 1.0),), (4,)), [np.zeros(3)], 0.0))
    assert q == 0
    np.testing.assert_array_equal(P.toarray(), np.eye(4))
