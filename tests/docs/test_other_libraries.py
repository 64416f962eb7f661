"""The page on azula, deepinv and sbi runs where they are installed, and their answers are exact.

Pixels of N(0.3, 0.2²), and N(y/2, 0.2²) given y, have closed forms for everything that is asked.
"""

from __future__ import annotations

import importlib
import math
import re
from typing import Any

import pytest
import torch

from tests.helpers import ROOT
from tests.helpers.pages import run_page

PAGE = ROOT / "docs" / "howto" / "other-libraries.md"
BLOCK = re.compile(r"^```\{code-block\} python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MEAN, STD = 0.3, 0.2


def run_section(name: str) -> dict[str, Any]:
    """The page's model and the code of one library's section; skipped without the library."""
    try:
        importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another torch
        pytest.skip(f"{name} cannot be imported: {error}")
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {name}\n")[1].split("\n## ")[0]
    torch.manual_seed(0)
    names = run_page(PAGE)
    for block in BLOCK.finditer(section):
        exec(compile(block[1], str(PAGE), "exec", dont_inherit=True), names)
    return names


def near(found: torch.Tensor, expected: float, n: int) -> bool:
    """Within 5 standard errors of a mean of n numbers (6e-7), and 2 % for the sampler's error."""
    return abs(found.item() - expected) < 5 * STD / math.sqrt(n) + 0.02 * STD


def test_the_page_has_a_section_for_each() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [len(BLOCK.findall(part)) for part in text.split("\n## ")] == [0, 0, 1, 1, 1]


def test_azula() -> None:
    names = run_section("azula")
    x = names["x"]
    assert near(x.mean(), MEAN, x.numel()) and near(x.std(), STD, x.numel())
    given_label = names["sampler"](torch.randn(2000, 2), label=torch.ones(2000, 2))
    assert near(given_label.mean(), 0.5, given_label.numel())


def test_deepinv() -> None:
    """The mean of a Gaussian posterior, in units of [0, 1], for each form that σ may have."""
    names = run_section("deepinv")
    x, s0, m0 = torch.rand(4, 1, 8, 8), STD / 2, (MEAN + 1) / 2
    for sigma in (0.1, torch.tensor(0.1), torch.tensor([0.1, 0.2, 0.3, 1.0])):
        noise = torch.as_tensor(sigma).reshape(-1, 1, 1, 1).square()
        expected = (s0**2 * x + noise * m0) / (s0**2 + noise)
        torch.testing.assert_close(names["InDeepinv"]()(x, sigma), expected, rtol=1e-5, atol=1e-5)
    restored, clean = names["restored"], names["clean"]
    # Half of the pixels are missing: without them a sample is off by √2 times their spread.
    assert (restored - clean).std() < math.sqrt(2) * s0


def test_sbi() -> None:
    names = run_section("sbi")
    theta, observation = names["theta"], names["observation"]
    for found, expected in zip(theta.mean(0), observation[0] / 2, strict=True):
        assert near(found, expected.item(), len(theta))
    assert near(theta.std(0).mean(), STD, theta.numel())
    density = torch.distributions.Normal(observation / 2, STD)
    expected = density.log_prob(theta[:5]).sum(1)
    # sbi's ODE and its estimate of the divergence are coarse: hundredths of a nat, seen.
    torch.testing.assert_close(names["log_prob"], expected, rtol=0, atol=0.05)
