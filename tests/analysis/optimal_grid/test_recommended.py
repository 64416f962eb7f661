"""The recommended sampler: its method, its times, and what it is made for."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.multisteps import ADAMS, narrow_and_wide
from tests.helpers.spectra import two_blobs


@pytest.mark.slow
def test_the_recommended_sampler() -> None:
    sampler = ss.recommended_sampler(ss.VPSDE(), 3, data=two_blobs(300).float())
    assert sampler.evaluations == 3 and isinstance(sampler.grid, ss.analysis.OptimalGrid)
    assert "relative_w2=" in repr(sampler)
    with pytest.raises(ss.errors.ParameterError, match="evaluations >= 2"):
        ss.recommended_sampler(ss.VPSDE(), 1, data=two_blobs(300))


@pytest.fixture(scope="module")
def blobs() -> Tensor:
    return narrow_and_wide()


@pytest.mark.slow
def test_what_is_recommended(blobs: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free weights for an exact score only."""
    for name in ("TRIAL", "TIMES", "WEIGHTS"):
        monkeypatch.setattr(sys.modules["sdescore.analysis.optimal_grid.optimal"], name, 2)
    exact = ss.recommended_sampler(ss.VPSDE(), 3, data=blobs, score_error=0)
    assert exact.evaluations == 3 and exact.grid.score_error == 0
    assert exact.predictor == ss.predictors.Multistep(exact.grid.weights)
    learned = ss.recommended_sampler(ss.VPSDE(), 3, data=blobs)
    assert learned.predictor == ADAMS and learned.grid.score_error == 0.02
    free = ss.recommended_sampler(ss.VPSDE(), 3, data=blobs, fit_weights=True)
    assert isinstance(free.predictor, ss.predictors.Multistep)
    for options in (
        {"spectrum": torch.tensor([1.0, 0.1])},
        {"data": blobs, "fit_weights": False},
    ):
        sampler = ss.recommended_sampler(ss.VPSDE(), 3, score_error=0, **options)
        assert sampler.predictor == ADAMS
