"""benchmarks/galaxies.py: reading a file of weights, the network's port, and the page's figures.

The weights here are random, in a file of galaxygrad's format that the test writes.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import sdescore as ss
from tests.helpers import ROOT

Array = np.ndarray[Any, Any]
PAGE = ROOT / "docs" / "howto" / "galaxies.md"
PICTURES = ROOT / "docs" / "_static" / "galaxies"
NAME = "folder/net.eqx"
CHANNELS, PATCH, SIDE, PATCHES, T = 6, 2, 8, 16, 7.0
WIDTHS = (5, 9)  # over patches, over channels: all sizes differ, so that no two can be exchanged


@pytest.fixture(scope="module")
def benchmark(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("galaxies")


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / "galaxies-cpu.json").read_text())


@pytest.fixture(scope="module")
def arrays() -> list[Array]:
    """A network of two blocks, in the order and with the shapes of Equinox."""
    block = [
        *((WIDTHS[0], PATCHES), (WIDTHS[0],), (PATCHES, WIDTHS[0]), (PATCHES,)),
        *((WIDTHS[1], CHANNELS), (WIDTHS[1],), (CHANNELS, WIDTHS[1]), (CHANNELS,)),
        *((CHANNELS, PATCHES), (CHANNELS, PATCHES), (PATCHES, CHANNELS), (PATCHES, CHANNELS)),
    ]
    kernels = [(CHANNELS, 2, PATCH, PATCH), (CHANNELS, 1, 1), (1, CHANNELS, PATCH, PATCH)]
    shapes = [*kernels, (1, 1, 1), *block, *block, (CHANNELS, PATCHES), (CHANNELS, PATCHES)]
    rng = np.random.default_rng(0)
    return [0.3 * rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.fixture(scope="module")
def archive(arrays: list[Array], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("wheel") / "a.whl", [*arrays, np.float64(T)])


def write(path: Path, arrays: list[Any], allow_pickle: bool = False) -> Path:
    stream = io.BytesIO()
    for array in arrays:
        np.save(stream, array, allow_pickle=allow_pickle)
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(NAME, stream.getvalue())
    return path


def equinox(arrays: list[Array], image: Array, time: float) -> Array:
    """The network of one image by its definition, in numpy and float64: no layer of torch."""
    rest = iter(a.astype(np.float64) for a in arrays)
    w_in, b_in, w_out, b_out = (next(rest) for _ in range(4))
    grid = SIDE // PATCH
    h = np.zeros((CHANNELS, grid, grid))
    both = np.stack([image[0].astype(np.float64), np.full((SIDE, SIDE), time)])
    for i, j in np.ndindex(grid, grid):
        window = both[:, PATCH * i : PATCH * (i + 1), PATCH * j : PATCH * (j + 1)]
        h[:, i, j] = (w_in * window).sum((1, 2, 3)) + b_in[:, 0, 0]
    h = h.reshape(CHANNELS, -1)

    def norm(h: Array, weight: Array, bias: Array) -> Array:
        return (h - h.mean()) / np.sqrt(h.var() + 1e-5) * weight + bias

    for _ in range(2):
        a1, c1, a2, c2, d1, e1, d2, e2, *norms = (next(rest) for _ in range(12))
        seen = norm(h, norms[0], norms[1])
        h = h + np.maximum(seen @ a1.T + c1, 0) @ a2.T + c2
        seen = norm(h.T, norms[2], norms[3])
        h = h + (np.maximum(seen @ d1.T + e1, 0) @ d2.T + e2).T
    h = norm(h, next(rest), next(rest)).reshape(CHANNELS, grid, grid)
    # A transposed convolution is a plain one of the output spread out with zeros between.
    spread = np.zeros((CHANNELS, SIDE + PATCH - 1, SIDE + PATCH - 1))
    spread[:, PATCH - 1 :: PATCH, PATCH - 1 :: PATCH] = h
    out = np.zeros((1, SIDE, SIDE))
    for i, j in np.ndindex(SIDE, SIDE):
        out[:, i, j] = (w_out * spread[:, i : i + PATCH, j : j + PATCH]).sum(
            (1, 2, 3)
        ) + b_out.sum()
    return out


def test_the_arrays_come_in_their_order(
    benchmark: ModuleType, archive: Path, arrays: list[Array]
) -> None:
    *found, last = benchmark.read_arrays(archive, NAME)
    assert last.item() == T
    assert len(found) == len(arrays)
    assert all(np.array_equal(a.numpy(), b) for a, b in zip(found, arrays, strict=True))


def test_a_pickle_is_refused(benchmark: ModuleType, tmp_path: Path) -> None:
    objects = np.array([print], dtype=object)
    path = write(tmp_path / "a.whl", [objects], allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        benchmark.read_arrays(path, NAME)


def test_the_network_is_the_one_that_equinox_defines(
    benchmark: ModuleType, archive: Path, arrays: list[Array]
) -> None:
    model = benchmark.load(archive, NAME)
    x = torch.randn(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.01, 0.4, 1.0])
    with torch.no_grad():
        found = model(x, t)
    for image, time, score in zip(x.numpy(), t.tolist(), found.numpy(), strict=True):
        np.testing.assert_allclose(score, equinox(arrays, image, time), rtol=1e-4, atol=1e-5)


def test_the_sde_is_theirs_on_another_clock(benchmark: ModuleType, archive: Path) -> None:
    """dx = −x/2 dt + dw for a time τ = T t: α² = exp(−τ)."""
    model = benchmark.load(archive, NAME)
    for t in (0.01, 0.3, 1.0):
        alpha, sigma = model.sde.marginal(t)
        assert alpha.item() == pytest.approx(np.exp(-T * t / 2), rel=1e-12)
        assert sigma.item() == pytest.approx(np.sqrt(-np.expm1(-T * t)), rel=1e-12)
    assert model.net.side == SIDE


def test_a_file_of_other_shapes_is_refused(
    benchmark: ModuleType, arrays: list[Array], tmp_path: Path
) -> None:
    exchanged = [*arrays]
    exchanged[4], exchanged[6] = exchanged[6], exchanged[4]
    for wrong in (exchanged, arrays[:-1]):
        path = write(tmp_path / "a.whl", [*wrong, np.float64(T)])
        with pytest.raises((RuntimeError, ValueError)):
            benchmark.load(path, NAME)


def test_the_background_is_the_spread_of_the_corners(benchmark: ModuleType) -> None:
    noise = torch.randn(40, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    image = torch.zeros(1, 1, 64, 64)
    image[..., 8:-8, :] = image[..., :, 8:-8] = 100.0  # a galaxy that leaves only the corners
    # 40 estimates from 256 pixels: a standard error of 0.0007; 5 of them, 6e-7.
    assert benchmark.background(image + 0.2 * noise) == pytest.approx(0.2, abs=0.0035)
    assert benchmark.background(image) == 0


def test_a_small_run(
    benchmark: ModuleType, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = dict.fromkeys(benchmark.EVALUATIONS, (6, 20))
    few[benchmark.RECOMMENDED] = (6,)
    seen: list[torch.Tensor] = []

    def recommended(sde: ss.LinearSDE, n: int, data: torch.Tensor) -> ss.PredictorCorrector:
        seen.append(data)
        return ss.PredictorCorrector(sde, predictor=ss.DDIM(eta=0.0), steps=n)

    monkeypatch.setattr(benchmark, "EVALUATIONS", few)
    monkeypatch.setattr(ss, "recommended_sampler", recommended)
    model = benchmark.load(archive, NAME)
    found = benchmark.run(tmp_path, model, samples=4)
    rows = found["rows"]
    assert list(rows) == list(few)
    assert rows[benchmark.DEFAULT]["20"]["distance"] == 0
    assert rows[benchmark.RECOMMENDED]["6"] == rows["DDIM"]["6"]
    assert "distance" not in rows[benchmark.ANCESTRAL]["20"]
    longest = ss.PredictorCorrector(model.sde, predictor=ss.Ancestral(), steps=20)
    assert torch.equal(seen[0], longest.sample(model, (4, 1, SIDE, SIDE), seed=0))
    *_, noisy = rows.values()
    assert noisy["6"]["warned"] and not rows[benchmark.DEFAULT]["6"]["warned"]
    assert "*" in benchmark.table(found).splitlines()[-1]
    for name in ("samplers.png", "samples.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_page_says_what_was_saved(
    script: Callable[[str], ModuleType], benchmark: ModuleType, report: dict[str, Any]
) -> None:
    page = PAGE.read_text("utf-8")
    assert benchmark.table(report) in page
    assert benchmark.table(report, "distance") in page
    assert script("machine").machine_sentence(report) in page
    assert f"averaged over {report['samples']} images" in " ".join(page.split())
    assert report["sde"] == repr(ss.VPSDE(beta_min=10.0, beta_max=10.0))
    assert report["score_at_T"] < 0.05  # the page's own test of a convention
    for name in ("samplers.png", "samples.png"):
        assert f"../_static/galaxies/{name}" in page
        picture = (PICTURES / name).read_bytes()
        assert picture.startswith(b"\x89PNG") and len(picture) < 150_000


def test_what_the_page_concludes(benchmark: ModuleType, report: dict[str, Any]) -> None:
    rows = report["rows"]
    *clean, noisy = rows.values()
    assert all(name in PAGE.read_text("utf-8") for name in rows)
    assert max(cell["background"] for row in clean for cell in row.values()) == 0.0053
    longest = rows[benchmark.ANCESTRAL]["1000"]["background"]
    assert longest == 0.0049
    assert [noisy[n]["background"] for n in ("25", "100")] == [0.54, 0.24]
    assert noisy["1000"]["background"] / longest == pytest.approx(9, abs=0.5)
    assert {n for row in rows.values() for n in row if row[n]["warned"]} == {"25", "100"}
    distance = {name: rows[name]["10"]["distance"] for name in benchmark.DETERMINISTIC}
    assert round(distance[benchmark.DEFAULT], 2) == 0.05
    assert round(distance[benchmark.RECOMMENDED], 2) == 0.05
    assert distance["DDIM"] == 0.17
    five = {name: rows[name]["5"]["distance"] for name in benchmark.DETERMINISTIC}
    assert min(five, key=five.__getitem__) == benchmark.RECOMMENDED
