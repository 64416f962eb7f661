"""The loss that learns a variance: the published formula, what trains each half, its optimum."""

from __future__ import annotations

import math
from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, TimeError
from sdescore.losses import hybrid_loss

N = 6
TABLE = ss.DiscreteVPSDE.linear(N, 1e-3, 0.5)
F64 = torch.float64
T = TABLE.level_times()


class Net(nn.Module):
    """An estimate of ε and v, with parameters of their own, of states ``(B, d)``."""

    def __init__(self, dtype: torch.dtype = F64) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.tensor([0.4, 0.2], dtype=dtype))
        self.second = nn.Parameter(torch.tensor([0.3, -0.8], dtype=dtype))

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        c = c.to(x)[:, None] / N + (0 if label is None else label[:, None])
        epsilon = self.first[0] * torch.sin(x + c) + self.first[1]
        return torch.cat([epsilon, torch.tanh(self.second[0] * x + self.second[1] * c)], 1)


def model_of(prediction: str = "epsilon", sde: Any = TABLE, **options: Any) -> ss.ScoreModel:
    net = ss.nets.LearnedVariance(Net(options.pop("dtype", F64)))
    options = {"time_input": "continuous_level"} | options
    return ss.ScoreModel(net, sde, prediction, **options)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def official(x0: Tensor, noise: Tensor, level: Tensor, levels: int) -> Tensor:
    """The loss of Nichol & Dhariwal's code, with torch's and scipy's distributions."""
    beta = torch.tensor(TABLE.betas, dtype=F64)
    bar = (1 - beta).cumprod(0)
    losses = []
    for x_0, z, i in zip(x0, noise, level.tolist(), strict=True):
        x = bar[i].sqrt() * x_0 + (1 - bar[i]).sqrt() * z
        epsilon, v = (y[0] for y in Net()(x[None], torch.tensor([i])).chunk(2, 1))
        j = max(i, 1)  # the posterior variance of level 0 is that of level 1
        small = beta[j] * (1 - bar[j - 1]) / (1 - bar[j])
        std = (0.5 * ((1 + v) / 2 * beta[i].log() + (1 - v) / 2 * small.log())).exp()
        mean = (x - beta[i] / (1 - bar[i]).sqrt() * epsilon) / (1 - beta[i]).sqrt()
        if i:
            weight_0, weight_t = bar[i - 1].sqrt() * beta[i], (1 - beta[i]).sqrt()
            posterior = (weight_0 * x_0 + weight_t * (1 - bar[i - 1]) * x) / (1 - bar[i])
            nats = kl_divergence(Normal(posterior, small.sqrt()), Normal(mean, std))
        else:
            half = 1 / (levels - 1)
            law = scipy.stats.norm(mean.detach(), std.detach())
            upper = torch.where(x_0 > 1 - half, math.inf, x_0 + half)
            lower = torch.where(x_0 < -1 + half, -math.inf, x_0 - half)
            nats = -torch.as_tensor(law.cdf(upper) - law.cdf(lower), dtype=F64).log()
        bits = nats.mean() / math.log(2)
        losses.append((epsilon - z).square().mean() + N / 1000 * bits)
    return torch.stack(losses)


def test_it_is_the_published_loss() -> None:
    d, levels = 3, 65
    level = torch.arange(N).repeat_interleave(2)
    integers = torch.randint(levels, (2 * N, d), generator=torch.Generator().manual_seed(1))
    integers[0, 0], integers[1, 1] = 0, levels - 1  # at the lowest level
    x0, noise = integers.to(F64) / 32 - 1, draw(2 * N, d)
    found = hybrid_loss(model_of(), x0, t=T[level], noise=noise, levels=levels)
    expected = 0.5 * d * official(x0, noise, level, levels)
    torch.testing.assert_close(found.per_sample, expected, rtol=1e-9, atol=0)
    weighed = hybrid_loss(model_of(), x0, t=T[level], noise=noise, levels=levels, weight=3.0)
    torch.testing.assert_close(weighed.per_sample, 3 * expected, rtol=1e-9, atol=0)
    assert found.mean == found.per_sample.mean()


