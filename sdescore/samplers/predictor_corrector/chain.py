r"""A predictor and a corrector on a grid, as one list of steps with their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from sdescore.correctors.base import Corrector, ScoreAt
from sdescore.errors import IncompatibleError, ScheduleError
from sdescore.noise.sources import Span
from sdescore.predictors.base import Predictor
from sdescore.sde.base import SDE
from sdescore.tableau.ending import flow_ending
from sdescore.tableau.tableau import Tableau

CustomStep = Callable[[Tensor, ScoreAt, Iterator[Tensor]], Tensor]
"""``(x, score, noises) -> x``, a step that no tableau describes."""


@dataclass(frozen=True)
class Row:
    """One step's numbers: see :mod:`sdescore.tableau.tableau` for a, b, c.

    Attributes
    ----------
    step : int
        The sampler step the row belongs to.
    t, s : float
        Time before and after.
    evaluations : range
        Which of the program's evaluations it makes.
    draws : tuple of int
        Which draw each noise is, −1 for a noise with no weight.
    output : str
        What the outputs are.
    outputs : int
        How many past outputs a stage may weigh; those of a corrector are its own alone.
    start : (float, tuple of float) or None
        Weights of the state and the noises in the first evaluation's state, or None where that
        is the state itself.
    custom : callable or None
        Replaces the numbers.
    corrects : bool
        Whether it is a corrector's, which neither weighs nor leaves outputs of the predictor.
    """

    step: int
    t: float
    s: float
    evaluations: range
    draws: tuple[int, ...]
    a: tuple[float, ...] = ()
    b: tuple[tuple[float, ...], ...] = ()
    c: tuple[tuple[float, ...], ...] = ()
    output: str = "score"
    outputs: int = 1
    start: tuple[float, tuple[float, ...]] | None = None
    custom: CustomStep | None = None
    corrects: bool = False


class Rows(Protocol):
    """What a chain's rows are added to."""

    def add(
        self, step: int, t: float, s: float, tableau: Tableau, n: int, *, corrects: bool = False
    ) -> None:
        """Step ``n`` of a tableau."""

    def add_custom(
        self, step: int, t: float, s: float, move: CustomStep, *, evaluations: int, noises: int
    ) -> None:
        """A step that no tableau describes."""


@dataclass
class Program:
    """All rows, the times of all evaluations, and what each draw is for.

    ``spans[0]`` belongs to the draw that starts the chain. ``needs_log_density`` says whether
    some row asks for the model's density.
    """

    rows: list[Row] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=lambda: [None])
    needs_log_density: bool = False
    _past_outputs: int = 0

    def add(
        self, step: int, t: float, s: float, tableau: Tableau, n: int, *, corrects: bool = False
    ) -> None:
        """Append step ``n`` of a tableau.

        Raises
        ------
        IncompatibleError
            A stage weighs an output that does not exist yet.
        """
        times = tableau.times[n].tolist()
        first = len(self.times)
        weights, drawn, start = tableau.c[n], (tableau.c[n] != 0).any(0), None
        if tableau.start is not None:
            start_a, start_c = (v[n] for v in tableau.start)
            start = start_a.item(), tuple(start_c.tolist())
            drawn = drawn | (start_c != 0)
        spans = [(t, s)] * len(drawn) if tableau.spans is None else tableau.spans[n].tolist()
        past = 0 if corrects else self._past_outputs
        for j, on_outputs in enumerate(tableau.b[n]):
            if bool((on_outputs[past + j + 1 :] != 0).any()):
                raise IncompatibleError(
                    f"expected stage {j} of step {step} to weigh only the {past + j + 1} outputs "
                    f"that exist by then, got weights {on_outputs.tolist()}; start a multistep "
                    "method with fewer outputs"
                )
        if not corrects:
            self._past_outputs += len(times)
        self.rows.append(
            Row(
                step=step,
                t=t,
                s=s,
                evaluations=range(first, first + len(times)),
                draws=tuple(
                    self._draw(*span) if used else -1
                    for span, used in zip(spans, drawn.tolist(), strict=True)
                ),
                a=tuple(tableau.a[n].tolist()),
                b=tuple(map(tuple, tableau.b[n].tolist())),
                c=tuple(map(tuple, weights.tolist())),
                output=tableau.output,
                outputs=tableau.b.shape[-1],
                start=start,
                corrects=corrects,
            )
        )
        self.times += times
        self.outputs += [tableau.output] * len(times)

    def add_custom(
        self, step: int, t: float, s: float, move: CustomStep, *, evaluations: int, noises: int
    ) -> None:
        """Append a step that no tableau describes: evaluations of the score, all at ``t``."""
        first = len(self.times)
        made = range(first, first + evaluations)
        draws = tuple(self._draw(t, s) for _ in range(noises))
        self.rows.append(Row(step, t, s, made, draws, custom=move))
        self.times += [t] * evaluations
        self.outputs += ["score"] * evaluations

    def _draw(self, t: float, s: float) -> int:
        self.spans.append((t, s) if s < t else None)
        return len(self.spans) - 1


