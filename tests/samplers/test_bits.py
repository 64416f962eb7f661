"""Bits per dimension of integers, against the exact mass of their bins."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, SDEScoreError, ShapeError
from sdescore.samplers.bits import dequantize

F64 = torch.float64
SDE = ss.VESDE(sigma_min=0.01, sigma_max=1000.0)
LEVELS, RANGE = 9, (-2.0, 2.0)
WIDTH = 0.5
MEAN, STD = torch.tensor([0.3, -0.5], dtype=F64), torch.tensor([0.25, 0.9], dtype=F64)
SCORE = ss.GaussianScore(MEAN, STD**2 - 0.01**2, SDE)  # at t_min it has the variance STD²
FLOW = ss.ProbabilityFlow(SDE, rtol=1e-7, atol=1e-7, data_std=0.7)
QUICK = ss.ProbabilityFlow(SDE, method="rk4", steps=20, data_std=0.7)
OPTIONS = {"levels": LEVELS, "data_range": RANGE, "flow": FLOW}


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Φ at the ends of the bins."""
    low, high = ((x + side * WIDTH / 2 - MEAN) / STD for side in (-1, 1))
    return torch.special.ndtr(low), torch.special.ndtr(high)


def exact_bits(x: Tensor) -> Tensor:
    low, high = edges(x)
    return -(high - low).log2().mean(1)


X = torch.tensor([[0.0, -0.5], [0.5, 1.5], [-0.5, -2.0]], dtype=F64)


