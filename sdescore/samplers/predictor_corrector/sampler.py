r"""Predictor–corrector sampling: any predictor, any corrector, any grid, any score."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from sdescore import checks
from sdescore.checks import finite, require, require_same_shape
from sdescore.correctors.base import Corrector
from sdescore.correctors.none import NoCorrector
from sdescore.errors import DivergenceError, IncompatibleError, ScheduleError
from sdescore.grids.base import Grid
from sdescore.grids.custom import CustomGrid
from sdescore.noise.sources import NoiseSource, NoiseStream
from sdescore.predictors.base import Predictor
from sdescore.predictors.reverse_diffusion import ReverseDiffusion
from sdescore.samplers.model import Model
from sdescore.samplers.predictor_corrector.binding import BoundModel
from sdescore.samplers.predictor_corrector.chain import Move, Program, moves
from sdescore.samplers.predictor_corrector.loop import advance, fold, require_finite, run
from sdescore.samplers.predictor_corrector.state import SamplerState, require_own
from sdescore.samplers.request import Request, evaluating, make_request, progress_bar
from sdescore.sde.base import SDE

__all__ = ["PredictorCorrector"]


@dataclass(frozen=True)
class PredictorCorrector:
    r"""Predictor–corrector sampler (Song et al. 2021, arXiv:2011.13456, algorithm 1).

    On the grid :math:`T = t_0 > t_1 > \dots > t_{n-1}` the predictor moves from one time to
    the next, the corrector acts at each, and Tweedie's mean at the last time removes the
    noise that is left. A sampler holds no state and no tensors of the model's: make it once,
    use it for any model on its SDE.

    Parameters
    ----------
    sde : SDE
        The forward SDE; the model's own.
    predictor : Predictor
        How to move in time.
    corrector : Corrector
        What to do at each time.
    steps : int, optional
        Evaluations of a one-stage predictor, >= 1: ``steps − 1`` moves and the last denoise,
        or ``steps`` moves without it. Optional where the grid has its own number.
    grid : Grid, tensor or sequence of float, optional
        Where; the SDE's own by default: uniform in t, the level table of a discrete SDE,
        Karras' for EDM.
    corrector_first : bool
        False: the corrector acts after each move, as in the paper's algorithms. True: before it,
        as in the paper's code, and so at ``t_0`` as well.
    denoise : bool or "flow"
        Whether to end with the last denoise: Tweedie's mean :math:`(x + \sigma^2 s)/\alpha` at the
        last time, or the predictor's own. ``"flow"`` goes half as far,
        :math:`(x + \tfrac12 \sigma^2 s)/\alpha`: the probability flow's Euler step in
        :math:`\sigma^2/\alpha^2`. The mean smooths details of the size of σ/α, by a first order
        in σ²; the flow's law is right to the second, but data on a thinner set than that keep
        noise of half the std. For likelihoods, and wherever many steps leave no other error.
    data_std : float
        The data's standard deviation, for a prior that remembers it (see
        :meth:`LinearSDE.prior_std`); 0 is the field's usual prior. The prior is taken at
        ``t_0``, which is T unless your own grid starts later.

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
    predictor: Predictor = field(default_factory=ReverseDiffusion)
    corrector: Corrector = field(default_factory=NoCorrector)
    steps: int | None = None
    grid: Grid | Tensor | Sequence[float] | None = None
    corrector_first: bool = False
    denoise: bool | str = True
    data_std: float = 0.0

    def __post_init__(self) -> None:
        for name, kind in (("sde", SDE), ("predictor", Predictor), ("corrector", Corrector)):
            part = getattr(self, name)
            if not isinstance(part, kind):
                raise IncompatibleError(
                    f"expected {name} to be a {kind.__name__} instance, got {part!r}"
                )
        if self.sde.backward:
            raise IncompatibleError(
                "expected the forward SDE, which the sampler reverses itself, got "
                f"{type(self.sde).__name__}; use its .forward, or simulate it as it is"
            )
        checks.choice("corrector_first", self.corrector_first, (False, True))
        checks.choice("denoise", self.denoise, (True, False, "flow"))
        usable = finite(self.data_std) and self.data_std >= 0
        require(usable, "a finite data_std >= 0", f"data_std={self.data_std!r}")
        grid = self.grid
        if grid is None:
            grid = self.sde.default_grid
        elif not isinstance(grid, Grid):
            grid = CustomGrid(grid)
        object.__setattr__(self, "grid", grid)
        self.predictor.check(self.sde)
        self.corrector.check(self.sde)
        if self.denoise and not hasattr(self.sde, "marginal"):
            raise IncompatibleError(
                f"expected denoise=False for {type(self.sde).__name__}: Tweedie's mean needs the "
                "marginal kernel of a LinearSDE"
            )
        _ = self.program  # made now, so that parts that do not fit are refused here

    @cached_property
    def program(self) -> Program:
        """All rows, evaluation times and draws of the chain."""
        return Program.of(self.moves())

    def moves(self, times: Tensor | None = None) -> Iterator[Move]:
        """The chain's moves, on other falling ``times`` ``(n,)`` float64 if some are given."""
        return moves(
            self.sde,
            self.predictor,
            self.corrector,
            self.times if times is None else times,
            corrector_first=self.corrector_first,
            denoise=self.denoise,
        )

    @cached_property
    def times(self) -> Tensor:
        """The grid, float64, falling from ``t_0``; a move between each two neighbours."""
        n = self.steps
        if n is not None and not self.denoise and isinstance(n, int) and not isinstance(n, bool):
            require(n >= 1, "steps >= 1", f"steps={n}")
            n = n + (not isinstance(self.grid, CustomGrid))
        times: Tensor = self.grid.times(self.sde, n)  # type: ignore[union-attr]
        if not self.denoise and len(times) < 2:
            raise ScheduleError("expected at least two grid times without the last denoise")
        return times

    def __getstate__(self) -> dict[str, object]:
        """The fields; what follows from them, functions among it, is made again when needed."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def evaluations(self) -> int:
        """Score evaluations a sample costs."""
        return len(self.program.times)

    def sample(
        self,
        model: Model,
        shape: tuple[int, ...] | None = None,
        *,
        seed: int = 0,
        noise: NoiseSource | None = None,
        init: Tensor | None = None,
        label: Tensor | None = None,
        max_batch: int | None = None,
        progress: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw ``shape[0]`` samples.

        Parameters
        ----------
        model : ScoreModel or callable
            A score ``(x, t) -> like x``; a module is put in eval mode meanwhile. Call
            ``model.eval()`` yourself where several threads share it.
        shape : tuple of int
            ``(B, *E)``; optional where ``init`` is given.
        seed : int
            Sample ``i`` uses the stream (seed, i): its value does not depend on ``B``,
            ``max_batch`` or the number of processes.
        noise : NoiseSource, optional
            Replaces the seeded noise.
        init : Tensor, optional
            ``(B, *E)``, the state at ``t_0`` in place of a draw from the prior.
        label : Tensor, optional
            ``(B,)``, handed to the model as its third argument.
        max_batch : int, optional
            Run at most so many samples at a time.
        progress : bool
            Show a progress bar.
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
            The state turned NaN or infinite; ``error.finished`` holds the chunks before.
        """
        request = self._request(model, shape, seed, noise, init, label, dtype, device, max_batch)
        finished: list[Tensor] = []
        total = len(self.program.rows) * len(request.chunks)
        with evaluating(model), torch.no_grad(), progress_bar(progress, total) as move_bar:
            for samples in request.chunks:
                bound, stream, x = self._open(request, samples)
                try:
                    x = run(self.program.rows, bound, stream, x, samples.start, move_bar)
                except DivergenceError as error:
                    error.finished = torch.cat(finished) if finished else None
                    raise
                finished.append(x.detach())
        return finished[0] if len(finished) == 1 else torch.cat(finished)

    def iterate(
        self,
        model: Model,
        shape: tuple[int, ...] | None = None,
        *,
        seed: int = 0,
        noise: NoiseSource | None = None,
        init: Tensor | None = None,
        label: Tensor | None = None,
        start: SamplerState | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[SamplerState]:
        """The chain one sampler step at a time; arguments as in :meth:`sample`.

        A step is a predictor's move with the corrections that go with it. Assign to
        ``state.x`` to steer. ``start`` resumes from a state of an earlier run with the same
        seed: nothing else is remembered.

        Yields
        ------
        SamplerState
            After each step; the last one is what :meth:`sample` returns.
        """
        if start is not None:
            if not isinstance(start, SamplerState):
                raise IncompatibleError(
                    f"expected start to be a SamplerState, got {type(start).__name__}"
                )
            if init is not None:
                raise IncompatibleError("expected one of init= and start=, got both")
            require_own(start, self.program, self.times[0].item())
            init = start.x
        request = self._request(model, shape, seed, noise, init, label, dtype, device)
        return self._iterate(request, start)

    def _iterate(self, request: Request, start: SamplerState | None) -> Iterator[SamplerState]:
        bound, stream, x = self._open(request, request.chunks[0])
        state = SamplerState(0, self.times[0].item(), x, None, [])
        if start is not None:
            state = SamplerState(start.step, start.t, x, start.denoised, list(start.outputs))
        done = sum(row.move.step < state.step for row in self.program.rows)
        steps = fold(self.program.rows, bound)[done:]
        rows = self.program.rows[done:]
        linear = hasattr(self.sde, "marginal")
        to_x0 = bound.numbers(["x0"] * self.evaluations) if linear else None
        call = bound.call

        def watched(y: Tensor, k: int) -> Tensor:
            o = call(y, k)
            if to_x0 is not None:
                state.denoised = to_x0[0][k] * y + to_x0[1][k] * o
            return o

        bound.call = watched
        for i, row in enumerate(rows):
            with evaluating(request.model), torch.no_grad():
                state.x = advance(steps[i], state.x, state.outputs, bound, stream)
                require_finite(row, state.x, 0)
            state.t = row.move.s
            if i + 1 == len(rows) or rows[i + 1].move.step > row.move.step:
                state.step = row.move.step + 1
                yield state
                # The state a caller has kept stays as it is.
                require_same_shape(state.x, x, "state.x", "the chain's state")
                steered = state.x.detach().to(request.device, request.dtype, copy=True)
                state = replace(state, x=steered, outputs=list(state.outputs))

    def _request(
        self,
        model: Model,
        shape: tuple[int, ...] | None,
        seed: int,
        noise: NoiseSource | None,
        init: Tensor | None,
        label: Tensor | None,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
        max_batch: int | None = None,
    ) -> Request:
        if init is None and not hasattr(self.sde, "marginal"):
            raise IncompatibleError(
                f"expected init= for {type(self.sde).__name__}, which has no known prior"
            )
        request = make_request(
            self.sde, model, shape, seed, noise, init, label, dtype, device, max_batch
        )
        self.corrector.check_event(request.shape[1:])
        request.noise.check(request.shape, self.program.spans)
        return request

    def _open(self, request: Request, samples: range) -> tuple[BoundModel, NoiseStream, Tensor]:
        part = slice(samples.start, samples.stop)
        stream = request.noise.open(
            samples,
            request.shape[1:],
            self.program.spans,
            dtype=request.dtype,
            device=request.device,
        )
        if request.init is not None:
            x = request.init[part].detach().to(request.device, request.dtype, copy=True)
        else:
            alpha_t, sigma_t = self.sde.marginal(self.times[0])  # type: ignore[attr-defined]
            x = math.hypot(sigma_t, alpha_t * self.data_std) * stream.draw(0)
        bound = BoundModel(
            request.model,
            self.sde,
            self.program,
            len(samples),
            dtype=request.dtype,
            device=request.device,
            label=None if request.label is None else request.label[part].to(request.device),
            needs_log_density=self.corrector.needs_log_density,
        )
        return bound, stream, x.contiguous()
