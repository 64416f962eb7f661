r"""The log density of what is being sampled, along the way.

The flow is one-to-one, so the density of its state follows from that of the start (module docstring
of :mod:`sdescore.samplers.probability_flow.flow`):

.. math:: \log p_t(x_t) = \log \pi(x_T) + \log\Bigl|\det \frac{\partial x_T}{\partial x_t}\Bigr| ,

π the flow's prior. It is summed as the states are drawn, in one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import TimeError
from sdescore.grids.base import CustomGrid
from sdescore.noise.sources import NoiseSource
from sdescore.samplers.probability_flow.flow import ProbabilityFlow
from sdescore.samplers.probability_flow.velocity import Clock, Trace
from sdescore.samplers.request import Request, evaluating
from sdescore.typing import Condition, Score

__all__ = ["FlowState", "flow_states"]


@dataclass(frozen=True, eq=False)
class FlowState:
    """The samples at one time of the flow, from :func:`flow_states`.

    Attributes
    ----------
    t : float
        The time.
    x : Tensor
        ``(B, *E)``, the states; ``model.to_data(x)`` of the last is data.
    log_prob : Tensor
        ``(B,)`` nats: the log density of ``x`` under the flow.
    standard_error : Tensor
        ``(B,)`` nats, that of :meth:`ProbabilityFlow.log_likelihood`.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> score = ss.GaussianScore(torch.zeros(2), 0.01, ss.VPSDE())
    >>> flow = ss.ProbabilityFlow(score.sde)
    >>> *_, last = ss.samplers.flow_states(flow, score, (5, 2), times=3)
    >>> exact = score.log_prob(last.x, last.t)
    >>> bool((last.log_prob - exact).abs().max() < 0.02)
    True
    """

    t: float
    x: Tensor
    log_prob: Tensor
    standard_error: Tensor


def flow_states(
    flow: ProbabilityFlow,
    model: Score,
    shape: tuple[int, ...] | None = None,
    *,
    times: int | Tensor | Sequence[float] = 11,
    samples: range | None = None,
    seed: int = 0,
    noise: NoiseSource | None = None,
    init: Tensor | None = None,
    label: Condition | None = None,
    divergence: str = "exact",
    probes: int | Tensor = 1,
    probe_distribution: str = "rademacher",
    chunk_size: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Iterator[FlowState]:
    """Draw samples by a flow, with their states and log densities at some times on the way.

    The samples are those of :meth:`ProbabilityFlow.sample` with ``denoise=False``, to the
    tolerance: the solver stops at each of the times.

    Parameters
    ----------
    flow : ProbabilityFlow
        Solver and prior; one without ``grid=``. A fixed-step method takes its number of steps
        between two of the times.
    model : ScoreModel or callable
        A score that autograd can differentiate in ``x``, each sample on its own.
    times : int, tensor or sequence of float
        Falling times between the flow's ends; or how many, both ends included, equally spaced in
        the angle ``atan(σ/α)``.
    seed : int
        Sample i has the noise, and the probes, of (seed, i).
    shape, samples, noise, init, label, dtype, device
        As in :meth:`ProbabilityFlow.sample`.
    divergence, probes, probe_distribution, chunk_size
        As in :meth:`ProbabilityFlow.log_likelihood`.

    Yields
    ------
    FlowState
        At each of the times. Nothing is denoised at the end.

    Raises
    ------
    ScheduleError, TimeError
        Times that do not fall, or that lie outside the flow.
    ParameterError, IncompatibleError, ShapeError, DivergenceError
        As :meth:`ProbabilityFlow.log_likelihood`.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore(torch.zeros(2), 0.01, sde)
    >>> for state in ss.samplers.flow_states(ss.ProbabilityFlow(sde), score, (500, 2), times=3):
    ...     print(f"{state.t:.2f}: {state.log_prob.mean():.1f}")  # −log σ² − log 2π − 1
    1.00: -2.9
    0.26: -2.2
    0.00: 1.7
    """
    checks.instance("flow", flow, ProbabilityFlow, "ProbabilityFlow(sde)")
    checks.that(flow.grid is None, "a flow without grid=, for the times are times=", "one with it")
    trace = Trace(divergence, probes, probe_distribution, seed, chunk_size)
    request = Request(
        flow.sde, [None], model, shape, samples, seed, noise, init, label, dtype, device
    )
    trace.check_shape(request.shape)
    return _states(flow, request, trace, _falling(flow, times))


def _falling(flow: ProbabilityFlow, times: int | Tensor | Sequence[float]) -> list[float]:
    """The times as floats."""
    end, start = flow.interval
    if isinstance(times, int):
        n = checks.count("times", times, at_least=2)
        clock = Clock(flow.sde, flow.interval)
        ends = clock.at(start)[0], clock.at(end)[0]
        angles = torch.linspace(*ends, n, dtype=torch.float64, device="cpu")
        return [start, *clock.time(angles[1:-1]).tolist(), end]
    found: list[float] = CustomGrid(times).times(flow.sde, None).tolist()
    expected = f"times from {start:g} down to {end:g}, the ends of the flow"
    inside = end <= found[-1] and found[0] <= start
    checks.that(inside, expected, f"{found[0]:g} to {found[-1]:g}", TimeError)
    return found


def _states(
    flow: ProbabilityFlow, request: Request, trace: Trace, times: list[float]
) -> Iterator[FlowState]:
    rows, here = request.samples, flow.interval[1]
    with torch.inference_mode(False), torch.no_grad():
        x = start = request.start(rows, flow.start_std)
        rule = trace.of(rows, x)
        integrals = x.new_zeros(len(x), trace.estimates)
    for t in times:
        # No mode stays on between two states, while the caller's code runs.
        with evaluating(request.model), torch.inference_mode(False), torch.no_grad():
            if t < here:
                ode = flow.solver(flow, request, rows, rule)
                x, gained, calls = ode.solve(x, trace.estimates, (here, t))
                integrals, here = integrals - gained, t
            else:
                calls = torch.zeros(len(x), dtype=torch.int64, device="cpu")
            found = trace.likelihood(start, integrals, flow.start_std, 0.0, calls)
        yield FlowState(t, x.clone(), found.log_prob, found.standard_error)
