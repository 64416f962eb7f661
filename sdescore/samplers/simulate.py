r"""Simulate an SDE forward, from data to noise, or a reversal, with falling times and h < 0.

Two methods for :math:`\mathrm{d}x = f\,\mathrm{d}t + g\,\mathrm{d}w` share one noise convention,
so that they can be compared path by path:

.. math::
   \text{Euler–Maruyama:}\quad x_{t} &= x_s + f(x_s, s)\,h + g(s)\sqrt{|h|}\; z,
   \qquad h = t - s, \\
   \text{exact:}\quad x_{t} &= a_{st}\, x_s + \sqrt{V_{st}}\; z

(Kloeden & Platen 1992, eq. 10.2.4; Song et al. 2021, arXiv:2011.13456, eq. 5 and appendix B).
The first runs on any :class:`sdescore.SDE`. The second needs a :class:`sdescore.LinearSDE`, and
has its exact distribution at every grid time, however coarse the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import DivergenceError, ScheduleError, ShapeError, TimeError
from sdescore.noise.counter import Domain
from sdescore.noise.sources import NoiseSource, SeededNoise, Span
from sdescore.samplers.request import domain_at, not_finite
from sdescore.score.interface import require_steady
from sdescore.sde.base import SDE, as_time, check_times
from sdescore.shapes import align

__all__ = ["simulate"]

Move = Callable[[Tensor, int, Tensor], Tensor]
"""``(x, n, z) -> x``: step ``n`` with its noise."""


@torch.no_grad()
def simulate(
    sde: SDE,
    x0: Tensor,
    *,
    steps: int | None = None,
    times: Sequence[float] | Tensor | None = None,
    start: float = 0.0,
    end: float | None = None,
    method: str = "euler",
    seed: int = 0,
    noise: NoiseSource | None = None,
    return_path: bool = False,
) -> Tensor:
    """Run an SDE from the state ``x0`` at time ``start`` to time ``end``.

    A forward SDE runs upwards in time, a reversal (:attr:`SDE.backward`, such as
    ``sde.reverse(score)``) downwards, from ``start=sde.T``; an ODE (:attr:`SDE.deterministic`) runs
    both ways. :class:`sdescore.PredictorCorrector` has more methods for the way down.

    ``x0`` is the state at ``start``, as in :meth:`LinearSDE.transition`. Where σ(0) is not 0
    (:class:`sdescore.VESDE`: σ_min), a clean datum put at time 0 ends with variance σ_T² − σ_min²;
    ``sde.perturb(x, 0.0, noise)`` turns clean data into states at time 0.

    Parameters
    ----------
    sde : SDE
        Linear or not, or a reversal.
    x0 : Tensor
        ``(B, *E)``, float32 or float64; the run keeps its dtype and device.
    steps : int, optional
        Number of equal steps, >= 1. Give this or ``times``.
    times : sequence of float, optional
        Your own grid ``(n + 1,)`` within [0, T], both ends included: strictly rising, for a
        reversal strictly falling.
    start, end : float
        First and last time of the equal steps, ``0 <= start < end <= T``, for a reversal
        ``end < start``; 0 and T unless given.
    method : {"euler", "exact"}
        Euler–Maruyama (strong order 1, the noise being additive; weak order 1), or the exact
        transition kernel of a linear SDE.
    seed : int
        Sample ``i`` uses the stream (seed, i), and step n uses its draw ``n``, counted from 1. A
        sampler, or a run from another ``start``, draws other numbers from the same seed. So you may
        pass the result on to it with this seed.
    noise : NoiseSource, optional
        Replaces the seeded noise.
    return_path : bool
        Whether to return the state at all times instead of the last.

    Returns
    -------
    Tensor
        ``(B, *E)``, or ``(n + 1, B, *E)`` with ``x0`` first.

    Raises
    ------
    ShapeError
        ``x0`` is no state in float32 or float64, or the drift has another shape.
    TimeError, ScheduleError
        Times that are no numbers, outside [0, T] or in the wrong order for this SDE; ``steps`` no
        positive integer, or both or neither of ``steps`` and ``times``.
    IncompatibleError
        An unknown method, ``"exact"`` without a transition kernel, a foreign noise source, or a
        reverse SDE whose network has dropout or batch norm in training mode.
    DivergenceError
        The state turned NaN or infinite.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> x = ss.simulate(sde, torch.full((5000, 1), 3.0), steps=10, method="exact")
    >>> bool((x.std() - 1).abs() < 0.05)  # nothing is left of the datum
    True
    """
    checks.instance("sde", sde, SDE, "ss.VPSDE()")  # type: ignore[type-abstract]
    require_steady(getattr(sde, "score", None))  # of a reverse SDE
    checks.state(x0, "x0")
    checks.finite_tensor("x0", x0)
    fits = x0.dtype in (torch.float32, torch.float64)
    checks.that(fits, "x0 in float32 or float64", f"{x0.dtype}; use x0.float()", ShapeError)
    if noise is not None:
        checks.instance("noise", noise, NoiseSource)  # type: ignore[type-abstract]
    grid = _grid(sde, steps, times, start, end)
    move = _move(sde, method, grid)
    clock = grid.tolist()
    spans: list[Span] = [None, *((max(ends), min(ends)) for ends in pairwise(clock))]
    source = SeededNoise(seed) if noise is None else noise
    samples, event, domain = (
        range(len(x0)),
        tuple(x0.shape[1:]),
        domain_at(Domain.SIMULATE, clock[0]),
    )
    stream = source.open(samples, event, spans, dtype=x0.dtype, device=x0.device, domain=domain)
    x = x0.detach().clone()
    path = x.new_empty(len(clock) if return_path else 0, *x.shape)
    for n, t in enumerate(clock):
        if n:
            x = move(x, n - 1, stream.draw(n))
            bad, named = not_finite(x)
            if bad:
                raise DivergenceError(
                    f"the state is not finite after step {n - 1} (t = {clock[n - 1]:g} → {t:g}), "
                    f"in {named}. The drift is not finite there, or the step is too large for it: "
                    "use more steps",
                    step=n - 1,
                    t=clock[n - 1],
                    samples=bad,
                )
        if return_path:
            path[n] = x
    return path if return_path else x


def _grid(
    sde: SDE,
    steps: int | None,
    times: Sequence[float] | Tensor | None,
    start: float,
    end: float | None,
) -> Tensor:
    """``(n + 1,)`` float64, in the order that the SDE's time runs in."""
    one = (steps is None) != (times is None)
    checks.that(one, "one of steps= and times=", "both or neither", ScheduleError)
    if times is not None:
        alone = start == 0.0 and end is None
        expected = "no start= or end= beside times=, which have their own"
        checks.that(alone, expected, f"start={start!r} and end={end!r}", ScheduleError)
        return check_times(times, sde)
    n = checks.count("steps", steps, error=ScheduleError)
    first = checks.number("start", start, error=TimeError)
    last = sde.T if end is None else checks.number("end", end, error=TimeError)
    return check_times(torch.linspace(first, last, n + 1, dtype=torch.float64, device="cpu"), sde)


