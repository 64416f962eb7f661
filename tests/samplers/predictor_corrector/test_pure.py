"""A sampler as a pure function of its noise, and as one graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sdescore as ss

SDE = ss.VPSDE()
PARTS = {
    "Adams corrected": {"predictor": ss.ExponentialAdams(points=2, corrector_points=3)},
    "ancestral, Langevin": {"predictor": ss.Ancestral(), "corrector": ss.Langevin(snr=0.1)},
    "two fifths": {"predictor": ss.ExponentialRungeKutta(eta=1.0, node=0.4), "denoise": "flow"},
    "Heun with churn": {"predictor": ss.Heun(s_churn=2.0)},
    "given weights": {
        "predictor": ss.predictors.Multistep([[1.0], [1.5, -0.5], [1.5, -0.5], [1.8, -0.8]])
    },
}


def sampler(parts: str) -> ss.PredictorCorrector:
    return ss.PredictorCorrector(SDE, grid=ss.LogSNRGrid(), steps=4, **PARTS[parts])


def models() -> dict[str, Callable[..., Tensor]]:
    torch.manual_seed(0)
    return {
        "network": ss.ScoreModel(ss.MLP(2), SDE, prediction="epsilon").eval(),
        "of scaled data": ss.ScoreModel(
            ss.MLP(2), SDE, data_mean=(1.0, -2.0), data_std=(2.0, 0.5)
        ).eval(),
        "exact": ss.MixtureScore([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [0.1, 0.2], SDE),
        "its own input": lambda x, t: x,
    }


@pytest.mark.parametrize("name", models())
@pytest.mark.parametrize("parts", PARTS)
def test_it_is_what_the_sampler_does(parts: str, name: str) -> None:
    chain, model = sampler(parts), models()[name]
    draw = ss.samplers.pure_function(chain, model, (4, 2), dtype=torch.float64)
    z = torch.randn(draw.draws, 4, 2, dtype=torch.float64)
    wanted = chain.sample(model, (4, 2), noise=ss.noise.ReplayNoise(z), dtype=torch.float64)
    kept = z.clone()
    torch.testing.assert_close(draw(z), wanted, rtol=0, atol=0)
    torch.testing.assert_close(z, kept, rtol=0, atol=0)  # pure: its noise stays as it is
    torch.testing.assert_close(draw(z), wanted, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.guards("B11")
@pytest.mark.parametrize("parts", PARTS)
def test_it_compiles_to_one_graph(parts: str) -> None:
    """``fullgraph=True`` refuses any break; the model that hands its input back stays right too."""
    chosen = models()
    if parts != "given weights":  # the same exact score once is enough: it compiles slowly
        del chosen["exact"]
    for model in chosen.values():
        torch._dynamo.reset()
        draw = ss.samplers.pure_function(sampler(parts), model, (4, 2), dtype=torch.float32)
        z = torch.randn(draw.draws, 4, 2)
        compiled = torch.compile(draw, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(z), draw(z), rtol=1e-5, atol=1e-5)


def test_labels_and_draws() -> None:
    deterministic = ss.PredictorCorrector(SDE, predictor=ss.DDIM(eta=0.0), steps=3)
    assert ss.samplers.pure_function(deterministic, lambda x, t: -x, (4, 2)).draws == 1
    label = torch.tensor([0.0, 1.0])
    drawn = ss.samplers.pure_function(
        deterministic, lambda x, t, label: label[:, None] - x, (2, 2), label=label
    )(torch.zeros(1, 2, 2))
    assert drawn[0].abs().max() == 0 and drawn[1].min() > 0.5


def test_what_is_refused() -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="affine steps"):
        by_sample = ss.Langevin(norm="sample")
        chain = ss.PredictorCorrector(
            SDE, predictor=ss.ReverseDiffusion(), corrector=by_sample, steps=30
        )
        ss.samplers.pure_function(chain, lambda x, t: -x, (4, 2))
    draw = ss.samplers.pure_function(sampler("Heun with churn"), lambda x, t: -x, (4, 2))
    with pytest.raises(ss.errors.ShapeError, match="replayed noise of shape"):
        draw(torch.zeros(1, 4, 2))
    with pytest.raises(ss.errors.ShapeError, match="expected a shape"):
        ss.samplers.pure_function(sampler("two fifths"), lambda x, t: -x, 4)
