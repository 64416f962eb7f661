"""benchmarks/real_networks.py compares like with like: each way calls the network as often."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.1))
        self.calls = 0

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        self.calls += 1
        return self.weight * x


@pytest.fixture(scope="module")
def benchmark(script: Callable[[str], ModuleType]) -> ModuleType:
    pytest.importorskip("diffusers")
    return script("real_networks")


def subject(benchmark: ModuleType, ve: bool) -> tuple[Counting, object]:
    net = Counting()
    if ve:
        model = ss.ScoreModel(net, ss.VESDE(), "score", "sigma")
    else:
        model = ss.ScoreModel(net, ss.DiscreteVPSDE.linear(), "epsilon", "continuous_level")
    return net, benchmark.Subject(net, model)


@pytest.mark.filterwarnings("ignore::sdescore.errors.StepsWarning")
@pytest.mark.parametrize("ve", [True, False], ids=["VE", "VP"])
def test_every_way_makes_as_many_calls(benchmark: ModuleType, ve: bool) -> None:
    net, found = subject(benchmark, ve)
    tasks = benchmark.sampling(found) | {"likelihood": benchmark.likelihood(found)}
    for task, runs in tasks.items():
        calls = set()
        for way, run in runs.items():
            net.calls = 0
            run()
            calls.add(net.calls / (2 if way == "apart" else 1))
        assert len(calls) == 1 and calls.pop() >= 4, task


@pytest.mark.filterwarnings("ignore::sdescore.errors.StepsWarning")
def test_the_plain_loops_are_the_samplers(benchmark: ModuleType) -> None:
    """Of 20,000 draws the ratio of two deviations has a standard deviation of 0.7 %."""
    shape = (20_000, 1)
    torch.manual_seed(0)
    edm = ss.ScoreModel(lambda x, c: -0.3 * x, ss.EDMSDE(), sigma_data=0.5)
    ladder = ss.DiscreteVESDE.geometric(sigma_max=50.0, sigma_min=0.01, levels=10)
    sigmas = torch.tensor(ladder.sigmas)

    def score(x: Tensor, level: Tensor) -> Tensor:
        return -x / (1 + sigmas[level.long()].square()[:, None])

    ncsn = ss.ScoreModel(score, ladder, "score", "continuous_level")
    heun = ss.published.edm(edm, num_steps=benchmark.STEPS)
    annealed = ss.published.ncsnv2(ncsn, n_steps_each=1, denoise=False)
    plain_ncsnv2 = benchmark.plain_ncsnv2(score, shape, ladder.sigmas)
    for sampler, model, plain in (
        (heun, edm, benchmark.plain_edm(edm.net, shape)),
        (annealed, ncsn, plain_ncsnv2),
    ):
        assert abs(plain().std() / sampler.sample(model, shape).std() - 1) < 0.03


def test_the_ratio_is_of_each_turn(benchmark: ModuleType) -> None:
    """A machine that is twice as slow in some turns is so for both."""
    pace = [9.0, 1.0, 2.0, 1.0, 2.0, 1.0]  # the first turn warms up
    ours, other = iter(pace), iter(pace)
    runs = {"ours": lambda: 3 * next(ours), "plain": lambda: 2 * next(other)}
    (row,) = benchmark.compare(runs, 5)
    assert row["ratio"] == 1.5 and row["quartiles"] == [1.5, 1.5]
    assert row["milliseconds"] == 3000


def test_a_missed_bar_is_said(benchmark: ModuleType) -> None:
    row = {"network": "N", "task": benchmark.SAMPLER, "against": "network", "milliseconds": 1.0}
    met = benchmark.line(row | {"ratio": 1.02, "quartiles": [1.0, 1.1]})
    missed = benchmark.line(row | {"ratio": 1.03, "quartiles": [1.0, 1.1]})
    assert "≤ 1.02" in met and "missed" not in met and "missed" in missed
