"""The mutants of a source file: the file with one computation changed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

OPERATORS: dict[type[ast.AST], ast.AST] = {
    ast.Add: ast.Sub(),
    ast.Sub: ast.Add(),
    ast.Mult: ast.Div(),
    ast.Div: ast.Mult(),
    ast.Lt: ast.LtE(),
    ast.LtE: ast.Lt(),
    ast.Gt: ast.GtE(),
    ast.GtE: ast.Gt(),
}
DROPPED = {"sqrt", "square", "exp", "log", "expm1", "reciprocal", "abs", "flip"}


def both_ways(pairs: str) -> dict[str, str]:
    """``"a b, c d"``: a for b and b for a, and the same of c and d."""
    two = [pair.split() for pair in pairs.split(", ")]
    return dict(two) | {b: a for a, b in two}


NAMES = both_ways("alpha sigma, t s, alpha_t sigma_t, alpha_s sigma_s, f g2, first last, low high")
CALLS = both_ways(
    "min max, amin amax, clamp_min clamp_max, minimum maximum, exp expm1, log log1p, cos sin, "
    "sum mean, floor ceil"
)
ONE = ast.Constant(1)


class Mutant(NamedTuple):
    """One changed place: a file below the root, a line, its function, the text there and the new
    one; where the old text begins and ends, in bytes."""

    path: str
    line: int
    function: str
    old: str
    new: str
    begin: int
    end: int

    @property
    def name(self) -> str:
        """What stays when lines above the place are added."""
        return f"{self.path} {self.function}: {self.old} → {self.new}"

    def source(self, original: str) -> str:
        """The file with the new text, on as many lines."""
        whole = original.encode()
        new = self.new[:-1] + "\n" * self.old.count("\n") + self.new[-1:]
        return (whole[: self.begin] + new.encode() + whole[self.end :]).decode()


def computations(tree: ast.AST) -> Iterator[ast.expr]:
    """The expressions of a file that compute; not those of annotations, messages and refusals."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
            continue
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if called.startswith(("checks.", "warnings.")):
            continue
        if isinstance(node, ast.FunctionDef) and node.name in ("__repr__", "__str__"):
            continue
        if isinstance(node, ast.expr):
            yield node
        parts = [node]
        if isinstance(node, ast.FunctionDef):
            parts = [ast.Module(node.body, [])]
        elif isinstance(node, ast.AnnAssign):
            parts = [ast.Expression(node.value)] if node.value else []
        for part in parts:
            yield from computations(part)


def number(node: ast.expr | None, *values: int) -> bool:
    """Whether a node is a number, one of these if there are any."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return number(node.operand, *(-value for value in values))
    numeric = isinstance(node, ast.Constant) and isinstance(node.value, int | float)
    return numeric and (not values or node.value in values)


def is_text(node: ast.expr) -> bool:
    """Whether an operand is a string as it stands, or one that a string's method makes."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return is_text(node.func.value)
    constant = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return constant or isinstance(node, ast.JoinedStr)


def changes(node: ast.expr, names: set[str]) -> Iterator[ast.expr]:
    """What may stand in a node's place."""
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        if is_text(node.left) or is_text(node.right):
            return
        yield ast.BinOp(node.left, OPERATORS[type(node.op)], node.right)
        for side, other in (("left", node.right), ("right", node.left)):
            old = getattr(node, side)
            if number(old) and isinstance(old, ast.Constant):
                more = ast.BinOp(**{**vars(node), side: ast.Constant(old.value + 1)})
                yield other if isinstance(node.op, ast.Mult) else more
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        if not isinstance(node.operand, ast.Constant):
            yield node.operand
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        first = OPERATORS[type(node.ops[0])]
        yield ast.Compare(node.left, [first, *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        name, owner = node.func.attr, node.func.value
        if name in DROPPED:
            function = isinstance(owner, ast.Name) and owner.id in ("torch", "math", "np")
            yield node.args[0] if function else owner
        if name in CALLS:
            yield ast.Call(ast.Attribute(owner, CALLS[name], ast.Load()), node.args, node.keywords)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
        yield ast.Call(ast.Name(CALLS[node.func.id], ast.Load()), node.args, node.keywords)
    elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Domain":
        other = "CLEAN" if node.attr == "SAMPLER" else "SAMPLER"  # noise reused
        yield ast.Attribute(node.value, other, ast.Load())
    elif isinstance(node, ast.Name) and NAMES.get(node.id) in names:
        if isinstance(node.ctx, ast.Load):
            yield ast.Name(NAMES[node.id], ast.Load())
    elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        for index in other_indices(node.slice):
            yield ast.Subscript(node.value, index, ast.Load())


def other_indices(index: ast.expr) -> Iterator[ast.expr]:
    """The other end of what an index takes: the newest for the oldest, t for s."""
    minus = ast.UnaryOp(ast.USub(), ONE)
    if number(index, 0, -1):
        yield minus if number(index, 0) else ast.Constant(0)
    elif isinstance(index, ast.Slice):
        parts = index.lower, index.upper, index.step
        if number(parts[0], 1) and not any(parts[1:]):
            yield ast.Slice(None, minus)
        elif number(parts[1], -1) and not parts[0] and not parts[2]:
            yield ast.Slice(ONE)
        elif number(parts[2], -1):
            yield ast.Slice(parts[0], parts[1])


def mutants(path: str, source: str) -> list[Mutant]:
    """All mutants of a file."""
    tree, found = ast.parse(source), []
    lines = source.encode().splitlines(keepends=True)
    starts = [sum(map(len, lines[:i])) for i in range(len(lines))]
    inside: dict[ast.AST, set[str]] = {}
    for body in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):  # inner ones last
        names = {n.id for n in ast.walk(body) if isinstance(n, ast.Name)}
        names |= {a.arg for a in ast.walk(body) if isinstance(a, ast.arg)}
        inside |= dict.fromkeys(ast.walk(body), names)
    of = {n: name for name, body in functions(tree) for n in ast.walk(body)}
    for node in computations(tree):
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        old = source.encode()[begin:end].decode()
        for other in changes(node, inside.get(node, set())):
            new = f"({ast.unparse(ast.fix_missing_locations(other))})"
            found.append(Mutant(path, node.lineno, of.get(node, ""), old, new, begin, end))
    return found


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """The outermost functions and the methods of a file, by their names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield prefix + node.name, node
        else:
            here = f"{prefix}{node.name}." if isinstance(node, ast.ClassDef) else prefix
            yield from functions(node, here)
