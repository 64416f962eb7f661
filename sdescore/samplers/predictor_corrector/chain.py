r"""A predictor and a corrector on a grid, as one sequence of moves.

:meth:`sdescore.PredictorCorrector.moves` says what happens in which order. A :class:`Program` turns
them into numbers for the loop. To find the chain's exact effect on Gaussian data,
:mod:`sdescore.samplers.predictor_corrector.exact` reads the moves' tableaux as tensors.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, ScheduleError
from sdescore.noise.sources import Span
from sdescore.sde.base import SDE
from sdescore.tableau.method import Corrector, Predictor
from sdescore.tableau.tableau import Tableau

CustomStep = Callable[..., Tensor]
"""``(x, score, noises=) -> x``, a step that no tableau describes."""


@dataclass(frozen=True, eq=False)
class Move:
    """One move of the chain: row ``n`` of a tableau, or a step of its own."""

    step: int  # the sampler step that it belongs to
    t: float
    s: float  # the time after it; a corrector's is t
    tableau: Tableau | None  # None where custom replaces it
    n: int = 0
    corrects: bool = False  # a corrector neither uses nor leaves outputs of the predictor
    # A step that no tableau describes, its number of score evaluations, all at t, and the most
    # draws it takes.
    custom: CustomStep | None = None
    evaluations: int = 1
    noises: int = 1


def require_usable(tableau: Tableau, part: object, steps: int) -> None:
    """Refuse numbers that are missing, or not finite in float32 on this grid."""
    name = type(part).__name__
    if len(tableau.times) != steps:
        expected = f"{name}.tableau to describe {steps} steps on this grid"
        checks.refuse(expected, f"{len(tableau.times)}", IncompatibleError)
    numbers = [tableau.times, tableau.a, tableau.b, tableau.c, *(tableau.start or ())]
    if tableau.spans is not None:
        numbers.append(tableau.spans)
    largest = torch.finfo(torch.float32).max
    if not all(bool((number.abs() <= largest).all()) for number in numbers):  # false of NaN too
        got = "NaN or infinity; keep the grid where sigma_t > 0 and, for this method, alpha_t > 0"
        checks.refuse(f"finite numbers from {name} on this grid", got, ScheduleError)


def predict(
    predictor: Predictor,
    sde: SDE,
    t: float,
    s: float,
    x: Tensor,
    score: Callable[[Tensor], Tensor],
    noises: Iterator[Tensor],
) -> Tensor:
    """The custom step of a predictor without a tableau."""
    z = next(noises, None)  # a copy: the numbers may be the caller's, and a step may write to them
    return predictor.step(sde, x, score, t, s, torch.zeros_like(x) if z is None else z.clone())


@dataclass(frozen=True, eq=False)
class Row:
    """A move's numbers for the loop: see :mod:`sdescore.tableau.tableau` for a, b, c."""

    move: Move
    evaluations: range  # which of the program's evaluations it makes
    draws: list[int]  # which draw each noise is, −1 for a noise with no weight
    a: list[float]
    b: list[list[float]]
    c: list[list[float]]
    start: tuple[float, list[float]] | None = None
    outputs: int = 1  # how many past outputs a stage may weigh
    single: bool = False  # whether it has one stage, of one output and one noise


@dataclass(frozen=True, eq=False)
class Program:
    """A chain as numbers for the loop."""

    rows: list[Row]
    times: list[float]  # of each evaluation
    outputs: list[str]  # what each evaluation's output is
    spans: list[Span]  # what each draw is for; spans[0] is that of the draw that starts the chain
    needs_log_density: bool
    needs_variance: bool
    affine: bool  # whether every row is numbers alone
    marginal: tuple[Tensor, Tensor] | None  # α and σ at the times, where the SDE has them

    @classmethod
    def of(
        cls, chain: Iterable[Move], sde: SDE, predictor: Predictor, corrector: Corrector
    ) -> Program:
        """The program of a sequence of moves on an SDE; the two parts say what they need."""
        needs = corrector.needs_log_density, predictor.needs_variance
        rows: list[Row] = []
        times: list[float] = []
        outputs: list[str] = []
        spans: list[Span] = [None]
        tables: dict[int, list[tuple[Any, ...]]] = {}
        past = 0  # outputs that the predictor has left so far
        for move in chain:
            first, drawn, tableau = len(times), len(spans), move.tableau
            if tableau is None:
                times += [move.t] * move.evaluations
                outputs += ["score"] * move.evaluations
                spans += [(move.t, move.s) if move.s < move.t else None] * move.noises
                draws = list(range(drawn, len(spans)))
                rows.append(Row(move, range(first, len(times)), draws, [], [], []))
                continue
            if id(tableau) not in tables:
                tables[id(tableau)] = steps_of(tableau)
            at, a, b, c, used, start, drives = tables[id(tableau)][move.n]
            known = 0 if move.corrects else past
            for j, weights in enumerate(b, start=1):
                if any(weights[known + j :]):
                    raise IncompatibleError(
                        f"expected stage {j - 1} of step {move.step} to weigh only the {known + j} "
                        f"outputs that exist by then, got weights {b}; start a multistep method "
                        "with fewer outputs"
                    )
            past += 0 if move.corrects else len(at)
            over = [(t, s) if s < t else None for t, s in drives or [(move.t, move.s)] * len(used)]
            spans += itertools.compress(over, used)
            counted = itertools.count(drawn)
            draws = [next(counted) if weighed else -1 for weighed in used]
            times += at
            outputs += [tableau.output] * len(at)
            evaluations, width = range(first, len(times)), tableau.b.shape[-1]
            single = start is None and width == len(a) == len(draws) == 1
            rows.append(Row(move, evaluations, draws, a, b, c, start, width, single))
        marginal = None
        if checks.is_linear(sde):
            marginal = sde.marginal(torch.tensor(times, dtype=torch.float64, device="cpu"))
        affine = all(row.move.custom is None for row in rows)
        return cls(rows, times, outputs, spans, *needs, affine, marginal)

    def require_affine(self, sampler: object) -> None:
        """Refuse a non-linear SDE, and steps whose numbers are not known beforehand."""
        expected = "a sampler on a LinearSDE with affine steps, whose numbers are known beforehand"
        usable = self.marginal is not None and self.affine
        checks.that(usable, expected, f"{sampler!r:.200}; use its sample()", IncompatibleError)


def steps_of(tableau: Tableau) -> list[tuple[Any, ...]]:
    """Times, a, b, c, which noises are drawn, start and spans of each step, as lists.

    One conversion for all steps is far quicker than one for each.
    """
    drawn = (tableau.c != 0).any(1)
    start: Iterable[object] = itertools.repeat(None)
    spans: Iterable[object] = itertools.repeat(None)
    if tableau.start is not None:
        drawn = drawn | (tableau.start[1] != 0)
        start = zip(*(v.tolist() for v in tableau.start), strict=True)
    if tableau.spans is not None:
        spans = tableau.spans.tolist()
    numbers = (tableau.times, tableau.a, tableau.b, tableau.c, drawn)
    return list(zip(*(v.tolist() for v in numbers), start, spans, strict=False))
