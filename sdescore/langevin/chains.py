r"""Langevin dynamics: samples of :math:`p \propto e^{-U}` from its score alone.

One step of the overdamped Langevin equation at temperature ϑ, preconditioned by P, is

.. math:: x \leftarrow x + \tau P s(x) + \sqrt{2\tau\vartheta}\; P^{1/2} z, \qquad
          s = \nabla \log p = -\nabla U ,

and its stationary distribution, for τ → 0, is
:math:`p^{1/\vartheta} \propto e^{-U/\vartheta}`. ``"mala"`` adds Metropolis' test
(:mod:`sdescore.langevin.metropolis`), which makes that distribution exact at any τ;
``"underdamped"`` adds a velocity (:mod:`sdescore.langevin.baoab`), whose momentum crosses a wide
distribution in fewer steps. The same step inside a sampler is :class:`sdescore.Langevin`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import DivergenceError, IncompatibleError, ShapeError, TimeError
from sdescore.langevin import diagnostics
from sdescore.langevin.baoab import baoab
from sdescore.langevin.metropolis import mala
from sdescore.langevin.preconditioner import Numbers, Preconditioner, as_preconditioner
from sdescore.noise.counter import Domain
from sdescore.noise.sources import NoiseSource, SeededNoise
from sdescore.score.interface import log_density_of, require_steady
from sdescore.sde.base import as_time
from sdescore.shapes import align, flat
from sdescore.wrappers import sde_of

__all__ = ["LangevinRun", "chains"]

METHODS = ("unadjusted", "mala", "underdamped")
CONVENTIONS = ("tau", "epsilon")


@dataclass(frozen=True, eq=False)
class LangevinRun:
    """What :func:`chains` returns.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> score = ss.GaussianScore([0.0], 1.0, ss.VPSDE())
    >>> run = ss.langevin.chains(
    ...     score, torch.zeros(8, 1), 0.2, 2000, t=0.5, burn_in=200, return_path=True
    ... )
    >>> bool(run.r_hat() < 1.05), bool(run.effective_sample_size() > 400), run.evaluations
    (True, True, 2200)
    """

    x: Tensor
    """``(B, *E)``, the chains' last states."""
    path: Tensor | None
    """``(n // thin, B, *E)``, the states after burn-in, every ``thin``-th, oldest first."""
    acceptance: Tensor | None
    """``(B,)``, each chain's share of accepted proposals after burn-in; MALA only."""
    evaluations: int
    """Score evaluations a chain."""
    draws: int = 0
    """The last of the noise's draws that this run and those before it used."""
    velocity: Tensor | None = None
    """``(B, *E)``, the last velocities; underdamped only."""

    def effective_sample_size(self) -> Tensor:
        """``(*E)``: :func:`sdescore.langevin.diagnostics.effective_sample_size` of the path."""
        return diagnostics.effective_sample_size(self._path())

    def r_hat(self) -> Tensor:
        """``(*E)``: :func:`sdescore.langevin.diagnostics.r_hat` of the path."""
        return diagnostics.r_hat(self._path())

    def _path(self) -> Tensor:
        if self.path is None:
            checks.refuse("a run with a path", "none: pass return_path=True", IncompatibleError)
        return self.path


