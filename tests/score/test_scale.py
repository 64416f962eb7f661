"""Data of any scale: what a model standardises, and who else knows it."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.score.convention import DataScale
from sdescore.score.interface import scale_of, states_of
from tests.helpers.standardised import MEAN, STD, VP, exact, plain


def test_features_are_standardised_one_by_one() -> None:
    model = exact()
    x = torch.tensor([[3e-3, -9.0, 3.05e4]], dtype=torch.float64)
    z = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    assert torch.allclose(model.from_data(x), z, rtol=1e-12)
    assert torch.allclose(model.to_data(z), x, rtol=1e-12)


def test_channels_of_an_image_are() -> None:
    model = ss.ScoreModel(
        lambda x, c: x, VP, data_mean=[1.0, 10.0], data_std=2, prediction="epsilon"
    )
    x = torch.tensor([1.0, 10.0]).reshape(1, 2, 1, 1) + torch.arange(6.0).reshape(1, 1, 2, 3)
    both = 0.5 * torch.arange(6.0).reshape(2, 3)
    assert torch.equal(model.from_data(x), both.expand(1, 2, 2, 3))
    assert torch.equal(model.to_data(model.from_data(x)), x)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 4, 4, 4), (0, 2)])
def test_one_number_fits_any_event(shape: tuple[int, ...]) -> None:
    model = ss.ScoreModel(lambda x, c: x, VP, data_mean=4.0, data_std=0.5, prediction="epsilon")
    x = torch.full(shape, 5.0)
    assert torch.equal(model.from_data(x), torch.full(shape, 2.0))
    assert torch.equal(model.to_data(torch.full(shape, 2.0)), x)


@pytest.mark.parametrize(
    ("dtype", "found"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_the_precision_is_that_of_the_data(dtype: torch.dtype, found: torch.dtype) -> None:
    x = torch.ones(2, 3, dtype=dtype)
    assert exact().from_data(x).dtype == exact().to_data(x).dtype == found


def test_plain_states_are_the_data_themselves() -> None:
    x = torch.randn(4, 3)
    assert plain().from_data(x) is x
    for same in (plain().to_data(x), states_of(lambda x, t: x, x), states_of(plain(), x)):
        assert torch.equal(same, x)
    assert not exact().data_scale.plain


def test_tensors_and_numpy_are_numbers() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 8.0]], dtype=torch.float64)
    one = ss.ScoreModel(
        lambda x, c: x, VP, data_mean=x.mean(0), data_std=x.numpy().std(0), prediction="epsilon"
    )
    assert one.options["data_mean"] == (2.0, 5.0) and one.options["data_std"] == (1.0, 3.0)
    two = ss.ScoreModel(
        lambda x, c: x, VP, data_mean=np.float64(2), data_std=x.mean(), prediction="epsilon"
    )
    assert two.options["data_mean"] == 2.0 and two.options["data_std"] == 3.5


def test_the_options_rebuild_it_and_the_repr_shows_it() -> None:
    model = exact()
    assert ss.ScoreModel(model.net, model.sde, **model.options).data_scale == model.data_scale  # type: ignore[arg-type]
    assert f"data_mean={MEAN}" in repr(model) and f"data_std={STD}" in repr(model)
    moved = model.under(ss.VESDE())
    assert scale_of(moved) == model.data_scale


def test_the_volume_counts_each_element() -> None:
    scale = DataScale(0.0, (2.0, 3.0))
    assert scale.log_volume((2, 5, 7)) == pytest.approx(35 * math.log(6.0))
    assert DataScale(1.0, 2.0).log_volume((3, 4)) == pytest.approx(12 * math.log(2.0))
    assert DataScale(1.0, 2.0).log_volume(()) == pytest.approx(math.log(2.0))


def wrapped() -> dict[str, Any]:
    model = exact()
    return {
        "data parallel": nn.DataParallel(model),
        "averaged": torch.optim.swa_utils.AveragedModel(model),
        "compiled": torch.compile(model),
        "classifier-free": ss.classifier_free(model, nn.DataParallel(model), 2.0),
        "condition": ss.guidance.condition(model, 1),
        "classifier": ss.classifier_guidance(model, lambda x, t: x.sum(1)),
        "under": ss.under(nn.DataParallel(model), ss.VESDE()),
        "both": nn.DataParallel(ss.classifier_free(nn.DataParallel(model), model, 2.0)),
    }


@pytest.mark.parametrize("name", wrapped())
def test_wrappers_say_the_scale_of_their_model(name: str) -> None:
    assert scale_of(wrapped()[name]) == DataScale(MEAN, STD)


def test_who_says_none_has_none() -> None:
    assert scale_of(lambda x, t: x) is None
    assert scale_of(ss.GaussianScore([0.0], 1.0, VP)) is None
    assert scale_of(ss.guidance.GuidedScore([lambda x, t: x])) is None
    assert scale_of(ss.classifier_free(exact(), lambda x, t: x, 2.0)) == DataScale(MEAN, STD)


def test_a_guided_score_follows_its_parts() -> None:
    """Training sets the numbers of a model that guidance may hold already."""
    model = plain()
    guided = ss.classifier_free(model, model, 2.0)
    model.data_scale = DataScale(1.0, 2.0)
    assert scale_of(guided) == DataScale(1.0, 2.0)


def test_the_score_is_that_of_the_states() -> None:
    x: Tensor = torch.randn(4, 3)
    assert torch.equal(exact()(x, torch.tensor(0.5)), -x)


@pytest.mark.parametrize(("mean", "std", "coarse"), [(1e4, 1e-3, True), (1e6, 1e3, False)])
def test_a_mean_is_far_by_the_data_s_own_spread(mean: float, std: float, coarse: bool) -> None:
    """float32's numbers near 10⁴ are 0.001 apart; near 10⁶ they are 0.06 apart."""
    scale = DataScale((0.0, mean), (1.0, std))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scale.to_data(torch.zeros(1, 2))
    assert bool(caught) is coarse


def test_an_offset_that_the_dtype_cannot_hold_is_said() -> None:
    """Near 1e9 float32 has a number every 64: all samples would be the same."""
    model = ss.ScoreModel(lambda x, c: x, VP, "epsilon", data_mean=1e9, data_std=1.0)
    sampler = ss.PredictorCorrector(VP, steps=5)
    with pytest.warns(RuntimeWarning, match=r"1 % of data_std.*dtype=torch\.float64"):
        sampler.sample(model, (4, 2))
    x = sampler.sample(model, (4, 2), dtype=torch.float64) - 1e9  # and no warning
    assert bool((x.std(0) > 0.01).all())
