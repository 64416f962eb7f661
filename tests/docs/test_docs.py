"""The documentation runs: the ten-line example, every code block, every entry of the errata."""

from __future__ import annotations

import doctest
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdescore as ss
from sdescore.datasets import two_moons
from sdescore.metrics import sliced_wasserstein
from tests.helpers import ROOT

DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(python|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted(
    p for p in DOCS.rglob("*.md") if "_build" not in p.parts and FENCE.search(p.read_text())
)


def run_page(page: Path) -> dict[str, Any]:
    """Run a page's blocks in order in one namespace; ``>>>`` blocks must print what they say."""
    text, names = page.read_text(encoding="utf-8"), {"__name__": page.stem}
    runner = doctest.DocTestRunner(verbose=False)
    for block in FENCE.finditer(text):
        kind, code = block.groups()
        line = text.count("\n", 0, block.start(2))
        if kind == "python":
            # Line numbers of a traceback are the page's.
            exec(compile("\n" * line + code, str(page), "exec", dont_inherit=True), names)
            continue
        test = doctest.DocTestParser().get_doctest(code, names, page.name, str(page), line)
        report: list[str] = []
        failed = runner.run(test, out=report.append, clear_globs=False).failed
        assert not failed, "".join(report)
        names = test.globs
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(DOCS).as_posix())
def test_code_blocks_run_and_print_what_they_say(page: Path) -> None:
    run_page(page)


def test_a_wrong_output_in_a_page_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```pycon\n>>> x + 1\n3\n\n```\n")
    with pytest.raises(AssertionError, match=r"Expected:\s+3\s+Got:\s+2"):
        run_page(page)


@pytest.mark.slow
def test_the_ten_line_example() -> None:
    """At most ten lines; the network sees a bounded number of states, and the samples are moons."""
    source = (DOCS / "ten_lines.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 10
    names: dict[str, Any] = {}
    states: list[int] = []

    def count(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, ss.MLP):
            states.append(len(inputs[0]))

    with torch.nn.modules.module.register_module_forward_pre_hook(count):
        exec(compile(source, "ten_lines.py", "exec", dont_inherit=True), names)
    assert 0 < sum(states) < 1_700_000  # 14 seconds on one core, by benchmarks/readme.py
    fresh = two_moons(1000, seed=1)
    # Two sets of moons are 0.12 apart, moons and a Gaussian like them 0.41.
    assert sliced_wasserstein(names["x"], fresh) < 0.25
    angle = math.pi * torch.linspace(0, 1, 501)
    arc = 2 * torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], 1)
    off = torch.cdist(names["x"], torch.cat([arc, -arc])).min(1).values
    assert (off > 0.3).double().mean() < 0.015 and names["x"].norm(dim=1).max() < 5


# docs/errata.md: for each entry the right form holds, and the note's does not.

SCALARS = st.floats(0.1, 0.9)


