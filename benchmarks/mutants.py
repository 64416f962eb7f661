"""Do the tests notice a wrong formula? Break the code in one place at a time, and run them.

A mutant is the package with one place changed: a sign or an operator, a factor, a square root that
is dropped, α for σ, the other end of a step, ``<`` for ``<=``, the newest for the oldest. It is
killed if a test fails. Per mutant the tests of its room run first, up to the first failure, and
then those of the rooms that use it. The mutants of a room are a random sample with a fixed seed.
Tests marked slow are left out.

    python benchmarks/mutants.py                     # 10 mutants a room, prints the survivors
    python benchmarks/mutants.py --rooms sde noise --count 40
    python benchmarks/mutants.py --save              # and writes benchmarks/results/mutants.json
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

from machine import conditions

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "mutants.json"
LIMIT = 1200  # seconds of the tests of a room; some mutants never end

# A room and the rooms whose tests run after its own.
ROOMS = {
    "noise": ["samplers"],
    "grids": ["samplers"],
    "sde": ["score", "predictors"],
    "score": ["samplers", "losses"],
    "tableau": ["predictors", "samplers"],
    "predictors": ["samplers", "analysis"],
    "langevin": ["correctors"],
    "correctors": ["samplers"],
    "guidance": [],
    "inverse": [],
    "samplers": ["published"],
    "losses": ["training"],
    "training": ["checkpoint"],
    "analysis": ["predictors"],
}
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
DROPPED = {"sqrt", "square", "exp", "log", "expm1", "reciprocal", "abs"}
PAIRS = "alpha sigma, t s, alpha_t sigma_t, alpha_s sigma_s, f g2"
SWAPPED = {a: b for pair in PAIRS.split(", ") for a, b in (pair.split(), pair.split()[::-1])}


class Mutant(NamedTuple):
    """One changed place: a file below the root, a line, the text there and the new one."""

    path: str
    line: int
    old: str
    new: str
    source: str


def computations(tree: ast.AST) -> Iterator[ast.expr]:
    """The expressions of a file that compute; not those of annotations, messages and refusals."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
            continue
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if called.startswith(("checks.", "warnings.")):
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


def changes(node: ast.expr, names: set[str]) -> Iterator[ast.expr]:
    """What may stand in a node's place."""
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield ast.BinOp(node.left, OPERATORS[type(node.op)], node.right)
        for side, other in (("left", node.right), ("right", node.left)):
            number = getattr(node, side)
            if isinstance(number, ast.Constant) and isinstance(number.value, int | float):
                yield (
                    other
                    if isinstance(node.op, ast.Mult)
                    else ast.BinOp(**{**vars(node), side: ast.Constant(number.value + 1)})
                )
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        if not isinstance(node.operand, ast.Constant):
            yield node.operand
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        first = OPERATORS[type(node.ops[0])]
        yield ast.Compare(node.left, [first, *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in DROPPED:
            yield node.args[0] if node.args else node.func.value
    elif isinstance(node, ast.Name) and SWAPPED.get(node.id) in names:
        if isinstance(node.ctx, ast.Load):
            yield ast.Name(SWAPPED[node.id], ast.Load())
    elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        first = isinstance(node.slice, ast.Constant) and node.slice.value == 0
        if first:
            yield ast.Subscript(node.value, ast.UnaryOp(ast.USub(), ast.Constant(1)), ast.Load())


def mutants(path: str, source: str) -> list[Mutant]:
    """All mutants of a file."""
    tree, found = ast.parse(source), []
    lines = source.encode().splitlines(keepends=True)
    starts = [sum(map(len, lines[:i])) for i in range(len(lines))]
    bodies = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    inside: dict[ast.AST, set[str]] = {}
    for body in bodies:  # inner functions come last
        names = {n.id for n in ast.walk(body) if isinstance(n, ast.Name)}
        names |= {a.arg for a in ast.walk(body) if isinstance(a, ast.arg)}
        inside |= dict.fromkeys(ast.walk(body), names)
    for node in computations(tree):
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        old = source.encode()[begin:end].decode()
        for other in changes(node, inside.get(node, set())):
            new = f"({ast.unparse(ast.fix_missing_locations(other))})"
            whole = source.encode()[:begin] + new.encode() + source.encode()[end:]
            found.append(Mutant(path, node.lineno, old, new, whole.decode()))
    return found


def fate(mutant: Mutant, room: str, copy: Path) -> str:
    """Whether a test of a copy of the tree fails; the copy is as before afterwards."""
    file = copy / mutant.path
    original = file.read_text(encoding="utf-8")
    file.write_text(mutant.source, encoding="utf-8")
    run = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider"]
    run += ["-p", "no:doctest", "-o", "addopts=--strict-markers -m 'not slow'"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(copy)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    try:
        for folder in (room, *ROOMS[room]):
            tests = [*run, f"tests/{folder}"]
            done = subprocess.run(
                tests, cwd=copy, env=environment, capture_output=True, timeout=LIMIT, check=False
            )
            if done.returncode not in (0, 5):  # 5: the folder has no tests
                return "killed"
    except subprocess.TimeoutExpired:
        return "endless"
    finally:
        file.write_text(original, encoding="utf-8")
    return "survives"


def main() -> None:
    """Run the mutants of the rooms."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rooms", nargs="*", default=[*ROOMS], choices=[*ROOMS])
    parser.add_argument("--count", type=int, default=10, help="mutants of a room")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    tested: list[tuple[str, Mutant]] = []
    for room in options.rooms:
        files = sorted((ROOT / "sdescore" / room).rglob("*.py"))
        every = [
            m for f in files
            for m in mutants(f.relative_to(ROOT).as_posix(), f.read_text(encoding="utf-8"))
        ]  # fmt: skip
        random.Random(f"{options.seed} {room}").shuffle(every)
        drawn = every[: options.count]
        tested += [(room, mutant) for mutant in drawn]
    with tempfile.TemporaryDirectory() as folder:
        copies: Queue[Path] = Queue()
        for job in range(options.jobs):
            copy = Path(folder) / str(job)
            for part in ("sdescore", "tests", "benchmarks", "docs"):
                skip = shutil.ignore_patterns("__pycache__", "_build", "_static")
                shutil.copytree(ROOT / part, copy / part, ignore=skip)
            for file in ("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
                shutil.copy(ROOT / file, copy / file)
            copies.put(copy)

        def one(drawn: tuple[str, Mutant]) -> dict[str, object]:
            room, mutant = drawn
            copy = copies.get()
            try:
                end = fate(mutant, room, copy)
            finally:
                copies.put(copy)
            print(f"{end} {mutant.path}:{mutant.line}: {mutant.old} → {mutant.new}", flush=True)
            return {"room": room, "fate": end, **mutant._asdict(), "source": None}

        with ThreadPoolExecutor(options.jobs) as pool:
            rows = list(pool.map(one, tested))
    print("| room | mutants | killed | endless |\n|---|---|---|---|")
    for room in options.rooms:
        ends = [row["fate"] for row in rows if row["room"] == room]
        print(f"| {room} | {len(ends)} | {ends.count('killed')} | {ends.count('endless')} |")
    print(f"{sum(row['fate'] != 'survives' for row in rows)} of {len(rows)} found")
    if options.save:
        for row in rows:
            del row["source"]
        content = {**conditions(), "count": options.count, "seed": options.seed, "rows": rows}
        RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
