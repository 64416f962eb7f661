"""What the types of every signature say: each form that they name is taken, and means the same."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.typing import Time
from tests.helpers.strategies import REPRESENTATIVES

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_every_form_of_a_time_is_that_time(name: str) -> None:
    """A float, a 0-dim tensor, or one per sample."""
    assert set(get_args(Time)) == {float, Tensor}
    sde, x = REPRESENTATIVES[name], torch.randn(3, 2, dtype=torch.float64)
    t = 0.4 * sde.T
    zero = torch.tensor(t, dtype=torch.float64)
    score = ss.GaussianScore([0.5, -1.0], 0.3, sde)
    for call in (lambda t: sde.drift(x, t), lambda t: score(x, t), lambda t: sde.perturb(x, t, x)):
        torch.testing.assert_close(call(zero), call(t), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(call(zero.expand(3)), call(t), rtol=1e-13, atol=1e-13)
    one, each = sde.marginal(t)[0], sde.marginal(zero.expand(3))[0]
    assert one.shape == () and each.shape == (3,)


def test_a_part_of_a_condition_that_no_sample_has_is_none() -> None:
    """A tensor, a dict, dicts in a dict; None where a part is missing."""
    seen = []

    def score(x: Tensor, t: Tensor, label: ss.typing.Condition | None = None) -> Tensor:
        seen.append(label)
        return -x

    sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.DDIM(), steps=2)
    rows = torch.arange(3)
    for label in (rows, {"a": rows}, {"a": {"b": rows, "c": None}}):
        seen.clear()
        sampler.sample(score, (3, 2), label=label, max_batch=2)
        part, whole = seen[-1], label
        while isinstance(whole, dict):
            assert list(part) == list(whole)
            assert part.get("c") is None
            key = next(iter(whole))
            part, whole = part[key], whole[key]
        assert part.tolist() == [2]  # the second chunk's own row


def test_any_callable_is_a_score() -> None:
    """A function, a method, a module, a partial: what is called is all that counts."""

    class Field(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return -x / (1 + t)

    field = Field()
    sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.DDIM(), steps=3)
    plain = sampler.sample(lambda x, t: -x / (1 + t), (4, 2), seed=1)
    for score in (field, field.forward):
        assert torch.equal(sampler.sample(score, (4, 2), seed=1), plain)
