r"""Where a sampler's random numbers come from.

A sampler numbers its draws: draw 0 starts the chain, draws 1, 2, … are the ``z`` of its
stochastic stages in order. A source answers "draw k of samples i … j", so the noise of a
sample depends on the seed and its index, never on the batch it travels in.

:class:`SeededNoise` is the default, :class:`ReplayNoise` injects given numbers (parity with
another program, a test with zeros), :class:`BrownianNoise` takes all increments from one
path per sample, so that a finer grid sees the same path.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.errors import IncompatibleError, ScheduleError, ShapeError
from sdescore.rng import NormalStream
from sdescore.shapes import require_state

__all__ = ["BrownianNoise", "BrownianPath", "NoiseSource", "ReplayNoise", "SeededNoise", "Span"]

Span = tuple[float, float] | None
"""The times ``(t, s)`` a draw drives the state between, or None where no time passes."""

# Numbers drawn ahead at a time; it bounds memory and changes no number.
_BUFFER = 1 << 18


class NoiseStream(ABC):
    """The draws of some samples."""

    @abstractmethod
    def draw(self, k: int) -> Tensor:
        """Draw ``k``, ``(B, *E)`` in the state's dtype; valid until the next call."""


class NoiseSource(ABC):
    """A rule from (draw, sample) to standard normal numbers."""

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
    ) -> NoiseStream:
        """The stream of ``samples``; ``spans[k]`` says what draw ``k`` is for."""


