r"""Predictor–corrector sampling: any predictor, any corrector, any grid, any score."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial

import torch
from torch import Tensor

from sdescore import checks
from sdescore.correctors.none import NoCorrector
from sdescore.errors import IncompatibleError, ScheduleError
from sdescore.grids.base import MOST, CustomGrid, Grid
from sdescore.noise.counter import Domain
from sdescore.noise.sources import NoiseSource
from sdescore.predictors.adams import ExponentialAdams
from sdescore.samplers.predictor_corrector.chain import Move, Program, predict, require_usable
from sdescore.samplers.predictor_corrector.differentiable import run_with_graph
from sdescore.samplers.predictor_corrector.fit import warn_of_few_steps
from sdescore.samplers.predictor_corrector.loop import BoundModel, run
from sdescore.samplers.predictor_corrector.state import Run, SamplerState, steps_from
from sdescore.samplers.request import Request, Tick, domain_at
from sdescore.sde.base import SDE
from sdescore.tableau.method import Corrector, Predictor
from sdescore.tableau.tableau import flow_ending
from sdescore.typing import Condition, Score

__all__ = ["PredictorCorrector"]


@dataclass(frozen=True)
class PredictorCorrector:
    r"""Predictor–corrector sampler (Song et al. 2021, arXiv:2011.13456, algorithm 1).

    On the grid :math:`T = t_0 > t_1 > \dots > t_{n-1}` the predictor moves from one time to
    the next, the corrector acts at each, and Tweedie's mean at the last time removes the noise
    that is left. A sampler does not depend on a model: one serves all models on its SDE.

    The defaults have the least exact error (``benchmarks/sampler_defaults.py``); their stochastic
    form is ``ss.ExponentialAdams(eta=1.0, midpoint=True)``. The paper's own setting,
    ``predictor=ss.ReverseDiffusion(), grid=ss.UniformGrid()``, leaves noise below 500 steps.

    Parameters
    ----------
    sde : SDE
        The forward SDE; the model's own.
    predictor : Predictor
        How to move in time; by default DPM-Solver++ (2M), ``ss.ExponentialAdams(midpoint=True)``.
    corrector : Corrector
        What to do at each time.
    steps : int, optional
        Evaluations of a one-stage predictor, >= 1: ``steps − 1`` moves and the last denoise,
        or ``steps`` moves without it. Optional where the grid has its own number.
    grid : Grid, tensor or sequence of float, optional
        The times; by default the SDE's own grid: log-SNR, or the level table of a discrete SDE.
    corrector_first : bool
        False: the corrector acts after each move, as in the paper's algorithms. True: before it,
        as in the paper's code, and so at ``t_0`` as well.
    denoise : bool or "flow"
        Whether to end with the last denoise: Tweedie's mean :math:`(x + \sigma^2 s)/\alpha` at the
        last time, or the predictor's own if it has one. ``"flow"`` goes half as far,
        :math:`(x + \tfrac12 \sigma^2 s)/\alpha`: the probability flow's Euler step in
        :math:`\sigma^2/\alpha^2`, which keeps the variance of fine details right to the second
        order (:mod:`sdescore.tableau.tableau`). Data on a lower-dimensional set then keep noise of
        half the standard deviation, so use it where no other error is left.
    data_std : float
        The states' standard deviation at t = 0, for a prior that remembers it (see
        :meth:`LinearSDE.prior_std`); 0 is the field's usual prior. The prior is taken at
        ``t_0``, which is T unless your own grid starts later.

    Attributes
    ----------
    times : Tensor
        The grid, float64, falling from ``t_0``; a move between each two neighbours.
    program : Program
        All rows, evaluation times and draws of the chain.
    start_std : float
        Standard deviation of the prior at ``t_0``; 0 where none is known.

    Raises
    ------
    ScheduleError, TimeError
        Steps or grid out of range.
    IncompatibleError
        Parts that do not fit together.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> sampler = ss.PredictorCorrector(
    ...     sde, predictor=ss.ReverseDiffusion(), corrector=ss.Langevin(snr=0.1), steps=200
    ... )
    >>> score = ss.GaussianScore(torch.tensor([1.0, -2.0]), 0.25, sde)
    >>> x = sampler.sample(score, shape=(4000, 2), seed=0)
    >>> bool((x.mean(0) - torch.tensor([1.0, -2.0])).abs().max() < 0.05)
    True
    """

    sde: SDE
    predictor: Predictor = field(default_factory=partial(ExponentialAdams, midpoint=True))
    corrector: Corrector = field(default_factory=NoCorrector)
    steps: int | None = None
    grid: Grid | Tensor | Sequence[float] | None = None
    corrector_first: bool = False
    denoise: bool | str = True
    data_std: float = 0.0
    times: Tensor = field(init=False, repr=False, compare=False)
    program: Program = field(init=False, repr=False, compare=False)
    start_std: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        checks.instance("sde", self.sde, SDE, "ss.VPSDE()")  # type: ignore[type-abstract]
        checks.instance("predictor", self.predictor, Predictor, "ss.DDIM()")
        checks.instance("corrector", self.corrector, Corrector, "ss.Langevin()")
        if self.sde.backward:
            got = f"{type(self.sde).__name__}; use its .forward, or simulate it as it is"
            expected = "the forward SDE, which the sampler reverses itself"
            checks.refuse(expected, got, IncompatibleError)
        checks.choice("corrector_first", self.corrector_first, (False, True))
        checks.choice("denoise", self.denoise, (True, False, "flow"))
        data_std = checks.number("data_std", self.data_std, at_least=0, at_most=1e15)
        grid = self.sde.default_grid if self.grid is None else self.grid
        grid = grid if isinstance(grid, Grid) else CustomGrid(grid)
        self.predictor.check(self.sde)
        self.corrector.check(self.sde)
        if self.denoise:
            checks.linear(self.sde, "the last denoise", "pass denoise=False")
        n = self.steps
        if n is not None:
            n = checks.count("steps", n, at_most=MOST, error=ScheduleError)
            if not self.denoise and not isinstance(grid, CustomGrid):
                n += 1  # n moves have n + 1 ends
        times = grid.times(self.sde, n)
        if not self.denoise and len(times) < 2:
            expected = "at least two grid times without the last denoise"
            checks.refuse(expected, f"{len(times)}", ScheduleError)
        std = 0.0
        if checks.is_linear(self.sde):
            alpha_t, sigma_t = self.sde.marginal(times[0])
            std = math.hypot(sigma_t, alpha_t * data_std)
        vars(self).update(data_std=data_std, grid=grid, times=times, start_std=std)
        # Made now, so that parts that do not fit are refused.
        program = Program.of(self.moves(), self.sde, self.predictor, self.corrector)
        vars(self).update(program=program)
        if self.predictor.is_affine(self.sde):
            warn_of_few_steps(program, self.sde, self.predictor, grid, times, self.denoise)  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[object, ...]:
        """Made again from its fields: copies and files hold nothing that follows from them."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return partial(type(self), **values), ()

    def moves(self, times: Tensor | None = None) -> Iterator[Move]:
        """The chain's moves, on other falling ``times`` ``(n,)`` float64 if some are given.

        The corrector acts after each predictor's move in the paper's algorithms (Song et al. 2021,
        arXiv:2011.13456, algorithms 1–3), and before it in the paper's code.

        Raises
        ------
        IncompatibleError, ScheduleError
            A method's tableau has another number of steps, or a number that is not finite.
        """
        sde, predictor, corrector = self.sde, self.predictor, self.corrector
        times = self.times if times is None else times
        predicts = corrects = None
        if predictor.is_affine(sde):
            predicts = predictor.tableau(sde, times)  # type: ignore[arg-type]
            require_usable(predicts, predictor, len(times) - 1)
        if corrector.steps and corrector.is_affine(sde):
            corrects = corrector.tableau(sde, times)  # type: ignore[arg-type]
            require_usable(corrects, corrector, len(times))
        clock = times.tolist()
        last = len(clock) - 1
        for n, t in enumerate(clock):
            step = n if self.corrector_first else n - 1
            for _ in range(corrector.calls if corrector.steps and step >= 0 else 0):
                if corrects is not None:
                    yield Move(step, t, t, corrects, n, corrects=True)
                else:
                    custom = partial(corrector.correct, sde, t=t)
                    cost = corrector.evaluations, corrector.noises
                    yield Move(step, t, t, None, 0, True, custom, *cost)
            if n == last:
                break
            if predicts is None:
                custom = partial(predict, predictor, sde, t, clock[n + 1])
                cost = predictor.evaluations, predictor.noises
                yield Move(n, t, clock[n + 1], None, 0, False, custom, *cost)
            elif predicts.times.numel():  # a tableau without stages leaves the state as it is
                yield Move(n, t, clock[n + 1], predicts, n)
        if self.denoise:
            ending = flow_ending if self.denoise == "flow" else predictor.ending
            yield Move(last, clock[-1], 0.0, ending(sde, times))  # type: ignore[arg-type]

    @property
    def evaluations(self) -> int:
        """Score evaluations a sample costs."""
        return len(self.program.times)

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
        """Draw ``shape[0]`` samples, or some of them.

        Equal calls with equal seeds give equal samples, so give each call in a loop its own seed.
        Calls that continue each other may share a seed: a run from the prior, a run from ``init``,
        ``sde.prior_sample`` and ``ss.simulate`` draw different numbers from it, and so do runs from
        ``init`` that start at different times. Only runs that start from earlier samples again and
        again *at the same time* need a new seed each.

        Parameters
        ----------
        model : ScoreModel or callable
            A score ``(x, t) -> like x``. A module runs in eval mode: do not train it meanwhile.
        shape : tuple of int
            ``(B, *E)``; optional where ``init`` is passed.
        samples : range, optional
            Draw only these of the B samples, with the values of a run of all B. ``shape``,
            ``noise``, ``init`` and ``label`` stay those of all B, whatever the range.
        seed : int
            Sample ``i`` uses the stream (seed, i): its value does not depend on ``B``,
            ``max_batch`` or the number of processes.
        noise : NoiseSource, optional
            Replaces the seeded noise.
        init : Tensor, optional
            ``(B, *E)``, the state at ``t_0`` in place of a draw from the prior. If the model
            standardises its data, ``model.from_data(x)`` makes it from data.
        label : Tensor or dict, optional
            ``(B,)`` classes, conditions ``(B, *C)``, or a dict of them: the model's third argument.
        max_batch : int, optional
            Run at most so many samples at a time, >= 1.
        progress : bool
            Whether to show a progress bar.
        differentiable : bool
            Whether autograd can go back through the chain, to the model's parameters, ``init`` and
            ``label``. The steps must be affine. Of n rows some 2√n states stay in memory, and
            backward calls the model once more at each evaluation.
        dtype, device : optional
            Of the state; by default the model's, and at least float32.

        Returns
        -------
        Tensor
            ``(B, *E)``, or ``(len(samples), *E)``; in the units of the data.

        Raises
        ------
        ShapeError, IncompatibleError, ParameterError, TimeError
            A bad argument, before the model is called.
        DivergenceError
            The state turned NaN or infinite; ``error.finished`` holds the parts that were complete.

        Examples
        --------
        >>> import torch, sdescore as ss
        >>> sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.DDIM(), steps=5)
        >>> score = ss.GaussianScore(torch.zeros(2), 0.5, sampler.sde)
        >>> part = sampler.sample(score, (1000, 2), samples=range(100, 200))
        >>> torch.equal(part, sampler.sample(score, (1000, 2))[100:200])
        True
        """
        spans = self.program.spans
        request = Request(
            self.sde, spans, model, shape, samples, seed, noise, init, label, dtype, device
        )
        if differentiable:
            request.keep_graph(differentiable)
            self.program.require_affine(self)
        go = run_with_graph if differentiable else run
        if not self.program.affine:  # a step by numbers alone fits any shape
            self.corrector.check_event(request.shape[1:])
        t = self.times[0].item()
        domain = Domain.SAMPLER if init is None else domain_at(Domain.RESTART, t)

        def part(samples: range, tick: Tick | None) -> tuple[Tensor]:
            bound = BoundModel(request, samples, self.program)
            noise = request.open(samples, spans, domain)
            x = bound.checked(request.start(samples, self.start_std, noise))
            return (go(self.program.rows, bound, noise, x, samples.start, tick),)

        return request.fill(part, max_batch, progress, len(self.program.rows))[0]

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
        start: SamplerState | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[SamplerState]:
        """The chain's states, one sampler step at a time; arguments as in :meth:`sample`.

        A step is a predictor's move with the corrections that go with it. Assign to ``state.x`` to
        steer. ``start`` continues an earlier run with the same seed and its own ``samples``. From
        its latest state the run goes on bit for bit as if it had not stopped. From an earlier
        state, a rewind, it goes on as another run with other noise.

        Yields
        ------
        SamplerState
            After each step. The last ``x`` is what :meth:`sample` returns, but as states:
            ``model.to_data(x)`` is data.

        Raises
        ------
        IncompatibleError
            ``start`` is no state of this sampler or comes with ``init``; else as in :meth:`sample`.
        """
        t, spans = self.times[0].item(), self.program.spans
        if start is not None:
            checks.instance("start", start, SamplerState)
            checks.that(init is None, "one of init= and start=", "both of them", IncompatibleError)
            samples = start.require_of(self.program, t, samples)
        x, resumed = (init, False) if start is None else (start.x, True)
        request = Request(
            self.sde, spans, model, shape, samples, seed, noise, x, label, dtype, device, resumed
        )
        if not self.program.affine:
            self.corrector.check_event(request.shape[1:])
        if start is None:
            domain = Domain.SAMPLER if init is None else domain_at(Domain.RESTART, t)
            run = Run(domain, samples)
            start = SamplerState(0, t, request.init, None, [], run)  # type: ignore[arg-type]
        return steps_from(self, request, start, start.resumed())
