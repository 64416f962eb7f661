"""Which functions of the package each test enters, and how long it takes: a pytest plugin."""

from __future__ import annotations

import ast
import pickle
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

import pytest
from mutation import functions

ROOT = Path(__file__).resolve().parent.parent
PER_TEST = 1.0  # seconds of the processor


def functions_by_line() -> dict[tuple[str, int], str]:
    """The name of the function that a line of a file belongs to."""
    found = {}
    for file in sorted((ROOT / "sdescore").rglob("*.py")):
        path = file.relative_to(ROOT).as_posix()
        for name, body in functions(ast.parse(file.read_text(encoding="utf-8"))):
            first = min([body.lineno, *(d.lineno for d in body.decorator_list)])
            for line in range(first, body.end_lineno + 1):
                found[str(file), line] = f"{path} {name}"
    return found


def last_name(function: str) -> str:
    """The name of a method without its class and file."""
    return function.replace(" ", ".").split(".")[-1]


def drawn_tests(file: Path) -> set[str]:
    """The tests of a file that hypothesis draws examples for."""
    tests = [n for n in ast.parse(file.read_text("utf-8")).body if isinstance(n, ast.FunctionDef)]
    return {t.name for t in tests for d in t.decorator_list if ast.unparse(d).startswith("given(")}


class Imports:
    """The functions that are entered when the files of tests are imported."""

    def __init__(self) -> None:
        self.of_file: dict[str, set[str]] = defaultdict(set)
        self._at = functions_by_line()

    @contextmanager
    def _noting(self, functions: set[str]) -> Iterator[None]:
        codes: set[CodeType] = set()

        def note(frame: FrameType, event: str, argument: object) -> None:
            codes.add(frame.f_code)

        sys.settrace(note)
        try:
            yield
        finally:
            sys.settrace(None)
            lines = ((code.co_filename, code.co_firstlineno) for code in codes)
            functions |= {self._at[line] for line in lines if line in self._at}

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Iterator[None]:
        with self._noting(self.of_file[collector.nodeid.split("::")[0]]):
            return (yield)


class Reach(Imports):
    """And those that each test enters; what a fixture enters counts for all tests of its file."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}
        self.of_test: dict[str, set[str]] = {}

    def save(self, file: Path) -> None:
        """Write what was noted."""
        file.write_bytes(pickle.dumps((self.seconds, self.of_test, self.of_file)))

    @classmethod
    def load(cls, file: Path) -> Reach:
        """What was noted."""
        reach = cls()
        reach.seconds, reach.of_test, reach.of_file = pickle.loads(file.read_bytes())
        return reach

    def by_function(self) -> dict[str, list[tuple[float, str]]]:
        """The seconds and names of the tests that enter a function.

        A test that hypothesis draws examples for may enter a method of other classes next time, so
        it stands at ``*.method`` as well.
        """
        found: dict[str, set[tuple[float, str]]] = defaultdict(set)
        drawn = {
            file: drawn_tests(ROOT / file) for file in {t.split("::")[0] for t in self.of_test}
        }
        for test, entered in self.of_test.items():
            file, name = test.split("::")[:2]
            for function in entered | self.of_file[file]:
                found[function].add((self.seconds[test], test))
                if name in drawn[file]:
                    found["*." + last_name(function)].add((self.seconds[test], test))
        return {function: sorted(tests) for function, tests in found.items()}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        with self._noting(self.of_file[item.nodeid.split("::")[0]]):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            pytest.skip("more seconds than a mutant has for a test")

        entered = self.of_test[item.nodeid] = set()
        signal.signal(signal.SIGPROF, stop)
        signal.setitimer(signal.ITIMER_PROF, PER_TEST)
        begin = time.process_time()
        try:
            with self._noting(entered):
                return (yield)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.seconds[item.nodeid] = time.process_time() - begin

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and not report.passed:  # too long, or fails without a mutant
            self.of_test.pop(report.nodeid, None)
