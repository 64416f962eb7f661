"""The demonstration takes the number of threads that a trial was faster with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sdescore.demo.threads import SECONDS, fastest_threads


class FakeSteps:
    """Steps that take ``seconds[threads]`` each on a clock of their own."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.now, self.seen = seconds, 0.0, set[int]()

    def step(self) -> None:
        threads = torch.get_num_threads()
        self.seen.add(threads)
        self.now += self.seconds[threads]

    def clock(self) -> float:
        return self.now


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("seconds", "best"),
    [({1: 0.03, 2: 0.6}, 1), ({1: 0.03, 2: 0.02}, 2), ({1: 2.0, 2: 1.0}, 2)],
    ids=["beside another process", "cores to spare", "steps longer than the trial"],
)
def test_the_faster_is_set_and_the_default_comes_back(seconds: dict[int, float], best: int) -> None:
    steps = FakeSteps(seconds)
    with fastest_threads(steps.step, steps.clock) as threads:
        assert threads == torch.get_num_threads() == best
        assert steps.seen == {1, 2}
    assert torch.get_num_threads() == 2
    longest = max(seconds.values())
    assert steps.now <= 2 * (SECONDS + 2 * longest)  # a first step, and one that overruns


@pytest.mark.usefixtures("two_threads")
def test_the_default_comes_back_after_an_error() -> None:
    steps = FakeSteps({1: 1.0, 2: 2.0})
    with pytest.raises(KeyboardInterrupt), fastest_threads(steps.step, steps.clock):
        assert torch.get_num_threads() == 1
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 2

    def broken() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"), fastest_threads(broken):
        pass
    assert torch.get_num_threads() == 2
