r"""The probability-flow ODE: the same marginals without noise, and the likelihood it gives.

.. math:: \frac{\mathrm{d}x}{\mathrm{d}t} = f(t)\, x - \tfrac12 g(t)^2\, s(x, t), \qquad
   \log p_{t_{\min}}(x) = \log p_T(x_T) + \int_{t_{\min}}^{T} \Bigl[f\, d
   - \tfrac12 g^2\, \nabla \cdot s(x_t, t)\Bigr] \mathrm{d}t

(Song et al. 2021, arXiv:2011.13456, eqs. 13 and 39; d elements per sample). The density is that
of :math:`x_{t_{\min}} = \alpha x_0 + \sigma \epsilon`, data with a little noise, and for
:class:`sdescore.VESDE` with noise σ_min even at t = 0.

The solver's clock is not t but the angle ``φ = atan(σ/α)``, in which every linear SDE has the same
smooth flow (:mod:`sdescore.samplers.probability_flow.ode`). So an accuracy costs the same number
of evaluations on every SDE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import ShapeError, TimeError
from sdescore.grids.base import CustomGrid, Grid
from sdescore.noise.sources import NoiseSource
from sdescore.samplers.probability_flow.likelihood import LogLikelihood
from sdescore.samplers.probability_flow.ode import ADAPTIVE, FIXED, FlowODE, Velocity
from sdescore.samplers.probability_flow.trace import Trace
from sdescore.samplers.request import Request, Tick, require_init, require_mean_or_none
from sdescore.score.interface import unwrapped
from sdescore.sde.linear import LinearSDE
from sdescore.typing import Condition, Score

__all__ = ["ProbabilityFlow"]


@dataclass(frozen=True)
class ProbabilityFlow:
    r"""Sampling, encoding and likelihood by the probability-flow ODE (module docstring).

    An adaptive solver takes one step size for all samples it solves together. Its error norm here
    is the largest error of any sample (RMS over its elements, and that of the log density). So
    every sample meets the tolerance, and the batch changes a result by no more than the tolerance.
    With ``max_batch=1`` or a fixed-step method a sample does not depend on its batch.

    Results are not differentiable.

    Parameters
    ----------
    sde : LinearSDE
        The model's own.
    method : str
        Adaptive: ``"dopri5"``, ``"dopri8"``, ``"bosh3"``,
        ``"adaptive_heun"``. Fixed step: ``"euler"``, ``"midpoint"``, ``"heun3"``, ``"rk4"``.
    rtol, atol : float
        Tolerances of an adaptive method, > 0: relative, and absolute in the units of the state over
        ``√(α² + σ²)`` (nats for the log density).
    steps : int, optional
        Number of steps, for a fixed-step method and required by it, unless its grid has a number.
    grid : Grid, tensor or sequence of float, optional
        The times between which a fixed-step method steps, falling, and the ends of the flow. By
        default the steps are equal in the angle ``φ = atan(σ/α)``.
    max_evaluations : int
        How often one solve may call the model.
    t_min : float, optional
        End of the flow on the data's side, in [0, T); the SDE's own unless given.
    data_std : float
        The data's standard deviation, for a prior that remembers it (see
        :meth:`LinearSDE.prior_std`); 0 is the field's usual prior.

    Attributes
    ----------
    times : Tensor
        Float64, falling: the ends of the flow, or all times of ``grid``.

    Raises
    ------
    IncompatibleError
        An SDE that is not linear, an unknown method.
    ParameterError
        A number out of its range, ``steps`` missing, or ``steps`` or ``grid`` beside an adaptive
        method.
    ScheduleError, TimeError
        A bad grid.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore(torch.zeros(2), 1.0, sde)
    >>> result = ss.ProbabilityFlow(sde).log_likelihood(score, torch.zeros(1, 2))
    >>> round(result.log_prob.item(), 3)  # −log 2π
    -1.838
    """

    sde: LinearSDE
    method: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    steps: int | None = None
    grid: Grid | Tensor | Sequence[float] | None = None
    max_evaluations: int = 20_000
    t_min: float | None = None
    data_std: float = 0.0
    times: Tensor = field(init=False, repr=False, compare=False)
    methods: ClassVar[tuple[str, ...]] = ADAPTIVE + FIXED
    solver: ClassVar[type[FlowODE]] = FlowODE

    def __post_init__(self) -> None:
        advice = "use PredictorCorrector with EulerMaruyama(eta=0)"
        checks.linear(self.sde, "ProbabilityFlow", advice)
        checks.choice("method", self.method, self.methods)
        t_min, T, steps, grid = self.t_min, self.sde.T, self.steps, self.grid
        fixed, got = self.method in FIXED, f"steps={steps!r}, grid={grid!r:.100}"
        expected = f"no steps= or grid= for {self.method}, which sets its own by rtol and atol"
        checks.that(fixed or (steps is None and grid is None), expected, got)
        if steps is not None or (fixed and grid is None):
            steps = checks.count("steps", steps)
        if t_min is not None:
            t_min = checks.number("t_min", t_min, at_least=0, below=T)
        ends = (T, self.sde.t_min if t_min is None else t_min)
        times = torch.tensor(ends, dtype=torch.float64, device="cpu")
        if grid is not None:
            checks.that(t_min is None, "t_min= or grid=, which has its own end", "both")
            grid = grid if isinstance(grid, Grid) else CustomGrid(grid)
            times = grid.times(self.sde, None if steps is None else steps + 1)
            checks.that(len(times) > 1, "at least two grid times", len(times))
        vars(self).update(
            rtol=checks.number("rtol", self.rtol, above=0),
            atol=checks.number("atol", self.atol, above=0),
            steps=steps,
            grid=grid,
            times=times,
            max_evaluations=checks.count("max_evaluations", self.max_evaluations),
            t_min=t_min,
            data_std=checks.number("data_std", self.data_std, at_least=0),
        )

    @property
    def interval(self) -> tuple[float, float]:
        """``(t_min, T)``, between which the flow runs, or the ends of the grid."""
        return self.times[-1].item(), self.times[0].item()

    def sample(
        self,
        model: Score,
        shape: tuple[int, ...] | None = None,
        *,
        samples: range | None = None,
        seed: int = 0,
        noise: NoiseSource | None = None,
        init: Tensor | None = None,
        label: Condition | None = None,
        max_batch: int | None = None,
        progress: bool = False,
        denoise: bool = True,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw from the prior at T and follow the flow down to t_min.

        Arguments and errors are as in :meth:`PredictorCorrector.sample`, with these differences.

        Parameters
        ----------
        seed : int
            Sample ``i`` starts where it starts in :meth:`PredictorCorrector.sample`.
        noise : NoiseSource, optional
            Replaces the seeded noise; the start is its draw 0.
        init : Tensor, optional
            ``(B, *E)``, the state at T in place of a draw from the prior.
        samples : range, optional
            Only these samples of the request. By an adaptive solver they are those of the whole
            request within the tolerance; with ``max_batch=1``, or ``method="rk4", steps=40``, and
            an elementwise score they are the same bits.
        denoise : bool
            Whether to end with Tweedie's mean at t_min, one more evaluation.
        model, shape, label, max_batch, progress, dtype, device
            As there.

        Returns
        -------
        Tensor
            ``(B, *E)``.

        Raises
        ------
        DivergenceError
            The flow is not finite, or the solver gave up; ``error.finished`` holds the samples of
            the parts that were complete.
        """
        require_mean_or_none(denoise)
        request = Request(
            self.sde, [None], model, shape, samples, seed, noise, init, label, dtype, device
        )
        path = self.interval[::-1]
        return self._follow(request, path, max_batch, progress, denoise=denoise)[0]

    def encode(
        self,
        model: Score,
        x0: Tensor,
        *,
        label: Condition | None = None,
        max_batch: int | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Follow the flow from data ``x0`` ``(B, *E)``, taken for those at t_min, up to T.

        Arguments, errors and what comes back are as in :meth:`sample`; the state keeps the
        dtype of ``x0``, float32 or float64.
        """
        request = self._request(model, x0, "x0", label, data=True)
        return self._follow(request, self.interval, max_batch, progress)[0]

    def decode(
        self,
        model: Score,
        xT: Tensor,
        *,
        label: Condition | None = None,
        max_batch: int | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Follow the flow from ``xT`` ``(B, *E)`` at T down to t_min, the inverse of encoding.

        What comes back are data. Nothing is denoised at the end. Arguments and errors as in
        :meth:`encode`.
        """
        request = self._request(model, xT, "xT", label)
        return self._follow(request, self.interval[::-1], max_batch, progress)[0]

    def log_likelihood(
        self,
        model: Score,
        x: Tensor,
        *,
        divergence: str = "exact",
        probes: int | Tensor = 1,
        probe_distribution: str = "rademacher",
        seed: int = 0,
        label: Condition | None = None,
        max_batch: int | None = None,
        progress: bool = False,
    ) -> LogLikelihood:
        """Log density of data ``x`` at t_min under the flow that ends in the prior.

        That prior, ``N(0, prior_std(data_std)² I)``, is part of the model: even with the exact
        score of the data the result differs from the data's log density by the prior's
        mismatch with p_T. To use another prior, take ``log_det`` and ``latent``.

        Parameters
        ----------
        model : ScoreModel or callable
            A score that autograd can differentiate in ``x``, each sample on its own.
        x : Tensor
            ``(B, *E)``, float32 or float64: data, and the density is in their units.
        divergence : {"exact", "hutchinson", "hutch++"}
            Exact, from d derivatives per evaluation, or estimated, from ``probes`` of them.
            ``"hutch++"`` finds a subspace by a third of them, takes the trace on it by a third,
            and estimates the rest by a third (:mod:`sdescore.score.divergence`). Its error is
            lower where a few directions carry the trace.
        probes : int or Tensor
            K >= 1 probes, fixed for the whole solve; the estimates are averaged. Or the probes
            themselves, ``(K, B, *E)``; then no distribution and no seed are used. For
            ``"hutch++"`` 3 <= K < d, and the probes are standard normal numbers.
        probe_distribution : {"rademacher", "gaussian", "sphere"}
            Of Hutchinson's probes; Rademacher's variance is lower than the Gaussian one.
        seed : int
            Sample ``i`` uses probes (seed, i), whatever its batch.
        label, max_batch, progress
            As in :meth:`sample`.

        Returns
        -------
        LogLikelihood
            Log densities in nats, how sure they are, and the latents.

        Raises
        ------
        ShapeError, IncompatibleError, ParameterError
            A bad argument, or a score without a gradient.
        DivergenceError
            As in :meth:`sample`; ``error.finished`` holds the latents of the parts that were
            complete.
        """
        trace = Trace(divergence, probes, probe_distribution, seed)
        request = self._request(model, x, "x", label, data=True)
        trace.check_shape(request.shape)
        latent, integrals, calls = self._follow(request, self.interval, max_batch, progress, trace)
        std = self.sde.prior_std(self.data_std)
        scale, event = request.scale, request.shape[1:]
        log_volume = 0.0 if scale.plain else scale.log_volume(event)
        return trace.likelihood(latent, integrals, std, log_volume, int(calls.sum()))

    def _request(
        self, model: Score, x: Tensor, name: str, label: Condition | None, data: bool = False
    ) -> Request:
        """A request that starts from states ``x``, or from data, in its dtype and on its device."""
        require_init(x, name)
        if isinstance(model, nn.Module):
            home = next((p.device for p in model.parameters()), x.device)
            expected = f"{name} on the model's device {home}"
            checks.that(home == x.device, expected, x.device, ShapeError)
        request = Request(
            self.sde, [], model, init=x, label=label, dtype=x.dtype, device=x.device, name=name
        )
        if data and not request.scale.plain:
            request.init = request.scale.to_state(x)
        return request

    def _follow(
        self,
        request: Request,
        path: tuple[float, float],
        max_batch: int | None,
        progress: bool,
        trace: Trace | None = None,
        denoise: bool = False,
    ) -> tuple[Tensor, ...]:
        """Data or states at T, at the path's end; integrals ``(B, K)``; and ``(B,)`` model calls,
        which stand beside the first sample of each part that was solved together."""
        std, end = self.sde.prior_std(self.data_std), self.interval[1]
        if self.sde.marginal(end)[0].item() == 0:  # where rounding would hide that 1/α is infinite
            kind = getattr(unwrapped(request.model), "prediction", "score")
            expected = (
                f"a network that says x0, such as prediction='v', for alpha_t = 0 at t = {end:g}"
            )
            got = f"one that predicts {kind}; end the flow's grid below it"
            checks.that(kind not in ("score", "epsilon"), expected, got, TimeError)

        def part(samples: range, tick: Tick | None) -> tuple[Tensor, ...]:
            x = request.start(samples, std)
            rule = None if trace is None else trace.of(samples, x)
            velocity = Velocity(request, samples, self.interval)
            ode = self.solver(self, velocity, rule, samples.start)
            x, integrals = ode.solve(x, 0 if trace is None else trace.estimates, path)
            if denoise and x.numel():
                x = ode.denoised(x, path[1])
            if tick is not None:
                tick(len(samples))
            calls = torch.zeros(len(samples), dtype=torch.int64, device="cpu")
            calls[:1] = ode.evaluations
            return x, integrals, calls

        return request.fill(part, max_batch, progress, data=path[0] > path[1])
