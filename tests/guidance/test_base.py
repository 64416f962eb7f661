"""What every guided score asks of its parts, and what it knows of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sdescore as ss
from tests.helpers.guided import (
    COVARIANCE,
    MEAN,
    Labelled,
    log_prob_y,
)

pytestmark = pytest.mark.fast


def test_guidance_knows_its_sde() -> None:
    sde = ss.VPSDE()
    score = ss.GaussianScore(MEAN, COVARIANCE, sde)
    assert ss.classifier_free(score, score, 1.0).sde == sde
    assert ss.classifier_guidance(score, log_prob_y(sde)).sde == sde
    model = ss.ScoreModel(ss.MLP(2, hidden=4, classes=2), sde, prediction="epsilon")
    assert ss.guidance.condition(model, 1).sde == sde
    assert not hasattr(ss.guidance.condition(Labelled(), 1), "sde")
    with pytest.raises(ss.errors.IncompatibleError, match="SDE"):
        ss.PredictorCorrector(ss.VESDE(), predictor=ss.ReverseDiffusion(), steps=3).sample(
            ss.classifier_free(score, score, 2.0), (2, 2)
        )


# What guidance asks of its parts before a sampler calls them.


@pytest.mark.guards("W08")
def test_a_network_that_never_went_without_a_label_is_not_asked_without() -> None:
    """Nothing trained the row of its null label."""
    model = ss.ScoreModel(
        ss.MLP(1, hidden=4, classes=2), ss.VPSDE(), label_required=True, prediction="epsilon"
    )
    label = torch.zeros(2, dtype=torch.int64)
    sampler, x = (
        ss.PredictorCorrector(ss.VPSDE(), predictor=ss.ReverseDiffusion(), steps=2),
        torch.ones(2, 1),
    )
    flow = ss.ProbabilityFlow(ss.VPSDE(), method="euler", steps=2)
    moved = model.under(ss.VESDE())
    calls = [lambda: ss.classifier_free(model, model, 2.0), lambda: model(x, 0.5)]
    calls += [lambda: moved.denoise(x, 0.5), lambda: flow.log_likelihood(model, x)]
    calls += [lambda: ss.classifier_guidance(model, lambda x, t: x.sum(1))]
    calls += [
        lambda score=score: ss.PredictorCorrector(
            score.sde, predictor=ss.ReverseDiffusion(), steps=2
        ).sample(score, (2, 1))
        for score in (model, moved, ss.under(nn.DataParallel(model), ss.VESDE()))
    ]
    calls += [lambda: sampler.sample(nn.DataParallel(model), (2, 1))]
    free = ss.classifier_free(model, ss.guidance.condition(model, 1), 2.0)
    calls += [lambda: sampler.sample(free, (2, 1))]
    for call in calls:
        with pytest.raises(ss.errors.IncompatibleError, match="label_dropout"):
            call()
    for score in (model, nn.DataParallel(model), free):
        assert sampler.sample(score, (2, 1), label=label).isfinite().all()
    assert sampler.sample(ss.guidance.condition(model, 1), (2, 1)).isfinite().all()
    assert ss.ScoreModel(model.net, model.sde, **model.options).label_required
    assert moved.label_required


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.optim.swa_utils.AveragedModel])
def test_a_wrapper_does_not_hide_the_sde(wrap: type) -> None:
    """A model sampled on another SDE than its own came out 0.25 wide for 0.316."""
    model = ss.ScoreModel(ss.MLP(1, hidden=4), ss.VPSDE(), prediction="epsilon")
    wrapped = wrap(wrap(model))
    with pytest.raises(ss.errors.IncompatibleError, match="VPSDE"):
        ss.PredictorCorrector(ss.VESDE(), predictor=ss.ReverseDiffusion(), steps=2).sample(
            wrapped, (2, 1)
        )
    with pytest.raises(ss.errors.IncompatibleError, match="one SDE"):
        ss.classifier_free(wrapped, ss.GaussianScore([0.0], 1.0, ss.VESDE()), 2.0)
    assert ss.under(wrapped, ss.VESDE()).own_sde == ss.VPSDE()
    sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.ReverseDiffusion(), steps=5)
    torch.testing.assert_close(sampler.sample(wrapped, (4, 1)), sampler.sample(model, (4, 1)))