def best(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The variational dequantization that is exact: the model's own density within a bin."""
    low, high = edges(x)
    quantile = torch.special.ndtri(low + (high - low) * torch.special.ndtr(z))
    u = (MEAN + STD * quantile - x) / WIDTH + 0.5
    log_q = -0.5 * quantile.square() - (STD * (high - low) / WIDTH).log()
    return u, log_q.sum(1) - math.log(2 * math.pi)


def test_the_best_dequantization_gives_the_exact_mass() -> None:
    """Every draw alone; the prior's mismatch at σ_max = 1000 is some 1e-3 bits."""
    got = ss.bits_per_dimension(SCORE, X, dequantization=best, draws=3, **OPTIONS)
    torch.testing.assert_close(got.draws, exact_bits(X)[:, None].expand(3, 3), rtol=0, atol=3e-3)
    torch.testing.assert_close(got.bits, got.draws.mean(1))
    assert not got.trace_error.any()


def test_uniform_dequantization_is_a_bound_of_known_size() -> None:
    """E log p over a bin in closed form; 400 copies, 5 standard errors (5.7e-7 each)."""
    x = X.repeat_interleave(400, 0)
    got = ss.bits_per_dimension(SCORE, x, **OPTIONS).bits.view(3, 400)
    square = ((X - MEAN).square() + WIDTH**2 / 12) / STD.square()
    want = (0.5 * square + (STD * math.sqrt(2 * math.pi) / WIDTH).log()).mean(1) / math.log(2)
    error = got.std(1) / 20
    assert ((got.mean(1) - want).abs() < 5 * error + 3e-3).all() and error.max() < 0.08
    assert (want > exact_bits(X) + 0.01).all()


def test_importance_weights_tighten_the_bound() -> None:
    """Eight draws leave at most a fifth of the gap (an eighth, to first order in its size)."""
    options = {**OPTIONS, "flow": QUICK, "draws": 8}
    x = X.repeat_interleave(200, 0)
    plain = ss.bits_per_dimension(SCORE, x, **options)
    got = ss.bits_per_dimension(SCORE, x, importance_weighted=True, **options)
    torch.testing.assert_close(got.draws, plain.draws)
    mass = (-2 * got.draws * math.log(2)).exp().mean(1)
    torch.testing.assert_close(got.bits, -mass.log2() / 2)
    gaps = [(v.bits.view(3, 200).mean(1) - exact_bits(X)).tolist() for v in (plain, got)]
    for before, after in zip(*gaps, strict=True):
        assert -0.01 < after < before / 5 and before > 0.02


def test_a_datum_does_not_depend_on_its_batch() -> None:
    options = {**OPTIONS, "flow": QUICK, "seed": 7}
    hutchinson = {"divergence": "hutchinson", "probes": 4, "probe_distribution": "gaussian"}
    whole = ss.bits_per_dimension(SCORE, X, draws=2, **hutchinson, **options)
    part = ss.bits_per_dimension(SCORE, X[:2], draws=2, max_batch=1, **hutchinson, **options)
    torch.testing.assert_close(whole.draws[:2], part.draws, rtol=1e-13, atol=0)
    assert (whole.draws[:, 0] != whole.draws[:, 1]).all()
    v = dequantize(X, levels=LEVELS, data_range=RANGE, seed=7)
    one = options["flow"].log_likelihood(SCORE, v, **hutchinson, seed=7)
    bits = ss.bits_per_dim(one.log_prob, 2, levels=LEVELS, width=LEVELS * WIDTH)
    torch.testing.assert_close(whole.draws[:, 0], bits)


def test_the_traces_error_is_that_of_the_mean_over_draws() -> None:
    """Gaussian data in d = 2 are correlated, so that signs are no exact probes."""
    score = ss.GaussianScore(MEAN, torch.tensor([[0.5, 0.4], [0.4, 0.5]]), SDE)
    options = {**OPTIONS, "flow": QUICK}
    x, probes = X[:1].repeat(300, 1), 24
    got = ss.bits_per_dimension(
        score, x, draws=2, divergence="hutchinson", probes=probes, **options
    )
    exact = ss.bits_per_dimension(score, x, draws=2, **options)
    off = got.bits - exact.bits
    assert 0.8 < got.trace_error.square().mean().sqrt() / off.std() < 1.25  # 300 samples: ± 4 %
    assert got.mean == pytest.approx(got.bits.mean().item())
    assert got.standard_error == pytest.approx(got.bits.std().item() / math.sqrt(300))
    assert math.isnan(ss.bits_per_dimension(score, x[:1], **options).standard_error)


def test_dequantized_data_fill_their_bins() -> None:
    x = torch.full((4000, 1), 0.5)
    u = (dequantize(x, levels=LEVELS, data_range=RANGE, seed=1) - x) / WIDTH
    assert u.abs().max() <= 0.5
    assert abs(u.mean().item()) < 5 * math.sqrt(1 / 12 / 4000)
    assert u.var().item() == pytest.approx(1 / 12, rel=0.07)  # five standard errors


def calls(**changed: object) -> None:
    options = {**OPTIONS, "x": X, "model": SCORE, **changed}
    ss.bits_per_dimension(options.pop("model"), options.pop("x"), **options)


@pytest.mark.parametrize(
    ("changed", "error", "match"),
    [
        ({"x": X + 0.1}, ParameterError, "9 integers"),
        ({"x": X.long()}, ShapeError, "floating"),
        ({"x": [1.0]}, ShapeError, r"x to be a torch\.Tensor"),
        ({"levels": 1}, ParameterError, "levels >= 2"),
        ({"draws": 0}, ParameterError, "draws >= 1"),
        ({"dequantization": "flow"}, IncompatibleError, "uniform"),
        ({"dequantization": lambda x, z: (z, z.sum(1))}, ParameterError, r"u in \[0, 1\]"),
        ({"dequantization": lambda x, z: (z[:1].sigmoid(), z.sum(1))}, ShapeError, "u shaped"),
        ({"dequantization": lambda x, z: (z.sigmoid(), z)}, ShapeError, "log_q"),
        (
            {"dequantization": lambda x, z: z.sigmoid()},
            IncompatibleError,
            r"\(u, log_q\); got Tens",
        ),
        (
            {"dequantization": lambda x, z: (z.sigmoid(), torch.nan * z.sum(1))},
            ParameterError,
            "finite log_q",
        ),
        ({"flow": SDE}, IncompatibleError, "ProbabilityFlow"),
        ({"flow": None, "model": lambda x, t: -x}, IncompatibleError, "flow=ProbabilityFlow"),
        (
            {"importance_weighted": True, "divergence": "hutchinson"},
            ParameterError,
            'divergence="exact"',
        ),
        ({"importance_weighted": 1}, ParameterError, "True or False"),
        ({"chunk_size": 0}, ParameterError, "chunk_size >= 1"),
        ({"probe_distribution": "coin"}, IncompatibleError, "probe_distribution"),
    ],
)
def test_what_is_refused(changed, error: type[SDEScoreError], match: str) -> None:
    with pytest.raises(error, match=match):
        calls(**changed)
