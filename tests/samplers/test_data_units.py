"""What a sampler returns are data, whatever the scale of a model's states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.errors import DivergenceError, ShapeError
from tests.helpers.standardised import MEAN, STD, VP, by_hand, exact, plain

SAMPLERS: dict[str, Any] = {
    "chain": ss.PredictorCorrector(VP, corrector=ss.Langevin(0.15), steps=60),
    "multistep": ss.PredictorCorrector(VP, predictor=ss.ExponentialAdams(), steps=8),
    "adaptive": ss.AdaptiveSampler(VP),
    "flow": ss.ProbabilityFlow(VP, method="heun3", steps=8),
}


def close(x: Tensor, z: Tensor) -> bool:
    """Whether ``x`` are the data of ``z``, within the rounding of float32."""
    tolerance = 1e-5 * torch.tensor(STD) + 1e-6 * torch.tensor(MEAN).abs()
    return bool(((x.double() - by_hand(z)).abs() <= tolerance * (1 + z.abs())).all())


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    "options", [{}, {"max_batch": 3}, {"samples": range(2, 6)}, {"init": torch.ones(7, 3)}]
)
def test_samples_are_data_of_the_same_states(name: str, options: dict[str, Any]) -> None:
    draw = SAMPLERS[name].sample
    x, z = (draw(model, (7, 3), seed=3, **options) for model in (exact(), plain()))
    assert close(x, z)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_have_the_mean_and_std_of_the_data(name: str) -> None:
    """One seed; 5 standard errors for 24 numbers: a false alarm in 1 of 70,000 seeds.

    A method's own error in the standard deviation is within 5 %.
    """
    n, sampler = 4000, SAMPLERS[name]
    if name == "multistep":
        sampler = ss.PredictorCorrector(VP, predictor=ss.ExponentialAdams(), steps=100)
    x = sampler.sample(exact(), (n, 3), seed=1).double()
    mean, std = torch.tensor(MEAN).double(), torch.tensor(STD).double()
    assert ((x.mean(0) - mean).abs() / std < 5 / n**0.5).all()
    assert ((x.std(0) / std - 1).abs() < 0.05 + 5 / (2 * n) ** 0.5).all()


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda model: ss.classifier_free(model, model, 1.0),
        lambda model: nn.DataParallel(ss.classifier_free(nn.DataParallel(model), model, 1.0)),
        lambda model: ss.under(nn.DataParallel(model), VP),
        lambda model: ss.guidance.condition(model, 1),
        lambda model: model.under(ss.VESDE()).under(VP),
    ],
)
def test_wrapped_models_give_data(wrap: Any) -> None:
    for sampler in SAMPLERS.values():
        x = sampler.sample(wrap(exact()), (5, 3))
        assert close(x, sampler.sample(plain(), (5, 3)))


def test_under_another_sde_the_data_are_the_same() -> None:
    ve = ss.VESDE()
    sampler = ss.PredictorCorrector(ve, predictor=ss.DDIM(), steps=10)
    z = sampler.sample(plain().under(ve), (5, 3))
    assert close(sampler.sample(exact().under(ve), (5, 3)), z)


def test_a_chain_stepped_by_hand_holds_states() -> None:
    for sampler in (SAMPLERS["chain"], SAMPLERS["adaptive"]):
        model, last = exact(), None
        for state in sampler.iterate(model, (5, 3), seed=2):
            last = state.x
        assert last is not None
        assert torch.equal(model.to_data(last), sampler.sample(model, (5, 3), seed=2))
        assert last.abs().max() < 10


def test_a_pure_function_gives_data() -> None:
    sampler = ss.PredictorCorrector(VP, predictor=ss.DDIM(), steps=6)
    z = torch.randn(1, 4, 3)
    x, states = (ss.samplers.pure_function(sampler, m, (4, 3))(z) for m in (exact(), plain()))
    assert close(x, states)


def test_what_is_finished_when_a_run_diverges_are_data() -> None:
    """The first part of two is fine."""
    model = exact()
    first = SAMPLERS["multistep"].sample(model, (4, 3))

    class Breaks(nn.Module):
        sde, data_scale = VP, model.data_scale
        calls = 0

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            self.calls += 1
            return -x if self.calls <= 8 else x / 0.0

    with pytest.raises(DivergenceError) as error:
        SAMPLERS["multistep"].sample(Breaks(), (8, 3), max_batch=4)
    assert error.value.finished is not None
    assert torch.allclose(error.value.finished, first, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_another_number_of_features_is_refused_at_the_door(name: str) -> None:
    model = exact()
    with pytest.raises(ShapeError, match="the 3 features or channels"):
        SAMPLERS[name].sample(model, (5, 2))
    assert model.net.calls == 0
