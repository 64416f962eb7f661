"""Runs the tests of a changed package, each change in a process of its own."""

from __future__ import annotations

import gc
import importlib.machinery
import importlib.util
import inspect
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import hypothesis
import numpy
import pytest
import scipy.integrate
import torch
from mutants_reach import ROOT, Imports, Reach
from mutation import Mutant

LOADED = hypothesis, numpy, scipy, torch  # once, for all forks
PYTEST = ["-q", "-n0", "-p", "no:cacheprovider", "-p", "no:doctest"]
PYTEST += ["-o", "addopts=--strict-markers", "-m", "not slow"]
SURVIVES, KILLED, STALE = 0, 1, 3  # exit statuses of a fork
SECONDS = 60  # of a mutant


def forked(work: Callable[[], int], seconds: float) -> int | None:
    """What ``work`` returns in a process of its own; None if it needs more time than this."""
    process = os.fork()
    if not process:
        status = 70
        try:
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(nowhere, stream)
            whole = int(seconds) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (whole, whole))
            os.environ["HYPOTHESIS_PROFILE"] = "mutants"
            sys.path.insert(0, str(ROOT))
            status = work()
        finally:
            os._exit(status)
    end = time.monotonic() + 10 * seconds
    while not (done := os.waitpid(process, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(process, 9)
        time.sleep(0.01)
    return os.WEXITSTATUS(done[1]) if os.WIFEXITED(done[1]) else None


def in_processes(work: Callable[[int], None], jobs: int) -> None:
    """Do ``work(job)`` for each job, side by side."""
    processes = []
    for job in range(jobs):
        process = os.fork()
        if not process:
            try:
                work(job)
            finally:
                os._exit(0)
        processes.append(process)
    for process in processes:
        os.waitpid(process, 0)


class Changed(importlib.machinery.SourceFileLoader):
    """Loads a module of the package from another text."""

    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self.text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.text, self.path, "exec", dont_inherit=True)

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> object:
        """As a finder of modules: this one is here."""
        if name == self.name:
            return importlib.util.spec_from_file_location(name, self.path, loader=self)
        return None


def module_name(mutant: Mutant) -> str:
    """The module that a mutant changes."""
    return mutant.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def changed(mutant: Mutant) -> Changed:
    """The loader of the module as a mutant has it."""
    file = ROOT / mutant.path
    text = mutant.source(file.read_text(encoding="utf-8"))
    return Changed(module_name(mutant), str(file), text)


def anew(mutant: Mutant, tests: list[str], whole: bool = False) -> int | None:
    """The status of tests in a process that has not loaded the package before.

    With ``whole`` the slow tests run as well, and get more time.
    """

    def work() -> int:
        sys.meta_path.insert(0, changed(mutant))
        marks = ["-m", "slow or not slow"] if whole else []
        codes = pytest.main([*PYTEST, *marks, "-x", *tests])
        return SURVIVES if codes == pytest.ExitCode.OK else KILLED

    return forked(work, 10 * SECONDS if whole else SECONDS)


def code_pairs(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """The code of a module's functions and methods before and after a change of some."""
    codes = ([c for c in code.co_consts if isinstance(c, CodeType)] for code in (old, new))
    for a, b in zip(*codes, strict=True):
        if a.co_flags & inspect.CO_OPTIMIZED:
            yield a, b
        else:  # the body of a class
            yield from code_pairs(a, b)


class Server:
    """A pytest plugin: once the tests are collected, ``work`` takes the place of their run.

    Where a module is loaded and the place is in functions that no import entered, a mutant changes
    their code alone, and neither the package nor a test is imported again.
    """

    def __init__(self, work: Callable[[Server], None]) -> None:
        self.work, self.imports = work, Imports()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.session = session
        self.items = {item.nodeid: item for item in session.items}
        self.entered = set[str]().union(*self.imports.of_file.values())
        self.note_functions(str(ROOT / "sdescore"))
        gc.freeze()
        self.work(self)
        return True

    def note_functions(self, folder: str) -> None:
        """Find the functions that are loaded from a folder."""
        self.functions: dict[CodeType, list[FunctionType]] = defaultdict(list)
        for thing in gc.get_objects():
            if type(thing) is FunctionType and thing.__code__.co_filename.startswith(folder):
                self.functions[thing.__code__].append(thing)

    def status(self, mutant: Mutant, tests: list[str]) -> int | None:
        """The status of tests; STALE if the package must be loaded anew."""
        if f"{mutant.path} {mutant.function}" in self.entered:
            return STALE

        def work() -> int:
            loader = changed(mutant)
            if loader.name not in sys.modules:
                sys.meta_path.insert(0, loader)
            elif not self.swap(loader):
                return STALE
            return self.run(tests, first=True)

        return forked(work, SECONDS)

    def run(self, tests: Iterable[str], *, first: bool) -> int:
        """Run tests by name, up to the first failure or all."""
        items = [self.items[test] for test in tests if test in self.items]
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if first and self.session.testsfailed:
                return KILLED
        return SURVIVES

    def reach(self, room: str, file: Path) -> None:
        """Write what the tests of a room enter."""

        def work() -> int:
            plugin = Reach()
            plugin.of_file |= self.imports.of_file
            self.session.config.pluginmanager.register(plugin)
            self.run(
                [test for test in self.items if test.startswith(f"tests/{room}/")], first=False
            )
            plugin.save(file)
            return 0

        forked(work, 1e6)

    def swap(self, loader: Changed) -> bool:
        """Change the functions of a loaded module; False if not all of the change is in them."""
        original = loader.source_to_code(loader.get_data(loader.path), loader.path)
        pairs = [(a, b) for a, b in code_pairs(original, loader.get_code("")) if a != b]
        functions = [
            (f, b)
            for a, b in pairs
            for f in self.functions[a]
            if f.__code__.co_filename == loader.path
        ]
        for function, code in functions:
            function.__code__ = code
        return bool(functions)


def serve(folders: list[str], work: Callable[[Server], None]) -> None:
    """Collect the tests of folders, and do the work."""

    def collect() -> int:
        server = Server(work)
        return pytest.main([*PYTEST, *folders], [server, server.imports])

    forked(collect, 1e6)
