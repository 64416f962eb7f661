"""Networks, shapes and labels, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import sdescore as ss
from tests.helpers.flows import (
    F64,
    mixture,
)


class Net(nn.Module):
    """Small, smooth, conditional, with dropout that must be off."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 2))
        self.table = nn.Embedding(3, 2)
        self.double()

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        shift = 0 if label is None else self.table(label)
        return self.layers(torch.cat([x + shift, c[:, None]], 1))


@pytest.mark.slow
def test_a_network_with_labels() -> None:
    model = ss.ScoreModel(Net(), ss.VPSDE(), prediction="epsilon")
    flow = ss.ProbabilityFlow(ss.VPSDE(), rtol=1e-9, atol=1e-9, t_min=0.1)
    x, label = torch.randn(5, 2, dtype=F64), torch.tensor([0, 1, 2, 1, 0])
    latent = flow.encode(model, x, label=label, max_batch=2)
    torch.testing.assert_close(flow.decode(model, latent, label=label), x, rtol=0, atol=1e-6)
    result = flow.log_likelihood(model, x, label=label, max_batch=2)
    # log |det| of the whole flow map, by finite differences
    moved = x[:, None] + 1e-4 * torch.cat([torch.eye(2), -torch.eye(2)]).to(F64)
    ends = flow.encode(model, moved.flatten(0, 1), label=label.repeat_interleave(4))
    ahead, behind = ends.reshape(5, 4, 2).split(2, dim=1)
    log_det = torch.linalg.slogdet((ahead - behind) / 2e-4).logabsdet
    torch.testing.assert_close(result.log_det, log_det, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        flow.sample(model, (5, 2), label=label, max_batch=2),
        flow.sample(model, (5, 2), label=label),
        rtol=0,
        atol=1e-6,
    )
    assert not torch.equal(flow.sample(model, (5, 2)), flow.sample(model, (5, 2), label=label))
    assert model.training
    assert model.net.layers[2].training
    with torch.inference_mode():
        inside = flow.log_likelihood(model, x.clone(), label=label.clone(), max_batch=2)
        guess = flow.log_likelihood(model, x.clone(), label=label.clone(), divergence="hutchinson")
    torch.testing.assert_close(inside.log_prob, result.log_prob)
    outside = flow.log_likelihood(model, x, label=label, divergence="hutchinson")
    assert torch.equal(guess.log_prob, outside.log_prob)


@pytest.mark.parametrize("shape", [(3,), (2, 1, 2, 2), (0, 2), (2, 0)])
def test_any_event_shape(shape: tuple[int, ...]) -> None:
    sde = ss.VPSDE()
    flow = ss.ProbabilityFlow(sde, t_min=0.1)
    x = torch.randn(shape)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return -x  # standard normal data, for which the flow stands still

    assert flow.sample(score, shape).shape == shape
    torch.testing.assert_close(flow.encode(score, x), x, atol=1e-5, rtol=1e-5)
    for divergence in ("exact", "hutchinson"):
        result = flow.log_likelihood(score, x, divergence=divergence)
        expected = ss.sde.Gaussian(torch.zeros(shape), torch.tensor(sde.prior_std() ** 2)).log_prob(
            x
        )
        torch.testing.assert_close(result.log_prob, expected, atol=1e-3, rtol=1e-4)
        assert result.standard_error.shape == shape[:1]


