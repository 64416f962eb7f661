"""Gradients through the flow, of samples and of log densities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from tests.helpers.flows import F64, gaussian_map

VP = ss.VPSDE()
T_MIN = 0.1


class Linear(nn.Module):
    """The score of N(m, v), both learned."""

    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.tensor([0.5, -1.0], dtype=F64))
        self.std = nn.Parameter(torch.tensor([0.6, 1.3], dtype=F64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (v[:, None] for v in VP.marginal(t))
        return -(x - alpha * self.m) / (alpha.square() * self.std.square() + sigma.square())


def points(n: int = 3) -> Tensor:
    x = torch.randn(n, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    return x.requires_grad_()


def gradients(value: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    weights = torch.linspace(0.5, 1.5, value.numel(), dtype=F64).reshape(value.shape)
    return torch.autograd.grad((weights * value).sum(), inputs)


def test_the_gradient_of_a_log_density_is_that_of_the_closed_form() -> None:
    """In x and in the score's parameters, to 1e-5; and nearly the score itself."""
    score, x = Linear(), points()
    flow = ss.ProbabilityFlow(VP, rtol=1e-7, atol=1e-7, t_min=T_MIN)
    plain = flow.log_likelihood(score, x)
    assert not plain.log_prob.requires_grad and not plain.latent.requires_grad
    found = flow.log_likelihood(score, x, differentiable=True, max_batch=2).log_prob
    assert torch.allclose(found, plain.log_prob, rtol=1e-12)
    latent, log_det = gaussian_map(VP, x, score.m, score.std, T_MIN, VP.T)
    prior = torch.distributions.Normal(0.0, VP.prior_std())
    exact = prior.log_prob(latent).sum(1) + log_det
    inputs = (x, score.m, score.std)
    for ours, theirs in zip(gradients(found, *inputs), gradients(exact, *inputs), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())
    again = flow.log_likelihood(score, x, differentiable=True).log_prob
    (slope,) = torch.autograd.grad(again.sum(), x)
    torch.testing.assert_close(slope, score(x, torch.full((3,), T_MIN)), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("method", "bar"), [("dopri8", 1e-6), ("bosh3", 1e-4)])
def test_no_gradient_goes_into_torchdiffeqs_steps(method: str, bar: float) -> None:
    """Their lengths are constants; with those of the error in it the gradient was off by 2 %."""
    score, x = Linear(), points()
    flow = ss.ProbabilityFlow(VP, method, rtol=1e-6, atol=1e-6, t_min=T_MIN)
    found = flow.decode(score, x, differentiable=True)
    exact, _ = gaussian_map(VP, x, score.m, score.std, VP.T, T_MIN)
    inputs = (x, score.m, score.std)
    for ours, theirs in zip(gradients(found, *inputs), gradients(exact, *inputs), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=bar * theirs.abs().max().item())


