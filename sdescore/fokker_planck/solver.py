r"""The density of any SDE in one to three dimensions, without sampling.

:class:`FokkerPlanck` cuts a box into cells, turns the Fokker–Planck equation

.. math:: \partial_t p = -\nabla \cdot (f\, p) + \tfrac12 g^2\, \Delta p

(Risken 1996, section 4.7) into a Markov chain on them (:mod:`sdescore.fokker_planck.generator`),
and moves its distribution in time (:mod:`sdescore.fokker_planck.evolve`). Of the SDE it needs
``drift(x, t)`` and ``diffusion(t)`` only. A :class:`sdescore.sde.ReverseSDE` runs from T down to 0:
in :math:`\tau = T - t` it is a forward SDE with drift −drift and the same diffusion. An ODE runs
both ways.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import DivergenceError, ShapeError
from sdescore.fokker_planck.box import Box, LogDensity, at_float64
from sdescore.fokker_planck.evolve import Propagator, adaptive, equal_steps
from sdescore.fokker_planck.generator import Array, Sparse, chain_generator
from sdescore.fokker_planck.stationary import stationary_mass
from sdescore.sde.base import SDE, check_times

__all__ = ["Evolution", "FokkerPlanck"]


@dataclass(frozen=True, eq=False)
class Evolution:
    """What :meth:`FokkerPlanck.solve` found; all tensors float64.

    Attributes
    ----------
    times : Tensor
        ``(n,)``, as asked for.
    density : Tensor
        ``(n, *cells)``, the first being the start, normalised.
    time_error : Tensor or None
        ``(n,)``: estimate of the L1 distance to the solution with infinitely fine steps on the
        same cells, whose own error is not in it; None for fixed steps.
    wall_mass : Tensor
        ``(n,)``: the most mass that the outermost cells held at any step until then.
    products : int
        Matrix–vector products spent.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> fp = ss.fokker_planck.FokkerPlanck(ss.VPSDE(), bounds=((-6.0, 6.0),), cells=(120,))
    >>> run = fp.solve(lambda x: -50 * (x[:, 0] - 1) ** 2, times=[0.0, 1.0])
    >>> run.density.shape, bool(run.wall_mass.max() < 1e-6)  # the box is wide enough
    (torch.Size([2, 120]), True)
    """

    times: Tensor
    density: Tensor
    time_error: Tensor | None
    wall_mass: Tensor
    products: int


@dataclass(frozen=True)
class FokkerPlanck:
    r"""The Fokker–Planck equation of an SDE on a box with reflecting walls.

    Up to rounding, densities stay non-negative and keep their mass. The error is second-order in
    the time step and the cell width h; first-order in h if g = 0; h² log 1/h if only g(0) = 0. The
    work grows like q T, q the largest rate at which a cell is left,
    about :math:`\sum_a g^2/h_a^2`: cells half as wide cost 8 times as much in 1-D and 16 times in
    2-D. Features narrower than a few cells are not resolved.

    Parameters
    ----------
    sde : SDE
        Linear or not; a reversal (:attr:`SDE.backward`) runs downwards in time. States are
        float64 ``(N, d)`` on the CPU, so the event shape is ``(d,)`` and a network float64.
    bounds : tuple of (float, float)
        ``(low, high)`` for each of one to three axes.
    cells : tuple of int
        Number of equal cells along each axis, >= 3.

    Raises
    ------
    IncompatibleError, ShapeError, ParameterError
        ``sde`` is no SDE instance; bounds or cells do not fit together, or are out of range.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> from sdescore.fokker_planck.solver import FokkerPlanck
    >>> fp = FokkerPlanck(ss.VPSDE(), bounds=((-6.0, 6.0),), cells=(120,))
    >>> run = fp.solve(lambda x: -50 * (x[:, 0] - 1) ** 2, times=[0.0, 0.3, 1.0])
    >>> mean, covariance = fp.moments(run.density)
    >>> [round(v, 2) for v in covariance.flatten().tolist()]
    [0.01, 0.61, 1.0]
    """

    sde: SDE
    bounds: tuple[tuple[float, float], ...]
    cells: tuple[int, ...]

    def __post_init__(self) -> None:
        checks.instance("sde", self.sde, SDE, "ss.VPSDE()")  # type: ignore[type-abstract]
        vars(self).update(bounds=self._box.bounds, cells=self._box.cells)

    @cached_property
    def _box(self) -> Box:
        return Box(self.bounds, self.cells)

    @property
    def backward(self) -> bool:
        """Whether the SDE's time runs down."""
        return self.sde.backward

    @property
    def centres(self) -> Tensor:
        """Centres of the cells, ``(*cells, d)`` float64."""
        return self._box.centres.clone()

    def density(self, log_density: LogDensity) -> Tensor:
        """``exp(log_density)`` at the cells' centres, scaled to mass 1: ``(*cells,)``.

        ``log_density`` is ``(N, d) -> (N,)``, up to a constant; −inf where there is no mass.

        Raises
        ------
        ShapeError, ParameterError
            It does not return one number for each point, does not take float64, or has NaN or
            +inf somewhere or −inf everywhere.
        """
        return self._box.from_log_density(log_density)

    def solve(
        self,
        p0: Tensor | LogDensity,
        *,
        times: Sequence[float] | Tensor,
        steps: int | None = None,
        tolerance: float = 1e-4,
        max_wall_mass: float = 1e-6,
        max_products: int = 10_000_000,
    ) -> Evolution:
        """The density at ``times``, from ``p0`` at the first of them.

        Parameters
        ----------
        p0 : Tensor or callable
            ``(*cells,)`` >= 0, a density on the cells up to a factor; or a log density, see
            :meth:`density`.
        times : sequence of float
            ``(n,)`` with n >= 2, strictly monotone within [0, T]: rising, or falling for a
            reversal; either for an ODE. Drift and diffusion are taken to be smooth between them,
            and never evaluated at them: where one jumps, put that time among them.
        steps : int, optional
            Number of equal steps between one time and the next, in place of those chosen by the
            tolerance; half their cost, and no estimate of their error.
        tolerance : float
            In [1e-10, 1): the time steps' L1 error, all together. No step is longer than 1/16
            of the whole time.
        max_wall_mass : float
            In (0, 1]. More mass than this in the outermost cells means that the walls matter;
            1 is for walls that are meant.
        max_products : int
            How many matrix–vector products the solve may take.

        Raises
        ------
        ShapeError
            ``p0`` or the drift has another shape, g(t) is not one number, or a network does not
            take float64.
        TimeError
            Times outside [0, T] or in the wrong order for this SDE.
        ParameterError
            A number out of its range; ``p0`` negative, not finite or without mass; g < 0; or more
            than ``max_wall_mass`` in the outermost cells, of a box that is too small.
        DivergenceError
            The drift is not finite, or ``max_products`` do not suffice.
        """
        steps = None if steps is None else checks.count("steps", steps)
        tolerance = checks.number("tolerance", tolerance, at_least=1e-10, below=1)
        max_wall_mass = checks.number("max_wall_mass", max_wall_mass, above=0, at_most=1)
        max_products = checks.count("max_products", max_products)
        clock: list[float] = check_times(times, self.sde).tolist()
        down = clock[-1] < clock[0]
        start = self.density(p0) if callable(p0) else self._box.normalised(p0)

        outermost = self._box.outermost.flatten().numpy()
        worst = 0.0

        def watch(mass: Array, t: float) -> None:
            nonlocal worst
            worst = max(worst, float(mass[outermost].sum()))
            expected = f"at most max_wall_mass = {max_wall_mass:g} in the outermost cells"
            got = (
                f"{worst:.3g} at t = {t:g}; widen the bounds, or pass max_wall_mass=1.0 if the "
                "walls are meant to reflect"
            )
            # Rounding may take a mass of 1 past 1.
            checks.that(worst <= max_wall_mass * (1 + 1e-9), expected, got)

        step = Propagator(lambda t: self._generator(t, down), max_products)
        mass = (start * self._box.volume).flatten().numpy()
        watch(mass, clock[0])
        masses, errors, walls = [mass], [0.0], [worst]
        span = abs(clock[-1] - clock[0])
        h = longest = span / 16
        for s, t in pairwise(clock):
            if steps is None:
                mass, error, h = adaptive(step, mass, s, t, h, longest, tolerance / span, watch)
            else:
                mass, error = equal_steps(step, mass, s, t, steps, watch), math.nan
            masses.append(mass)
            errors.append(errors[-1] + error)
            walls.append(worst)
        density = torch.from_numpy(np.stack(masses)) / self._box.volume
        found = torch.tensor([clock, errors, walls], dtype=torch.float64, device="cpu")
        return Evolution(
            times=found[0],
            density=density.reshape(-1, *self._box.cells),
            time_error=None if steps else found[1],
            wall_mass=found[2],
            products=step.products,
        )

    def stationary(self, t: float = 0.0) -> Tensor:
        """The density that the coefficients at time ``t`` leave as it is, ``(*cells,)``.

        Raises
        ------
        TimeError, IncompatibleError
            ``t`` is outside [0, T]; there is no single such density, or rounding may move it by
            more than 1e-6: g(t) = 0, or a high barrier (20 times the temperature, say).
        """
        mass = stationary_mass(self.generator(t))
        return torch.from_numpy(mass).reshape(self._box.cells) / self._box.volume

    def mass(self, p: Tensor) -> Tensor:
        """The integral of densities ``(…, *cells)``: ``(…)``."""
        return self._box.flat_density(p).sum(-1) * self._box.volume

    def moments(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``(…, d)`` and covariance ``(…, d, d)`` of densities ``(…, *cells)``.

        The cells' mass counts at their centres, and is scaled to 1.

        Raises
        ------
        ShapeError, ParameterError
            Not ``(…, *cells)``, or a density whose mass is not finite and positive.
        """
        weights = self._box.flat_density(p)
        total = weights.sum(-1, keepdim=True)
        usable = bool(((total > 0) & total.isfinite()).all())
        got = "another sum; drop those without mass"
        checks.that(usable, "densities with a finite mass > 0", got)
        weights = weights / total
        points = self._box.centres.flatten(0, -2)
        mean = weights @ points
        centred = points - mean[..., None, :]
        return mean, (weights[..., None] * centred).mT @ centred

    def generator(self, t: float) -> Sparse:
        """Q(t), a ``scipy.sparse.csr_array`` acting on the cells' masses in C order.

        That of a reversal drives them downwards in time.

        Raises
        ------
        TimeError, ShapeError, ParameterError, DivergenceError
            As :meth:`solve`.
        """
        return self._generator(t, self.sde.backward)

    def _generator(self, t: float, down: bool) -> Sparse:
        time = checks.time(t, self.sde.T)
        faces = [self._box.faces(axis) for axis in range(len(self._box.cells))]
        points = torch.cat(faces)
        with torch.no_grad():
            g = torch.as_tensor(self.sde.diffusion(time), dtype=torch.float64, device="cpu")
            drift = at_float64("the SDE's drift", lambda x: self.sde.drift(x, time), points)
        expected, got = "one number g(t) for one time", f"shape {tuple(g.shape)}"
        checks.that(g.numel() == 1, expected, got, ShapeError)
        checks.number(f"g(t) at t = {t:g}", g.item(), at_least=0)
        checks.same_shape(drift, points, "the SDE's drift")
        if not bool(drift.isfinite().all()):
            bad = (~drift.isfinite().all(1)).nonzero().flatten().tolist()
            raise DivergenceError(
                f"the drift is not finite at t = {t:g} in {len(bad)} of {len(points)} faces, such "
                f"as x = {points[bad[0]].tolist()}; narrow the bounds or the times",
                step=0,
                t=t,
                samples=bad,
            )
        drift = drift.double() * (-1.0 if down else 1.0)
        parts = torch.split(drift, [len(f) for f in faces])
        normal = [part[:, axis].numpy() for axis, part in enumerate(parts)]
        return chain_generator(self._box, normal, 0.5 * g.item() ** 2)
