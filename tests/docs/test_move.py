"""The pages that lead here from other libraries: both columns run, and give the same numbers."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import scipy.interpolate  # noqa: F401  before the stand-ins for torchvision, which forget modules
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers import ROOT
from tests.helpers.pages import run_page

HOWTO = ROOT / "docs" / "howto"
GRID = re.compile(r"^::::\{grid\}.*?^::::$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```\{code-block\} python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ORIGINS = {  # page: packages, the pairs of columns, the largest difference of their numbers
    "diffusers": (["diffusers"], 2, 1e-4),
    "k-diffusion": (["k_diffusion", "torchsde"], 1, 1e-5),
    "azula": (["azula"], 3, 5e-5),
    "lucidrains": (["denoising_diffusion_pytorch"], 2, 1e-4),
}


def pairs(page: str) -> list[tuple[str, str]]:
    """Theirs and ours, of each grid with code that runs."""
    text = (HOWTO / f"{page}.md").read_text(encoding="utf-8")
    blocks = [BLOCK.findall(grid[0]) for grid in GRID.finditer(text)]
    return [(theirs, ours) for theirs, ours in filter(None, blocks)]


def run(code: str, names: dict[str, Any], page: str) -> dict[str, Tensor]:
    """The tensors that the code assigns."""
    before = dict(names)
    exec(compile(code, f"{page}.md", "exec", dont_inherit=True), names)
    found = {name: value for name, value in names.items() if value is not before.get(name)}
    return {name: value.detach() for name, value in found.items() if isinstance(value, Tensor)}


@pytest.mark.filterwarnings("ignore:expected steps:sdescore.errors.StepsWarning")
@pytest.mark.parametrize("page", ORIGINS)
def test_both_columns_give_the_same_numbers(
    page: str, script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    packages, count, bound = ORIGINS[page]
    if not all(find_spec(package) for package in packages):
        pytest.skip(f"{' and '.join(packages)} are not all installed")
    if page == "lucidrains":
        monkeypatch.setitem(sys.modules, packages[0], script("peers").lucidrains())
    names = run_page(HOWTO / f"{page}.md")
    if page == "k-diffusion":
        names["K"] = SimpleNamespace(sampling=script("peers").k_sampling())
    found = pairs(page)
    assert len(found) == count
    for theirs, ours in found:
        expected, mine = run(theirs, names, page), run(ours, names, page)
        common = expected.keys() & mine.keys()
        assert common
        for name in common:
            error = (mine[name] - expected[name]).abs().max() / expected[name].abs().max()
            assert expected[name].isfinite().all() and error < bound, name


ROW = re.compile(r"^\| `(\w+Sampler)`(?:, `(\w+)=([^`]+)`)? \| `(ss\.[^`]+)` \|$", re.MULTILINE)
ROWS = ROW.findall((HOWTO / "azula.md").read_text(encoding="utf-8"))


def test_the_page_on_azula_compares_seven() -> None:
    assert len(ROWS) == 7


@pytest.mark.parametrize(("name", "option", "value", "predictor"), ROWS)
def test_the_samplers_of_azula(
    name: str, option: str, value: str, predictor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step's noise is replayed, so a wrong share of it is seen."""
    sample = pytest.importorskip("azula.sample")
    names = run_page(HOWTO / "azula.md")
    (theirs, ours), *_ = pairs("azula")
    for code in (theirs, ours):
        run(code, names, "azula")
    model, noise, steps = names["model"], names["noise"], 12
    z = torch.randn(steps, *noise.shape, generator=torch.Generator().manual_seed(1))
    drawn = iter(z)
    options: dict[str, Any] = {option: float(value)} if option == "eta" else {}
    options |= {option: int(value)} if option == "order" else {}
    sampler = getattr(sample, name)(names["denoiser"], steps=steps, silent=True, **options)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn_like", lambda x: next(drawn))
        expected = sampler(noise)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ss.errors.StepsWarning)
        mine = ss.PredictorCorrector(
            names["sde"],
            eval(predictor, {"ss": ss}),
            grid=ss.UniformGrid(),
            steps=steps,
            denoise=False,
        )
    replayed = ss.noise.ReplayNoise(torch.cat([noise[None], z]))
    found = mine.sample(model, noise.shape, init=noise, noise=replayed)
    assert (found - expected).abs().max() < 5e-5 * expected.abs().max()


LINES = re.compile(r"^\| `[^|]+` \| `((?:ss|sde|model|sampler|net)\b[^`]*)` \|$", re.MULTILINE)


@pytest.mark.parametrize(("page", "count"), [("score-sde", 19), ("edm", 7)])
def test_every_line_of_the_table_runs(page: str, count: int) -> None:
    """Theirs is a name of a program that is no package, so ours alone runs."""
    path = HOWTO / f"{page}.md"
    lines, names = LINES.findall(path.read_text(encoding="utf-8")), run_page(path)
    assert len(lines) == count
    for line in lines:
        eval(line, names)
