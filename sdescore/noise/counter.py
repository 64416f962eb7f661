r"""Counter-based normal numbers: the number is a function of its address.

``normal[draw, sample, element]`` depends on the seed and on that address alone, so any part of a
run can be drawn again in any order, in any batch and on any number of processes (the idea of
Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

SplitMix64 (Steele et al. 2014) hashes the key of (seed, sample, block of draws) to 96 bits. Within
a block a 32-bit counter runs through the elements of each pair of draws, is mixed with the key by
a two-round xorshift–multiply hash, and the two words become two normals by Box & Muller (1958):

.. math:: z_1 = \sqrt{-2 \ln u_1} \cos 2\pi u_2, \qquad z_2 = \sqrt{-2 \ln u_1} \sin 2\pi u_2 .

All integer steps are exact on every device; the logarithm, root, sine and cosine may differ in the
last bit between devices. Numbers are float32 (tails to 5.7 standard deviations, as
``torch.randn``'s) and widened where a state is float64: a seed means one noise in every precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

from sdescore import checks

__all__ = ["Domain", "NormalStream", "standard_normal"]


class Domain(IntEnum):
    """What the numbers of a seed are for; two roles of one seed never share a number.

    Every ``seed`` defaults to 0, and calls are often chained: a run starts from the samples of
    another run, from :meth:`sdescore.LinearSDE.prior_sample` or from
    :func:`sdescore.samplers.simulate`. Their noises are independent all the same.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> start, probe = (
    ...     ss.noise.standard_normal(7, range(5000), range(1), (1,), domain=domain).flatten()
    ...     for domain in (ss.noise.Domain.SAMPLER, ss.noise.Domain.TRACE)
    ... )
    >>> bool(torch.stack([start, probe]).corrcoef()[0, 1].abs() < 0.06)  # one seed, two roles
    True
    """

    SAMPLER = 0  #: the start and the steps of a run from noise to data
    BROWNIAN = 1  #: the nodes of a Brownian path
    CLEAN = 2  #: clean data drawn from an exact score
    TRACE = 3  #: the probes of Hutchinson's trace estimator
    PRIOR = 4  #: draws from the prior at T
    RESTART = 5  #: a run that starts from ``init=``, or that rewinds
    SIMULATE = 6  #: an SDE run by hand, from data to noise as a rule
    LANGEVIN = 7  #: Langevin chains
    ADAPTIVE = 8  #: the steps of an adaptive sampler
    BOUND = 9  #: the noised data of a variational bound
    DEQUANTIZATION = 10  #: the noise that fills the bins of integers
    RESAMPLE = 11  #: which particles are drawn anew


# int32 and int64 wrap around, so 64- and 32-bit constants are given as signed numbers.
_GAMMA = 0x9E3779B97F4A7C15
_MIX_64 = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_GOLDEN_32 = 0x9E3779B1 - 2**32
_MIX_32 = (0x7FEB352D, 0x846CA68B - 2**32)

# Pairs of numbers made at a time, with two scratch buffers of this length.
_CHUNK = 1 << 19
# Below so many numbers an event, a row is too short to run along: all rows of a draw are one.
_SHORT = 8
# Numbers of one sample that share a key; a block's draws follow from the event size alone.
_BLOCK = 1 << 16


def _wrap64(value: int) -> int:
    """The signed 64-bit integer congruent to ``value``."""
    return (value + 2**63) % 2**64 - 2**63


def _mix64(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, shifts made logical by masks."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _MIX_64[0]
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _MIX_64[1]
    return x ^ ((x >> 31) & (2**33 - 1))


def _xorshift_(x: Tensor, shift: int, scratch: Tensor) -> Tensor:
    """``x ^ (x >> shift)`` on int32, in place."""
    torch.bitwise_right_shift(x, shift, out=scratch)
    scratch.bitwise_and_(2 ** (32 - shift) - 1)  # an int32 shift copies the sign bit
    return x.bitwise_xor_(scratch)


def block_length(numel: int) -> int:
    """How many draws of an event of ``numel`` elements share a key; even."""
    return 2 * max(1, _BLOCK // (2 * max(1, numel)))


class NormalStream:
    """The normal numbers of some samples of one seed.

    Parameters
    ----------
    seed : int
        Any Python integer, or ``ParameterError``; reduced modulo 2⁶⁴.
    samples, event_shape : sequence of int
        Indices of the samples, each with a stream of its own; the shape of one sample's draw.
    device : torch.device or str
        Where the numbers are made.
    domain : int
        What the numbers are for, a :class:`Domain`; any integer >= 0, or ``ParameterError``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> two = ss.noise.NormalStream(7, range(2), (3,)).draw(range(4))
    >>> second = ss.noise.NormalStream(7, [1], (3,)).draw(range(4))
    >>> torch.equal(two[:, 1], second[:, 0])
    True
    """

    def __init__(
        self,
        seed: int,
        samples: Sequence[int],
        event_shape: tuple[int, ...],
        *,
        device: torch.device | str = "cpu",
        domain: int = Domain.SAMPLER,
    ) -> None:
        try:
            index = torch.as_tensor(samples, dtype=torch.int64, device=device)
        except (RuntimeError, AssertionError, TypeError, ValueError):
            checks.device(device)
            checks.refuse("samples as a sequence of integers", f"{samples!r:.100}")
        self.device, self.event_shape = index.device, checks.shape(event_shape, "event_shape", 0)
        self.shape = (len(index), *self.event_shape)
        self.numel = math.prod(self.event_shape)
        self.block_length = block_length(self.numel)
        usable = checks.is_count(domain) and domain >= 0
        checks.that(usable, "an integer domain >= 0", f"{domain!r:.100}")
        start = _wrap64(checks.seed(seed) + _GAMMA * (2 * domain + 1))
        root = _mix64(torch.tensor(start, dtype=torch.int64, device=device))
        # Nested: hashed side by side, (seed 1, sample 0) would be (seed 0, sample 1).
        self._sample_key = _mix64(root + (index + 1) * _wrap64(_GAMMA))
        self._block, self._block_keys = -1, list[Tensor]()
        # How many samples and pairs of draws are made at a time.
        self._rows = max(1, min(len(index), _CHUNK // max(1, self.numel)))
        pairs = max(1, _CHUNK // max(1, self._rows * self.numel))
        self._depth = min(pairs, self.block_length // 2)
        size = self._rows * self.numel * self._depth
        self._state = torch.empty(size, dtype=torch.int32, device=device)
        # float32 by name: the caller's default dtype must not change what a seed means.
        self._radius = torch.empty(size, dtype=torch.float32, device=device)

    def __len__(self) -> int:
        return self.shape[0]

    def fill(self, out: Tensor, first: int) -> Tensor:
        """Write draws ``first, first + 1, …`` to ``out`` ``(K, B, *E)``, float32 and contiguous.

        ``first`` and ``K`` are even, and the K draws lie in one block.
        """
        if not out.numel():
            return out
        block, offset = divmod(first, self.block_length)
        short = self.numel < _SHORT
        if block != self._block:
            key = _mix64(self._sample_key + _wrap64(_GAMMA * (block + 1)))
            words = key, key >> 32, _mix64(key + _wrap64(_GAMMA))
            keys = [(word << 32 >> 32).to(torch.int32)[:, None] for word in words]  # the low halves
            # A shift goes through ^, so the first shift of state ^ key is that of each.
            for word in keys[1:]:
                _xorshift_(word, 16, torch.empty_like(word))
            if short:
                keys = [key.repeat(1, self.numel) for key in keys]
                element = torch.arange(self.numel, dtype=torch.int32, device=out.device)
                keys[0] += element.mul_(_GOLDEN_32)
            self._block, self._block_keys = block, keys
        # The counter of a number is p numel + e: with short events, e is in the first key.
        stride = self.numel if short else 1
        pairs = out.view(len(out) // 2, 2, self.shape[0], self.numel)
        for pair in range(0, len(pairs), self._depth):
            end = min(pair + self._depth, len(pairs))
            low, high = ((offset // 2 + p) * self.numel for p in (pair, end))
            counter = torch.arange(low, high, stride, dtype=torch.int32, device=out.device)
            counter = counter.mul_(_GOLDEN_32).view(-1, 1, self.numel // stride)
            for row in range(0, self.shape[0], self._rows):
                part = slice(row, row + self._rows)
                keys = [key[part] for key in self._block_keys]
                self._fill_part(pairs[pair:end, :, part], counter, keys)
        return out

    def _fill_part(self, out: Tensor, counter: Tensor, keys: list[Tensor]) -> None:
        """Write pairs of draws ``(pairs, 2, rows, numel)``, whose memory serves as scratch too."""
        first, second = out[:, 0], out[:, 1]
        size = first.numel()
        state, radius = (v[:size].view(first.shape) for v in (self._state, self._radius))
        word, scratch = first.view(torch.int32), second.view(torch.int32)

        # Two xorshift–multiply rounds for each word; the high bits are the well-mixed ones.
        _xorshift_(torch.add(counter, keys[0], out=state), 16, scratch)
        torch.bitwise_xor(state, keys[1], out=word).mul_(_MIX_32[0])
        _xorshift_(word, 15, scratch).mul_(_MIX_32[1])
        # 1 − u₁ in 24 bits, so that it is exact in float32 and below 1.
        radius.copy_(word.bitwise_and_(0x7FFFFF80))
        radius.mul_(-(2.0**-31)).log1p_().mul_(-2.0).sqrt_()

        torch.bitwise_xor(state, keys[2], out=word).mul_(_MIX_32[0])
        _xorshift_(word, 15, scratch).mul_(_MIX_32[1])
        second.copy_(word).mul_(math.pi * 2.0**-31)
        torch.cos(second, out=first).mul_(radius)
        second.sin_().mul_(radius)

    def draw(self, draws: range) -> Tensor:
        """``(len(draws), B, *E)`` float32: the numbers at these draws, a range of step 1."""
        if not isinstance(draws, range) or draws.step != 1 or not 0 <= draws.start <= draws.stop:
            checks.refuse("consecutive draws, range(first, last + 1)", f"{draws!r:.100}")
        base, high = draws.start - draws.start % 2, draws.stop + draws.stop % 2
        out = torch.empty(high - base, *self.shape, dtype=torch.float32, device=self.device)
        low = base
        while low < high:
            end = min(high, (low // self.block_length + 1) * self.block_length)
            self.fill(out[low - base : end - base], low)
            low = end
        return out[draws.start - base :][: len(draws)]


def standard_normal(
    seed: int,
    samples: Sequence[int],
    draws: range,
    event_shape: tuple[int, ...],
    *,
    device: torch.device | str = "cpu",
    domain: int = Domain.SAMPLER,
) -> Tensor:
    """``(len(draws), len(samples), *event_shape)`` float32 standard normals at these addresses.

    The arguments are those of :class:`NormalStream` and of its :meth:`~NormalStream.draw`.

    Examples
    --------
    >>> from sdescore.noise.counter import standard_normal
    >>> one = standard_normal(7, [3], range(5, 6), (2,))
    >>> many = standard_normal(7, range(8), range(10), (2,))
    >>> bool((one[0, 0] == many[5, 3]).all())
    True
    """
    device = checks.device(device)
    return NormalStream(seed, samples, event_shape, device=device, domain=domain).draw(draws)
