"""The samplers of score_sde against its algorithm, written as a loop from its tables and times."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.published import difference, draw, noises
from tests.helpers.score_sde import SIGMA, Original, model_of


def original(
    code: Original,
    predictor: str,
    corrector: str,
    z: Iterator[Tensor],
    eps: float,
    snr: float = 0.16,
    n_steps: int = 1,
    flow: bool = False,
    noise_removal: bool = True,
) -> Tensor:
    """The predictor–corrector sampler; its last step returns the mean, or the state."""
    x = next(z) * (SIGMA[1] if code.sde == "ve" else 1.0)
    mean = x
    for t in torch.linspace(1, eps, code.N, dtype=torch.float64).tolist():
        for _ in range(n_steps if corrector != "none" else 0):
            x = mean = code.correct(corrector, x, t, snr, next(z))
        if predictor != "none":
            x, mean = code.predict(predictor, x, t, next(z) if not flow else x, flow)
    return mean if noise_removal else x


CASES = [
    ("ve", True, "reverse_diffusion", "langevin"),
    ("ve", True, "ancestral_sampling", "none"),
    ("ve", True, "euler_maruyama", "ald"),
    ("ve", False, "none", "ald"),
    ("vp", True, "euler_maruyama", "none"),
    ("vp", True, "reverse_diffusion", "langevin"),
    ("vp", True, "ancestral_sampling", "ald"),
    ("vp", False, "ancestral_sampling", "none"),
    ("vp", False, "reverse_diffusion", "langevin"),
    ("subvp", True, "euler_maruyama", "none"),
    ("subvp", True, "reverse_diffusion", "none"),
]


@pytest.mark.filterwarnings("ignore::sdescore.errors.StepsWarning")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("sde", "continuous", "predictor", "corrector"), CASES)
def test_the_samplers_are_the_originals(
    sde: str, continuous: bool, predictor: str, corrector: str, dtype: torch.dtype
) -> None:
    N, eps = 100, 1e-5 if sde == "ve" else 1e-3
    z = noises(3 * N + 1, dtype)
    code = Original(sde, N, continuous)
    with torch.no_grad():
        theirs = original(code, predictor, corrector, iter(z.double()), eps)
    model = model_of(sde, N, continuous, dtype)
    sampler = ss.published.score_sde_pc(
        model, predictor, corrector, num_scales=None if not continuous else N
    )
    assert difference(draw(sampler, model, z), theirs) < (1e-9 if dtype == torch.float64 else 1e-5)


@pytest.mark.filterwarnings("ignore::sdescore.errors.StepsWarning")
@torch.no_grad()
@pytest.mark.parametrize(
    ("sde", "predictor"), [("ve", "reverse_diffusion"), ("vp", "euler_maruyama")]
)
def test_the_probability_flow_steps_are_the_originals(sde: str, predictor: str) -> None:
    N, eps, z = 50, 1e-5 if sde == "ve" else 1e-3, noises(1)
    theirs = original(Original(sde, N), predictor, "none", iter(z), eps, flow=True)
    model = model_of(sde, N, True, torch.float64)
    sampler = ss.published.score_sde_pc(
        model, predictor, "none", probability_flow=True, num_scales=N
    )
    assert difference(draw(sampler, model, z), theirs) < 1e-9


@pytest.mark.filterwarnings("ignore::sdescore.errors.StepsWarning")
@torch.no_grad()
def test_the_corrector_may_take_several_steps() -> None:
    N, z = 30, noises(91)
    theirs = original(Original("vp", N), "none", "langevin", iter(z), 1e-2, 0.1, 3)
    model = model_of("vp", N, True, torch.float64)
    sampler = ss.published.score_sde_pc(model, "none", "langevin", 0.1, 3, num_scales=N, eps=1e-2)
    assert difference(draw(sampler, model, z), theirs) < 1e-9


@pytest.mark.filterwarnings("ignore::sdescore.errors.StepsWarning")
@torch.no_grad()
@pytest.mark.parametrize(("sde", "eps"), [("ve", 1e-5), ("vp", 1e-3)])
def test_the_last_step_may_keep_its_noise(sde: str, eps: float) -> None:
    N, z = 50, noises(51)
    code, model = Original(sde, N), model_of(sde, N, True, torch.float64)
    theirs = original(code, "reverse_diffusion", "none", iter(z), eps, noise_removal=False)
    sampler = ss.published.score_sde_pc(
        model, "reverse_diffusion", "none", num_scales=N, noise_removal=False
    )
    assert difference(draw(sampler, model, z), theirs) < 1e-9
