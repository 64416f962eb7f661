"""The rules of the package's structure: imports one way, lightness, forbidden constructs."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sdescore"

# One line a room, from the ground up. A module imports from its own line and those above it.
LINES: list[set[str]] = [
    {"errors", "checks", "shapes", "typing", "conditions", "wrappers"}
    | {"rooms", "files", "borrowed"},
    {"noise"},
    {"grids"},
    {"sde"},
    {"score"},
    {"tableau"},
    {"predictors"},
    {"langevin"},
    {"correctors"},
    {"guidance"},
    {"samplers"},
    {"inverse"},
    {"published"},
    {"nets"},
    {"losses"},
    {"checkpoint"},
    {"training"},
    {"analysis"},
    {"fokker_planck"},
    {"metrics"},
    {"plotting"},
    {"interop"},
    {"datasets"},
    {"demo"},
    {"__main__"},
]
LINE = {part: line for line, parts in enumerate(LINES) for part in parts}

HEAVY = {"matplotlib", "scipy", "torchdiffeq", "sklearn", "safetensors", "tqdm"}
MAX_LINES = 350

UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
NEWER = {"typing.Self", "typing.Never", "typing.override", "enum.StrEnum", "itertools.batched"}
UNSAFE_CALLS = {"eval", "exec", "__import__", "torch.load", "torch.save", "torch.jit.load"}
# What follows the caller's defaults unless it is named; whole numbers are int64 everywhere.
FACTORIES = {
    name: {"dtype", "device"}
    for name in (
        "tensor",
        "as_tensor",
        "zeros",
        "ones",
        "empty",
        "full",
        "eye",
        "rand",
        "randn",
        "linspace",
        "logspace",
        "scalar_tensor",
    )
} | {name: {"device"} for name in ("arange", "randint", "randperm")}
ABSTRACT_SDES = {"SDE", "LinearSDE"}  # "is it linear?" is a question about the kind, not a ladder


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in FILES
}
SUBMODULES = [name for name in TREES if name != "sdescore"]


def part_of(name: str) -> str:
    """The module's entry in the table of levels."""
    return name.split(".")[1]


def dotted(node: ast.expr) -> str:
    """``torch.jit.load`` for the expression of that text, "" for anything not a dotted name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """``ast.walk`` without the blocks that only a type checker reads."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and dotted(child.test).endswith("TYPE_CHECKING"):
            for skipped in child.orelse:
                yield from runtime_nodes(skipped)
        else:
            yield from runtime_nodes(child)


def imported(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """(line, module, name) of each import, also of those in functions; name "" for ``import``."""
    for node in runtime_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, "." * node.level + (node.module or ""), alias.name


def dependencies(name: str) -> Iterator[tuple[int, str]]:
    """(line, module of this package) of each import; ``__version__`` depends on nothing."""
    for line, module, member in imported(TREES[name]):
        if module.split(".")[0] != "sdescore" or (module, member) == ("sdescore", "__version__"):
            continue
        submodule = f"{module}.{member}"
        yield line, submodule if submodule in TREES else module


def factories(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) of each tensor or generator made without naming its dtype or device."""
    for node in ast.walk(tree):
        made = dotted(node.func).removeprefix("torch.") if isinstance(node, ast.Call) else ""
        if made == "Generator" and not node.args and not node.keywords:
            yield node.lineno, "torch.Generator() names no device"
        elif made in FACTORIES and dotted(node.func).startswith("torch."):
            missing = FACTORIES[made] - {keyword.arg for keyword in node.keywords}
            if missing:
                yield node.lineno, f"torch.{made} names no {' and no '.join(sorted(missing))}"


def offences(name: str) -> Iterator[tuple[int, str]]:
    """(line, what) of each construct that has no place in the package."""
    for line, module, member in imported(TREES[name]):
        if module.split(".")[0] in UNSAFE_MODULES:
            yield line, f"import of {module}"
        if f"{module}.{member}" in UNSAFE_CALLS:
            yield line, f"import of {module}.{member}"
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Assert):
            yield node.lineno, "assert: raise an error of sdescore.errors"
        elif isinstance(node, ast.Call) and dotted(node.func) in UNSAFE_CALLS:
            if name == "sdescore.interop.weights" and "weights_only=True" in ast.unparse(node):
                continue  # which makes tensors and containers alone
            yield node.lineno, f"call of {dotted(node.func)}"
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield node.value.lineno, "allow_pickle"
        elif isinstance(node, ast.arguments) and node.kwarg is not None:
            yield node.kwarg.lineno, f"**{node.kwarg.arg}: name the keywords"


def concrete_sdes() -> set[str]:
    """Names of the classes under sdescore/sde that descend from SDE."""
    bases = {
        node.name: {dotted(base).split(".")[-1] for base in node.bases}
        for name, tree in TREES.items()
        if name.startswith("sdescore.sde")
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = set(ABSTRACT_SDES)
    while more := {name for name in bases if name not in found and bases[name] & found}:
        found |= more
    return found - ABSTRACT_SDES


def type_tests(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, class) of each isinstance, issubclass, type(x) is, and case Class()."""
    for node in ast.walk(tree):
        tested: list[ast.expr] = []
        if isinstance(node, ast.Call) and dotted(node.func) in {"isinstance", "issubclass"}:
            tested = node.args[1:]
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.Call) and dotted(side.func) == "type" for side in sides):
                tested = sides
        elif isinstance(node, ast.MatchClass):
            tested = [node.cls]
        for expression in tested:
            for inner in ast.walk(expression):
                if isinstance(inner, (ast.Name, ast.Attribute)):
                    yield inner.lineno, dotted(inner).split(".")[-1]


