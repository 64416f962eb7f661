"""The reference: a page for each name that users type, found without a build."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest

import sdescore as ss
from tests.helpers import ROOT

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The extension that writes the pages."""
    pytest.importorskip("sphinx")
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module("reference_pages")
    finally:
        sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def pages(reference: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Path below docs → text, of the pages that a build would write."""
    folder = tmp_path_factory.mktemp("docs")
    howto = folder / "howto"
    howto.mkdir()
    (howto / "steps.md").write_text("# Steps\n\n`ss.DDIM()` and `sdescore.losses.sliced_loss`.\n")
    reference.write_pages(SimpleNamespace(srcdir=str(folder)))
    written = sorted(folder.rglob("*.rst"))
    return {p.relative_to(folder).with_suffix("").as_posix(): p.read_text() for p in written}


def test_every_public_name_has_a_page_titled_as_it_is_typed(
    reference: ModuleType, pages: dict[str, str]
) -> None:
    for room in (n for n in ss.__all__ if isinstance(getattr(ss, n), ModuleType)):
        assert room in reference.ROOMS
        for name in getattr(ss, room).__all__:
            typed = f"ss.{name}" if name in ss.__all__ else f"ss.{room}.{name}"
            lines = pages[f"reference/{typed}"].splitlines()
            assert lines[2:4] == [typed, "=" * len(typed)]
            assert f"   {typed}" in pages[f"reference/ss.{room}"].splitlines()
            assert f"<{typed}>`" in pages["reference/index"]


def test_a_page_names_the_pages_that_use_it(pages: dict[str, str]) -> None:
    assert ":doc:`/howto/steps`" in pages["reference/ss.DDIM"]
    assert ":doc:`/howto/steps`" in pages["reference/ss.losses.sliced_loss"]
    assert ":doc:`/howto/steps`" not in pages["reference/ss.Heun"]


def test_a_method_has_its_figures_in_a_box(pages: dict[str, str]) -> None:
    assert ".. class-table:: predictors DDIM" in pages["reference/ss.DDIM"]
    assert ".. class-table:: correctors Langevin" in pages["reference/ss.Langevin"]
    assert ".. class-table:: sdes VPSDE" in pages["reference/ss.VPSDE"]
    assert ".. class-table:: operators Blur" in pages["reference/ss.inverse.Blur"]
    assert "class-table" not in pages["reference/ss.inverse.mmps"]
    assert "class-table" not in pages["reference/ss.UniformGrid"]


def test_every_module_is_described_once_outside_the_navigation(
    reference: ModuleType, pages: dict[str, str]
) -> None:
    inside = [text for name, text in pages.items() if name.startswith("internals/")]
    assert all(text.startswith(":orphan:") for text in inside)
    for module in (m for m in reference.MODULES if "._" not in m):
        assert sum(f".. automodule:: {module}\n" in text for text in inside) == 1


# Protocols, aliases and bases, or made by another name whose page has the example; and a data set
# of a package that the tests do without.
WITHOUT_EXAMPLE = {
    "ss.guidance.GuidedScore",
    "ss.score.ExactScore",
    "ss.score.Convention",
    "ss.tableau.ScoreAt",
    "ss.nets.TimeEmbedding",
    "ss.losses.Objective",
    "ss.losses.TimeDistribution",
    "ss.losses.Weighting",
    "ss.inverse.Operator",
    "ss.noise.NoiseSource",
    "ss.noise.NoiseStream",
    "ss.datasets.mnist_subset",
}


def test_public_names_have_an_example(reference: ModuleType) -> None:
    found = set()
    for room in reference.ROOMS:
        for typed in reference.names_of(room):
            name = typed.rpartition(".")[2]
            thing = getattr(importlib.import_module(f"sdescore.{room}"), name)
            error = isinstance(thing, type) and issubclass(thing, BaseException)
            if callable(thing) and not error and ">>>" not in (thing.__doc__ or ""):
                found.add(typed)
    assert found <= WITHOUT_EXAMPLE
