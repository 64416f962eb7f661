"""Chunks of a request are the request; what they are of is checked at the call."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sdescore.samplers import iterate_chunks
from tests.helpers.distributed_samples import SAMPLERS, B


def elementwise(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
    return -torch.tanh(x - 0.1 * label.to(x)[:, None]) / (0.1 + t.expand(len(x))[:, None])


@pytest.mark.parametrize("name", SAMPLERS)
def test_all_chunks_are_the_request(name: str, tmp_path: Path) -> None:
    sampler, options = SAMPLERS[name], {"seed": 4, "label": torch.arange(B)}
    whole = sampler.sample(elementwise, (B, 3), **options)

    @settings(max_examples=8)
    @given(st.integers(0, B), st.integers(0, B), st.integers(1, B + 2))
    def check(a: int, b: int, size: int) -> None:
        a, b = min(a, b), max(a, b)
        out = numpy.memmap(tmp_path / "out", dtype=numpy.float32, mode="w+", shape=(B, 3))
        seen: list[int] = []
        for rows, x in iterate_chunks(
            sampler, elementwise, (B, 3), samples=range(a, b), max_batch=size, **options
        ):
            assert 1 <= len(rows) == len(x) <= size
            seen += rows
            out[rows.start : rows.stop] = x
        assert seen == list(range(a, b))
        assert numpy.array_equal(out[a:b], whole[a:b].numpy())

    check()


def test_a_chunk_is_drawn_when_it_is_asked_for() -> None:
    """Those before are drawn, those after are not: no more than one is held."""
    drawn: set[int] = set()

    def score(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        drawn.update(label.tolist())
        return elementwise(x, t, label)

    label = torch.arange(B)
    chunks = iterate_chunks(SAMPLERS["chain"], score, (B, 3), max_batch=5, label=label)
    assert not drawn
    assert next(chunks)[0] == range(5) and drawn == set(range(5))
    assert next(chunks)[0] == range(5, 10) and drawn == set(range(10))
