"""Every error this library raises on purpose.

Each message says what was expected, what came, and what to do. All of them derive
from :class:`SDEScoreError` and from the built-in exception a caller would expect, so
``except ValueError`` keeps working.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CheckpointError",
    "DivergenceError",
    "IncompatibleError",
    "MissingFileError",
    "ParameterError",
    "RankError",
    "SDEScoreError",
    "ScheduleError",
    "ShapeError",
    "StepsWarning",
    "TimeError",
]


class SDEScoreError(Exception):
    """Base of all errors raised by sdescore."""


class ShapeError(SDEScoreError, ValueError):
    """A tensor has the wrong shape, dtype or device."""


class TimeError(SDEScoreError, ValueError):
    """A time lies outside the SDE's range, or times come in the wrong order."""


class ScheduleError(SDEScoreError, ValueError):
    """A parameter of an SDE or of a grid lies outside its range."""


class ParameterError(SDEScoreError, ValueError):
    """Any other option lies outside its range, or data cannot be used."""


class IncompatibleError(SDEScoreError, TypeError):
    """Two parts do not fit together."""


class RankError(SDEScoreError, RuntimeError):
    """Another process of the group failed, so this one ends as well."""


class CheckpointError(SDEScoreError, ValueError):
    """A checkpoint, or a folder of samples, is damaged, foreign, lacks something that is needed, or
    cannot be written.

    Attributes
    ----------
    result : TrainingResult or None
        What :func:`sdescore.train` had reached when its last save failed.
    """

    result: object = None


class MissingFileError(CheckpointError, FileNotFoundError):
    """There is no file or folder where one is expected."""


class StepsWarning(UserWarning):
    """A sampler has too few steps for its method; its exact gain on Gaussian data says so."""


class DivergenceError(SDEScoreError, RuntimeError):
    """The state turned NaN or infinite.

    Attributes
    ----------
    step : int
        Index of the sampler step after which the state was first not finite.
    t : float
        Time at which that step evaluated the score.
    samples : list[int]
        Indices (in the whole request) of the samples that are not finite.
    finished : Tensor or None
        The first ``len(finished)`` of the samples asked for, which were complete before.
    """

    def __init__(
        self,
        message: str,
        *,
        step: int,
        t: float,
        samples: list[int],
        finished: Tensor | None = None,
    ) -> None:
        super().__init__(message)
        self.step, self.t, self.samples, self.finished = step, t, samples, finished

    def __reduce__(self) -> tuple[object, ...]:
        # The default loses keyword-only arguments, which other processes need.
        fields = {name: getattr(self, name) for name in ("step", "t", "samples", "finished")}
        return partial(type(self), **fields), (str(self),)
