"""What a score under another SDE is, and what is refused."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.score.change_of_sde import ScoreUnderSDE, under
from tests.helpers.changed import (
    DOUBLE,
    EDM,
    FLOW,
    PREDICTIONS,
    SMALL,
    VE,
    VP,
    Exact,
    exact_model,
    plain,
)
from tests.helpers.strategies import states


def test_round_trips() -> None:
    model = exact_model("v", VP)
    assert model.under(VP) is model
    back = model.under(VE).under(VP)
    assert back.convention == model.convention and back.net is model.net
    assert back.options == model.options
    moved = model.under(VE)
    assert moved.under(VE) is moved
    again = moved.under(EDM)
    assert again.net is model.net and again.sde == EDM
    assert again.convention == model.under(EDM).convention
    original = plain(ss.GaussianScore([0.0], 1.0, VP))
    wrapped = under(original, VE, own=VP)
    assert isinstance(wrapped, ScoreUnderSDE)
    assert under(wrapped, EDM).score is original and under(wrapped, EDM).own_sde == VP
    back = under(wrapped, VP)
    x = torch.ones(1, 1, dtype=DOUBLE)
    torch.testing.assert_close(back(x, 0.3), original(x, 0.3), rtol=1e-13, atol=0)
    # A narrower SDE on the way costs no range.
    assert model.under(SMALL).under(VE)(x.expand(1, 2), 1.0).isfinite().all()


def test_a_moved_model_shares_the_network_and_registers_it_once() -> None:
    model = exact_model("v", VP, dtype=torch.float32)
    moved = model.under(VE)
    assert list(moved.state_dict()) == list(model.state_dict())
    assert [id(p) for p in moved.parameters()] == [id(p) for p in model.parameters()]
    moved.to(DOUBLE)
    assert model.dtype == moved.dtype == DOUBLE
    twin = copy.deepcopy(moved)
    assert twin.net is not moved.net and twin.convention == moved.convention
    assert "VPSDE" in repr(moved) and "VESDE" in repr(moved) and "'v'" in repr(moved)


def test_a_moved_model_is_not_saved_as_if_it_were_on_its_own_sde(tmp_path) -> None:
    moved = ss.ScoreModel(ss.MLP(1, hidden=4), VP, prediction="epsilon").under(VE)
    with pytest.raises(ss.errors.IncompatibleError, match="trained_on"):
        ss.save(tmp_path / "model.safetensors", moved)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_loss_of_a_moved_model_is_that_of_its_score(prediction: str) -> None:
    moved = exact_model(prediction, VP).under(VE)
    x0 = states((6, 2), DOUBLE, 0, 1)[0]
    t = torch.linspace(0.1, 1.0, 6, dtype=DOUBLE)
    losses = [
        ss.denoising_loss(
            score, x0, sde=sde, t=t, weighting="sigma2", generator=torch.Generator().manual_seed(0)
        ).per_sample
        for score, sde in ((moved, None), (plain(moved), VE))
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=1e-12)


def test_a_subclass_with_its_own_score_is_called() -> None:
    class Doubled(ss.ScoreModel):
        def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
            return 2 * super().forward(x, t, label)

    base = exact_model("epsilon", VP)
    model = Doubled(base.net, VP, "epsilon")
    x, t = torch.ones(3, 2, dtype=DOUBLE), torch.tensor(0.4, dtype=DOUBLE)
    with pytest.raises(ss.errors.IncompatibleError, match="Doubled"):
        model.under(VE)
    torch.testing.assert_close(under(model, VE)(x, t), 2 * base.under(VE)(x, t))

    class AtTwice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = base.net

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return self.inner(x, 2 * c)

    late = ss.ScoreModel(AtTwice(), VP, "epsilon", lambda t: 0.5 * t)
    torch.testing.assert_close(late.under(VE)(x, t), base.under(VE)(x, t), rtol=1e-14, atol=0)


def test_densities() -> None:
    class Quadratic(nn.Module):
        """The gradient of f(x) = −¼ Σ x⁴ c, with its density: an energy's score."""

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return -(x**3) * c[:, None]

        def log_density(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
            return -0.25 * (x**4).sum(1) * c

    for options in ({"prediction": "score"}, {"prediction": "v", "input_scaling": "unit"}):
        moved = ss.ScoreModel(Quadratic(), VP, **options).under(VE)
        x = states((3, 2), torch.float32, 0, 1)[0].requires_grad_()
        t = torch.tensor([0.1, 0.5, 0.8])
        (gradient,) = torch.autograd.grad(moved.log_density(x, t).sum(), x)
        torch.testing.assert_close(gradient, moved(x, t), rtol=1e-5, atol=1e-6)
    wrapped = ScoreUnderSDE(ss.ScoreModel(Quadratic(), VP, "score"), VP, VE)
    (gradient,) = torch.autograd.grad(wrapped.log_density(x, t).sum(), x)
    torch.testing.assert_close(gradient, wrapped(x, t), rtol=1e-5, atol=1e-6)
    assert wrapped.has_log_density and wrapped.log_density(x[:0], t[:0]).shape == (0,)
    silent = ScoreUnderSDE(lambda x, t: -x, VP, VE)
    assert not silent.has_log_density
    with pytest.raises(ss.errors.IncompatibleError, match="log density"):
        silent.log_density(x, t)
    # Metropolis' test asks for it, also of what is folded.
    sampler = ss.PredictorCorrector(VE, ss.DDIM(), ss.correctors.MALA(snr=0.1), grid=[0.6, 0.4])
    original = ss.GaussianScore([0.1, 0.2], 0.5, VP)
    got, expected = (
        sampler.sample(score, shape=(9, 2), dtype=DOUBLE)
        for score in (ScoreUnderSDE(original, VP, VE), original.under(VE))
    )
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_dtype_device_and_times_of_a_wrapped_score() -> None:
    seen: list[torch.dtype] = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        seen.extend([x.dtype, t.dtype])
        return -x

    for dtype, time in ((torch.float16, torch.float32), (torch.float32,) * 2, (DOUBLE, DOUBLE)):
        x = torch.ones(2, dtype=dtype)  # an empty event
        assert under(score, VE, own=VP)(x, 0.5).dtype == dtype
        assert seen[-2:] == [dtype, time]
    assert ScoreUnderSDE(score, VP, VE).dtype == torch.float32
    assert ScoreUnderSDE(exact_model("v", VP), VP, VE).dtype == DOUBLE
    assert torch.device(ScoreUnderSDE(score, VP, VE).device) == torch.device("cpu")
    score.device = "meta"
    assert ScoreUnderSDE(score, VP, VE).device == "meta"
    with pytest.raises(ss.errors.ShapeError, match="one per sample"):
        under(score, VE, own=VP)(torch.ones(2, 3), torch.tensor([0.1, 0.2, 0.3]))
    with pytest.raises(ss.errors.TimeError, match="<= T"):
        under(score, VE, own=VP)(torch.ones(2, 3), 1.5)
    with pytest.raises(ss.errors.ShapeError, match="floating"):
        under(score, VE, own=VP)(torch.ones(2, 3, dtype=torch.int64), 0.5)


class Doubling(ss.SDE):
    T = 1.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return x

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.ones(())


def test_what_does_not_fit_is_refused() -> None:
    original, model = ss.GaussianScore([0.0], 1.0, VP), exact_model("v", VP)
    for score in (3, Exact, None):
        with pytest.raises(ss.errors.IncompatibleError, match="callable"):
            under(score, VE, own=VP)
    with pytest.raises(ss.errors.IncompatibleError, match="own="):
        under(plain(original), VE)
    for score in (original, model):
        with pytest.raises(ss.errors.IncompatibleError, match="VPSDE"):
            under(score, VE, own=EDM)
        under(score, VE, own=VP)
    for bad in (Doubling(), ss.VESDE, None):
        with pytest.raises(ss.errors.IncompatibleError, match="linear"):
            model.under(bad)
        with pytest.raises(ss.errors.IncompatibleError, match="linear"):
            under(plain(original), bad, own=VP)
    with pytest.raises(ss.errors.IncompatibleError, match="LinearSDE"):
        under(plain(original), VP, own=Doubling())
    with pytest.raises(ss.errors.IncompatibleError, match="VESDE"):
        ss.PredictorCorrector(VP, ss.DDIM(), steps=4).sample(model.under(VE), shape=(1, 2))


def test_time_zero() -> None:
    """σ = 0 at t = 0 of both: the mean of the data is the state, and there is no score."""
    moved = exact_model("v", VP).under(FLOW)
    x = torch.ones(1, 2, dtype=DOUBLE)
    torch.testing.assert_close(moved.denoise(x, 0.0), x, rtol=1e-12, atol=0)
    with pytest.raises(ss.errors.TimeError, match="sigma_t > 0"):
        moved(x, 0.0)
    assert math.isinf(FLOW.log_snr(0.0))
    with pytest.raises(ss.errors.TimeError, match="VESDE"):
        exact_model("v", VE).under(FLOW).denoise(x, 0.0)
