"""Networks of an energy: the score is its gradient, by autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.datasets import ring
from sdescore.score.interface import log_density_of

SDE = ss.VPSDE()


class Quadratic(nn.Module):
    """f(x) = −½ xᵀ A x with a learnable symmetric part of A: the score is −½(A + Aᵀ) x."""

    def __init__(self) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.tensor([[2.0, 0.4], [-0.2, 0.5]]))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return -0.5 * torch.einsum("bi,ij,bj->b", x, self.A, x)


def test_the_score_of_an_energy_is_its_gradient() -> None:
    net = Quadratic()
    x = torch.randn(5, 2)
    expected = -0.5 * x @ (net.A + net.A.T)
    with torch.no_grad():
        got = ss.EnergyModel(net)(x, torch.zeros(5))
    assert not got.requires_grad
    torch.testing.assert_close(got, expected)


def test_an_energy_can_be_trained_by_its_score() -> None:
    # d/dA ½‖s‖² with s = −½(A + Aᵀ)x, by hand: ∂/∂A_ij = ¼ Σ [(A + Aᵀ)x]_i x_j + the transpose.
    net = Quadratic()
    x = torch.randn(7, 2)
    (0.5 * ss.EnergyModel(net)(x, torch.zeros(7)).square().sum()).backward()
    outer = ((net.A + net.A.T) @ x.T @ x).detach() / 4
    torch.testing.assert_close(net.A.grad, outer + outer.T)


def test_an_energy_composes_with_the_chain() -> None:
    model = ss.ScoreModel(ss.EnergyModel(Quadratic()), SDE, prediction="score")
    sampler = ss.PredictorCorrector(
        SDE, predictor=ss.ReverseDiffusion(), corrector=ss.Langevin(snr=0.1), steps=8
    )
    exact = sampler.sample(
        lambda x, t: -0.5 * x @ (model.net.net.A + model.net.net.A.T), (6, 2), seed=2
    )
    torch.testing.assert_close(sampler.sample(model, (6, 2), seed=2), exact)
    with torch.inference_mode():
        torch.testing.assert_close(sampler.sample(model, (6, 2), seed=2), exact)
    trained = ss.train(model, ring(64), steps=2, batch_size=8, progress=False)
    assert trained.step == 2


class Bumps(nn.Module):
    """An energy that no scaling of its input leaves alone."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return (x.flatten(1).cos() * (1 + c[:, None])).sum(1) - x.flatten(1).pow(4).mean(1)


@pytest.mark.parametrize("prediction", ["score", "epsilon", "x0", "v", "velocity", "F"])
@pytest.mark.parametrize("scaling", ["none", "unit"])
def test_the_log_density_of_a_model_is_what_its_score_is_the_gradient_of(
    prediction: str, scaling: str
) -> None:
    model = ss.ScoreModel(
        ss.EnergyModel(Bumps()), SDE, prediction=prediction, input_scaling=scaling
    )
    x = torch.randn(4, 2, 3, requires_grad=True)
    t = torch.tensor([0.2, 0.5, 0.7, 0.9])
    assert model.has_log_density
    (gradient,) = torch.autograd.grad(model.log_density(x, t).sum(), x)
    torch.testing.assert_close(gradient, model(x, t), rtol=1e-4, atol=1e-4)


def test_a_network_that_is_no_energy_has_no_log_density() -> None:
    model = ss.ScoreModel(ss.MLP(2), SDE, prediction="epsilon")
    assert not model.has_log_density
    with pytest.raises(ss.errors.IncompatibleError, match="EnergyModel"):
        model.log_density(torch.zeros(1, 2), 0.5)
    for score in (
        model,
        lambda x, t: x,
        ss.PredictorCorrector(SDE, predictor=ss.ReverseDiffusion(), steps=3),
    ):
        with pytest.raises(ss.errors.IncompatibleError, match="log density"):
            log_density_of(score)
    assert log_density_of(ss.GaussianScore(torch.zeros(2), 1.0, SDE))(torch.zeros(3, 2), 0.5).ndim


def test_an_energy_without_time_is_a_score_of_its_own() -> None:
    energy = ss.EnergyModel(lambda x: -0.25 * x.pow(4).sum((1, 2)))
    x = torch.randn(3, 2, 2)
    torch.testing.assert_close(energy(x), -(x**3))
    hessian = torch.func.vmap(torch.func.jacfwd(lambda y: energy(y[None])[0]))(x)
    expected = torch.diag_embed(-3 * x.flatten(1).square()).reshape(3, 2, 2, 2, 2)
    torch.testing.assert_close(hessian, expected)
    with pytest.raises(ss.errors.IncompatibleError, match="callable"):
        ss.EnergyModel(nn.Linear)
    with pytest.raises(ss.errors.IncompatibleError, match="callable"):
        ss.EnergyModel(3.0)


@pytest.mark.parametrize("net", [lambda x, c: x, lambda x, c: x.sum(), lambda x, c: None])
def test_an_energy_that_is_no_scalar_is_refused(net: nn.Module) -> None:
    class Wrapped(nn.Module):
        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return net(x, c)

    with pytest.raises(ss.errors.ShapeError, match="one scalar per sample"):
        ss.EnergyModel(Wrapped())(torch.zeros(3, 2), torch.zeros(3))


def without_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        return -x.square().sum(1)


LINEAR = nn.Linear(2, 1)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: -x.detach().square().sum(1),
        lambda x: LINEAR(x.detach())[:, 0],  # its weights have a gradient, x has none
        lambda x: LINEAR.bias.expand(len(x)),
        lambda x: torch.zeros(len(x)),
        without_gradients,
    ],
)
def test_an_energy_that_autograd_does_not_see_is_not_flat(f: Callable[[Tensor], Tensor]) -> None:
    energy, x = ss.EnergyModel(f), torch.randn(3, 2)
    calls = [energy, lambda x: torch.func.jvp(energy, (x,), (x,)), torch.func.jacrev(energy)]
    for call in calls:
        with pytest.raises(ss.errors.IncompatibleError, match="differentiate in x"):
            call(x)
    with torch.no_grad(), pytest.raises(ss.errors.IncompatibleError, match="differentiate in x"):
        energy(x)
    assert energy.log_density(x).shape == (3,)


def test_a_flat_energy_is_one_that_autograd_sees() -> None:
    flat, x = ss.EnergyModel(lambda x: 0 * x.sum(1)), torch.randn(3, 2)
    for context in (torch.no_grad(), torch.enable_grad(), torch.inference_mode()):
        with context:
            assert torch.equal(flat(x), torch.zeros(3, 2))
    assert torch.equal(torch.func.vmap(lambda r: flat(r[None])[0])(x), torch.zeros(3, 2))


def test_an_energy_compiles_in_one_graph() -> None:
    energy, x = ss.EnergyModel(nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))), torch.randn(3, 2)
    compiled = torch.compile(energy, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), energy(x))


@pytest.mark.parametrize("x", [torch.zeros(3, 2).long(), [[0.0]], None, torch.tensor(1.0)])
def test_what_is_no_state_has_no_energy(x: object) -> None:
    for call in (energy := ss.EnergyModel(lambda x: x.sum(1)), energy.log_density):
        with pytest.raises(ss.errors.ShapeError, match="expected x"):
            call(x)


def test_an_energy_of_whole_numbers_has_no_gradient() -> None:
    with pytest.raises(ss.errors.ShapeError, match="floating point"):
        ss.EnergyModel(lambda x: x.sum(1).long())(torch.zeros(3, 2))
