"""The benchmark on exact scores: its targets and its judge."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import sdescore as ss

# diffusers 0.42 on NumPy 2.


Z_1E6 = 4.89  # two-sided standard normal quantile at a false-positive rate of 1e-6


@pytest.fixture(scope="module")
def judge(accuracy: ModuleType, targets: ModuleType) -> Any:
    return accuracy.Judge(targets.ring(), n=2000)


def exact(target: Any) -> MixtureSameFamily:
    parts = MultivariateNormal(target.means, target.covariances)
    return MixtureSameFamily(Categorical(target.weights), parts)


# Targets


@pytest.mark.parametrize("name", ["ring", "anisotropic", "digits"])
def test_a_targets_density_and_draws_are_those_of_its_mixture(
    targets: ModuleType, name: str
) -> None:
    if name == "digits":
        pytest.importorskip("sklearn")
    target = targets.TARGETS[name]()
    x = target.sample(500, seed=5)
    assert x.dtype == torch.float64 and x.shape == (500, target.dim)
    torch.testing.assert_close(target.log_prob(x), exact(target).log_prob(x), rtol=1e-9, atol=1e-8)
    assert torch.equal(x, target.sample(500, seed=5)) and not torch.equal(x, target.sample(500, 6))


def test_a_target_is_what_its_title_says(targets: ModuleType) -> None:
    ring, anisotropic = targets.ring(), targets.anisotropic()
    assert ring.means.shape == (8, 2)
    torch.testing.assert_close(ring.means.norm(dim=1), torch.full((8,), 4.0).double())
    assert torch.linalg.eigvalsh(ring.covariances).sqrt().unique().tolist() == pytest.approx([0.2])
    assert anisotropic.means.shape == (5, 10)
    stds = torch.linalg.eigvalsh(anisotropic.covariances).sqrt()
    assert stds[:, 0].tolist() == pytest.approx([0.03] * 5)
    assert stds[:, -1].tolist() == pytest.approx([1.0] * 5)


def test_the_digits_fit_is_well_conditioned_and_fits(targets: ModuleType) -> None:
    pytest.importorskip("sklearn")
    from sdescore.datasets import digits

    target = targets.digit_mixture()
    variances = torch.linalg.eigvalsh(target.covariances)
    assert variances.min() >= 0.05**2 * (1 - 1e-9) and variances.max() < 4
    pixels = digits().flatten(1).double()
    one = MultivariateNormal(pixels.mean(0), pixels.T.cov() + 0.05**2 * torch.eye(64).double())
    assert target.log_prob(pixels).mean() > one.log_prob(pixels).mean() + 10
    # EM with a full M-step leaves the data's own mean as the mixture's.
    torch.testing.assert_close(target.weights @ target.means, pixels.mean(0), atol=1e-6, rtol=0)


# The judge


def test_exact_draws_read_one_floor_and_no_gap(judge: Any) -> None:
    """The mean reading of other exact sets is 1, by Student's t test against the floor's own."""
    stats = pytest.importorskip("scipy.stats")
    first = judge_seed(judge) + 1
    own = [judge(judge.target.sample(2000, seed=first + i))["w2"] for i in range(8)]
    assert sum(own) / 8 == pytest.approx(1.0) and max(own) == pytest.approx(
        judge.floor_max / judge.floor
    )
    assert judge.exact_std == pytest.approx(torch.tensor(own).std().item())
    fresh = [judge(judge.target.sample(2000, seed=i)) for i in range(24)]
    assert stats.ttest_ind(own, [found["w2"] for found in fresh]).pvalue > 1e-6
    assert judge.w2_bar == pytest.approx(1.1 * max(own))
    for found in fresh[:5]:
        assert abs(found["nll"]) < Z_1E6 * found["nll_error"]


def judge_seed(judge: Any) -> int:
    """The reference's, which is no exact set's: it would read 0."""
    seed = 1000
    assert torch.equal(judge.reference, judge.target.sample(2000, seed=seed))
    assert judge(judge.reference)["w2"] == 0.0
    return seed


def test_a_floor_is_a_distance_between_exact_sets(judge: Any) -> None:
    """Of pairs of other seeds; one reference scatters by some 25 %."""
    sets = [judge.target.sample(2000, seed=i) for i in range(12)]
    values = [
        ss.metrics.sliced_wasserstein(a, b, projections=64)
        for a, b in zip(sets[::2], sets[1::2], strict=True)
    ]
    assert judge.floor == pytest.approx(sum(values) / len(values), rel=0.6)


def test_a_moved_set_reads_its_shift(judge: Any) -> None:
    """SW₂ of a shift by m in d dimensions is ‖m‖/√d, far above the floor."""
    shift = torch.tensor([30.0, 40.0])
    found = judge(judge.target.sample(2000, seed=77) + shift)
    assert found["w2"] * judge.floor == pytest.approx(50 / math.sqrt(2), rel=0.1)


@pytest.mark.parametrize("scale", [1.5, 0.5])
def test_the_gap_of_a_widened_mode_is_that_of_the_closed_form(judge: Any, scale: float) -> None:
    """Modes 20 stds apart: E[−log p] grows by (k² − 1)/2 per dimension; narrower is negative."""
    x = judge.target.sample(2000, seed=77)
    nearest = judge.target.means[torch.cdist(x, judge.target.means).argmin(1)]
    found = judge(nearest + scale * (x - nearest))
    expected = (scale**2 - 1) / 2
    assert abs(found["nll"] - expected) < Z_1E6 * found["nll_error"] * max(1, scale**2)
    assert found["nll"] * expected > 0


def test_samples_that_are_not_finite_have_no_figures(judge: Any, accuracy: ModuleType) -> None:
    x = judge.target.sample(2000, seed=77)
    x[3, 1] = torch.nan
    found = judge(x)
    assert found == {"w2": None, "nll": None, "nll_error": None}
    assert accuracy.cell(found) == "not finite"


def test_a_cell_is_short_at_any_size(accuracy: ModuleType) -> None:
    for w2, nll, text in (
        (1.234, -0.0514, "1.23 \\| -0.051"),
        (123.4, 12.3, "123 \\| +12"),
        (3.4e6, 1.4e12, "3e+06 \\| +1e+12"),
    ):
        assert accuracy.cell({"w2": w2, "nll": nll}) == text
    assert accuracy.cell(None) == ""
