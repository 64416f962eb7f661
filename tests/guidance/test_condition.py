"""A score at one condition of any kind is that score with the condition in every row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss

SDE = ss.VPSDE()
CONDITIONS: dict[str, Any] = {
    "class": torch.tensor(2),
    "vector": torch.tensor([0.5, -1.0]),
    "image": torch.ones(1, 4, 4) * 0.3,
    "dict": {"kind": torch.tensor(1), "size": {"of": torch.tensor([2.0])}},
}


def total(label: Any) -> Any:
    if isinstance(label, dict):
        return sum(total(part) for part in label.values())
    return label.reshape(len(label), -1).double().sum(1)


def score(x: Tensor, t: Tensor, label: Any) -> Tensor:
    return (total(label)[:, None] - x) / (0.1 + t)


@pytest.mark.parametrize("kind", CONDITIONS)
def test_every_row_has_the_condition(kind: str) -> None:
    label = CONDITIONS[kind]

    def rows(part: Any, n: int) -> Any:
        if isinstance(part, dict):
            return {key: rows(value, n) for key, value in part.items()}
        return torch.stack([part] * n)

    sampler, bound = ss.PredictorCorrector(SDE, steps=4), ss.guidance.condition(score, label)
    x = sampler.sample(bound, (5, 3), seed=1)
    assert torch.equal(x, sampler.sample(score, (5, 3), seed=1, label=rows(label, 5)))
    guided = ss.classifier_free(bound, ss.guidance.condition(score, 0), 1.5)
    y, t = torch.ones(3, 2), torch.tensor(0.5)
    expected = 1.5 * score(y, t, rows(label, 3)) - 0.5 * score(y, t, torch.zeros(3))
    assert torch.allclose(guided(y, t), expected)


@pytest.mark.parametrize("label", [0.5, "3", None, True, {}, {"a": 3}, torch.tensor(0.5)])
def test_what_is_no_condition_is_refused(label: Any) -> None:
    with pytest.raises(ss.SDEScoreError, match="expected"):
        ss.guidance.condition(score, label)