def _move(sde: SDE, method: str, grid: Tensor) -> Move:
    checks.choice("method", method, ("euler", "exact"))
    h = grid.diff()
    clock: list[float] = grid.tolist()
    spacing: list[float] = h.tolist()
    if method == "exact":
        checks.linear(sde, "method='exact'", "use method='euler'")
    if checks.is_linear(sde):
        # Both methods are a x + c z; all their numbers at once, in float64.
        if method == "exact":
            kernel = sde.transition(grid[:-1], grid[1:])
            a, variance = kernel.scale, kernel.variance
        else:
            f, g2 = sde.rates(grid[:-1])
            a, variance = 1 + f * h, g2 * h.abs()
        factors: list[float] = a.tolist()
        stds: list[float] = variance.sqrt().tolist()

        def affine(x: Tensor, n: int, z: Tensor) -> Tensor:
            return factors[n] * x + stds[n] * z

        return affine

    def euler(x: Tensor, n: int, z: Tensor) -> Tensor:
        time, h = as_time(clock[n], x), spacing[n]
        drift = sde.drift(x, time)
        checks.same_shape(drift, x, "the SDE's drift")
        g = align(torch.as_tensor(sde.diffusion(time), dtype=x.dtype, device=x.device), x)
        return x + h * drift.to(x) + math.sqrt(abs(h)) * g * z

    return euler
