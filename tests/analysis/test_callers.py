"""The caller's settings change no figure of the analysis."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.callers import SETTINGS
from tests.helpers.spectra import two_blobs


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of few evaluations takes every turn that a long one does."""
    for name in ("TRIAL", "TIMES", "WEIGHTS"):
        monkeypatch.setattr(sys.modules["sdescore.analysis.optimal_grid.optimal"], name, 3)


def analysed(data: Tensor, spectrum: Tensor) -> list[object]:
    sde, predictor = ss.VPSDE(), ss.ExponentialAdams()
    options = {"trajectories": 8, "seed": 3}
    grids = [
        ss.optimal_grid(sde, predictor, 3, data=data, fit_weights=True, **options),
        ss.optimal_grid(sde, predictor, 3, spectrum=spectrum, **options),
        ss.optimal_grid(sde, ss.Ancestral(), 3, data=data, surrogate="gaussian", **options),
    ]
    sampler = ss.PredictorCorrector(sde, predictor=ss.Heun(), grid=grids[0])
    error = ss.analysis.gaussian_error(sampler, data=data, score_error=0.1)
    order = ss.analysis.order(predictor, sde, steps=8)
    spectra = ss.analysis.local_spectra(data, neighbourhoods=2)
    return [*map(repr, grids), error.w2.item(), error.w2_of_score.item(), order, spectra.tolist()]


@cache
def inputs() -> tuple[Tensor, Tensor]:
    return two_blobs(60), torch.tensor([2.0, 0.1])


@cache
def plain() -> list[object]:
    return analysed(*inputs())


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_no_setting_of_the_caller_changes_an_analysis(setting: Callable) -> None:
    """Bit for bit, and with the types of the numbers: grids, exact errors, orders, spectra."""
    expected = plain()
    with setting():
        assert analysed(*inputs()) == expected


@pytest.mark.guards("W03")
def test_numpy_scalars_are_numbers() -> None:
    spectrum = torch.tensor([2.0, 0.1])
    plain = ss.optimal_grid(
        ss.VPSDE(), ss.DDIM(), 3, spectrum=spectrum, likelihood_weight=0.5, score_error=0.25, seed=1
    )
    options = {
        "likelihood_weight": np.float32(0.5),
        "score_error": np.float32(0.25),
        "seed": np.int64(1),
    }
    grid = ss.optimal_grid(ss.VPSDE(), ss.DDIM(), np.int64(3), spectrum=spectrum, **options)
    assert repr(grid) == repr(plain)
