r"""The probability-flow ODE: the same marginals without noise, and the likelihood it gives.

.. math:: \frac{\mathrm{d}x}{\mathrm{d}t} = f(t)\, x - \tfrac12 g(t)^2\, s(x, t), \qquad
   \log p_{t_{\min}}(x) = \log p_T(x_T) + \int_{t_{\min}}^{T} \Bigl[f\, d
   - \tfrac12 g^2\, \nabla \cdot s(x_t, t)\Bigr] \mathrm{d}t

(Song et al. 2021, arXiv:2011.13456, eqs. 13 and 39; d elements per sample). The density is that
of :math:`x_{t_{\min}} = \alpha x_0 + \sigma \epsilon`, data with a little noise, and for
:class:`sdescore.VESDE` with noise σ_min even at t = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.checks import finite, require
from sdescore.errors import DivergenceError, IncompatibleError
from sdescore.noise.sources import NoiseSource
from sdescore.samplers.model import Model
from sdescore.samplers.probability_flow.likelihood import LogLikelihood
from sdescore.samplers.probability_flow.ode import FlowODE, Solver
from sdescore.samplers.probability_flow.request import bind, given_request
from sdescore.samplers.probability_flow.trace import Trace
from sdescore.samplers.request import Request, evaluating, make_request, require_mean_or_none
from sdescore.score.interface import require_times
from sdescore.score.tweedie import tweedie_mean
from sdescore.sde.base import as_time
from sdescore.sde.linear import LinearSDE

__all__ = ["ProbabilityFlow"]


@dataclass(frozen=True)
class ProbabilityFlow:
    r"""Sampling, encoding and likelihood by the probability-flow ODE (module docstring).

    An adaptive solver takes one step size for all samples it solves together. Its error norm
    here is that of the worst sample (RMS over a sample's elements, and the log density beside
    it), so companions can only make a sample's solve finer: every sample meets the tolerance,
    and its result moves within the tolerance with its batch. ``max_batch=1`` solves each
    sample on its own and removes even that. Fixed-step methods couple nothing.

    Results are not differentiable.

    Parameters
    ----------
    sde : LinearSDE
        The model's own.
    method : str
        Adaptive: ``"dopri5"``, ``"dopri8"``, ``"bosh3"``,
        ``"adaptive_heun"``. Fixed step: ``"euler"``, ``"midpoint"``, ``"heun3"``, ``"rk4"``.
    rtol, atol : float
        Tolerances of an adaptive method, relative and in the units of the state (nats for the
        log density), > 0.
    steps : int, optional
        Number of equal steps in t, for a fixed-step method and required by it.
    max_evaluations : int
        How often one solve may call the model.
    t_min : float, optional
        End of the flow on the data's side, in [0, T); the SDE's own unless given.
    data_std : float
        The data's standard deviation, for a prior that remembers it (see
        :meth:`LinearSDE.prior_std`); 0 is the field's usual prior.

    Raises
    ------
    IncompatibleError
        An SDE that is not linear, an unknown method.
    ScheduleError
        A number out of its range, ``steps`` missing or beside an adaptive method.

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
    max_evaluations: int = 20_000
    t_min: float | None = None
    data_std: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.sde, type) or not hasattr(self.sde, "rates"):
            raise IncompatibleError(
                f"expected a LinearSDE, got {self.sde!r:.200}; for another SDE use "
                "PredictorCorrector with EulerMaruyama(eta=0)"
            )
        _ = self.solver  # made now, so that its numbers are checked here
        t_min, T = self.interval
        require(finite(t_min) and 0 <= t_min < T, f"0 <= t_min < T = {T:g}", f"t_min={t_min!r}")
        require(
            finite(self.data_std) and self.data_std >= 0,
            "data_std >= 0",
            f"data_std={self.data_std!r}",
        )

    @property
    def interval(self) -> tuple[float, float]:
        """``(t_min, T)``, between which the flow runs."""
        return self.sde.t_min if self.t_min is None else self.t_min, self.sde.T

    @property
    def solver(self) -> Solver:
        """What torchdiffeq is asked for."""
        return Solver(self.method, self.rtol, self.atol, self.steps, self.max_evaluations)

    def sample(
        self,
        model: Model,
        shape: tuple[int, ...],
        *,
        seed: int = 0,
        noise: NoiseSource | None = None,
        label: Tensor | None = None,
        max_batch: int | None = None,
        denoise: bool = True,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw from the prior at T and follow the flow down to t_min.

        Parameters
        ----------
        model : ScoreModel or callable
            A score ``(x, t) -> like x``; a module is put in eval mode meanwhile.
        shape : tuple of int
            ``(B, *E)``.
        seed : int
            Sample ``i`` starts where it starts in :meth:`PredictorCorrector.sample`.
        noise : NoiseSource, optional
            Replaces the seeded noise.
        label : Tensor, optional
            ``(B,)``, handed to the model as its third argument.
        max_batch : int, optional
            Solve at most so many samples together.
        denoise : bool
            Whether to end with Tweedie's mean at t_min, one more evaluation.
        dtype, device : optional
            Of the state; by default the model's, and at least float32.

        Returns
        -------
        Tensor
            ``(B, *E)``.

        Raises
        ------
        ShapeError, IncompatibleError, ScheduleError
            A bad argument, before the model is called.
        DivergenceError
            The flow is not finite, or the solver gave up; ``error.finished`` holds the chunks
            before.
        """
        require_mean_or_none(denoise)
        request = make_request(
            self.sde, model, shape, seed, noise, None, label, dtype, device, max_batch
        )
        x = self._follow(request, self.interval[::-1])[0]
        return self._denoise(request, x) if denoise and x.numel() else x

    def encode(
        self,
        model: Model,
        x0: Tensor,
        *,
        label: Tensor | None = None,
        max_batch: int | None = None,
    ) -> Tensor:
        """Follow the flow from data ``x0`` ``(B, *E)``, taken for states at t_min, up to T.

        Arguments, errors and what comes back are as in :meth:`sample`; the state keeps the
        dtype of ``x0``, float32 or float64.
        """
        return self._follow(
            given_request(self.sde, model, x0, "x0", label, max_batch), self.interval
        )[0]

    def decode(
        self,
        model: Model,
        xT: Tensor,
        *,
        label: Tensor | None = None,
        max_batch: int | None = None,
    ) -> Tensor:
        """Follow the flow from ``xT`` ``(B, *E)`` at T down to t_min, the inverse of encoding.

        Nothing is denoised at the end. Arguments and errors as in :meth:`encode`.
        """
        request = given_request(self.sde, model, xT, "xT", label, max_batch)
        return self._follow(request, self.interval[::-1])[0]

    def log_likelihood(
        self,
        model: Model,
        x: Tensor,
        *,
        divergence: str = "exact",
        probes: int = 1,
        probe_law: str = "rademacher",
        seed: int = 0,
        label: Tensor | None = None,
        max_batch: int | None = None,
    ) -> LogLikelihood:
        """Log density of ``x`` at t_min under the flow that ends in the prior.

        That prior, ``N(0, prior_std(data_std)² I)``, is part of the model: even with the exact
        score of the data the result differs from the data's log density by the prior's
        mismatch with p_T. ``log_det`` and ``latent`` allow for another one.

        Parameters
        ----------
        model : ScoreModel or callable
            A score that autograd can differentiate in ``x``, each sample on its own.
        x : Tensor
            ``(B, *E)``, float32 or float64, taken for states at t_min.
        divergence : {"exact", "hutchinson"}
            Exact at d derivatives per evaluation, or estimated at ``probes`` of them.
        probes : int
            K >= 1 probes, fixed for the whole solve; their K estimates are averaged.
        probe_law : {"rademacher", "gaussian"}
            Rademacher's variance is the lower.
        seed : int
            Sample ``i`` uses probes (seed, i), whatever its batch.
        label, max_batch
            As in :meth:`sample`.

        Raises
        ------
        ShapeError, IncompatibleError, ScheduleError
            A bad argument, or a score without a gradient.
        DivergenceError
            As in :meth:`sample`; ``error.finished`` holds the latents of the chunks before.
        """
        trace = Trace(divergence, probes, probe_law, seed)
        request = given_request(self.sde, model, x, "x", label, max_batch)
        latent, integrals, evaluations = self._follow(request, self.interval, trace)
        log_det, standard_error = trace.average(integrals)
        prior = self.sde.prior_log_prob(latent, data_std=self.data_std)
        return LogLikelihood(prior + log_det, standard_error, latent, log_det, evaluations)

    def _follow(
        self, request: Request, path: tuple[float, float], trace: Trace | None = None
    ) -> tuple[Tensor, Tensor, int]:
        """The states at the path's end, the integrals ``(B, K)``, and the model calls."""
        require_times(request.model, torch.tensor(self.interval, dtype=torch.float64))
        states: list[Tensor] = []
        integrals: list[Tensor] = []
        evaluations = 0
        with evaluating(request.model), torch.no_grad():
            for samples in request.chunks:
                x = self._start(request, samples)
                ode = FlowODE(
                    bind(request, samples),
                    self.sde,
                    self.interval,
                    divergence=None if trace is None else trace.of(samples, x),
                    first_sample=samples.start,
                )
                count = 0 if trace is None else trace.estimates
                try:
                    x, integral = ode.solve(x, count, path, self.solver)
                except DivergenceError as error:
                    error.finished = torch.cat(states) if states else None
                    raise
                states.append(x)
                integrals.append(integral)
                evaluations += ode.evaluations
        return torch.cat(states), torch.cat(integrals), evaluations

    def _start(self, request: Request, samples: range) -> Tensor:
        if request.init is not None:
            return request.init[samples.start : samples.stop]
        stream = request.noise.open(
            samples, request.shape[1:], [None], dtype=request.dtype, device=request.device
        )
        return self.sde.prior_std(self.data_std) * stream.draw(0)

    def _denoise(self, request: Request, x: Tensor) -> Tensor:
        t_min = self.interval[0]
        alpha, sigma = self.sde.marginal(t_min)
        parts = []
        with evaluating(request.model), torch.no_grad():
            for samples in request.chunks:
                part = x[samples.start : samples.stop]
                s = bind(request, samples)(part, as_time(t_min, part))
                parts.append(tweedie_mean(part, s.to(part), alpha, sigma))
        return torch.cat(parts)
