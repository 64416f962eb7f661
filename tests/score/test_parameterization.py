"""Conversions between any two predictions, against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdescore as ss
from tests.helpers.strategies import (
    DTYPES,
    KINDS,
    coefficients,
    dtypes,
    prediction_pairs,
    seeds,
    shapes,
    states,
)

pytestmark = pytest.mark.fast

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def exact_pair(kind: str | tuple[float, float], alpha: float, sigma: float) -> tuple:
    """``(p, q)`` as fractions; from the definition of each prediction."""
    a, s = Fraction(alpha), Fraction(sigma)
    if not isinstance(kind, str):
        return Fraction(kind[0]), Fraction(kind[1])
    zero, one = Fraction(0), Fraction(1)
    return {"score": (zero, -1 / s), "epsilon": (zero, one), "x0": (one, zero), "v": (-s, a)}[kind]


def exact(
    y: torch.Tensor, x: torch.Tensor, alpha: float, sigma: float, from_: object, to: object
) -> list[tuple[Fraction, Fraction]]:
    """``(value, Σ|terms|)`` per element: the two linear equations solved for x₀ and ε."""
    (p, q), (p_to, q_to) = exact_pair(from_, alpha, sigma), exact_pair(to, alpha, sigma)
    a, s = Fraction(alpha), Fraction(sigma)
    D = a * q - s * p
    found = []
    for y_i, x_i in zip(y.flatten().tolist(), x.flatten().tolist(), strict=True):
        y_i, x_i = Fraction(y_i), Fraction(x_i)
        x0, noise = (q * x_i - s * y_i) / D, (a * y_i - p * x_i) / D
        size = abs((p_to * q - q_to * p) / D * x_i) + abs((a * q_to - s * p_to) / D * y_i)
        found.append((p_to * x0 + q_to * noise, size))
    return found


@pytest.mark.guards("B09")
@given(seeds(), dtypes(), coefficients())
def test_score_and_epsilon_to_one_eps(
    seed: int, dtype: torch.dtype, ab: tuple[float, float]
) -> None:
    x, y = states((4, 3), dtype, seed, 2)
    eps = torch.finfo(dtype).eps
    for from_, to in (("score", "epsilon"), ("epsilon", "score")):
        got = ss.convert(y, x, *ab, from_, to)
        assert got.dtype == dtype
        pairs = zip(got.flatten().tolist(), exact(y, x, *ab, from_, to), strict=True)
        for value, (expected, _) in pairs:
            floor = torch.finfo(dtype).tiny * eps  # a subnormal has fewer digits
            assert abs(Fraction(value) - expected) <= eps * abs(expected) + Fraction(floor)


@pytest.mark.guards("T11")
@given(seeds(), dtypes(), coefficients())
def test_epsilon_and_x0_to_two_kappa_eps(
    seed: int, dtype: torch.dtype, ab: tuple[float, float]
) -> None:
    """The error of x₀ is at most 2 eps (|x| + σ|ε|)/α = 2 κ eps |x₀|; of ε, the mirror of it."""
    x, y = states((4, 3), dtype, seed, 2)
    for from_, to in (("epsilon", "x0"), ("x0", "epsilon")):
        got = ss.convert(y, x, *ab, from_, to)
        pairs = zip(got.flatten().tolist(), exact(y, x, *ab, from_, to), strict=True)
        for value, (expected, size) in pairs:
            bound = 2 * torch.finfo(dtype).eps * float(size) + torch.finfo(dtype).tiny
            assert abs(float(Fraction(value) - expected)) <= bound


@pytest.mark.guards("B09")
@given(seeds(), dtypes(), st.floats(0.01, 1.56))
def test_v_and_x0_to_eight_eps(seed: int, dtype: torch.dtype, angle: float) -> None:
    """On a VP marginal (x₀, ε) ↔ (x, v) is a rotation; the scale is its length, √(x² + v²)."""
    x, y = states((4, 3), dtype, seed, 2)
    alpha, sigma = math.cos(angle), math.sin(angle)
    bound = 8 * torch.finfo(dtype).eps * torch.hypot(x.double(), y.double())
    for from_, to in (("v", "x0"), ("x0", "v")):
        if (from_, to) == ("x0", "v"):
            y = ss.convert(y, x, alpha, sigma, "v", "x0")
        got = ss.convert(y, x, alpha, sigma, from_, to).double().flatten()
        expected = [float(e) for e, _ in exact(y, x, alpha, sigma, from_, to)]
        size = bound if from_ == "v" else bound / sigma
        error = (got - torch.tensor(expected, dtype=torch.float64)).abs()
        assert bool((error <= size.flatten()).all())


@given(st.data(), seeds(), dtypes(), coefficients())
def test_any_pair_to_any_pair(
    data: st.DataObject, seed: int, dtype: torch.dtype, ab: tuple[float, float]
) -> None:
    """One rounding of the terms, one of the sum, one to the dtype: 3 eps Σ|terms|, and in float64
    the coefficients' own cancellation, bounded by the determinant's (the strategy keeps it < 20).
    """
    kinds = st.one_of(st.sampled_from(KINDS), prediction_pairs(*ab))
    from_, to = data.draw(kinds), data.draw(kinds)
    x, y = states((3, 2), dtype, seed, 2)
    got = ss.convert(y, x, *ab, from_, to)
    (p, q), (p_to, q_to) = (tuple(map(float, exact_pair(k, *ab))) for k in (from_, to))
    D = abs(ab[0] * q - ab[1] * p)
    loose = (abs(p_to * q) + abs(q_to * p), abs(ab[0] * q_to) + abs(ab[1] * p_to))
    for i, (expected, size) in enumerate(exact(y, x, *ab, from_, to)):
        x_i, y_i = abs(x.flatten()[i].item()), abs(y.flatten()[i].item())
        bound = 3 * torch.finfo(dtype).eps * float(size) + torch.finfo(dtype).tiny
        bound += 64 * 2.0**-52 * (loose[0] * x_i + loose[1] * y_i) / D
        if float(size) < torch.finfo(dtype).max / 2:
            assert abs(got.flatten()[i].item() - float(expected)) <= bound


@pytest.mark.guards("T11")
@given(seeds(), st.sampled_from([torch.float16, torch.bfloat16]), coefficients())
def test_half_precision_is_rounded_once(
    seed: int, dtype: torch.dtype, ab: tuple[float, float]
) -> None:
    """Half an eps of the result, and float32's own error, not one rounding per term."""
    x, y = states((4, 3), dtype, seed, 2)
    got = ss.convert(y, x, *ab, "epsilon", "x0").flatten().tolist()
    for value, (expected, size) in zip(got, exact(y, x, *ab, "epsilon", "x0"), strict=True):
        bound = 0.51 * torch.finfo(dtype).eps * abs(float(expected)) + 1e-6 * float(size)
        assert abs(value - float(expected)) <= bound + torch.finfo(dtype).tiny


