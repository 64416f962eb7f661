"""What the samplers on levels refuse."""

from __future__ import annotations

from typing import Any

import pytest

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ScheduleError
from tests.helpers.chain import BETAS


@pytest.mark.parametrize(
    "make", [ss.published.ncsn, ss.published.ncsnv2, ss.published.ddim, ss.published.ddpm]
)
def test_an_sde_without_levels_is_refused(make: Any) -> None:
    with pytest.raises(IncompatibleError, match="table of levels"):
        make(ss.VPSDE())
    with pytest.raises(IncompatibleError, match="LinearSDE"):
        make(lambda x, t: x)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda s: ss.published.ncsn(s, step_lr=0.0), ParameterError, "step_lr"),
        (lambda s: ss.published.ncsnv2(s, n_steps_each=0), ParameterError, "inner steps"),
        (lambda s: ss.published.ncsnv2(s, denoise="yes"), ParameterError, "denoise"),
        (lambda s: ss.published.ddpm(s, "learned"), IncompatibleError, "model_var_type"),
        (lambda s: ss.published.ddim(s, timesteps=61), ScheduleError, "timesteps"),
        (lambda s: ss.published.ddim(s, timesteps=50, skip_type="quad"), ScheduleError, "falling"),
        (lambda s: ss.published.ddim(s, skip_type="cubic"), IncompatibleError, "skip_type"),
        (lambda s: ss.published.ddim(s, eta=2.0), ParameterError, "eta"),
    ],
)
def test_refusals(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(ss.DiscreteVPSDE(betas=tuple(BETAS.tolist())))
