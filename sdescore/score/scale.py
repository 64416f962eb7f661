r"""Data of any scale, as states of a scale that networks and noise schedules are made for.

A model may keep a mean m and a standard deviation s of its data. Its states are then those of

.. math:: z_0 = (x_0 - m) / s, \qquad \log p(x_0) = \log p(z_0) - \sum_i \log s_i ,

the sum over all elements of an event: the Jacobian of a change of variables. Samplers, losses and
likelihoods take and give data; all between is states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.score.interface import unwrapped

Number = float | tuple[float, ...]
Numbers = float | Sequence[float] | Tensor


def _numbers(name: str, value: object) -> Number:
    """A finite number or several, as floats."""
    if checks.is_number(value):
        return float(value)
    if isinstance(value, Tensor) and value.ndim == 0:
        return checks.number(name, value.item())
    return checks.numbers(name, value)


@dataclass(frozen=True)
class DataScale:
    """``z = (x − mean)/std``: a number, or one an entry of the event's first axis.

    ``plain`` says whether states are the data themselves.

    Raises
    ------
    ParameterError
        ``mean`` or ``std`` is not finite, a ``std`` is not > 0, or their lengths differ.
    """

    mean: Number = 0.0
    std: Number = 1.0
    plain: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        mean, std = _numbers("data_mean", self.mean), _numbers("data_std", self.std)
        for value in std if isinstance(std, tuple) else (std,):
            checks.number("data_std", value, above=0)
        lengths = {len(value) for value in (mean, std) if isinstance(value, tuple)}
        got = " and ".join(map(str, sorted(lengths)))
        checks.that(len(lengths) <= 1, "as many numbers in data_mean as in data_std", got)
        vars(self).update(mean=mean, std=std, plain=(mean, std) == (0.0, 1.0))

    def check_event(self, event: Sequence[int]) -> None:
        """Refuse an event ``*E`` that has another number of features or channels."""
        for value in (self.mean, self.std):
            if isinstance(value, tuple) and tuple(event[:1]) != (len(value),):
                expected = f"an event with the {len(value)} features or channels of data_mean="
                got = f"one of shape {tuple(event)}"
                checks.refuse(f"{expected} and data_std=", got, ShapeError)

    def to_state(self, x: Tensor) -> Tensor:
        """The states of data ``(B, *E)``, in at least float32."""
        x, mean, std = self._with(x)
        return (x - mean) / std

    def to_data(self, z: Tensor) -> Tensor:
        """The data of states ``(B, *E)``, the inverse of :meth:`to_state`."""
        z, mean, std = self._with(z)
        return std * z + mean

    def log_volume(self, event: Sequence[int]) -> float:
        """``Σ log s`` over all elements of an event ``*E``, in nats."""
        self.check_event(event)
        if isinstance(self.std, tuple):
            return math.prod(event[1:]) * math.fsum(map(math.log, self.std))
        return math.prod(event) * math.log(self.std)

    def _with(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``x`` in at least float32, and mean and std as what broadcasts over it."""
        self.check_event(x.shape[1:])
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        numbers = (torch.tensor(v, dtype=x.dtype, device=x.device) for v in (self.mean, self.std))
        mean, std = (v.reshape(-1, *(1,) * (x.ndim - 2)) if v.ndim else v for v in numbers)
        return x, mean, std


PLAIN = DataScale()


def states_of(score: object, x0: Tensor) -> Tensor:
    """Data ``(B, *E)`` as a score's states."""
    return (scale_of(score) or PLAIN).to_state(x0)


def scale_of(score: object) -> DataScale | None:
    """The scale that a score says its data have, through wrappers; None if it says none."""
    found = getattr(score, "data_scale", None)
    found = getattr(unwrapped(score), "data_scale", None) if found is None else found
    return found if isinstance(found, DataScale) else None


def one_scale(scores: Sequence[object]) -> DataScale | None:
    """The scale that these scores share, or None; different ones are refused."""
    scales = [scale for scale in map(scale_of, scores) if scale is not None]
    got = " and ".join(f"{scale!r:.200}" for scale in scales)
    same = all(scale == scales[0] for scale in scales)
    checks.that(same, "scores with one data_mean and data_std", got, IncompatibleError)
    return scales[0] if scales else None