@given(st.data(), seeds(), shapes(), coefficients())
def test_round_trip_of_any_two_predictions(
    data: st.DataObject, seed: int, shape: tuple[int, ...], ab: tuple[float, float]
) -> None:
    kinds = st.one_of(st.sampled_from(KINDS), prediction_pairs(*ab))
    from_, to = data.draw(kinds), data.draw(kinds)
    x0, noise = states(shape, torch.float64, seed, 2)
    x = ab[0] * x0 + ab[1] * noise
    p, q = (float(v) for v in exact_pair(from_, *ab))
    y = p * x0 + q * noise
    there = ss.convert(y, x, *ab, from_, to)
    p_to, q_to = (float(v) for v in exact_pair(to, *ab))
    back = ss.convert(there, x, *ab, to, from_)
    scale = (1 + max(abs(v) for v in (p, q, p_to, q_to, *ab))) ** 2
    worst = scale / min(abs(ab[0] * q - ab[1] * p), abs(ab[0] * q_to - ab[1] * p_to)) ** 2
    assert there.shape == back.shape == x.shape
    torch.testing.assert_close(there, p_to * x0 + q_to * noise, rtol=1e-11, atol=1e-13 * worst)
    torch.testing.assert_close(back, y, rtol=1e-11, atol=1e-12 * worst * scale)


def test_one_alpha_and_sigma_per_sample() -> None:
    alpha, sigma = torch.tensor([1.0, 0.8, 0.6]), torch.tensor([3.0, 0.6, 0.8])
    x, y = states((3, 2, 2), torch.float64, 0, 2)
    got = ss.convert(y, x, alpha, sigma, "epsilon", "v")
    mixed = ss.convert(y, x, 1.0, sigma, (torch.tensor([1.0, 2.0, 3.0]), 1.0), "x0")
    for i in range(3):
        row = slice(i, i + 1)
        alone = ss.convert(y[row], x[row], alpha[i], sigma[i], "epsilon", "v")
        torch.testing.assert_close(got[row], alone, rtol=1e-14, atol=1e-15)
        alone = ss.convert(y[row], x[row], 1.0, sigma[i], (i + 1.0, 1.0), "x0")
        torch.testing.assert_close(mixed[row], alone, rtol=1e-12, atol=1e-13)


@every_dtype
def test_the_result_is_like_y(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, dtype=torch.float64)
    assert ss.convert(x.to(dtype), x, 0.8, 0.6, "epsilon", "x0").dtype == dtype
    empty = torch.ones(0, 3, dtype=dtype)
    assert ss.convert(empty, empty, 0.8, 0.6, "epsilon", "x0").shape == (0, 3)


def test_same_kind_is_the_identity() -> None:
    x, y = states((3, 2), torch.float32, 0, 2)
    for kind in KINDS:
        torch.testing.assert_close(ss.convert(y, x, 0.8, 0.6, kind, kind), y, rtol=3e-7, atol=0)


def test_conversions_that_the_marginal_does_not_determine() -> None:
    x = torch.ones(2, 3)
    for from_, to, alpha, sigma in (
        ("epsilon", "score", 1.0, 0.0),
        ("v", "score", torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.0])),
        ((0.8, 0.6), "x0", 0.8, 0.6),
        ("x0", "epsilon", 0.8, 0.0),
        ("epsilon", "x0", math.nan, 0.6),
    ):
        with pytest.raises(ss.errors.IncompatibleError, match="determine"):
            ss.convert(x, x, alpha, sigma, from_, to)
    for kind in ("epsilon", "score"):  # a clean state is its own datum
        assert torch.equal(ss.convert(x, x, 1.0, 0.0, kind, "x0"), x)
    assert torch.equal(ss.convert(x, x, 1.0, 0.0, "score", "epsilon"), 0 * x)
