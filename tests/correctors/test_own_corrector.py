"""Correctors of a user's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.correctors import SDE, Counted, mixture


@dataclass(frozen=True)
class Midpoint(ss.Corrector):
    """Two evaluations and three noises a call, and half the calls that ``steps`` says."""

    steps: int = 4
    seen: list[Tensor] = field(default_factory=list, compare=False)

    @property
    def calls(self) -> int:
        return self.steps // 2

    @property
    def evaluations(self) -> int:
        return 2

    @property
    def noises(self) -> int:
        return 3

    def correct(
        self, sde: ss.SDE, x: Tensor, score: Any, t: float, noises: Iterator[Tensor]
    ) -> Tensor:
        self.seen.extend(z.clone() for z in noises)
        return x + 0.01 * score(x + 0.01 * score(x))


def test_a_corrector_may_evaluate_and_draw_as_it_says() -> None:
    corrector, score = Midpoint(), Counted(mixture())
    sampler = ss.PredictorCorrector(
        SDE, predictor=ss.ReverseDiffusion(), corrector=corrector, steps=5
    )
    noise = torch.randn(len(sampler.program.spans), 2, 1)
    sampler.sample(score, (2, 1), noise=ss.noise.ReplayNoise(noise))
    assert sampler.evaluations == score.calls.count("score") == 5 + 4 * 2 * 2
    assert len(noise) == 1 + 4 + 4 * 2 * 3
    moves = [1 + 7 * k for k in range(4)]
    drawn = [k for k in range(1, len(noise)) if k not in moves]
    assert all(torch.equal(z, noise[k]) for z, k in zip(corrector.seen, drawn, strict=True))


def test_a_corrector_that_did_not_ask_for_densities_gets_none() -> None:
    class Undeclared(Midpoint):
        def correct(
            self, sde: ss.SDE, x: Tensor, score: Any, t: float, noises: Iterator[Tensor]
        ) -> Tensor:
            return x + 0 * score.log_density(x)[:, None]

    sampler = ss.PredictorCorrector(
        SDE, predictor=ss.ReverseDiffusion(), corrector=Undeclared(), steps=3
    )
    with pytest.raises(ss.errors.IncompatibleError, match="needs_log_density = True"):
        sampler.sample(mixture(), (2, 1))