@torch.no_grad()
def chains(
    score: Callable[..., Tensor],
    x: Tensor | LangevinRun,
    step: float,
    n: int,
    *,
    temperature: float = 1.0,
    method: str = "unadjusted",
    convention: str = "tau",
    t: float | Tensor | None = None,
    friction: float | None = None,
    preconditioner: Preconditioner | Numbers | None = None,
    seed: int = 0,
    noise: NoiseSource | None = None,
    burn_in: int = 0,
    thin: int = 1,
    return_path: bool = False,
) -> LangevinRun:
    r"""Run ``B`` Langevin chains side by side, each from its own row of ``x``.

    Parameters
    ----------
    score : callable
        ``score(x)``, or ``score(x, t)`` where ``t`` is given; like ``x``. ``"mala"`` needs its
        ``log_density`` or ``log_prob`` as well; a large constant in a float32 one costs precision
        (:mod:`sdescore.langevin.metropolis`). Dropout and batch norm must be in eval mode.
    x : Tensor or LangevinRun
        ``(B, *E)``, float32 or float64; the run keeps its dtype and device. A run goes on where it
        ended, with new noise: n steps and then m are n + m steps, bit for bit.
    step : float
        τ > 0, or ε = 2τ with ``convention="epsilon"``, in squared units of x (times 1/P). A
        mode of variance S is stable for τ < 2S. For ``"underdamped"`` the time step h, in
        units of x, stable for h² < 4S; a step of h moves x as far as τ = h²/2 would.
    n, burn_in : int
        Steps, >= 1, and those before them, >= 0, which count in neither path nor acceptance.
    temperature : float
        ϑ > 0: the distribution is :math:`p^{1/\vartheta}`.
    method : {"unadjusted", "mala", "underdamped"}
        The plain step, biased by O(τ); with Metropolis' test, exact; BAOAB with a velocity
        that starts at its stationary distribution and goes on between steps, biased by O(h²)
        and exact in x on a Gaussian.
    convention : {"tau", "epsilon"}
        :math:`x + \tau s + \sqrt{2\tau\vartheta} z`, or
        :math:`x + \tfrac\varepsilon2 s + \sqrt{\varepsilon\vartheta} z`.
    t : float or Tensor, optional
        Noise level, ``()`` or ``(B,)``, for a score with an ``sde``; handed on as ``(B,)``.
    friction : float, optional
        γ >= 0 of ``"underdamped"``, 1 by default, an inverse time like 1/h; 0 keeps each chain's
        energy, so it never forgets its start.
    preconditioner : Preconditioner, tensor or number, optional
        P: positive numbers, event-shaped or one for all, or a symmetric positive definite matrix
        ``(d, d)`` over the event's elements; for ``"underdamped"`` the inverse mass.
    seed : int
        Chain i uses the stream (seed, i), whatever B is. To go on from a run, pass the run, and not
        ``run.x``, from which the same seed repeats its noise.
    noise : NoiseSource, optional
        Replaces the seeded noise. Draw 0 is the first velocity. Step k uses draw k; with
        ``"mala"``, 2k − 1 and, to test, 2k.
    return_path, thin : bool, int
        Whether to keep the n states; if so, each ``thin``-th of them.

    Raises
    ------
    ShapeError, ParameterError
        ``x`` is no finite state, the preconditioner or the score's output does not fit it, or a
        number is out of range.
    TimeError
        ``t`` is not finite, or outside the SDE of a score that has one.
    IncompatibleError
        An unknown option, an option the method does not read, ``"mala"`` on a score without a
        log density, no ``t`` for a score that needs one, or dropout or batch norm in training mode.
    DivergenceError
        The state turned NaN or infinite, or a MALA chain starts where it has no finite density.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> well = ss.EnergyModel(lambda x: -2 * (x.square() - 1).square().sum(-1))
    >>> run = ss.langevin.chains(well, torch.zeros(500, 1), 0.05, 100, method="mala")
    >>> bool(run.acceptance.mean() > 0.8), bool((run.x.abs() - 0.9).abs().mean() < 0.3)
    (True, True)
    """
    _check_options(method, convention, friction, return_path, thin)
    require_steady(score)
    step = checks.number("step", step, above=0)
    temperature = checks.number("temperature", temperature, above=0)
    friction = 1.0 if friction is None else checks.number("friction", friction, at_least=0)
    n, burn_in = checks.count("n", n), checks.count("burn_in", burn_in, at_least=0)
    thin = checks.count("thin", thin, at_most=n)
    before = x if isinstance(x, LangevinRun) else None
    x, used = (x.x, x.draws) if isinstance(x, LangevinRun) else (x, 0)
    checks.state(x)
    if x.dtype not in (torch.float32, torch.float64):
        checks.refuse("x in float32 or float64", f"{x.dtype}; use x.float()", ShapeError)
    checks.finite_tensor("state to start from", x)
    P = as_preconditioner(preconditioner, tuple(x.shape[1:])).to(x)
    target = _Target(score, x, t, needs_density=method == "mala")
    draws = used + (burn_in + n) * (2 if method == "mala" else 1)
    draw = _draws(noise, seed, x, 1 + draws)
    noises = map(draw, itertools.count(1 + used))
    tau = 0.5 * step if convention == "epsilon" else step
    x = x.detach()

    def unadjusted(x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        spread = math.sqrt(2 * tau * temperature)
        for z in noises:
            x = x + tau * P.apply(target(x)) + spread * P.sqrt_apply(z)
            yield x, z

    if method == "unadjusted":
        chain = unadjusted(x)
    elif method == "mala":
        chain = mala(x, target, target.log_density, tau, temperature, P, noises)
    else:
        v = None if before is None else before.velocity
        v = math.sqrt(temperature) * P.sqrt_apply(draw(0)) if v is None else v
        chain = baoab(x, v, target, step, friction, temperature, P, noises)
    path = x.new_empty(n // thin, *x.shape) if return_path else None
    accepted = torch.zeros(len(x), dtype=torch.float32, device=x.device)
    # Beside x a chain gives what its method has to say: who moved, or the velocity.
    for k, (x, said) in zip(range(1 - burn_in, n + 1), chain, strict=False):
        _require_finite(x, burn_in + k - 1)
        if k > 0 and method == "mala":
            accepted += said
        if k > 0 and path is not None and k % thin == 0:
            path[k // thin - 1] = x
    acceptance = accepted / n if method == "mala" else None
    velocity = said if method == "underdamped" else None
    return LangevinRun(x, path, acceptance, target.evaluations, draws, velocity)


class _Target:
    """The score and log density at one ``t``, checked, in the state's dtype, and counted."""

    def __init__(
        self, score: Callable[..., Tensor], x: Tensor, t: float | Tensor | None, needs_density: bool
    ) -> None:
        self.evaluations = 0
        self._score = checks.function("score", score)
        self._log_density = log_density_of(score) if needs_density else None
        self._time: tuple[Tensor, ...] = ()  # what the score takes after x
        sde = sde_of(score)
        if t is None:
            expected = f"t= for {type(score).__name__}, whose score depends on the time"
            checks.that(sde is None, expected, "none", IncompatibleError)
            return
        if not isinstance(t, Tensor) and not checks.is_number(t):
            checks.refuse("t to be a finite number or a tensor", f"{t!r:.100}", TimeError)
        time = as_time(t, x)
        checks.that(bool(time.isfinite().all()), "a finite t", f"{t!r:.100}", TimeError)
        if sde is not None:
            checks.time(t, sde.T)
        align(time, x)  # refuses a time that is neither one nor one per chain
        self._time = (time.expand(len(x)).clone(),)

    def __call__(self, x: Tensor) -> Tensor:
        self.evaluations += 1
        s = self._score(x.clone(), *self._time)  # a score that writes to its input does no harm
        checks.same_shape(s, x, "the score")
        return s.to(x)

    def log_density(self, x: Tensor) -> Tensor:
        f: Tensor = self._log_density(x.clone(), *self._time)  # type: ignore[misc]
        return f


def _draws(noise: NoiseSource | None, seed: int, x: Tensor, count: int) -> Callable[[int], Tensor]:
    """``k -> (B, *E)``, for k < count."""
    noise = SeededNoise(seed) if noise is None else noise
    checks.instance("noise", noise, NoiseSource)  # type: ignore[type-abstract]
    spans, (batch, *event) = [None] * count, x.shape
    noise.check((batch, *event), spans)
    return noise.open(
        range(batch), tuple(event), spans, dtype=x.dtype, device=x.device, domain=Domain.LANGEVIN
    ).draw


def _check_options(
    method: str, convention: str, friction: float | None, return_path: bool, thin: object
) -> None:
    """Refuse options that are unknown, or that the method does not read."""
    checks.choice("method", method, METHODS)
    checks.choice("convention", convention, CONVENTIONS)
    if method == "underdamped" and convention != "tau":
        expected = "no convention= with method='underdamped', whose step is a time h"
        checks.refuse(expected, f"{convention!r}", IncompatibleError)
    if method != "underdamped" and friction is not None:
        expected = "friction= with method='underdamped' only"
        checks.refuse(expected, f"it with {method!r}", IncompatibleError)
    if not return_path and checks.is_count(thin) and thin > 1:
        expected = "return_path=True beside thin=, which thins the path"
        checks.refuse(expected, f"{return_path!r}", IncompatibleError)


def _require_finite(x: Tensor, step: int) -> None:
    """Refuse to go on from a state that is not finite; steps count from 0, with burn-in."""
    if bool(x.isfinite().all()):
        return
    chains = (~flat(x).isfinite().all(1)).nonzero().flatten().tolist()
    shown = ", ".join(map(str, chains[:8])) + (", …" if len(chains) > 8 else "")
    raise DivergenceError(
        f"expected a finite state, got none after step {step} in {len(chains)} of {len(x)} chains: "
        f"{shown}. The step is too large for the score (a mode of variance S is stable for tau < "
        "2S, h < 2 sqrt(S)), or score or log density is not finite there: take a smaller step, a "
        "preconditioner or another start",
        step=step,
        t=float("nan"),
        samples=chains,
    )
