"""The tests lie as the package does: those of ``sde/vp.py`` are in ``tests/sde/test_vp.py``."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.helpers import ROOT

PACKAGE, TESTS = ROOT / "sdescore", ROOT / "tests"
# What is tested as a whole: scripts, pages, a command, and other libraries beside ours.
NO_ROOMS = {"benchmarks", "cli", "docs", "helpers", "parity"}


def lists_names(path: Path) -> bool:
    """Whether a module's ``__all__`` has a name that users may type."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return bool(ast.literal_eval(node.value))
    return False


def namesake(module: str) -> str:
    """The test file of a module, both from their own root: ``test_main.py`` of ``__main__.py``."""
    path = Path(module)
    return (path.parent / f"test_{path.stem.strip('_')}.py").as_posix()


MODULES = [
    path.relative_to(PACKAGE).as_posix()
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py" and lists_names(path)
]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_with_a_public_name_has_its_namesake(module: str) -> None:
    """A file of tests, by the name that a reader looks for."""
    path = TESTS / namesake(module)
    assert path.is_file(), f"expected tests of sdescore/{module} in tests/{namesake(module)}"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert any(name.startswith("test_") for name in names)


def test_every_folder_of_tests_is_a_room() -> None:
    folders = {path.parent.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py")}
    found = {name for name in folders if name != "." and name.split("/")[0] not in NO_ROOMS}
    rooms = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py")}
    assert found <= rooms, f"no room of the package: {', '.join(sorted(found - rooms))}"
    assert all((TESTS / name).is_dir() for name in NO_ROOMS)


def test_names_of_modules_become_names_of_tests() -> None:
    names = {"sde/vp.py": "sde/test_vp.py", "__main__.py": "test_main.py", "a/_b.py": "a/test_b.py"}
    assert {module: namesake(module) for module in names} == names
    assert "sde/vp.py" in MODULES and "checks.py" not in MODULES
