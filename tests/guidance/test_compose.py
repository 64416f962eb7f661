"""Products and mixtures of densities: closed forms, quadrature, and the weights of modes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sdescore as ss

F64 = torch.float64
VP = ss.VPSDE()
T = torch.tensor(0.3, dtype=F64)


def gaussian(mean: float, variance: float) -> ss.GaussianScore:
    return ss.GaussianScore([mean], variance, VP)


def line(n: int = 9) -> Tensor:
    return torch.linspace(-3, 3, n, dtype=F64)[:, None]


def test_a_product_of_gaussians_adds_their_precisions() -> None:
    numbers, weights = [(1.0, 0.5), (-2.0, 1.5), (0.0, 0.2)], [1.0, 2.0, -0.25]
    alpha, sigma = (v.item() for v in VP.marginal(T))
    precision = [w / (alpha**2 * S + sigma**2) for w, (_, S) in zip(weights, numbers, strict=True)]
    mean = sum(p * alpha * m for p, (m, _) in zip(precision, numbers, strict=True)) / sum(precision)
    both = ss.guidance.product([gaussian(*one) for one in numbers], weights)
    x = line()
    torch.testing.assert_close(both(x, T), (mean - x) * sum(precision))
    quadratic = -0.5 * sum(precision) * (x[:, 0] - mean) ** 2
    difference = both.log_density(x, T) - quadratic
    torch.testing.assert_close(difference, difference[:1].expand(9))


@pytest.mark.parametrize("t", [T, torch.linspace(0.05, 1, 9, dtype=F64)], ids=["one", "each"])
def test_a_mixture_of_exact_scores_is_the_exact_score_of_the_mixture(t: Tensor) -> None:
    weights = [0.2, 0.5, 0.3]
    numbers = [(1.0, 0.5), (-2.0, 0.1), (0.5, 0.01)]
    scores = [gaussian(*one) for one in numbers]
    found = ss.guidance.mixture(scores, [math.log(w) for w in weights])
    means, variances = zip(*numbers, strict=True)
    exact = ss.MixtureScore(weights, [[m] for m in means], variances, VP)
    x = line()
    torch.testing.assert_close(found(x, t), exact(x, t))
    torch.testing.assert_close(found.log_density(x, t), exact.log_prob(x, t))
    torch.testing.assert_close(found.denoise(x, t), exact.denoise(x, t))
    equal = ss.guidance.mixture(scores)
    third = ss.MixtureScore([1 / 3] * 3, [[m] for m in means], variances, VP)
    torch.testing.assert_close(equal(x, t), third(x, t))


def test_a_mixture_far_from_all_parts_is_finite() -> None:
    """Both densities are 0 in float32 there; the nearer part has the score."""
    found = ss.guidance.mixture([gaussian(-1.0, 0.01), gaussian(1.0, 0.01)])
    x = torch.tensor([[60.0], [-60.0]])
    expected = torch.cat([gaussian(1.0, 0.01)(x[:1], 0.0), gaussian(-1.0, 0.01)(x[1:], 0.0)])
    torch.testing.assert_close(found(x, 0.0), expected)


def test_each_part_has_its_own_label() -> None:
    """By label_part; a label that all take goes to all."""

    def score(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return label[:, None] - x

    part = ss.guidance.label_part
    both = ss.guidance.product([part(score, "a"), part(score, "b")], [1.0, 2.0])
    label = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([10.0, 20.0])}
    x = torch.zeros(2, 1)
    assert both(x, 0.5, label).flatten().tolist() == [21.0, 42.0]
    same = ss.guidance.product([score, score])
    assert same(x, 0.5, label["a"]).flatten().tolist() == [2.0, 4.0]
    sampler = ss.PredictorCorrector(VP, steps=2)
    for bad in (label["a"], {"a": label["a"]}, None):
        with pytest.raises(ss.errors.IncompatibleError, match=r"'[ab]'"):
            sampler.sample(both, (2, 1), label=bad)


class Exact:
    """Two experts whose product has two modes; x = ±1 with unequal heights."""

    left = ss.MixtureScore([0.5, 0.5], [[-1.0], [1.0]], [0.1, 0.2], VP)
    tilt = ss.GaussianScore([0.5], 1.0, VP)


def guided() -> dict[str, Any]:
    def log_prob_y(x: Tensor, t: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(2 * x[:, 0] + 0.5)

    return {
        "product": ss.guidance.product([Exact.left, Exact.tilt], [1.0, 0.7]),
        "mixture": ss.guidance.mixture([Exact.left, Exact.tilt], [0.3, -0.2]),
        "classifier-free": ss.classifier_free(Exact.left, Exact.tilt, 1.6),
        "classifier": ss.classifier_guidance(Exact.left, log_prob_y, 1.5),
    }


def density(name: str, x: np.ndarray, t: float) -> np.ndarray:
    """The unnormalised density of a guided score, written out in numpy."""
    alpha, sigma = (v.item() for v in VP.marginal(t))

    def normal(m: float, S: float) -> np.ndarray:
        V = alpha**2 * S + sigma**2
        return np.exp(-0.5 * (x - alpha * m) ** 2 / V) / np.sqrt(2 * np.pi * V)

    left, tilt = 0.5 * normal(-1.0, 0.1) + 0.5 * normal(1.0, 0.2), normal(0.5, 1.0)
    y = 1 / (1 + np.exp(-2 * x - 0.5))
    return {
        "product": left * tilt**0.7,
        "mixture": np.exp(0.3) * left + np.exp(-0.2) * tilt,
        "classifier-free": left**1.6 * tilt**-0.6,
        "classifier": left * y**1.5,
    }[name]


@pytest.mark.parametrize("name", guided())
def test_mala_draws_from_the_composed_density(name: str) -> None:
    """The mass of the right mode to ± .005, from a start that has none of it.

    The standard error, by the chains' own means, is below .0018: 2.8 of them, a false-positive
    rate of .5 % a case at most, should the seed change.
    """
    off, error, run = mass_of_the_right(name, 0.18, 25_000, "mala", 0.35, 30)
    assert error < 0.0018 and abs(off) < 0.005
    assert 0.7 < run.acceptance.mean() < 0.95, "the test rejects something"


def test_langevin_draws_from_a_product() -> None:
    """As above at a higher noise level, where modes exchange mass sooner; τ's own bias included."""
    off, error, _ = mass_of_the_right("product", 0.25, 40_000, "unadjusted", 0.05, 80)
    assert error < 0.0018 and abs(off) < 0.005


def mass_of_the_right(
    name: str, t: float, chains: int, method: str, step: float, burn_in: int
) -> tuple[float, float, Any]:
    """The error of the mass of x > 0 against quadrature, its standard error, and the run."""
    x = np.linspace(-8, 8, 20001)
    p = density(name, x, t)
    expected = p[x > 0].sum() / p.sum()
    assert 0.3 < expected < 0.9
    start, options = torch.full((chains, 1), -1.0), {"burn_in": burn_in, "return_path": True}
    run = ss.langevin.chains(
        guided()[name], start, step, 40, method=method, t=t, seed=2, thin=10, **options
    )
    own = (run.path > 0).double().mean(0)
    return own.mean().item() - expected, own.std().item() / math.sqrt(chains), run
