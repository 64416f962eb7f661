"""The rates of the chain of cells, and their generator."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdescore.fokker_planck.box import Box
from sdescore.fokker_planck.generator import bernoulli, chain_generator, jump_rates
from sdescore.fokker_planck.uniformisation import uniformise
from tests.helpers.strategies import log_uniform


def test_bernoulli_is_z_over_expm1() -> None:
    for z in (1e-300, 1e-17, 1e-8, 1e-3, 0.5, 1.0, 30.0, 650.0):
        exact = mpmath.mpf(z) / mpmath.expm1(mpmath.mpf(z))
        assert bernoulli(np.array([z]))[0] == pytest.approx(float(exact), rel=1e-14)
    with np.errstate(all="raise"):
        limits = bernoulli(np.array([0.0, 1e5, np.inf]))
    assert limits[0] == 1
    assert (limits[1:] < 1e-300).all()


@given(
    b=st.one_of(st.floats(-1e3, 1e3), st.just(0.0)),
    D=log_uniform(1e-3, 1e3),
    h=log_uniform(1e-3, 10.0),
)
def test_jump_rates_are_the_fitted_fluxes(b: float, D: float, h: float) -> None:
    """J of the constant-flux problem b p − D p' = J from its exact solution, in mpmath."""
    along, against = (r[0] for r in jump_rates(np.array([b]), D, h))
    with mpmath.workdps(60):
        B, d, w = mpmath.mpf(b), mpmath.mpf(D), mpmath.mpf(h)
        P = B * w / d
        # p(0) = 1, p(h) = 0 gives the rate along, divided by the cell's width.
        exact = d / w**2 if P == 0 else B / w / -mpmath.expm1(-P)
        back = d / w**2 if P == 0 else B / w / mpmath.expm1(P)
    assert along == pytest.approx(float(exact), rel=1e-11)
    assert against == pytest.approx(float(back), rel=1e-11, abs=1e-290)


def test_without_noise_the_rates_are_upwind() -> None:
    b = np.array([3.0, -2.0, 0.0])
    for tiny in (0.0, 5e-324, 1e-200):
        along, against = jump_rates(b, tiny, 0.5)
        np.testing.assert_allclose(along, [6, 0, 0], atol=1e-190)
        np.testing.assert_allclose(against, [0, 4, 0], atol=1e-190)


@given(
    cells=st.lists(st.integers(3, 6), min_size=1, max_size=3),
    D=st.one_of(st.just(0.0), log_uniform(1e-4, 1e2)),
    scale=log_uniform(1e-3, 1e5),
    seed=st.integers(0, 2**31),
)
def test_generator_has_non_negative_rates_and_zero_column_sums(
    cells: list[int], D: float, scale: float, seed: int
) -> None:
    box = Box(tuple((-1.0, 1.0 + a) for a in range(len(cells))), tuple(cells))
    rng = np.random.default_rng(seed)
    drift = [scale * rng.standard_normal(len(box.faces(a))) for a in range(len(cells))]
    Q = chain_generator(box, drift, D).toarray()
    off = Q - np.diag(np.diag(Q))
    assert (off >= 0).all()
    assert np.abs(Q.sum(0)).max() <= 1e-14 * np.abs(Q).max()
    # It couples neighbours along an axis and nothing else.
    number = np.stack(np.unravel_index(np.arange(len(Q)), cells))
    apart = np.abs(number[:, :, None] - number[:, None, :]).sum(0)
    assert not off[apart != 1].any()
    if 0.1 * scale < D:
        assert (off[apart == 1] > 0).all()
    q, P = uniformise(chain_generator(box, drift, D))
    assert (P.toarray() >= 0).all()
    np.testing.assert_allclose(q * (P.toarray() - np.eye(len(Q))), Q, atol=1e-13 * q)
