"""One Brownian path per sample, the same at every refinement of the grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, TimeError
from sdescore.noise.counter import Domain, NormalStream
from sdescore.noise.sources import FunctionStream, NoiseStream, SeededNoise, Span

__all__ = ["BrownianNoise", "BrownianPath"]


class BrownianPath:
    r"""One Brownian path per sample on ``[0, T]``, the same at every refinement.

    ``W`` is built by Lévy's midpoint construction: on a dyadic interval ``[a, b]``

    .. math:: W_{(a+b)/2} = \tfrac12 (W_a + W_b) + \tfrac12 \sqrt{b - a}\; z_{\text{node}},

    with the normal of each tree node addressed by its number, so that ``W_t`` is a function
    of (seed, sample, t). Below depth 24 the Brownian bridge of the leaf is drawn once.

    Parameters
    ----------
    seed, samples, event_shape, device
        As in :class:`~sdescore.noise.NormalStream`; ``event_shape`` is that of a sample's ``W_t``.
    T : float
        End of the path, > 0, or ``ParameterError``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> paths = ss.noise.BrownianPath(0, range(3), (1,), T=1.0)
    >>> third = ss.noise.BrownianPath(0, [2], (1,), T=1.0)
    >>> torch.equal(paths.value(0.3)[2:], third.value(0.3))
    True
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
        self.T = checks.number("T", T, above=0)
        self._normals = NormalStream(
            seed, samples, event_shape, device=device, domain=Domain.BROWNIAN
        )
        end = math.sqrt(self.T) * self._node(1)
        # Each entry: node number, interval, W at both ends. The last descent is kept, for
        # the next query is usually near.
        self._descent = [(2, 0.0, self.T, torch.zeros_like(end), end)]

    def _node(self, number: int) -> Tensor:
        return self._normals.draw(range(number, number + 1))[0].double()

    def value(self, t: float) -> Tensor:
        """``W_t``, ``(B, *E)`` float64; ``TimeError`` for a t outside [0, T]."""
        if not 0 <= t <= self.T:
            checks.refuse(f"0 <= t <= {self.T:g} on the Brownian path", f"{t:g}", TimeError)
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


@dataclass(frozen=True)
class BrownianNoise(SeededNoise):
    """A predictor's noises are increments of one path per sample; other draws are seeded.

    Two grids that share times see the same path at these times. Strong orders and step-size control
    need this.

    Parameters
    ----------
    seed : int
        Any integer, or ``ParameterError``.
    T : float
        End of the path, the SDE's ``T``; > 0, or ``ParameterError``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore([0.0], 1.0, sde)
    >>> noise = ss.noise.BrownianNoise(seed=0)
    >>> few, many = (
    ...     ss.PredictorCorrector(sde, predictor=ss.EulerMaruyama(), steps=n).sample(
    ...         score, shape=(100, 1), noise=noise
    ...     )
    ...     for n in (200, 400)
    ... )
    >>> bool((few - many).abs().mean() < 0.1)  # two step sizes along one path
    True
    """

    T: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        vars(self).update(T=checks.number("T", self.T, above=0))

    def check(self, shape: tuple[int, ...], spans: Sequence[Span]) -> None:
        """Refuse times beyond ``T``, and two noises over one stretch of time (``TimeError``,
        ``IncompatibleError``): on one path these would be the same increment.
        """
        moves = [span for span in spans if span is not None]
        latest = max((t for t, _ in moves), default=0.0)
        if latest > self.T:
            got = f"T = {self.T:g}; pass T=sde.T"
            checks.refuse(f"a Brownian path up to t = {latest:g}", got, TimeError)
        if len(set(moves)) < len(moves):
            got = "a method with several; use SeededNoise"
            checks.refuse("one noise a step for BrownianNoise", got, IncompatibleError)

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
        path = BrownianPath(self.seed, samples, event_shape, self.T, device=device)
        seeded = super().open(
            samples, event_shape, spans, dtype=dtype, device=device, domain=domain
        )

        def draw(k: int) -> Tensor:
            if (span := spans[k]) is None:
                return seeded.draw(k)
            t, s = span
            return ((path.value(t) - path.value(s)) / math.sqrt(t - s)).to(dtype)

        return FunctionStream(draw)
