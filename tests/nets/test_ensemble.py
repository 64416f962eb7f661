"""One network a level."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.datasets import ring


class Constant(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.value + 100 * c.reshape(-1, 1) + 0 * x


def test_each_sample_goes_through_its_level_s_network() -> None:
    ensemble = ss.nets.LevelEnsemble([Constant(v) for v in (1.0, 2.0, 3.0)])
    got = ensemble(torch.zeros(4, 2), torch.tensor([2, 0, 1, 2]))
    assert got[:, 0].tolist() == [203.0, 1.0, 102.0, 203.0]
    got.sum().backward()
    assert [net.value.grad.item() for net in ensemble.nets] == [2.0, 2.0, 4.0]


def test_an_ensemble_is_trained_and_sampled_like_a_shared_network() -> None:
    sde = ss.DiscreteVESDE.geometric(sigma_max=5.0, sigma_min=0.1, levels=4)
    nets = [ss.MLP(2, hidden=8, depth=1) for _ in range(4)]
    model = ss.ScoreModel(ss.nets.LevelEnsemble(nets), sde, prediction="x0", time_input="level")
    trained = ss.train(model, ring(128), steps=3, batch_size=16, progress=False).model
    x = ss.PredictorCorrector(sde, predictor=ss.ReverseDiffusion()).sample(trained, (5, 2), seed=0)
    assert x.shape == (5, 2)
    # The first step of the chain is at level 0, the largest σ, and uses its network alone.
    times = sde.level_times()
    y = torch.ones(2, 2)
    expected = trained.net.nets[0](y, torch.zeros(2))
    torch.testing.assert_close(trained.denoise(y, times[0].expand(2)), expected)


def test_levels_that_do_not_fit_are_refused() -> None:
    ensemble = ss.nets.LevelEnsemble([Constant(1.0)])
    with pytest.raises(ss.errors.ShapeError, match="int64"):
        ensemble(torch.zeros(1, 2), torch.zeros(1))
    for level in ([0, 1], [-1, 0]):
        with pytest.raises(ss.errors.IncompatibleError, match="levels 0 … 0"):
            ensemble(torch.zeros(2, 2), torch.tensor(level))
    for bad in (torch.tensor(0), torch.zeros(3).long(), torch.zeros(2, 1).long(), [0, 0], 0):
        with pytest.raises(ss.errors.ShapeError, match="levels of shape"):
            ensemble(torch.zeros(2, 2), bad)
    for nets in ([], 3, None, [lambda x, c: x], [Constant(1.0), None], Constant(1.0)):
        with pytest.raises(ss.errors.IncompatibleError, match="one a level"):
            ss.nets.LevelEnsemble(nets)


class Returns(nn.Module):
    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, c: Tensor) -> object:
        return self.function(x)


@pytest.mark.parametrize(
    "function", [lambda x: x[:, :1], lambda x: x.sum(), lambda x: x[:1], lambda x: None]
)
def test_an_ensemble_s_output_is_not_broadcast(function: Callable[[Tensor], object]) -> None:
    ensemble = ss.nets.LevelEnsemble([Returns(lambda x: x), Returns(function)])
    with pytest.raises(ss.errors.ShapeError, match=r"nets\[1\]"):
        ensemble(torch.zeros(4, 2), torch.tensor([0, 1, 1, 0]))


def test_an_ensemble_has_its_networks_dtype() -> None:
    level, x = torch.tensor([1, 0, 1]), torch.randn(3, 2)
    double = ss.nets.LevelEnsemble([Returns(lambda x: x.double()), Returns(lambda x: -x.double())])
    assert torch.equal(double(x, level), torch.tensor([[-1], [1], [-1]]) * x.double())
    assert double(x[:0], level[:0]).shape == (0, 2)
    nets = [nn.utils.skip_init(nn.Linear, 2, 2) for _ in range(2)]
    for i, net in enumerate(nets):
        nn.init.eye_(net.weight)
        nn.init.constant_(net.bias, i)
    ensemble = ss.nets.LevelEnsemble([Returns(net) for net in nets])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ensemble(torch.ones(3, 2), level)
    assert y.dtype == torch.bfloat16 and y[:, 0].tolist() == [2, 1, 2]