def report(name: str, found: list[tuple[int, str]]) -> str:
    return "".join(f"\n  {name}, line {line}: {what}" for line, what in found)


@pytest.mark.parametrize("name", SUBMODULES)
def test_imports_go_one_way(name: str) -> None:
    part = part_of(name)
    assert part in LINE, f"{name} has no line: add {part!r} to LINES in {Path(__file__).name}"
    wrong = []
    for line, target in dependencies(name):
        if target == "sdescore":
            wrong.append((line, "imports the package itself: import the defining module"))
            continue
        assert part_of(target) in LINE, f"{target} has no line: add it to LINES"
        if LINE[part_of(target)] > LINE[part]:
            wrong.append((line, f"imports {target}, which stands below it"))
    wrong += [
        (line, "relative import: write it absolute")
        for line, module, _ in imported(TREES[name])
        if module.startswith(".")
    ]
    assert not wrong, report(name, wrong)


def test_no_import_cycles() -> None:
    """Imports inside functions counted: one that points back hides a circle, it breaks none."""
    graph = {name: {target for _, target in dependencies(name)} for name in TREES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("import cycle: " + " → ".join(reversed(error.args[1])))


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_import_loads_no_room() -> None:
    """What ``import sdescore`` costs beyond torch is one file: rooms load when first touched."""
    code = (
        "import sys, torch; before = set(sys.modules); import sdescore; "
        "print(*sorted(set(sys.modules) - before))"
    )
    assert run_python(code).split() == ["sdescore"]


def test_rooms_load_nothing_heavy() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import sdescore; "
        "[getattr(sdescore, name) for name in sdescore.__all__]; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    assert not HEAVY & set(run_python(code).split())


def test_the_package_has_the_names_of_everyday_work() -> None:
    """Some 60; a type checker sees the same ones as the interpreter does."""
    package = importlib.import_module("sdescore")
    names = [name for name in package.__all__ if not inspect.ismodule(getattr(package, name))]
    assert 50 <= len(names) <= 66
    block = next(node for node in TREES["sdescore"].body if isinstance(node, ast.If))
    typed = {alias.asname: node.module for node in block.body for alias in node.names}
    assert set(typed) == set(names)
    for name, module in typed.items():
        assert getattr(importlib.import_module(module), name) is getattr(package, name)


@pytest.mark.parametrize("name", TREES)
def test_no_forbidden_construct(name: str) -> None:
    found = list(offences(name))
    assert not found, report(name, found)


@pytest.mark.parametrize("name", TREES)
def test_factories_name_dtype_and_device(name: str) -> None:
    found = list(factories(TREES[name]))
    assert not found, report(name, found)


@pytest.mark.parametrize("name", TREES)
def test_nothing_is_newer_than_python_3_10(name: str) -> None:
    imports = (n for n in ast.walk(TREES[name]) if isinstance(n, ast.ImportFrom))
    found = [
        (n.lineno, a.name) for n in imports for a in n.names if f"{n.module}.{a.name}" in NEWER
    ]
    assert not found, report(name, found)


@pytest.mark.guards("M05")
@pytest.mark.parametrize("name", TREES)
def test_nobody_asks_which_sde(name: str) -> None:
    concrete = concrete_sdes()
    found = [(line, f"type test on {c}") for line, c in type_tests(TREES[name]) if c in concrete]
    assert not found, report(name, found)


def public_names() -> dict[str, object]:
    """What users may type after ``sdescore.``: the package's names, and those of each room."""
    package = importlib.import_module("sdescore")
    found = {name: getattr(package, name) for name in package.__all__}
    rooms = {name: value for name, value in found.items() if inspect.ismodule(value)}
    return found | {f"{r}.{n}": getattr(room, n) for r, room in rooms.items() for n in room.__all__}


def test_public_names_have_docstrings() -> None:
    bare = []
    for name, public in public_names().items():
        if not (inspect.isclass(public) or inspect.isroutine(public)):
            continue
        # A dataclass without a docstring gets its signature as one.
        doc = vars(public).get("__doc__") if inspect.isclass(public) else public.__doc__
        if not doc or doc.startswith(f"{name.rpartition('.')[2]}("):
            bare.append(name)
        if inspect.isclass(public):
            members = {m: v for m, v in vars(public).items() if not m.startswith("_")}
            described = (inspect.isroutine, inspect.isdatadescriptor)
            bare += [
                f"{name}.{member}"
                for member, value in members.items()
                if any(kind(value) for kind in described)
                and not inspect.getdoc(getattr(public, member))
            ]
    assert not bare, f"no docstring: {', '.join(bare)}"


@pytest.mark.parametrize("name", SUBMODULES)
def test_exceptions_and_nothing_else_are_called_errors(name: str) -> None:
    """An alias of a type counts as well; exceptions that only warn end in Warning."""
    module = vars(importlib.import_module(name))
    classes = {key: value for key, value in module.items() if inspect.isclass(value)}
    raised = {key for key, value in classes.items() if issubclass(value, BaseException)}
    called = {key for key in module if key.endswith(("Error", "Warning"))}
    assert called == raised


@pytest.mark.parametrize("folder", ["sdescore", "tests", "benchmarks"])
def test_files_are_short(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    long = [f"{file.relative_to(ROOT)} has {n}" for file, n in lines.items() if n > MAX_LINES]
    assert files and not long, f"expected at most {MAX_LINES} lines a file: {', '.join(long)}"


def test_half_of_the_files_fit_on_two_screens() -> None:
    """The median is at most 120 lines."""
    sizes = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES)
    assert sizes[len(sizes) // 2] <= 120
