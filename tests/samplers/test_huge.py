"""Numbers far out of any range are refused at once: no overflow, and no loop without an end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import sdescore as ss
from sdescore.errors import ParameterError, ScheduleError

SDE = ss.VPSDE()
HUGE = 10**400

CASES: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "steps": (lambda: ss.PredictorCorrector(SDE, steps=HUGE), ScheduleError, "at most 10000000"),
    "inner steps": (lambda: ss.Langevin(steps=HUGE), ParameterError, "at most 100000"),
    "inner steps of another": (
        lambda: ss.AnnealedLangevin(steps=10**6),
        ParameterError,
        "at most 100000",
    ),
    "length": (lambda: ss.correctors.Underdamped(length=HUGE), ParameterError, "at most 100000"),
    "step size": (
        lambda: ss.PredictorCorrector(SDE, corrector=ss.AnnealedLangevin(1e300, 1), steps=3),
        ScheduleError,
        "finite numbers from AnnealedLangevin",
    ),
    "betas": (lambda: ss.DiscreteVPSDE(betas=[HUGE]), ScheduleError, "finite numbers"),
    "log-SNR": (
        lambda: ss.CosineGrid().times(ss.VPSDE(beta_max=1e300), 3),
        ScheduleError,
        "within 1000",
    ),
    "scale": (lambda: ss.ScoreModel(ss.MLP(2), SDE, sigma_data=1e300), ParameterError, "<= 1e"),
}


@pytest.mark.parametrize("name", CASES)
def test_huge_numbers_are_refused(name: str) -> None:
    call, error, match = CASES[name]
    with pytest.raises(error, match=match):
        call()


def test_a_seed_of_any_length_is_one_of_64_bits() -> None:
    """torch's generators take no others; a stream of noise took them from the first."""
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    for function in (
        lambda seed: ss.analysis.local_spectra(x, neighbourhoods=2, seed=seed),
        lambda seed: ss.noise.standard_normal(seed, range(2), range(2), (3,)),
        lambda seed: torch.tensor(ss.metrics.sliced_wasserstein(x, x + 1, seed=seed)),
    ):
        for seed in (7, -7):
            assert torch.equal(function(seed + 2**64 * HUGE), function(seed))
