"""Tables of the documentation that are read off the classes, and never typed by hand."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator

import torch
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

import sdescore as ss
from sdescore.inverse.operators import Diagonal
from sdescore.rooms import members
from sdescore.sde.linear import MarginalSDE
from sdescore.tableau.method import Method

Row = list[str]

# Any linear SDE will do to count a tableau's outputs.
SDE = ss.VPSDE()
# A table and a ladder, for the two classes that cannot be made without one.
TABLES = {
    "DiscreteVPSDE": ("DiscreteVPSDE.linear()", ss.DiscreteVPSDE.linear()),
    "DiscreteVESDE": (
        "DiscreteVESDE.geometric(…)",
        ss.DiscreteVESDE.geometric(sigma_max=50.0, sigma_min=0.01, levels=10),
    ),
}

# Steps at which an order is measured, equal in λ; and at twice and at four times as many.
STEPS = 256


def public(room: str, base: type) -> Iterator[type]:
    """The room's classes that derive from ``base``, in alphabetical order."""
    for kind in members(f"sdescore.{room}", base):
        if dataclasses.is_dataclass(kind) and kind is not MarginalSDE:
            yield kind


def call(method: Method) -> str:
    """What makes a method: its class, with the arguments that are not the defaults."""
    fields = dataclasses.fields(method)
    values = {f.name: getattr(method, f.name) for f in fields if f.init}
    defaults = {f.name: f.default for f in fields}
    shown = (
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value!r}"
        for name, value in values.items()
        if value != defaults[name]
    )
    return f"{type(method).__name__}({', '.join(shown)})"


def yes(value: bool) -> str:
    """How a table says it."""
    return "yes" if value else "no"


def predictor_rows() -> Iterator[Row]:
    """Name, order declared and measured, evaluations, outputs, their kind, noises."""
    for kind in public("predictors", ss.Predictor):
        for predictor in kind.examples():
            times = ss.UniformGrid().times(SDE, predictor.grid_times or 8)
            outputs = ["—", "score"]
            if predictor.is_affine(SDE):
                tableau = predictor.tableau(SDE, times)
                outputs = (
                    [str(tableau.b.shape[-1]), tableau.output] if tableau.evaluations else 2 * ["—"]
                )
            yield [
                call(predictor),
                str(predictor.order),
                measured(predictor),
                str(predictor.evaluations),
                *outputs,
                str(predictor.noises),
            ]


def measured(predictor: ss.Predictor) -> str:
    """The order that the error on Gaussian data has.

    None where the number of steps is fixed, the model not called, or no tableau describes it.
    """
    if predictor.grid_times or not predictor.evaluations or not predictor.is_affine(SDE):
        return "—"
    coarse, fine = (ss.analysis.order(predictor, SDE, steps=n) for n in (STEPS, 2 * STEPS))
    return f"{2 * fine - coarse:.1f}"  # Richardson's: what is off falls with the step


def corrector_rows() -> Iterator[Row]:
    """Name, inner steps, evaluations, whether affine, and the first step over σ² on two SDEs."""
    for kind in public("correctors", ss.Corrector):
        for corrector in kind.examples():
            affine = corrector.is_affine(SDE)
            cost = corrector.calls * corrector.evaluations
            row = [call(corrector), str(corrector.steps), str(cost), yes(affine)]
            for sde in (ss.VESDE(), SDE):
                times = sde.default_grid.times(sde, 9)
                if not affine or not corrector.evaluations:
                    row.append("—")
                    continue
                ratio = corrector.tableau(sde, times).b[:, 0, 0] / sde.marginal(times)[1].square()
                ends = ratio[[0, -1]].tolist()
                equal = abs(ends[0] - ends[1]) < 1e-9 * ends[0]
                row.append(f"{ends[0]:.4g}" if equal else f"{ends[0]:.3g} … {ends[1]:.3g}")
            yield row


def sde_rows() -> Iterator[Row]:
    """Call, T, t_min, σ at 0 and T, α at T, log-SNR at T and t_min, default grid."""
    for kind in public("sde", ss.LinearSDE):
        call, sde = TABLES.get(kind.__name__) or (f"{kind.__name__}()", kind())
        alpha_T, sigma_T = (v.item() for v in sde.marginal(sde.T))
        yield [
            call,
            f"{sde.T:g}",
            f"{sde.t_min:g}",
            f"{sde.marginal(0.0)[1].item():.3g}",
            f"{alpha_T:.3g}",
            f"{sigma_T:.5g}",
            *(f"{sde.log_snr(t).item() + 0.0:.3g}" for t in (sde.T, sde.t_min)),
            type(sde.default_grid).__name__,
        ]


def operator_rows() -> Iterator[Row]:
    """Class, shapes, whether linear, rank and singular values, and how its solve works."""
    for kind in members("sdescore.inverse", ss.inverse.Operator):
        for operator in kind.examples():
            rank, values, solve = "—", "—", "—"
            if operator.linear:
                A = operator.matrix()
                singular = torch.linalg.svdvals(A)
                rank = str(int(torch.linalg.matrix_rank(A)))
                values = f"{singular[0].item():.3g} … {singular[int(rank) - 1].item():.3g}"
                solve = "closed form" if isinstance(operator, Diagonal) else "conjugate gradients"
            shapes = (operator.event_shape, operator.measurement_shape)
            sizes = (" × ".join(map(str, shape)) for shape in shapes)
            yield [kind.__name__, *sizes, yes(operator.linear), rank, values, solve]


# Heads and rows of each table.
OF = {
    "predictors": (
        "predictor, order, measured, evaluations, outputs H, output, noises",
        predictor_rows,
    ),
    "correctors": (
        "corrector, inner steps, evaluations, affine, τ/σ² on VESDE(), τ/σ² on VPSDE()",
        corrector_rows,
    ),
    "operators": (
        "operator, event, measurement, linear, rank, singular values, solve",
        operator_rows,
    ),
    "sdes": (
        "SDE, T, t_min, σ(0), α(T), σ(T), log-SNR at T, log-SNR at t_min, default grid",
        sde_rows,
    ),
}


@functools.cache
def all_rows(table: str) -> list[Row]:
    """A table's rows, computed once in a build."""
    return list(OF[table][1]())


def rows_of(table: str, kind: str | None = None) -> list[Row]:
    """The rows of a table, of one class if ``kind`` names it."""
    return [row for row in all_rows(table) if kind in (None, re.split(r"[(.]", row[0])[0])]


class ClassTable(Directive):
    """``{class-table} predictors``: one row for each class and arguments, or for a class alone."""

    required_arguments, optional_arguments = 1, 1

    def run(self) -> list[nodes.Node]:
        """The table's nodes."""
        names = OF[self.arguments[0]][0].split(", ")
        rows = rows_of(*self.arguments)
        group = nodes.tgroup(cols=len(names))
        group += [nodes.colspec(colwidth=1) for _ in names]
        group += [nodes.thead("", table_row(names)), nodes.tbody()]
        group[-1] += [table_row(row, call=True) for row in rows]
        return [nodes.table("", group)]


def table_row(cells: Row, *, call: bool = False) -> nodes.row:
    """A row of text; the first cell in code where it is a ``call``."""
    first: nodes.Node = nodes.literal(text=cells[0]) if call else nodes.Text(cells[0])
    texts = [first, *(nodes.Text(cell) for cell in cells[1:])]
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", text)) for text in texts))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("class-table", ClassTable)
    return {"parallel_read_safe": True}
