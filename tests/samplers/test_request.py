"""``samples=``: some rows of a request are the rows that they are in the whole of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sdescore as ss

VP = ss.VPSDE()
B = 23
SAMPLERS: dict[str, Any] = {
    "chain": ss.PredictorCorrector(
        VP, predictor=ss.ReverseDiffusion(), corrector=ss.Langevin(0.15), steps=5
    ),
    "multistep": ss.PredictorCorrector(VP, predictor=ss.ExponentialAdams(), steps=5),
    "adaptive": ss.AdaptiveSampler(VP, rtol=0.2),
    "flow": ss.ProbabilityFlow(VP, method="heun3", steps=4),
}


def elementwise(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
    """Not affine, and each element on its own."""
    shift = 0.0 if label is None else 0.1 * label.to(x)[:, None]
    return -torch.tanh(x - shift) / (0.1 + t.expand(len(x))[:, None])


def draw(name: str, **options: Any) -> Tensor:
    x: Tensor = SAMPLERS[name].sample(elementwise, (B, 3), seed=4, **options)
    return x


def of_all(what: str) -> dict[str, Any]:
    """An argument with one row a sample."""
    generator = torch.Generator("cpu").manual_seed(1)
    return {
        "seed": {},
        "label": {"label": torch.arange(B)},
        "init": {"init": torch.randn(B, 3, generator=generator)},
        "noise": {"noise": ss.noise.ReplayNoise(torch.randn(2100, B, 3, generator=generator))},
    }[what]


@pytest.mark.guards("B10")
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("what", ["seed", "label", "init", "noise"])
def test_a_range_of_samples_is_those_rows_of_all(name: str, what: str) -> None:
    arguments = of_all(what)
    whole = draw(name, **arguments)

    @settings(max_examples=8)
    @given(st.integers(0, B), st.integers(0, B), st.sampled_from([None, 1, 4, 50]))
    def check(a: int, b: int, max_batch: int | None) -> None:
        a, b = min(a, b), max(a, b)
        part = draw(name, samples=range(a, b), max_batch=max_batch, **arguments)
        assert torch.equal(part, whole[a:b])

    check()


@pytest.mark.parametrize("what", ["seed", "label", "init", "noise"])
def test_by_hand_too(what: str) -> None:
    arguments, rows = of_all(what), range(5, 9)
    chain, adaptive = SAMPLERS["chain"], SAMPLERS["adaptive"]
    states = chain.iterate(elementwise, (B, 3), seed=4, samples=rows, **arguments)
    assert torch.equal([state.x for state in states][-1], draw("chain", **arguments)[5:9])
    *_, last = adaptive.iterate(elementwise, (B, 3), seed=4, samples=rows, **arguments)
    assert torch.equal(last.x, draw("adaptive", **arguments)[5:9])


@pytest.mark.parametrize("name", ["chain", "multistep"])
def test_a_state_remembers_its_samples(name: str) -> None:
    sampler, rows, label = SAMPLERS[name], range(5, 9), torch.arange(B)
    options: dict[str, Any] = {"seed": 4, "label": label}
    states = sampler.iterate(elementwise, (B, 3), samples=rows, **options)
    first = next(states)
    for again in ({}, {"samples": rows}):
        state = copy.deepcopy(first)  # a run that goes on from it twice would be rewound
        *_, last = sampler.iterate(elementwise, (B, 3), start=state, **again, **options)
        assert torch.equal(last.x, draw(name, label=label)[5:9])
    with pytest.raises(ss.errors.IncompatibleError, match=r"samples=range\(5, 9\)"):
        sampler.iterate(elementwise, (B, 3), start=first, samples=range(4), **options)


def test_a_rewind_keeps_its_samples() -> None:
    """Its noise differs from the first run's, and is that of the rows' rewind in a run of all."""
    sampler = SAMPLERS["chain"]

    def rewound(**options: Any) -> Tensor:
        states = list(sampler.iterate(elementwise, (B, 3), seed=4, **options))
        again = sampler.iterate(elementwise, (B, 3), seed=4, start=states[0])
        *_, last = sampler.iterate(elementwise, (B, 3), seed=4, start=next(again))
        x: Tensor = last.x
        return x

    part = rewound(samples=range(5, 9))
    assert torch.equal(part, rewound()[5:9])
    assert not torch.equal(part, draw("chain")[5:9])


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    "samples",
    [range(-1, 3), range(0, B + 1), range(9, 5), range(0, 9, 2), range(9, 5, -1), [1, 2], 7],
)
def test_other_ranges_are_refused_at_the_door(name: str, samples: object) -> None:
    def untouched(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("the model was called")

    with pytest.raises(ss.errors.ParameterError, match=r"samples as a range.* range\(0, 23\)"):
        SAMPLERS[name].sample(untouched, (B, 3), samples=samples)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("what", ["label", "init", "noise"])
def test_arguments_of_the_range_alone_are_refused(name: str, what: str) -> None:
    """One row a sample means of all samples; rows of the range alone would be read as others."""
    own = {
        "label": {"label": torch.arange(4)},
        "init": {"init": torch.zeros(4, 3)},
        "noise": {"noise": ss.noise.ReplayNoise(torch.zeros(2100, 4, 3))},
    }[what]
    with pytest.raises(ss.errors.ShapeError):
        draw(name, samples=range(5, 9), **own)


def test_only_the_rows_asked_for_must_be_finite() -> None:
    """A part of a start that is larger than memory costs a look at that part."""
    init = torch.zeros(B, 3)
    init[2] = torch.nan
    draw("chain", init=init, samples=range(3, B))
    with pytest.raises(ss.errors.ParameterError, match="finite init"):
        draw("chain", init=init, samples=range(2, 5))


@pytest.mark.parametrize("max_batch", [None, 2])
def test_a_divergence_names_samples_of_the_whole(max_batch: int | None) -> None:
    def broken(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return torch.where(label[:, None] == 12, torch.nan, -x)

    with pytest.raises(ss.errors.DivergenceError) as caught:
        SAMPLERS["chain"].sample(
            broken, (B, 3), samples=range(9, 14), label=torch.arange(B), max_batch=max_batch
        )
    assert caught.value.samples == [12]
    expected = None if max_batch is None else draw_of(broken, range(9, 11))
    finished = caught.value.finished
    assert (finished is None) if expected is None else torch.equal(finished, expected)


def draw_of(score: Any, samples: range) -> Tensor:
    x: Tensor = SAMPLERS["chain"].sample(
        score, (B, 3), samples=samples, label=torch.arange(B), max_batch=2
    )
    return x
