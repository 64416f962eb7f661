r"""A predictor and a corrector on a grid, as one sequence of moves.

:func:`moves` says what happens in which order. Who wants numbers for a loop makes a
:class:`Program` of it; who wants the chain's exact effect on Gaussian data reads the moves'
tableaux as tensors (:mod:`sdescore.analysis.chain`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from sdescore import checks
from sdescore.correctors.base import Corrector, ScoreAt
from sdescore.errors import IncompatibleError, ScheduleError
from sdescore.noise.sources import Span
from sdescore.predictors.base import Predictor
from sdescore.sde.base import SDE
from sdescore.tableau.ending import flow_ending
from sdescore.tableau.tableau import Tableau

CustomStep = Callable[[Tensor, ScoreAt, Iterator[Tensor]], Tensor]
"""``(x, score, noises) -> x``, a step that no tableau describes."""


@dataclass(frozen=True, eq=False)
class Move:
    """One move of the chain: row ``n`` of a tableau, or a step of its own.

    Attributes
    ----------
    step : int
        The sampler step that it belongs to.
    t, s : float
        Time before and after; a corrector's are equal.
    tableau, n : Tableau or None, int
        Its numbers; None where ``custom`` replaces them.
    corrects : bool
        Whether it is a corrector's, which neither uses nor leaves outputs of the predictor.
    custom : callable or None
        A step that no tableau describes, with ``evaluations`` of the score, all at ``t``, and up
        to ``noises`` draws.
    """

    step: int
    t: float
    s: float
    tableau: Tableau | None
    n: int = 0
    corrects: bool = False
    custom: CustomStep | None = None
    evaluations: int = 1
    noises: int = 1


def moves(
    sde: SDE,
    predictor: Predictor,
    corrector: Corrector,
    times: Tensor,
    *,
    corrector_first: bool,
    denoise: bool | str,
) -> Iterator[Move]:
    """The moves of a predictor–corrector chain on falling ``times`` ``(n,)``, float64.

    The corrector acts after each predictor's move in the paper's algorithms (Song et al. 2021,
    arXiv:2011.13456, algorithms 1–3), and before it in the paper's code.

    Raises
    ------
    IncompatibleError, ScheduleError
        A method's tableau has another number of steps, or a number that is not finite.
    """
    predicts = corrects = None
    if predictor.is_affine(sde):
        predicts = predictor.tableau(sde, times)  # type: ignore[arg-type]
        _require_usable(predicts, predictor, len(times) - 1)
    if corrector.steps and corrector.is_affine(sde):
        corrects = corrector.tableau(sde, times)  # type: ignore[arg-type]
        _require_usable(corrects, corrector, len(times))
    clock = times.tolist()
    last = len(clock) - 1
    for n, t in enumerate(clock):
        step = n if corrector_first else n - 1
        for _ in range(corrector.calls if corrector.steps and step >= 0 else 0):
            if corrects is not None:
                yield Move(step, t, t, corrects, n, corrects=True)
            else:
                custom = partial(_correct, corrector, sde, t)
                cost = corrector.evaluations, corrector.noises
                yield Move(step, t, t, None, 0, True, custom, *cost)
        if n == last:
            break
        if predicts is None:
            custom = partial(_predict, predictor, sde, t, clock[n + 1])
            cost = predictor.evaluations, predictor.noises
            yield Move(n, t, clock[n + 1], None, 0, False, custom, *cost)
        elif predicts.evaluations:  # a tableau without stages leaves the state as it is
            yield Move(n, t, clock[n + 1], predicts, n)
    if denoise:
        ending = flow_ending if denoise == "flow" else predictor.ending
        yield Move(last, clock[-1], 0.0, ending(sde, times[-1:]))  # type: ignore[arg-type]


def _predict(
    predictor: Predictor,
    sde: SDE,
    t: float,
    s: float,
    x: Tensor,
    score: ScoreAt,
    noises: Iterator[Tensor],
) -> Tensor:
    z = next(noises, None)
    return predictor.step(sde, x, score, t, s, torch.zeros_like(x) if z is None else z)


def _correct(
    corrector: Corrector, sde: SDE, t: float, x: Tensor, score: ScoreAt, noises: Iterator[Tensor]
) -> Tensor:
    return corrector.correct(sde, x, score, t, noises)


def _require_usable(tableau: Tableau, part: object, steps: int) -> None:
    """Refuse numbers that are missing, or not finite on this grid."""
    name = type(part).__name__
    if len(tableau) != steps:
        checks.refuse(
            f"{name}.tableau to describe {steps} steps on this grid",
            f"{len(tableau)}",
            IncompatibleError,
        )
    extra = () if tableau.spans is None else (tableau.spans,)
    numbers = (tableau.times, tableau.a, tableau.b, tableau.c, *(tableau.start or ()), *extra)
    checks.that(
        all(bool(number.isfinite().all()) for number in numbers),
        f"finite numbers from {name} on this grid",
        "NaN or infinity; keep the grid where sigma_t > 0",
        ScheduleError,
    )


@dataclass(frozen=True, eq=False)
class Row:
    """A move's numbers for the loop: see :mod:`sdescore.tableau.tableau` for a, b, c.

    Attributes
    ----------
    move : Move
        Where the numbers come from.
    evaluations : range
        Which of the program's evaluations it makes.
    draws : tuple of int
        Which draw each noise is, −1 for a noise with no weight.
    start : (float, list of float) or None
        Weights of the state and the noises in the first evaluation's state, or None where that
        is the state itself.
    outputs : int
        How many past outputs a stage may weigh.
    """

    move: Move
    evaluations: range
    draws: tuple[int, ...]
    a: list[float]
    b: list[list[float]]
    c: list[list[float]]
    start: tuple[float, list[float]] | None = None
    outputs: int = 1


@dataclass(frozen=True, eq=False)
class Program:
    """A chain as numbers for the loop.

    Attributes
    ----------
    rows : list of Row
        One a move.
    times, outputs : list
        The time of each evaluation, and what its output is.
    spans : list
        What each draw is for; ``spans[0]`` belongs to the draw that starts the chain.
    needs_log_density : bool
        Whether some row asks for the model's log density.
    affine : bool
        Whether every row is numbers alone.
    marginal : (Tensor, Tensor) or None
        α and σ at the evaluations' times, float64; None where the SDE has no marginal.
    """

    rows: list[Row]
    times: list[float]
    outputs: list[str]
    spans: list[Span]
    needs_log_density: bool = False
    affine: bool = True
    marginal: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, chain: Iterable[Move], sde: SDE, needs_log_density: bool) -> Program:
        """The program of a sequence of moves on an SDE.

        Raises
        ------
        IncompatibleError
            A stage weighs an output that does not exist by then.
        """
        program = cls([], [], [], [None], needs_log_density)
        numbers: dict[int, _Numbers] = {}
        past = 0  # outputs that the predictor has left so far
        for move in chain:
            first = len(program.times)
            tableau = move.tableau
            if tableau is None:
                made = range(first, first + move.evaluations)
                program.times.extend([move.t] * len(made))
                program.outputs.extend(["score"] * len(made))
                draws = [program._draw(move.t, move.s) for _ in range(move.noises)]
                program.rows.append(Row(move, made, tuple(draws), [], [], []))
                continue
            if id(tableau) not in numbers:
                numbers[id(tableau)] = _Numbers(tableau)
            table, n = numbers[id(tableau)], move.n
            times, b = table.times[n], table.b[n]
            _require_outputs(move, b, 0 if move.corrects else past)
            past += 0 if move.corrects else len(times)
            spans = [(move.t, move.s)] * len(table.drawn[n]) if not table.spans else table.spans[n]
            draws = [
                program._draw(*span) if used else -1
                for span, used in zip(spans, table.drawn[n], strict=True)
            ]
            program.times.extend(times)
            program.outputs.extend([tableau.output] * len(times))
            program.rows.append(
                Row(
                    move,
                    range(first, first + len(times)),
                    tuple(draws),
                    table.a[n],
                    b,
                    table.c[n],
                    table.start[n] if table.start else None,
                    tableau.b.shape[-1],
                )
            )
        marginal = None
        if checks.is_linear(sde):
            t = torch.tensor(program.times, dtype=torch.float64, device="cpu")
            marginal = sde.marginal(t)
        affine = all(row.move.custom is None for row in program.rows)
        return replace(program, affine=affine, marginal=marginal)

    def _draw(self, t: float, s: float) -> int:
        self.spans.append((t, s) if s < t else None)
        return len(self.spans) - 1


class _Numbers:
    """A tableau as lists: one conversion for all rows is far quicker than one for each."""

    def __init__(self, tableau: Tableau) -> None:
        drawn = (tableau.c != 0).any(1)
        self.start: list[tuple[float, list[float]]] = []
        if tableau.start is not None:
            drawn = drawn | (tableau.start[1] != 0)
            self.start = list(zip(*(v.tolist() for v in tableau.start), strict=True))
        self.times, self.a, self.b, self.c, self.drawn = (
            v.tolist() for v in (tableau.times, tableau.a, tableau.b, tableau.c, drawn)
        )
        self.spans = None if tableau.spans is None else tableau.spans.tolist()


def _require_outputs(move: Move, b: list[list[float]], past: int) -> None:
    """Refuse weights on outputs that do not exist by then."""
    for j, weights in enumerate(b):
        if any(weights[past + j + 1 :]):
            raise IncompatibleError(
                f"expected stage {j} of step {move.step} to weigh only the {past + j + 1} outputs "
                f"that exist by then, got weights {weights}; start a multistep method with fewer "
                "outputs"
            )