class _SeededStream(NoiseStream):
    def __init__(self, normals: NormalStream, draws: int, dtype: torch.dtype) -> None:
        self._normals, self._draws, self._dtype = normals, draws, dtype
        ahead = max(2, _BUFFER // max(1, len(normals) * normals.numel) // 2 * 2)
        self._ahead = min(ahead, normals.block_length, draws + draws % 2)
        self._first, self._rows = 0, ()
        self._buffer: Tensor | None = None

    _rows: tuple[Tensor, ...]

    def draw(self, k: int) -> Tensor:
        if not 0 <= k - self._first < len(self._rows):
            self._refill(k - k % 2)
        return self._rows[k - self._first]

    def _refill(self, first: int) -> None:
        if self._buffer is None:
            shape = (self._ahead, len(self._normals), *self._normals.event_shape)
            self._buffer = torch.empty(shape, device=self._normals.device)
        left_in_block = self._normals.block_length - first % self._normals.block_length
        left = self._draws + self._draws % 2 - first
        part = self._buffer[: max(2, min(self._ahead, left_in_block, left))]
        self._first = first
        self._rows = self._normals.fill(part, first).to(self._dtype).unbind(0)


@dataclass(frozen=True)
class SeededNoise(NoiseSource):
    """Sample ``i`` gets the stream ``(seed, i)``; see :mod:`sdescore.rng`.

    Parameters
    ----------
    seed : int
        Any integer; reduced modulo 2⁶⁴.
    """

    seed: int

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ScheduleError(f"expected an integer seed, got {self.seed!r}")

    def open(
        self,
        samples: range,
        event_shape: tuple[int, ...],
        spans: Sequence[Span],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> NoiseStream:
        normals = NormalStream(self.seed, samples, event_shape, device=device)
        return _SeededStream(normals, len(spans), dtype)


class _ReplayStream(NoiseStream):
    def __init__(self, rows: Tensor) -> None:
        self._rows = rows

    def draw(self, k: int) -> Tensor:
        return self._rows[k]


@dataclass(frozen=True, eq=False)
class ReplayNoise(NoiseSource):
    """Given numbers: ``values[k]`` is draw ``k`` of the whole request.

    Parameters
    ----------
    values : Tensor
        ``(draws, B, *E)``; ``values[0]`` starts the chain (unused where ``init=`` is given).
    """

    values: Tensor

    def __post_init__(self) -> None:
        require_state(self.values, "values")

    def check(self, shape: tuple[int, ...], spans: Sequence[Span]) -> None:
        """Refuse too few draws or samples, or another event shape.

        Raises
        ------
        ShapeError
            See above.
        """
        have = tuple(self.values.shape)
        fits = len(have) >= 2 and have[2:] == tuple(shape[1:])
        if not fits or have[1] < shape[0] or have[0] < len(spans):
            raise ShapeError(
                f"expected replayed noise of shape ({len(spans)}, B >= {shape[0]}, "
                f"*{tuple(shape[1:])}), draw 0 being the start; got {have}"
            )

    def open(
        self,
        samples: range,
        event_shape: tuple[int, ...],
        spans: Sequence[Span],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> NoiseStream:
        self.check((samples.stop, *event_shape), spans)
        return _ReplayStream(self.values[:, samples.start : samples.stop].to(device, dtype))


class BrownianPath:
    r"""One Brownian path per sample on ``[0, T]``, the same at every refinement.

    ``W`` is built by Lévy's midpoint construction: on a dyadic interval ``[a, b]``

    .. math:: W_{(a+b)/2} = \tfrac12 (W_a + W_b) + \tfrac12 \sqrt{b - a}\; z_{\text{node}},

    with the normal of each tree node addressed by its number, so that ``W_t`` is a function
    of (seed, sample, t). Below depth 24 the Brownian bridge of the leaf is drawn once.
    """

    depth = 24

    def __init__(
        self,
        seed: int,
        samples: Sequence[int],
        event_shape: tuple[int, ...],
        T: float,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.T = T
        self._normals = NormalStream(seed, samples, event_shape, device=device, domain=1)
        end = math.sqrt(T) * self._node(1)
        # Each entry: node number, interval, W at both ends. The last descent is kept, for
        # the next query is usually near.
        self._descent = [(2, 0.0, T, torch.zeros_like(end), end)]

    def _node(self, number: int) -> Tensor:
        return self._normals.draw(range(number, number + 1))[0].double()

    def value(self, t: float) -> Tensor:
        """``W_t``, ``(B, *E)`` float64."""
        if not 0 <= t <= self.T:
            raise ScheduleError(f"expected 0 <= t <= {self.T:g} on the Brownian path, got {t:g}")
        while len(self._descent) > 1 and not self._descent[-1][1] <= t <= self._descent[-1][2]:
            self._descent.pop()
        while True:
            node, a, b, W_a, W_b = self._descent[-1]
            if t == a:
                return W_a
            if t == b:
                return W_b
            if len(self._descent) > self.depth:
                bridge = math.sqrt((t - a) * (b - t) / (b - a)) * self._node(node)
                return W_a + (W_b - W_a) * ((t - a) / (b - a)) + bridge
            middle = 0.5 * (a + b)
            W_middle = 0.5 * (W_a + W_b) + 0.5 * math.sqrt(b - a) * self._node(node)
            if t <= middle:
                self._descent.append((2 * node, a, middle, W_a, W_middle))
            else:
                self._descent.append((2 * node + 1, middle, b, W_middle, W_b))


class _BrownianStream(NoiseStream):
    def __init__(
        self, path: BrownianPath, spans: Sequence[Span], other: NoiseStream, dtype: torch.dtype
    ) -> None:
        self._path, self._spans, self._other, self._dtype = path, spans, other, dtype

    def draw(self, k: int) -> Tensor:
        span = self._spans[k]
        if span is None:
            return self._other.draw(k)
        t, s = span
        increment = self._path.value(t) - self._path.value(s)
        return (increment / math.sqrt(t - s)).to(self._dtype)


@dataclass(frozen=True)
class BrownianNoise(NoiseSource):
    """Predictor draws are increments of one path per sample; other draws are seeded.

    Two grids with common times see the same path there, which is what strong order and
    step-size control need.

    Parameters
    ----------
    seed : int
        Any integer.
    T : float
        End of the path, the SDE's ``T``.
    """

    seed: int
    T: float = 1.0

    def check(self, shape: tuple[int, ...], spans: Sequence[Span]) -> None:
        """Refuse times the path does not have, and two noises over one stretch of time.

        Raises
        ------
        ScheduleError
            A time lies outside [0, T].
        IncompatibleError
            A step weighs several noises: on one path they would be the same increment.
        """
        moves = [span for span in spans if span is not None]
        latest = max((t for t, _ in moves), default=0.0)
        if latest > self.T:
            raise ScheduleError(
                f"expected a Brownian path up to t = {latest:g}, got T = {self.T:g}; pass T=sde.T"
            )
        if len(set(moves)) < len(moves):
            raise IncompatibleError(
                "expected one noise a step for BrownianNoise, got a method with several; use "
                "SeededNoise"
            )

    def open(
        self,
        samples: range,
        event_shape: tuple[int, ...],
        spans: Sequence[Span],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> NoiseStream:
        path = BrownianPath(self.seed, samples, event_shape, self.T, device=device)
        seeded = SeededNoise(self.seed).open(
            samples, event_shape, spans, dtype=dtype, device=device
        )
        return _BrownianStream(path, spans, seeded, dtype)