def build_program(
    sde: SDE,
    predictor: Predictor,
    corrector: Corrector,
    times: Tensor,
    *,
    corrector_first: bool,
    denoise: bool | str,
) -> Program:
    """The rows of a predictor–corrector chain on falling ``times`` ``(n,)``, float64.

    Predictor-first is the order of the paper's algorithms (Song et al. 2021,
    arXiv:2011.13456, algorithms 1–3), corrector-first that of its code.
    """
    program = Program(needs_log_density=corrector.needs_log_density)
    walk(
        program,
        sde,
        predictor,
        corrector,
        times,
        corrector_first=corrector_first,
        denoise=denoise,
    )
    return program


def walk(
    program: Rows,
    sde: SDE,
    predictor: Predictor,
    corrector: Corrector,
    times: Tensor,
    *,
    corrector_first: bool,
    denoise: bool | str,
) -> None:
    """Add the chain's rows to ``program`` in the order they are run."""
    moves = _moves(sde, predictor, times)
    corrections = _corrections(sde, corrector, times)
    grid = times.tolist()
    last = len(grid) - 1
    for n, t in enumerate(grid):
        if corrector_first or n > 0:
            for _ in range(corrector.calls):
                corrections(program, n if corrector_first else n - 1, n, t)
        if n < last:
            moves(program, n, t, grid[n + 1])
    if denoise:
        how = flow_ending if denoise == "flow" else predictor.ending
        program.add(last, grid[-1], 0.0, how(sde, times[-1:]), 0)  # type: ignore[arg-type]


def _moves(
    sde: SDE, predictor: Predictor, times: Tensor
) -> Callable[[Rows, int, float, float], None]:
    if predictor.is_affine(sde):
        tableau = predictor.tableau(sde, times)  # type: ignore[arg-type]
        _require_usable(tableau, predictor, len(times) - 1)

        def affine(program: Rows, n: int, t: float, s: float) -> None:
            if tableau.times.shape[1]:
                program.add(n, t, s, tableau, n)

        return affine

    def custom(program: Rows, n: int, t: float, s: float) -> None:
        def move(x: Tensor, score: ScoreAt, noises: Iterator[Tensor]) -> Tensor:
            z = next(noises, None)
            return predictor.step(sde, x, score, t, s, torch.zeros_like(x) if z is None else z)

        program.add_custom(n, t, s, move, evaluations=1, noises=int(predictor.stochastic))

    return custom


def _corrections(
    sde: SDE, corrector: Corrector, times: Tensor
) -> Callable[[Rows, int, int, float], None]:
    if not corrector.steps:
        return lambda program, step, n, t: None
    if corrector.is_affine():
        tableau = corrector.tableau(sde, times)  # type: ignore[arg-type]
        _require_usable(tableau, corrector, len(times))
        return lambda program, step, n, t: program.add(step, t, t, tableau, n, corrects=True)

    def custom(program: Rows, step: int, n: int, t: float) -> None:
        def move(x: Tensor, score: ScoreAt, noises: Iterator[Tensor]) -> Tensor:
            return corrector.correct(sde, x, score, t, noises)

        program.add_custom(
            step, t, t, move, evaluations=corrector.evaluations, noises=corrector.noises
        )

    return custom


def _require_usable(tableau: Tableau, part: object, steps: int) -> None:
    """Refuse numbers that are missing, or not finite on this grid.

    Raises
    ------
    IncompatibleError
        A method's tableau has another number of steps.
    ScheduleError
        A number is NaN or infinite.
    """
    name = type(part).__name__
    if len(tableau) != steps:
        raise IncompatibleError(
            f"expected {name}.tableau to describe {steps} steps on this grid, got {len(tableau)}"
        )
    extra = () if tableau.spans is None else (tableau.spans,)
    numbers = (tableau.times, tableau.a, tableau.b, tableau.c, *(tableau.start or ()), *extra)
    if not all(bool(number.isfinite().all()) for number in numbers):
        raise ScheduleError(
            f"expected finite numbers from {name} on this grid, got NaN or infinity; keep the "
            "grid where sigma_t > 0"
        )
