r"""Adaptive sampling: every sample has its own time and its own step.

It solves the reverse SDE of noise scale η, or at η = 0 the probability flow, from T to ``t_min`` in
steps of :math:`\lambda = \log(\alpha/\sigma)`. A trial step has an error estimate from an embedded
pair (:mod:`sdescore.samplers.adaptive.pairs`). A step within the tolerance is taken. Any other step
is tried again with a shorter length (:mod:`sdescore.samplers.adaptive.controller`), on the same
path of the noise (:mod:`sdescore.samplers.adaptive.path`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from operator import itemgetter

import torch
from torch import Tensor

from sdescore import checks
from sdescore.conditions import each_tensor
from sdescore.errors import IncompatibleError, ScheduleError
from sdescore.noise.counter import Domain
from sdescore.noise.sources import NoiseSource, Span
from sdescore.samplers.adaptive.pairs import NOISY, SMOOTH, EmbeddedPair
from sdescore.samplers.adaptive.run import AdaptiveResult, denoised, require_finite, run
from sdescore.samplers.request import (
    Request,
    Tick,
    domain_at,
    evaluating,
    require_mean_or_none,
    require_separate,
)
from sdescore.score.interface import require_times
from sdescore.sde.linear import LinearSDE
from sdescore.typing import Condition, Score

__all__ = ["AdaptiveSampler"]


@dataclass(frozen=True)
class AdaptiveSampler:
    r"""Sampling to a tolerance in place of a number of steps (module docstring).

    The tolerance bounds the error of one step along a sample's own path. It is in the units of the
    state: :math:`atol + rtol\,|x|` for each element, in root mean square over a sample. How far the
    distribution of the samples is off depends on the data; halve the tolerances to see. At η = 0
    the error at the end falls in proportion to the tolerances. At η > 0 the error along a path
    falls as :math:`h^{3/2}` only: a tolerance ten times tighter costs 4.6 times the evaluations,
    and the distribution is far more accurate than the paths.

    Parameters
    ----------
    sde : LinearSDE
        The forward SDE; the model's own.
    eta : float
        Noise scale in [0, 1]: 1 is the reverse SDE, 0 the probability-flow ODE.
    rtol, atol : float
        Tolerances, relative and in the units of the state; >= 0, and atol > 0.
    max_step_size : float
        Longest step in λ, > 0. The estimate does not see what happens after a step's last node, so
        a longer step could jump over the time at which the modes separate.
    max_steps : int
        Steps that one sample may try, >= 1.
    denoise : bool
        Whether to end with Tweedie's mean at ``t_min``, one more evaluation.
    data_std : float
        The states' standard deviation at t = 0, for a prior that remembers it (see
        :meth:`LinearSDE.prior_std`); 0 is the field's usual prior. The prior is taken at ``t_max``.
    t_max : float, optional
        Where the run starts, in (t_min, T]; T unless given.

    Raises
    ------
    IncompatibleError
        An SDE that is not linear, or a ``denoise`` that is neither True nor False.
    ScheduleError
        A number out of its range, or an SDE whose log-SNR is infinite at ``t_max`` or ``t_min``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> from sdescore.samplers.adaptive.sampler import AdaptiveSampler
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore(torch.tensor([1.0, -2.0]), 0.25, sde)
    >>> result = AdaptiveSampler(sde).solve(score, shape=(1000, 2), seed=0)
    >>> bool((result.x.mean(0) - torch.tensor([1.0, -2.0])).abs().max() < 0.1)
    True
    """

    sde: LinearSDE
    eta: float = 1.0
    rtol: float = 0.05
    atol: float = 0.05
    max_step_size: float = 1.5
    max_steps: int = 1000
    denoise: bool = True
    data_std: float = 0.0
    t_max: float | None = None
    lam_ends: tuple[float, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        checks.linear(self.sde, "AdaptiveSampler", "use PredictorCorrector with EulerMaruyama()")
        require_mean_or_none(self.denoise)
        vars(self).update(
            eta=checks.number("eta", self.eta, at_least=0, at_most=1),
            rtol=checks.number("rtol", self.rtol, at_least=0),
            atol=checks.number("atol", self.atol, above=0),
            max_step_size=checks.number("max_step_size", self.max_step_size, above=0),
            max_steps=checks.count("max_steps", self.max_steps),
            data_std=checks.number("data_std", self.data_std, at_least=0),
        )
        T, t_min, t_max = self.sde.T, self.sde.t_min, self.t_max
        if t_max is not None:
            t_max = checks.number("t_max", t_max, above=t_min, at_most=T, error=ScheduleError)
        vars(self).update(t_max=t_max)
        ends = torch.tensor([self.start_time, t_min], dtype=torch.float64, device="cpu")
        first, last = self.sde.half_log_snr(ends).tolist()
        if not math.isfinite(first) or not math.isfinite(last):
            expected = "an SDE with a finite log-SNR at t_max and t_min"
            got = f"log(alpha/sigma) = {first:g} and {last:g}"
            checks.refuse(expected, got, ScheduleError)
        vars(self).update(lam_ends=(first, last))

    @property
    def start_time(self) -> float:
        """Where the run starts: ``t_max``, or T."""
        return self.sde.T if self.t_max is None else self.t_max

    @property
    def pair(self) -> EmbeddedPair:
        """The methods whose difference is the estimate of the error."""
        return NOISY if self.eta else SMOOTH

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
        differentiable: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """The samples alone; arguments and errors as in :meth:`solve`.

        ``differentiable=True`` is refused: which steps are taken depends on the samples.
        """
        got = "True; use PredictorCorrector or ProbabilityFlow"
        expected = "differentiable=False for AdaptiveSampler, whose steps depend on the samples"
        checks.that(differentiable is False, expected, got, IncompatibleError)
        request = Request(
            self.sde, self._spans, model, shape, samples, seed, noise, init, label, dtype, device
        )
        return self._solve(request, max_batch, progress).x

    def solve(
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
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> AdaptiveResult:
        """Draw ``shape[0]`` samples, and count what each cost.

        Arguments and errors are as in :meth:`PredictorCorrector.sample`, which also says what equal
        seeds mean for several calls, with these differences.

        Parameters
        ----------
        model : ScoreModel or callable
            A score ``(x, t) -> like x`` with ``t`` ``(B,)``. The batch it gets shrinks as samples
            finish.
        seed : int
            Sample ``i`` uses the noise of (seed, i), and its start is that of
            :meth:`PredictorCorrector.sample`. If the score computes each sample separately, ``B``
            and ``max_batch`` change neither a sample nor its steps. A network rounds differently in
            another batch. This changes a sample by some 1e-5. About one sample in 10,000 takes
            other steps and ends elsewhere.
        noise : NoiseSource, optional
            Replaces the seeded noise: draw 0 for the start, two for each of ``max_steps`` trials.
        init : Tensor, optional
            ``(B, *E)``, the state at ``t_max`` in place of a draw from the prior.
        shape, samples, label, max_batch, progress, dtype, device
            As there.

        Returns
        -------
        AdaptiveResult
            The samples, and steps and evaluations of each.

        Raises
        ------
        DivergenceError
            The score turned NaN or infinite, or a sample was not done after ``max_steps``;
            ``error.finished`` holds the samples of the parts that were complete.

        Examples
        --------
        >>> import torch, sdescore as ss
        >>> sampler = ss.AdaptiveSampler(ss.VPSDE())
        >>> _ = torch.manual_seed(0)
        >>> model = ss.ScoreModel(ss.MLP(2), sampler.sde)
        >>> whole = sampler.sample(model, (8, 2))
        >>> alone = sampler.sample(model, (8, 2), max_batch=1)  # the network rounds otherwise
        >>> bool((whole - alone).abs().max() < 1e-4)
        True
        """
        request = Request(
            self.sde, self._spans, model, shape, samples, seed, noise, init, label, dtype, device
        )
        return self._solve(request, max_batch, progress)

    def iterate(
        self,
        model: Score,
        shape: tuple[int, ...] | None = None,
        *,
        samples: range | None = None,
        seed: int = 0,
        noise: NoiseSource | None = None,
        init: Tensor | None = None,
        label: Condition | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[AdaptiveResult]:
        """The samples after each trial step; arguments and errors as in :meth:`solve`.

        The last is the result of :meth:`solve`, but its ``x`` holds states. If the model
        standardises its data, :meth:`solve` returns ``model.to_data(x)``. Each is a copy, so a
        change to it does not steer the run.
        """
        request = Request(
            self.sde, self._spans, model, shape, samples, seed, noise, init, label, dtype, device
        )
        self._require_times(model)
        return self._iterate(request)

    def _iterate(self, request: Request) -> Iterator[AdaptiveResult]:
        run = self._run(request, request.samples)
        while True:
            with evaluating(request.model), torch.no_grad():
                at = next(run, None)
            if at is None:
                return
            yield AdaptiveResult(*(value.clone() for value in vars(at).values()))

    def _require_times(self, model: Score) -> None:
        """Refuse a model that does not cover every time: any may come."""
        # One that is no round number finds out a model of levels.
        some = torch.tensor([1.0, 0.6180339887, 0.0], dtype=torch.float64, device="cpu")
        require_times(model, self.sde.t_min + (self.start_time - self.sde.t_min) * some)

    def _solve(self, request: Request, max_batch: int | None, progress: bool) -> AdaptiveResult:
        self._require_times(request.model)

        def part(samples: range, tick: Tick | None) -> tuple[Tensor, ...]:
            moving = len(samples)
            for at in self._run(request, samples):
                left = int((at.t > self.sde.t_min).sum())
                if tick is not None:
                    tick(moving - left)
                moving = left
            return tuple(vars(at).values())

        return AdaptiveResult(*request.fill(part, max_batch, progress))

    @property
    def _spans(self) -> list[Span]:
        """What each draw is for: the start, and those of all trials that may come."""
        return [None] * (1 + len(NOISY.nodes) * self.max_steps if self.eta else 1)

    def _run(self, request: Request, samples: range) -> Iterator[AdaptiveResult]:
        numbers = torch.arange(samples.start, samples.stop, device="cpu")
        labels = request.labels(samples)
        evaluations = torch.zeros(len(samples), dtype=torch.int64, device="cpu")

        def evaluate(x: Tensor, t: Tensor, rows: Tensor, trial: int) -> Tensor:
            own = tuple(each_tensor(lambda v: v[rows.to(v.device)], label) for label in labels)
            x0 = denoised(request.model, self.sde, x, t, own)
            require_finite(x0, t, numbers[rows], trial)
            evaluations[rows] += 1
            return x0

        # It starts where a predictor–corrector chain of the seed starts, but its steps are others.
        steps, t_max = Domain.ADAPTIVE, self.start_time
        domain: int = steps if request.init is None else domain_at(steps, t_max)
        x = request.start(samples, self.sde.prior_std(self.data_std, t_max))
        stream = request.open(samples, self._spans, domain)
        t = torch.full((len(x),), t_max, dtype=torch.float64, device="cpu")
        taken, rejected = torch.zeros_like(evaluations), torch.zeros_like(evaluations)
        at = AdaptiveResult(x, t, taken, rejected, evaluations)
        if len(samples) > 1:
            middle = self.sde.time_at_half_log_snr(sum(self.lam_ends) / 2)
            times = torch.stack([t[0], middle])
            both, alone = (
                denoised(
                    request.model, self.sde, x[some], times[some],
                    tuple(each_tensor(itemgetter(some), label) for label in labels),
                )
                for some in (slice(0, 2), slice(1, 2))
            )  # fmt: skip
            require_separate(both, alone)
        for _ in run(self, at, stream, evaluate, numbers):
            yield at
        if self.denoise and len(samples):
            t_min = torch.full_like(at.t, self.sde.t_min)
            trial = int((at.accepted + at.rejected).max()) + 1
            x = evaluate(at.x, t_min, torch.arange(len(samples), device="cpu"), trial)
            at = replace(at, x=x, t=torch.zeros_like(at.t))
        yield at
