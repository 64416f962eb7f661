"""What the command line's names stand for."""

from __future__ import annotations

import pytest
import torch
from scipy.spatial.distance import pdist

import sdescore as ss
from sdescore.demo.recipes import CORRECTORS, PREDICTORS, RECIPES, digit_model, make_sampler


def test_the_digits_are_as_wide_as_the_ladder_takes_them_to_be() -> None:
    """NCSNv2's technique 1: σ_1 is the largest distance between two data; and their spread."""
    pytest.importorskip("sklearn")
    x = ss.datasets.digits().flatten(1).double()
    largest, sigma = pdist(x.numpy()).max(), RECIPES["ve"].sde().sigmas
    assert largest < sigma[0] < 1.1 * largest
    assert digit_model("ve").options["sigma_data"] == pytest.approx(x.std().item(), rel=0.05)


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_a_model_of_digits_on_its_sde(name: str, classes: int | None) -> None:
    torch.manual_seed(0)
    model, recipe = digit_model(name, classes), RECIPES[name]
    assert model.sde == recipe.sde() and hasattr(model.sde, "sigmas") == recipe.ladder
    assert model.options["time_input"] == recipe.time_input
    x = torch.randn(2, 1, 8, 8)
    label = None if classes is None else torch.tensor([0, 2])
    # A new network says 0: x̂₀ follows from what it predicts, which the papers of each SDE say.
    alpha, sigma = (v.item() for v in model.sde.marginal(model.sde.T))
    scale = 0.75**2 * alpha / (alpha**2 * 0.75**2 + sigma**2)
    expected = {
        "ve": scale * x,  # EDM's F
        "vp": x / alpha,  # ε
        "subvp": x / alpha,
        "cosine": alpha * x,  # v: near T, 1/α would magnify an error of ε
        "flow": x,  # the velocity, x₀ = x − t · 0
    }[name]
    found = model.denoise(x, model.sde.T, label)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("corrector", CORRECTORS)
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_the_names_make_the_sampler(predictor: str, corrector: str) -> None:
    sde = RECIPES["ve"].sde()
    sampler = make_sampler(sde, predictor, corrector, 5)
    assert sampler.predictor == PREDICTORS[predictor]
    assert sampler.corrector == CORRECTORS[corrector]
    assert len(sampler.times) == 5
    # Langevin alone begins at the first σ, as NCSN does.
    assert sampler.corrector_first == (predictor == "none")