def test_without_integers_the_lowest_level_is_simple() -> None:
    x0, noise = draw(2, 3, seed=3), draw(2, 3)
    found = hybrid_loss(model_of(), x0, t=T[torch.tensor([0, 2])], noise=noise).per_sample
    simple = ss.denoising_loss(model_of(), x0, t=T[torch.tensor([0, 2])], noise=noise).per_sample
    assert found[0].item() == pytest.approx(simple[0].item(), rel=1e-12)
    assert abs(found[1] - simple[1]) > 1e-4


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
def test_each_half_is_trained_by_its_own_term(prediction: str) -> None:
    """The prediction by the simple loss alone; v by the bound, as finite differences say. Every
    level, both ends of the integers among the data: no gradient is NaN."""
    model, levels = model_of(prediction), 65
    net = model.net.net
    level = torch.arange(N).repeat(2)
    x0, noise = (torch.arange(2 * N)[:, None] % 3 - 1).to(F64).expand(-1, 2), draw(2 * N, 2)

    def mean() -> Tensor:
        loss = hybrid_loss(model, x0, t=T[level], noise=noise, levels=levels, bound_weight=0.5)
        return loss.mean

    mean().backward()
    first, second = net.first.grad.clone(), net.second.grad.clone()
    net.first.grad = None
    ss.denoising_loss(model, x0, t=T[level], noise=noise, weighting="sigma2").mean.backward()
    torch.testing.assert_close(first, net.first.grad, rtol=1e-10, atol=1e-12)
    for k in range(2):
        values = []
        for h in (1e-6, -1e-6):
            with torch.no_grad():
                net.second[k] += h
                values.append(mean().item())
                net.second[k] -= h
        slope = (values[0] - values[1]) / 2e-6
        assert second[k].item() == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("c2", [0.01, 0.3, 0.8])
def test_it_is_smallest_at_the_true_variance(c2: float) -> None:
    """For data N(0, c²) a step's true variance is β̃ + w₀² Var(x₀|x_t), and v at that one has no
    gradient. The loss is quadratic in the error, so four points with the moments of the data and
    the noise give its expectation exactly."""
    i = 3
    alpha, sigma = (v.item() for v in TABLE.marginal(T[i]))
    bridge = TABLE.bridge(T[i - 1], T[i])
    total = alpha**2 * c2 + sigma**2
    small, large = bridge.variance.item(), bridge.added_variance.item()
    true = small + bridge.weight_0.item() ** 2 * c2 * sigma**2 / total
    v = 2 * math.log(true / small) / math.log(large / small) - 1
    assert -1 < v < 1

    class Exact(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.v = nn.Parameter(torch.tensor(v, dtype=F64))

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return torch.cat([sigma * x / total, self.v.expand_as(x)], 1)

    net = Exact()
    model = ss.ScoreModel(ss.nets.LearnedVariance(net), TABLE, "epsilon", "continuous_level")
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=F64)
    x0, noise = math.sqrt(c2) * signs[:, :1], signs[:, 1:]
    loss = hybrid_loss(model, x0, t=T[i], noise=noise, bound_weight=1.0)
    loss.mean.backward()
    assert abs(net.v.grad.item()) < 1e-12


def test_states_may_be_standardised() -> None:
    """The decoder's bins are those of the data, wherever the network's states are."""
    x0, noise = torch.tensor([[3.0], [5.0]], dtype=F64), draw(2, 1)
    options = {"levels": 2, "data_range": (3.0, 5.0), "t": T[0], "noise": noise}
    found = hybrid_loss(model_of(data_mean=4.0, data_std=1.0), x0, **options)
    expected = hybrid_loss(model_of(), x0 - 4, **options | {"data_range": (-1.0, 1.0)})
    torch.testing.assert_close(found.per_sample, expected.per_sample, rtol=1e-12, atol=0)


def test_train_takes_it() -> None:
    model = model_of(dtype=torch.float32)
    data = draw(32, 2).float()
    before = model.net.net.second.detach().clone()
    ss.train(model, data, steps=2, batch_size=8, objective=hybrid_loss, progress=False)
    assert not torch.equal(before, model.net.net.second)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": ss.ScoreModel(ss.MLP(2), TABLE)}, IncompatibleError, "learned variance"),
        ({"model": model_of(sde=ss.VPSDE(), time_input="t")}, IncompatibleError, "DiscreteVPSDE"),
        ({"model": lambda x, t: -x}, IncompatibleError, "model to be a ScoreModel"),
        ({"t": 0.5 * (T[1] + T[2])}, TimeError, "times of levels"),
        ({"t": T[0], "levels": 8}, ParameterError, "8 integers"),
        ({"levels": 1}, ParameterError, "levels"),
        ({"bound_weight": -1.0}, ParameterError, "bound_weight"),
    ],
)
def test_what_is_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    options = {"model": model_of(), "x0": draw(2, 2), "t": T[1]} | change
    with pytest.raises(error, match=message):
        hybrid_loss(options.pop("model"), options.pop("x0"), **options)
