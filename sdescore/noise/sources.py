r"""Where a sampler's random numbers come from.

A sampler numbers its draws: draw 0 starts the chain, draws 1, 2, … are the ``z`` of its
stochastic stages in order. A source answers "draw k of samples i … j", so the noise of a
sample depends on the seed and its index, never on the batch it travels in.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.noise.counter import Domain, NormalStream

__all__ = ["NoiseSource", "NoiseStream", "ReplayNoise", "SeededNoise"]

Span = tuple[float, float] | None
"""The times ``(t, s)`` a draw drives the state between, or None where no time passes."""

# Numbers drawn ahead at a time; it bounds memory and changes no number.
_BUFFER = 1 << 19


class NoiseStream(ABC):
    """The draws of some samples."""

    @abstractmethod
    def draw(self, k: int) -> Tensor:
        """Draw ``k``, ``(B, *E)`` in the state's dtype; valid until the next call."""


@dataclass(frozen=True)
class FunctionStream(NoiseStream):
    """The draws that a function of their number gives."""

    function: Callable[[int], Tensor]

    def draw(self, k: int) -> Tensor:
        return self.function(k)


class NoiseSource(ABC):
    """A rule that gives the standard normal numbers of a draw and a sample."""

    def check(self, shape: tuple[int, ...], spans: Sequence[Span]) -> None:
        """Refuse a whole request ``(B, *E)`` that this source has no numbers for."""
        return  # by default there are numbers for any

    @abstractmethod
    def open(
        self,
        samples: range,
        event_shape: tuple[int, ...],
        spans: Sequence[Span],
        *,
        dtype: torch.dtype,
        device: torch.device,
        domain: int = Domain.SAMPLER,
    ) -> NoiseStream:
        """The stream of ``samples``; ``spans[k]`` says what draw ``k`` is for.

        ``domain`` is the :class:`~sdescore.noise.Domain` of a seed's numbers; a source without a
        seed ignores it.
        """


class _SeededStream(NoiseStream):
    def __init__(self, normals: NormalStream, draws: int, dtype: torch.dtype) -> None:
        self._normals, self._draws, self._dtype = normals, draws + draws % 2, dtype
        self._first, self._rows = 0, list[Tensor]()
        self._buffer: Tensor | None = None

    def draw(self, k: int) -> Tensor:
        if not 0 <= k - self._first < len(self._rows):
            normals, first = self._normals, k - k % 2
            if self._buffer is None:
                ahead = max(2, _BUFFER // max(1, math.prod(normals.shape)) // 2 * 2)
                shape = (min(ahead, normals.block_length, self._draws), *normals.shape)
                self._buffer = torch.empty(shape, dtype=torch.float32, device=normals.device)
            left_in_block = normals.block_length - first % normals.block_length
            part = self._buffer[: max(2, min(left_in_block, self._draws - first))]
            self._first, self._rows = first, list(normals.fill(part, first).to(self._dtype))
        return self._rows[k - self._first]


@dataclass(frozen=True)
class SeededNoise(NoiseSource):
    """The default: sample ``i`` gets the stream ``(seed, i)`` of :mod:`sdescore.noise.counter`.

    Parameters
    ----------
    seed : int
        Any integer, or ``ParameterError``; reduced modulo 2⁶⁴.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> sampler = ss.PredictorCorrector(sde, steps=10)
    >>> score = ss.GaussianScore([0.0], 1.0, sde)
    >>> by_noise = sampler.sample(score, shape=(4, 1), noise=ss.noise.SeededNoise(7))
    >>> torch.equal(by_noise, sampler.sample(score, shape=(4, 1), seed=7))
    True
    """

    seed: int

    def __post_init__(self) -> None:
        vars(self).update(seed=checks.seed(self.seed))

    def open(
        self,
        samples: range,
        event_shape: tuple[int, ...],
        spans: Sequence[Span],
        *,
        dtype: torch.dtype,
        device: torch.device,
        domain: int = Domain.SAMPLER,
    ) -> NoiseStream:
        normals = NormalStream(self.seed, samples, event_shape, device=device, domain=domain)
        return _SeededStream(normals, len(spans), dtype)


@dataclass(frozen=True, eq=False)
class ReplayNoise(NoiseSource):
    """Your own numbers, to compare with another program, or to test with zeros.

    Parameters
    ----------
    values : Tensor
        ``(draws, B, *E)``; ``values[k]`` is draw ``k`` of the whole request, and ``values[0]``
        starts the chain (unused where ``init=`` is given).

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> sampler = ss.PredictorCorrector(sde, predictor=ss.Ancestral(), steps=10)
    >>> zeros = ss.noise.ReplayNoise(torch.zeros(11, 4, 1))
    >>> x = sampler.sample(ss.GaussianScore([2.0], 0.25, sde), shape=(4, 1), noise=zeros)
    >>> x.std().item()  # one path
    0.0
    """

    values: Tensor

    def __post_init__(self) -> None:
        checks.state(self.values, "values")

    def check(self, shape: tuple[int, ...], spans: Sequence[Span]) -> None:
        """Refuse too few draws or samples, or another event shape, with a ``ShapeError``."""
        have, event = tuple(self.values.shape), tuple(shape[1:])
        fits = len(have) >= 2 and have[2:] == event
        if not fits or have[1] < shape[0] or have[0] < len(spans):
            wanted = f"shape ({len(spans)}, B >= {shape[0]}, *{event}), draw 0 being the start"
            checks.refuse(f"replayed noise of {wanted}", have, ShapeError)

    def open(
        self,
        samples: range,
        event_shape: tuple[int, ...],
        spans: Sequence[Span],
        *,
        dtype: torch.dtype,
        device: torch.device,
        domain: int = Domain.SAMPLER,
    ) -> NoiseStream:
        self.check((samples.stop, *event_shape), spans)
        rows = self.values[:, samples.start : samples.stop].to(device, dtype)
        return FunctionStream(rows.__getitem__)
