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
from sdescore.errors import ShapeError
from sdescore.grids.base import CustomGrid, Grid
from sdescore.noise.sources import NoiseSource
from sdescore.samplers.probability_flow.by_torchdiffeq import ADAPTIVE, FIXED
from sdescore.samplers.probability_flow.likelihood import LogLikelihood
from sdescore.samplers.probability_flow.ode import FlowODE, follow
from sdescore.samplers.probability_flow.velocity import Trace
from sdescore.samplers.request import Request, require_mean_or_none
from sdescore.sde.linear import LinearSDE
from sdescore.typing import Condition, Score

__all__ = ["ProbabilityFlow"]


@dataclass(frozen=True)
class ProbabilityFlow:
    r"""Sampling, encoding and likelihood by the probability-flow ODE (module docstring).

    With ``method="dopri5"`` each sample has steps of its own, and meets the tolerance by itself
    (:mod:`sdescore.samplers.probability_flow.ode`). If the score computes each sample
    separately, the batch changes no bit of a result. A network rounds differently in another batch,
    which changes a result by rounding. If the steps of a sample change too, its result changes by
    up to the tolerance: in float32 for some per cent of the samples, with ``model.double()`` for
    hardly any (see the page on results). The other adaptive methods are torchdiffeq's. They take
    one step size for all samples of a batch, by the largest error of any sample (RMS over its
    elements, and that of the log density). So the batch changes a result by up to the tolerance.

    The model is called with one time for each sample, ``(B,)``, and these differ. A score that
    reads one time for all, such as ``t[0]``, or that mixes the samples of a batch, is refused.

    Parameters
    ----------
    sde : LinearSDE
        The model's own.
    method : str
        Adaptive: ``"dopri5"``, a step for each sample; ``"dopri8"``, ``"bosh3"``,
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
        How often one solve may call the model with a sample.
    t_min : float, optional
        End of the flow on the data's side, in [0, T); the SDE's own unless given.
    data_std : float
        The states' standard deviation at t = 0, for a prior that remembers it (see
        :meth:`LinearSDE.prior_std`); 0 is the field's usual prior. The prior is taken at ``t_max``.
    t_max : float, optional
        The flow's end on the noise's side, in (t_min, T]; T unless given.

    Attributes
    ----------
    times : Tensor
        Float64, falling: the ends of the flow, or all times of ``grid``.

    Raises
    ------
    IncompatibleError
        An SDE that is not linear, an unknown method.
    ParameterError
        A number out of its range, ``steps`` missing, or ``steps`` or ``grid`` with an adaptive
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
    t_max: float | None = None
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
        end, t_max = self.sde.t_min if t_min is None else t_min, self.t_max
        if t_max is not None:
            t_max = checks.number("t_max", t_max, above=end, at_most=T)
        ends = (T if t_max is None else t_max, end)
        times = torch.tensor(ends, dtype=torch.float64, device="cpu")
        if grid is not None:
            expected = "t_min= and t_max=, or grid=, which has its own ends"
            checks.that(t_min is None and t_max is None, expected, "both")
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
            t_max=t_max,
            data_std=checks.number("data_std", self.data_std, at_least=0),
        )

    @property
    def interval(self) -> tuple[float, float]:
        """``(t_min, t_max)``, between which the flow runs, or the ends of the grid."""
        return self.times[-1].item(), self.times[0].item()

    @property
    def start_std(self) -> float:
        """Standard deviation of the prior, at the flow's end on the noise's side."""
        return self.sde.prior_std(self.data_std, self.interval[1])

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
        differentiable: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw from the prior at T and follow the flow down to t_min.

        Arguments and errors are as in :meth:`PredictorCorrector.sample`, with these differences.

        Parameters
        ----------
        model : ScoreModel or callable
            A score ``(x, t) -> like x`` with ``t`` ``(B,)``. With ``"dopri5"`` each sample has a
            time of its own, and the batch shrinks as samples finish.
        seed : int
            Sample ``i`` starts where it starts in :meth:`PredictorCorrector.sample`.
        noise : NoiseSource, optional
            Replaces the seeded noise; the start is its draw 0.
        init : Tensor, optional
            ``(B, *E)``, the state at T in place of a draw from the prior.
        samples : range, optional
            Draw only these samples of the request, as in a run of all, up to what a batch changes.
        denoise : bool
            Whether to end with Tweedie's mean at t_min, one more evaluation.
        differentiable : bool
            Whether autograd can go back through the flow to ``init``, the model's parameters and
            its labels, with the lengths of the steps held constant. The graph holds the states of
            all evaluations; a backward pass evaluates the model again.
        shape, label, max_batch, progress, dtype, device
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
        return follow(self, request, path, max_batch, progress, differentiable, denoise=denoise)[0]

    def encode(
        self,
        model: Score,
        x0: Tensor,
        *,
        label: Condition | None = None,
        max_batch: int | None = None,
        progress: bool = False,
        differentiable: bool = False,
    ) -> Tensor:
        """Follow the flow from data ``x0`` ``(B, *E)``, taken as states at t_min, up to T.

        Arguments, errors and what comes back are as in :meth:`sample`; the state keeps the
        dtype of ``x0``, float32 or float64.
        """
        request = self._request(model, x0, "x0", label)
        return follow(self, request, self.interval, max_batch, progress, differentiable)[0]

    def decode(
        self,
        model: Score,
        xT: Tensor,
        *,
        label: Condition | None = None,
        max_batch: int | None = None,
        progress: bool = False,
        differentiable: bool = False,
    ) -> Tensor:
        """Follow the flow from ``xT`` ``(B, *E)`` at T down to t_min, the inverse of encoding.

        What comes back are data. Nothing is denoised at the end. Arguments and errors as in
        :meth:`encode`.
        """
        request = self._request(model, xT, "xT", label)
        return follow(self, request, self.interval[::-1], max_batch, progress, differentiable)[0]

    def log_likelihood(
        self,
        model: Score,
        x: Tensor,
        *,
        divergence: str = "exact",
        probes: int | Tensor = 1,
        probe_distribution: str = "rademacher",
        seed: int = 0,
        chunk_size: int | None = None,
        label: Condition | None = None,
        max_batch: int | None = None,
        progress: bool = False,
        differentiable: bool = False,
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
            ``"hutch++"`` finds a subspace with a third of them, takes the trace on it with a third,
            and estimates the rest with a third (:mod:`sdescore.score.divergence`). Its error is
            lower where a few directions carry the trace.
        probes : int or Tensor
            K >= 1 probes, fixed for the whole solve; the estimates are averaged. Or the probes
            themselves, ``(K, B, *E)``; then no distribution and no seed are used. For
            ``"hutch++"`` 3 <= K < d, and the probes are standard normal numbers.
        probe_distribution : {"rademacher", "gaussian", "sphere"}
            Of Hutchinson's probes; Rademacher's variance is lower than the Gaussian one.
        seed : int
            Sample ``i`` uses probes (seed, i), whatever its batch.
        chunk_size : int, optional
            Derivatives taken at a time, >= 1; by default as many as stay in a cache. Fewer take
            less memory.
        differentiable : bool
            Whether autograd can go back from the log densities to ``x``, the model's parameters and
            its labels; see :meth:`sample`. Its second derivatives of the network are those of the
            divergence.
        label, max_batch, progress
            As in :meth:`sample`.

        Returns
        -------
        LogLikelihood
            Log densities in nats, their standard errors, and the latents.

        Raises
        ------
        ShapeError, IncompatibleError, ParameterError
            A bad argument, or a score without a gradient.
        DivergenceError
            As in :meth:`sample`; ``error.finished`` holds the latents of the parts that were
            complete.
        """
        trace = Trace(divergence, probes, probe_distribution, seed, chunk_size)
        request = self._request(model, x, "x", label)
        trace.check_shape(request.shape)
        latent, integrals, calls = follow(
            self, request, self.interval, max_batch, progress, differentiable, trace
        )
        std = self.start_std
        scale, event = request.scale, request.shape[1:]
        log_volume = 0.0 if scale.plain else scale.log_volume(event)
        with torch.set_grad_enabled(differentiable):
            return trace.likelihood(latent, integrals, std, log_volume, calls)

    def _request(self, model: Score, x: Tensor, name: str, label: Condition | None) -> Request:
        """A request that starts from ``x``, in its dtype and on its device."""
        checks.state(x, name)
        if isinstance(model, nn.Module):
            home = next((p.device for p in model.parameters()), x.device)
            expected = f"{name} on the model's device {home}"
            checks.that(home == x.device, expected, x.device, ShapeError)
        return Request(
            self.sde, [], model, init=x, label=label, dtype=x.dtype, device=x.device, name=name
        )