def test_the_gradient_of_a_sample_is_that_of_the_closed_form() -> None:
    """In the start and in the score's parameters, Tweedie's mean at the end included."""
    score, start = Linear(), points()
    flow = ss.ProbabilityFlow(VP, rtol=1e-7, atol=1e-7, t_min=T_MIN)
    found = flow.sample(score, init=start, dtype=F64, differentiable=True)
    end, _ = gaussian_map(VP, start, score.m, score.std, VP.T, T_MIN)
    alpha, sigma = VP.marginal(T_MIN)
    t = torch.full((3,), T_MIN, dtype=F64)
    exact = (end + sigma.square() * score(end, t)) / alpha
    inputs = (start, score.m, score.std)
    for ours, theirs in zip(gradients(found, *inputs), gradients(exact, *inputs), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    back = flow.encode(score, flow.decode(score, start, differentiable=True), differentiable=True)
    assert torch.allclose(gradients(back, start)[0], gradients(1.0 * start, start)[0], atol=1e-5)


class Net(nn.Module):
    """With dropout, which is off while a sample is drawn, and labels."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Linear(3, hidden), nn.Linear(hidden, 2)
        self.dropout, self.table = nn.Dropout(0.5), nn.Embedding(2, 2)
        self.double()

    def forward(self, x: Tensor, c: Tensor, label: Tensor) -> Tensor:
        h = torch.cat([x + self.table(label), c[:, None]], 1)
        return self.last(self.dropout(self.first(h).tanh()))


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_a_networks_gradient_is_that_of_finite_differences(method: str, divergence: str) -> None:
    """Along one direction of x and of all parameters; the network is in train mode meanwhile."""
    model, x = ss.ScoreModel(Net(), VP, prediction="epsilon"), points()
    flow = ss.ProbabilityFlow(
        VP, method, rtol=1e-4, atol=1e-4, steps=4 if method == "rk4" else None, t_min=T_MIN
    )
    options = {"divergence": divergence, "label": torch.tensor([0, 1, 1])}
    inputs = [x, *model.parameters()]
    found = flow.log_likelihood(model, x, differentiable=True, **options)
    assert model.training
    slopes = torch.autograd.grad((found.log_prob + found.latent.sum(1)).sum(), inputs)
    way = [torch.randn_like(v) for v in inputs]
    ends = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            for value, direction in zip(inputs, way, strict=True):
                value.add_(direction, alpha=step)
            at = flow.log_likelihood(model, x, **options)
            ends.append((at.log_prob + at.latent.sum(1)).sum().item())
    expected = (ends[0] - ends[1]) / 2e-5
    slope = sum((g * d).sum().item() for g, d in zip(slopes, way, strict=True))
    assert slope == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_data_need_no_gradient_for_that_of_the_parameters(method: str, divergence: str) -> None:
    """As in training by likelihood: the gradient is the one beside data that have a gradient."""
    model = ss.ScoreModel(Net(), VP, prediction="epsilon")
    flow = ss.ProbabilityFlow(VP, method, steps=4 if method == "rk4" else None, t_min=T_MIN)
    options = {"divergence": divergence, "probes": 3, "label": torch.tensor([0, 1, 1])}
    slopes = []
    for x in (points(), points().detach()):
        found = flow.log_likelihood(model, x, differentiable=True, **options)
        slopes.append(torch.autograd.grad(found.log_prob.sum(), [*model.parameters()]))
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_graph_holds_no_activations() -> None:
    """Only the states: it is as large for a wide network as for a narrow one."""
    flow, sizes = ss.ProbabilityFlow(VP, "rk4", steps=5), []
    for hidden in (4, 400):
        model, kept = ss.ScoreModel(Net(hidden), VP, prediction="epsilon"), [0]

        def pack(value: Tensor, kept: list[int] = kept) -> Tensor:
            kept[0] += value.numel()
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            flow.encode(model, points(), label=torch.tensor([0, 1, 1]), differentiable=True)
        sizes.append(kept[0])
    assert sizes[0] == sizes[1]


def test_what_has_no_gradient_is_refused() -> None:
    score, x = Linear(), points()
    flow = ss.ProbabilityFlow(VP)
    with torch.inference_mode(), pytest.raises(ss.errors.IncompatibleError, match="autograd"):
        flow.encode(score, x, differentiable=True)
    with pytest.raises(ss.errors.IncompatibleError, match="differentiable=True"):
        ss.published.score_sde_ode(VP).encode(score, x, differentiable=True)
    with pytest.raises(ss.errors.ParameterError, match="chunk_size"):
        flow.log_likelihood(score, x, chunk_size=0)


def test_the_chunk_size_changes_no_more_than_rounding() -> None:
    flow, x = ss.ProbabilityFlow(VP, "rk4", steps=3), points().detach()
    each = [flow.log_likelihood(Linear(), x, chunk_size=n).log_prob for n in (None, 1, 2)]
    assert torch.allclose(each[0], each[1], rtol=1e-13) and torch.equal(each[0], each[2])
