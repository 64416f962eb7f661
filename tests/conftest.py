"""Settings of the whole suite: no display, no network, one thread, no luck."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the peers of the parity tests load nothing
# Small arrays gain nothing from BLAS's threads, which wait by spinning. Before numpy is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

# Small tensors gain nothing from threads, and sums come out the same on every machine.
torch.set_num_threads(1)

settings.register_profile(
    "ci",
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "explore",
    max_examples=2000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("mutants", settings.get_profile("ci"), max_examples=10)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

IGNORED = (
    # Most tests take few steps, for what they test is not how good samples are. The tests of the
    # warning itself are in samplers/predictor_corrector/test_fit.py, where nothing is ignored.
    "ignore:expected steps that are short enough:sdescore.errors.StepsWarning",
    # Other libraries among themselves: torch.func in torch, numpy in matplotlib and diffusers.
    "ignore:`torch.jit.script:DeprecationWarning",
    "ignore:__array__ implementation:DeprecationWarning",
    "ignore:__array_wrap__ must accept:DeprecationWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    for line in IGNORED:
        config.addinivalue_line("filterwarnings", line)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """``-m fast`` reads no file without the word: importing all would take a third of its time."""
    if config.option.markexpr != "fast" or collection_path.suffix != ".py":
        return None
    return "fast" not in collection_path.read_text(encoding="utf-8") or None


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own handler: a process started in the background inherits an ignored SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _fixed_global_generator() -> None:
    """A test that forgets its seed still draws the same numbers, in any order of tests."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def script() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a script of benchmarks/ by name; scripts find each other as they do when run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
        yield importlib.import_module


@pytest.fixture(autouse=True)
def _denormals() -> Iterator[None]:
    """Benchmarks flush denormal numbers; hypothesis needs them in the tests that follow."""
    yield
    torch.set_flush_denormal(False)