def gaussian_log_prob(x: torch.Tensor, mean: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.distributions.Normal(mean, sigma).log_prob(x).sum()


@given(sigma=SCALARS)
def test_erratum_1_the_kernels_score_is_minus_z_over_sigma(sigma: float) -> None:
    clean, z = torch.randn(2, 7, dtype=torch.float64).unbind()
    noised = clean + sigma * z
    score = torch.func.grad(gaussian_log_prob)(noised, clean, sigma)
    assert torch.allclose(score, -z / sigma)
    assert not torch.allclose(score, -z / sigma**2)
    sde = ss.EDMSDE(sigma_min=0.01, sigma_max=1.0)
    assert torch.allclose(sde.kernel(sigma)(clean[None]).score(noised[None])[0], score)


@given(beta=SCALARS, before=SCALARS)
def test_erratum_2_the_posterior_mean_in_epsilon_and_in_score(beta: float, before: float) -> None:
    """(1.7.24) with ε where the note has s; the oracle is the posterior in x₀, (1.7.22)."""
    x0, epsilon = torch.randn(2, 5, dtype=torch.float64).unbind()
    alpha, bar = 1 - beta, before * (1 - beta)
    x = bar**0.5 * x0 + (1 - bar) ** 0.5 * epsilon
    oracle = (alpha**0.5 * (1 - before) * x + before**0.5 * beta * x0) / (1 - bar)
    score = -epsilon / (1 - bar) ** 0.5
    assert torch.allclose((x + beta * score) / alpha**0.5, oracle)
    assert torch.allclose((x - beta / (1 - bar) ** 0.5 * epsilon) / alpha**0.5, oracle)
    note = (x - beta / (1 - bar) ** 0.5 * score) / alpha**0.5
    assert not torch.allclose(note, oracle)
    sde = ss.DiscreteVPSDE(betas=(1 - before, beta))
    for form in ({"x0": x0}, {"epsilon": epsilon}, {"score": score}):
        given_one = {name: value[None] for name, value in form.items()}
        assert torch.allclose(sde.bridge(0.5, 1.0)(x[None], **given_one).mean[0], oracle)


def test_erratum_3_the_norm_is_squared() -> None:
    """Data at 0 or 1: the squared norm's minimiser is the score, the plain norm's is a median."""
    sde, x, t = ss.EDMSDE(sigma_min=0.01, sigma_max=5.0), 0.9, 1.0
    score = ss.EmpiricalScore(torch.tensor([[0.0], [1.0]], dtype=torch.float64), sde)
    exact = score(torch.tensor([[x]], dtype=torch.float64), t).item()
    targets = torch.tensor([-(x - 0.0), -(x - 1.0)], dtype=torch.float64) / t**2
    weights = torch.softmax(torch.tensor([-(x**2) / 2, -((x - 1) ** 2) / 2]).double(), 0)
    candidates = torch.linspace(-1, 0.2, 1201, dtype=torch.float64)
    misfit = candidates[:, None] - targets
    squared = candidates[(misfit.square() @ weights).argmin()].item()
    plain = candidates[(misfit.abs() @ weights).argmin()].item()
    assert abs(squared - exact) <= 0.001
    assert abs(plain - exact) > 0.1


def test_erratum_4_a_rising_ladder_is_refused() -> None:
    assert ss.DiscreteVESDE(sigmas=(1.0, 0.1, 0.01)).level(0.0).item() == 2
    with pytest.raises(ss.errors.ScheduleError, match="strictly decreasing"):
        ss.DiscreteVESDE(sigmas=(0.01, 0.1, 1.0))


def test_erratum_5_the_kernels_score_is_the_marginals_only_in_expectation() -> None:
    sde = ss.VPSDE()
    data = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    x = torch.tensor([[0.3]], dtype=torch.float64)
    alpha, sigma = sde.marginal(0.4)
    kernel = -(x - alpha * data) / sigma**2  # one for each datum
    likelihood = torch.softmax(-((x - alpha * data) ** 2) / (2 * sigma**2), dim=0)
    marginal = ss.EmpiricalScore(data, sde)(x, 0.4)
    assert torch.allclose((likelihood * kernel).sum(0, keepdim=True), marginal)
    assert (kernel - marginal).abs().min() > 0.1


def test_erratum_5_the_noised_distribution_is_centred_on_the_shrunk_datum() -> None:
    sde = ss.DiscreteVPSDE.linear()
    bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    kernel = sde.kernel(sde.level_times())
    assert torch.allclose(kernel.scale, bar.sqrt(), rtol=1e-12)
    assert torch.allclose(kernel.variance, 1 - bar, rtol=1e-9)
    assert (kernel.scale[500] - 1).abs() > 0.5


def test_erratum_6_the_euler_step_shrinks_by_one_minus_half_beta_dt() -> None:
    sde, h = ss.VPSDE(), 1e-4
    beta = sde.rates(0.5)[1].item()
    x = torch.ones(1, 1, dtype=torch.float64)
    exact = sde.transition(0.5, 0.5 + h).scale.item()
    step = ss.simulate(
        sde, x, times=[0.5, 0.5 + h], noise=ss.noise.ReplayNoise(torch.zeros(2, 1, 1))
    ).item()
    assert abs(1 - 0.5 * beta * h - exact) < 1e-6
    assert abs(step - (1 - 0.5 * beta * h)) < 1e-12
    assert abs((1 - 0.5 * beta) * h - exact) > 0.9


@given(tau=SCALARS)
def test_errata_7_and_8_one_langevin_step_in_both_conventions(tau: float) -> None:
    """The step of the ladder algorithm is ε = 2τ; without a step size the chain diverges."""
    x, s, z = torch.randn(3, 4, dtype=torch.float64).unbind()
    epsilon = 2 * tau
    one = x + tau * s + (2 * tau) ** 0.5 * z
    assert torch.allclose(one, x + 0.5 * epsilon * s + epsilon**0.5 * z)
    assert not torch.allclose(one, x + tau * s + tau**0.5 * z)
    sde, times = ss.EDMSDE(sigma_min=0.5, sigma_max=2.0), torch.tensor([2.0, 1.0, 0.5]).double()
    numbers = ss.AnnealedLangevin(epsilon=epsilon, steps=1).tableau(sde, times)
    assert torch.allclose(numbers.b.flatten()[-1:], torch.tensor([tau]).double())
    assert torch.allclose(numbers.c.flatten().square(), 2 * numbers.b.flatten())
    stationary = 2 * tau / (1 - (1 - tau) ** 2)  # on N(0, 1)
    assert abs(stationary - 1 / (1 - tau / 2)) < 1e-12


def test_erratum_9_the_two_losses_differ_by_a_constant() -> None:
    """Two data, quadrature in x: J_DSM − J_ESM is the same for two wrong scores, and not 0."""
    sde, t = ss.VPSDE(), 0.3
    data = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    exact = ss.EmpiricalScore(data, sde)
    alpha, sigma = (v.item() for v in sde.marginal(t))
    x = torch.linspace(-8, 8, 40001, dtype=torch.float64)[:, None]
    dx = (x[1] - x[0]).item()
    weight = 0.5 * torch.distributions.Normal(alpha * data.T, sigma).log_prob(x).exp() * dx
    kernel = -(x - alpha * data.T) / sigma**2
    density = weight.sum(1, keepdim=True)
    constant = 0.5 * (alpha**2 / sigma**4) * (density * exact.covariance(x, t)[:, 0]).sum().item()
    for score in (-x, torch.sin(x)):
        dsm = 0.5 * (weight * (score - kernel).square()).sum().item()
        esm = 0.5 * (density * (score - exact(x, t)).square()).sum().item()
        assert abs(dsm - esm - constant) < 1e-8 * constant
    assert constant > 0.1
