"""The errors: what each is, and that one name catches them all."""

from __future__ import annotations

import inspect
import pickle

import pytest
import torch

import sdescore as ss
from sdescore import errors
from sdescore.errors import (
    DivergenceError,
    IncompatibleError,
    ScheduleError,
    ShapeError,
    TimeError,
)


def test_errors_are_the_built_in_ones_a_caller_would_expect() -> None:
    for error, built_in in (
        (ShapeError, ValueError),
        (TimeError, ValueError),
        (ScheduleError, ValueError),
        (IncompatibleError, TypeError),
        (DivergenceError, RuntimeError),
    ):
        assert issubclass(error, built_in) and issubclass(error, ss.SDEScoreError)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_says_what_it_is_and_one_name_catches_it(name: str) -> None:
    """A warning is no error, and is caught as a warning."""
    kind = getattr(errors, name)
    assert inspect.getdoc(kind) and kind.__doc__ != kind.__base__.__doc__
    warns = name.endswith("Warning")
    assert issubclass(kind, Warning) == warns
    assert issubclass(kind, ss.SDEScoreError) != warns
    if name not in ("SDEScoreError", "DivergenceError"):
        with pytest.raises(UserWarning if warns else ss.SDEScoreError, match="what came"):
            raise kind("what came")


def test_none_is_hidden() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert defined == set(errors.__all__)


def test_a_divergence_tells_another_process_all_it_knows() -> None:
    finished = torch.ones(2, 3)
    error = DivergenceError("NaN", step=4, t=0.25, samples=[2, 5], finished=finished)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.step, again.t, again.samples) == ("NaN", 4, 0.25, [2, 5])
    assert torch.equal(again.finished, finished)


def test_a_failed_save_has_no_result_until_it_is_told_one() -> None:
    assert errors.CheckpointError("no room").result is None
