"""Tables of the documentation that are read off the classes, and never typed by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

import sdescore as ss
from sdescore.rooms import members
from sdescore.sde.linear import MarginalSDE

Row = list[str]

# Any linear SDE will do to count a tableau's stages, outputs and noises.
SDE = ss.VPSDE()
# A table and a ladder, for the two classes that cannot be made without one.
TABLES = {
    "DiscreteVPSDE": ("DiscreteVPSDE.linear()", ss.DiscreteVPSDE.linear()),
    "DiscreteVESDE": (
        "DiscreteVESDE.geometric(…)",
        ss.DiscreteVESDE.geometric(sigma_max=50.0, sigma_min=0.01, levels=10),
    ),
}

# Steps at which an order is measured, equal in λ; and at twice as many.
STEPS = 256
# Of families, the members that have a row each.
MEMBERS: dict[str, list[dict[str, object]]] = {
    "ExponentialAdams": [
        *({"points": p} for p in (1, 2, 3, 4)),
        *({"points": p, "corrector_points": p + 1} for p in (2, 3)),
        *({"eta": 1.0, "points": p} for p in (1, 2)),
        {"eta": 1.0, "points": 2, "corrector_points": 3},
    ],
    "ExponentialRungeKutta": [
        *({"stages": p, "output": o} for o in ("x0", "epsilon") for p in (1, 2, 3)),
        *({"eta": 1.0, "stages": p, "output": "epsilon"} for p in (1, 2, 3)),
        {"eta": 1.0, "stages": 2, "node": 0.4},
    ],
    "Heun": [{}, {"s_churn": 20.0}],
    "Multistep": [{"weights": ((1.0,), (1.5, -0.5))}],
}


def public(room: str, base: type) -> Iterator[type]:
    """The room's classes that derive from ``base``, in alphabetical order."""
    for kind in members(f"sdescore.{room}", base):
        if dataclasses.is_dataclass(kind) and kind is not MarginalSDE:
            yield kind


def variants(kind: type) -> Iterator[tuple[str, object]]:
    """``(call, instance)`` with default arguments; both ends of η where there is one."""
    if kind.__name__ in MEMBERS:
        for given in MEMBERS[kind.__name__]:
            shown = (
                f"{k}={v:g}" if isinstance(v, float) else f"{k}={v!r}" for k, v in given.items()
            )
            yield f"{kind.__name__}({', '.join(shown)})", kind(**given)
    elif any(field.name == "eta" for field in dataclasses.fields(kind)):
        for eta in (1.0, 0.0):
            yield f"{kind.__name__}(eta={eta:g})", kind(eta=eta)
    else:
        yield f"{kind.__name__}()", kind()


def yes(value: bool) -> str:
    """How a table says it."""
    return "yes" if value else "no"


def predictor_rows() -> Iterator[Row]:
    """Name, order declared and measured, evaluations, stages, outputs, noise."""
    for kind in public("predictors", ss.Predictor):
        for call, predictor in variants(kind):
            times = ss.UniformGrid().times(SDE, len(getattr(predictor, "weights", range(8))))
            row = [call, str(predictor.order), measured(predictor), str(predictor.evaluations)]
            if predictor.is_affine(SDE):
                tableau = predictor.tableau(SDE, times)
                stages, outputs = tableau.b.shape[1:]
                row += [str(stages), *([str(outputs), tableau.output] if stages else ["—", "—"])]
            else:
                row += ["—", "—", "score"]
            yield [*row, yes(predictor.stochastic)]


def measured(predictor: ss.Predictor) -> str:
    """The order that the error on Gaussian data has; none where the number of steps is fixed, or
    the model not called."""
    fixed = hasattr(predictor, "weights")
    if fixed or not predictor.evaluations or not predictor.is_affine(SDE):
        return "—"
    return f"{ss.analysis.order(predictor, SDE, steps=STEPS):.1f}"


def corrector_rows() -> Iterator[Row]:
    """Name, inner steps, evaluations, whether affine, and the first step over σ² on two SDEs."""
    for kind in public("correctors", ss.Corrector):
        for call, corrector in variants(kind):
            affine = corrector.is_affine()
            stages = corrector.evaluations
            if affine:
                stages = corrector.tableau(SDE, ss.UniformGrid().times(SDE, 9)).times.shape[1]
            row = [call, str(corrector.steps), str(corrector.calls * stages), yes(affine)]
            for sde in (ss.VESDE(), SDE):
                times = sde.default_grid.times(sde, 9)
                tableau = corrector.tableau(sde, times) if affine else ()
                if not len(tableau):
                    row.append("—")
                    continue
                ratio = tableau.b[:, 0, 0] / sde.marginal(times)[1].square()
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


# Heads and rows of each table.
OF = {
    "predictors": (
        "predictor, order, measured, evaluations, stages J, outputs H, output, noise",
        predictor_rows,
    ),
    "correctors": (
        "corrector, inner steps, evaluations, affine, τ/σ² on VESDE(), τ/σ² on VPSDE()",
        corrector_rows,
    ),
    "sdes": (
        "SDE, T, t_min, σ(0), α(T), σ(T), log-SNR at T, log-SNR at t_min, default grid",
        sde_rows,
    ),
}


class ClassTable(Directive):
    """``{class-table} predictors``: one row for each class and arguments."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The table's nodes."""
        heads, rows = OF[self.arguments[0]]
        names = heads.split(", ")
        group = nodes.tgroup(cols=len(names))
        group += [nodes.colspec(colwidth=1) for _ in names]
        group += [nodes.thead("", table_row(names)), nodes.tbody()]
        group[-1] += [table_row(row, call=True) for row in rows()]
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