class Wiener(ss.SDE):
    T = 1.0

    def drift(self, x: Tensor, t: ss.typing.Time) -> Tensor:
        return torch.zeros_like(x)

    def diffusion(self, t: ss.typing.Time) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("error", "given"),
    [
        (ss.errors.IncompatibleError, {"sde": Wiener()}),
        (ss.errors.IncompatibleError, {"method": "tsit5"}),
        (ss.errors.ParameterError, {"method": "rk4"}),
        (ss.errors.ParameterError, {"method": "rk4", "steps": 0}),
        (ss.errors.ParameterError, {"steps": 10}),
        (ss.errors.ParameterError, {"grid": ss.UniformGrid()}),
        (ss.errors.ParameterError, {"method": "rk4", "grid": [0.9, 0.5], "t_min": 0.1}),
        (ss.errors.ParameterError, {"method": "rk4", "grid": [0.9]}),
        (ss.errors.ScheduleError, {"method": "rk4", "grid": [0.5, 0.9]}),
        (ss.errors.ScheduleError, {"method": "rk4", "grid": [0.9, 0.5], "steps": 3}),
        (ss.errors.ScheduleError, {"method": "rk4", "grid": ss.UniformGrid()}),
        (ss.errors.ParameterError, {"rtol": 0.0}),
        (ss.errors.ParameterError, {"atol": -1e-3}),
        (ss.errors.ParameterError, {"atol": math.nan}),
        (ss.errors.ParameterError, {"max_evaluations": 0}),
        (ss.errors.ParameterError, {"max_evaluations": 1.5}),
        (ss.errors.ParameterError, {"t_min": -0.1}),
        (ss.errors.ParameterError, {"t_min": 1.0}),
        (ss.errors.ParameterError, {"t_min": math.nan}),
        (ss.errors.ParameterError, {"data_std": -1.0}),
        (ss.errors.ParameterError, {"data_std": math.inf}),
    ],
)
def test_bad_settings_are_refused(error: type[Exception], given: dict[str, object]) -> None:
    with pytest.raises(error, match="expected"):
        ss.ProbabilityFlow(given.pop("sde", ss.VPSDE()), **given)


def untouched(x: Tensor, t: Tensor) -> Tensor:
    raise RuntimeError("the model was called")


@pytest.mark.parametrize(
    ("error", "given"),
    [
        (ss.errors.ShapeError, {"x": torch.zeros(2, 2).half()}),
        (ss.errors.ShapeError, {"x": torch.zeros(2, 2).long()}),
        (ss.errors.ShapeError, {"x": torch.tensor(1.0)}),
        (ss.errors.ShapeError, {"x": [1.0]}),
        (ss.errors.ShapeError, {"model": nn.Linear(2, 2, device="meta")}),
        (ss.errors.ShapeError, {"label": torch.zeros(3).long()}),
        (ss.errors.ParameterError, {"max_batch": 0}),
        (ss.errors.ParameterError, {"probes": 0}),
        (ss.errors.ParameterError, {"probes": 2.5}),
        (
            ss.errors.ShapeError,
            {"probes": torch.zeros(0, 2, 2), "divergence": "hutchinson"},
        ),
        (ss.errors.ParameterError, {"seed": 0.5}),
        (ss.errors.IncompatibleError, {"divergence": "approximate"}),
        (ss.errors.IncompatibleError, {"probe_distribution": "cauchy"}),
        (ss.errors.IncompatibleError, {"model": 3}),
        (ss.errors.IncompatibleError, {"model": mixture(ss.VESDE())}),
    ],
)
def test_bad_requests_are_refused(error: type[Exception], given: dict[str, object]) -> None:
    model, x = given.pop("model", untouched), given.pop("x", torch.zeros(2, 2))
    with pytest.raises(error, match="expected"):
        ss.ProbabilityFlow(ss.VPSDE()).log_likelihood(model, x, **given)


@pytest.mark.guards("T13")
def test_bits_per_dim() -> None:
    """A discretised normal: the mass of a level is density times the level's width."""
    levels, width = 1024, 8.0
    edges = np.linspace(-width / 2, width / 2, levels + 1)
    mass = np.diff(stats.norm.cdf(edges))
    middle = torch.tensor((edges[1:] + edges[:-1]) / 2)
    log_prob = torch.tensor(stats.norm.logpdf(middle.numpy()))
    bits = ss.bits_per_dim(log_prob, 1, levels=levels, width=width)
    np.testing.assert_allclose(bits.numpy(), -np.log2(mass), atol=1e-4)
    both = ss.bits_per_dim(2 * log_prob, 2, levels=levels, width=width)
    torch.testing.assert_close(both, bits)
    for bad in ({"numel": 0}, {"levels": 0}, {"levels": 2.5}, {"width": 0.0}, {"width": math.nan}):
        with pytest.raises(ss.errors.ParameterError, match="expected"):
            ss.bits_per_dim(log_prob, **{"numel": 1, "levels": 256, "width": 2.0, **bad})
