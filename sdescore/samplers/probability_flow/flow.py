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
from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.noise.sources import NoiseSource
from sdescore.samplers.probability_flow.likelihood import LogLikelihood
from sdescore.samplers.probability_flow.ode import ADAPTIVE, FIXED, BoundScore, FlowODE, Trace
from sdescore.samplers.request import Request, Tick, require_init, require_mean_or_none
from sdescore.score.parameterization import tweedie_mean
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
    ParameterError
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
        advice = "use PredictorCorrector with EulerMaruyama(eta=0)"
        checks.linear(self.sde, "ProbabilityFlow", advice)
        checks.choice("method", self.method, ADAPTIVE + FIXED)
        t_min, T, steps = self.t_min, self.sde.T, self.steps
        if self.method in FIXED:
            steps = checks.count("steps", steps)
        elif steps is not None:
            expected = f"no steps for {self.method}, which sets its own by rtol and atol"
            checks.refuse(expected, f"steps={steps!r}")
        vars(self).update(
            rtol=checks.number("rtol", self.rtol, above=0),
            atol=checks.number("atol", self.atol, above=0),
            steps=steps,
            max_evaluations=checks.count("max_evaluations", self.max_evaluations),
            t_min=t_min if t_min is None else checks.number("t_min", t_min, at_least=0, below=T),
            data_std=checks.number("data_std", self.data_std, at_least=0),
        )

    @property
    def interval(self) -> tuple[float, float]:
        """``(t_min, T)``, between which the flow runs."""
        return self.sde.t_min if self.t_min is None else self.t_min, self.sde.T

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
        probes: int = 1,
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
        divergence : {"exact", "hutchinson"}
            Exact, from d derivatives per evaluation, or estimated, from ``probes`` of them.
        probes : int
            K >= 1 probes, fixed for the whole solve; their K estimates are averaged.
        probe_distribution : {"rademacher", "gaussian", "sphere"}
            Distribution of the probes; Rademacher's variance is lower than the Gaussian one.
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
        std = self.sde.prior_std(self.data_std)

        def part(samples: range, tick: Tick | None) -> tuple[Tensor, ...]:
            x = request.start(samples, std)
            score = BoundScore(request, samples, self.interval)
            rule = None if trace is None else trace.of(samples, x)
            ode = FlowODE(self, score, rule, samples.start)
            x, integrals = ode.solve(x, 0 if trace is None else trace.estimates, path)
            if denoise and x.numel():
                alpha, sigma = self.sde.marginal(path[1])
                x = tweedie_mean(x, score(x, path[1]), alpha, sigma)
            if tick is not None:
                tick(len(samples))
            calls = torch.zeros(len(samples), dtype=torch.int64, device="cpu")
            calls[:1] = ode.evaluations
            return x, integrals, calls

        return request.fill(part, max_batch, progress, data=path[0] > path[1])
