"""Maximum likelihood for energies: gradients against exact normalisers, chains against limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial.hermite_e import hermegauss
from scipy import integrate, optimize, stats
from torch import Tensor, nn

import sdescore as ss
from sdescore.langevin.chains import chains
from sdescore.losses import ReplayBuffer, contrastive_divergence_loss

NAN, INF = math.nan, math.inf


class Quadratic(nn.Module):
    """f(x) = −½ xᵀ A x."""

    def __init__(self, A: Tensor) -> None:
        super().__init__()
        self.A = nn.Parameter(A.clone())

    def forward(self, x: Tensor) -> Tensor:
        return -0.5 * torch.einsum("bi,ij,bj->b", x, self.A, x)


class Powers(nn.Module):
    """f(x) = Σ_k θ_k x^{p_k} in one dimension."""

    def __init__(self, theta: list[float], powers: list[int]) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))
        self.powers = powers

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0] ** p for p in self.powers], -1) @ self.theta


def gradient(net: nn.Module, value: Tensor) -> Tensor:
    (parameter,) = net.parameters()
    return torch.autograd.grad(value, parameter)[0]


def normals(n: int, d: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, dtype=torch.float64, generator=generator)


# The loss.


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**31))
def test_a_quadratic_energy_has_the_difference_of_second_moments(n: int, d: int, seed: int) -> None:
    x, negatives, A = normals(n, d, seed), normals(n, d, seed + 1), normals(d, d, seed + 2)
    net = Quadratic(A)
    loss = contrastive_divergence_loss(ss.EnergyModel(net), x, negatives)
    assert loss.per_sample.shape == (n,)
    torch.testing.assert_close(loss.mean, loss.per_sample.mean())
    expected = 0.5 * (x.T @ x - negatives.T @ negatives) / n
    torch.testing.assert_close(gradient(net, loss.mean), expected)
    for i in range(n):
        alone = 0.5 * (x[i] @ A @ x[i] - negatives[i] @ A @ negatives[i])
        torch.testing.assert_close(loss.per_sample[i].detach(), alone)


@pytest.mark.parametrize("factor", [1.0, 0.7, 1.4])
def test_the_expected_gradient_is_zero_at_the_maximum_of_the_likelihood(factor: float) -> None:
    """Negatives of distribution N(0, A⁻¹) by quadrature; the data are four points, not Gaussian."""
    x = torch.tensor([[1.0, 0.5], [-2.0, 1.0], [0.3, -1.0], [0.0, 2.0]], dtype=torch.float64)
    S = x.T @ x / len(x)
    A = factor * torch.linalg.inv(S)
    z, w = (torch.from_numpy(v) for v in hermegauss(3))
    nodes = torch.cartesian_prod(z, z) @ torch.linalg.cholesky(torch.linalg.inv(A)).T
    weights = torch.outer(w, w).flatten() / w.sum() ** 2
    pairs = x.repeat_interleave(len(nodes), 0), nodes.repeat(len(x), 1)
    net = Quadratic(A)
    loss = contrastive_divergence_loss(ss.EnergyModel(net), *pairs).per_sample
    got = gradient(net, (loss * weights.repeat(len(x))).sum() / len(x))
    torch.testing.assert_close(got, 0.5 * (1 - 1 / factor) * S, rtol=1e-12, atol=1e-14)


def test_the_gradient_is_the_likelihood_s() -> None:
    """Away from the optimum, for an energy whose normaliser is found by quadrature."""
    theta, x = [0.3, 0.8, -0.5], torch.tensor([[-1.2], [0.4], [1.5], [0.9]], dtype=torch.float64)
    powers = [1, 2, 4]

    def negative_log_likelihood(theta: np.ndarray) -> float:
        def f(y: float) -> float:
            return float(sum(c * y**p for c, p in zip(theta, powers, strict=True)))

        Z = integrate.quad(lambda y: math.exp(f(y)), -6, 6, epsabs=1e-13)[0]
        return math.log(Z) - sum(f(v) for v in x.flatten().tolist()) / len(x)

    expected = optimize.approx_fprime(np.array(theta), negative_log_likelihood, 1e-6)
    net = Powers(theta, powers)
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        weights = net(grid).exp()
    weights = weights / weights.sum()
    pairs = x.repeat_interleave(len(grid), 0), grid.repeat(len(x), 1)
    loss = contrastive_divergence_loss(ss.EnergyModel(net), *pairs).per_sample
    got = gradient(net, (loss * weights.repeat(len(x))).sum() / len(x))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_penalty_is_that_of_both_energies() -> None:
    energy = ss.EnergyModel(lambda x: x.sum(-1))
    x, negatives = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, -2.0]])
    loss = contrastive_divergence_loss(energy, x, negatives, penalty=0.1)
    assert loss.per_sample.tolist() == pytest.approx([2 + 0.1 * (9 + 25), -2 + 0.1 * 4])
    assert contrastive_divergence_loss(energy, x, negatives, penalty=0).mean.item() == 0


def test_no_gradient_flows_into_the_negatives() -> None:
    net = Quadratic(torch.eye(2, dtype=torch.float64))
    x = normals(3, 2, 0)
    negatives = net.A.sum() * normals(3, 2, 1)
    got = gradient(net, contrastive_divergence_loss(ss.EnergyModel(net), x, negatives).mean)
    fixed = negatives.detach()
    torch.testing.assert_close(got, 0.5 * (x.T @ x - fixed.T @ fixed) / 3)


def test_an_energy_under_an_sde_is_given_the_time() -> None:
    score = ss.GaussianScore(torch.tensor([0.5, 0.0]), 2.0, sde := ss.VPSDE())
    x0, negatives, noise = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.4, 0.6, 0.9])
    x = sde.perturb(x0, t, noise)
    got = contrastive_divergence_loss(score, x0, negatives, t=t, noise=noise).per_sample
    alpha_t, sigma_t = (v.float()[:, None] for v in sde.marginal(t))
    law = torch.distributions.Normal(
        alpha_t * torch.tensor([0.5, 0.0]), (2 * alpha_t**2 + sigma_t**2).sqrt()
    )
    expected = (law.log_prob(negatives) - law.log_prob(x)).sum(1)
    torch.testing.assert_close(got, expected)
    model = ss.ScoreModel(ss.EnergyModel(lambda x, c: c * x.sum(-1)), sde, prediction="score")
    got = contrastive_divergence_loss(model, x0, negatives, t=t, noise=noise).per_sample
    torch.testing.assert_close(got, t * (negatives - x).sum(1))
    x = sde.perturb(x0, 0.3, noise)
    for energy in (model, model.net):  # one time for all, as a number; a plain energy gets (B,)
        got = contrastive_divergence_loss(
            energy, x0, negatives, t=0.3, noise=noise, sde=sde
        ).per_sample
        torch.testing.assert_close(got, 0.3 * (negatives - x).sum(1))
    weighted = contrastive_divergence_loss(model, x0, negatives, t=0.3, noise=noise, weight=2.0)
    torch.testing.assert_close(weighted.per_sample, 2 * got)


@pytest.mark.parametrize("shape", [(3,), (2, 1, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_shape_and_precision(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    energy = ss.EnergyModel(lambda x: x.flatten(1).sum(1) if x.ndim > 1 else 2 * x)
    x = torch.ones(shape, dtype=dtype)
    loss = contrastive_divergence_loss(energy, x, 3 * torch.ones(shape))
    assert loss.mean.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.mean.item() == (4 if x.ndim == 1 else 2 * 4)


def test_an_energy_that_writes_to_its_input_harms_nothing() -> None:
    x, negatives = torch.ones(2, 2), torch.ones(2, 2)
    loss = contrastive_divergence_loss(ss.EnergyModel(lambda y: y.mul_(3).sum(1)), x, negatives)
    assert loss.per_sample.tolist() == [0, 0]
    assert torch.equal(x, torch.ones(2, 2)) and torch.equal(negatives, torch.ones(2, 2))


def test_negatives_are_seen_in_the_precision_of_the_data() -> None:
    seen = []
    energy = ss.EnergyModel(lambda x: seen.append(x.dtype) or x.sum(-1))
    contrastive_divergence_loss(energy, torch.zeros(2, 2), torch.zeros(2, 2).double())
    assert seen == [torch.float32, torch.float32]


ENERGY = ss.EnergyModel(lambda x: x.sum(-1))
TIMED = ss.ScoreModel(ss.EnergyModel(lambda x, c: c * x.sum(-1)), ss.VPSDE(), prediction="score")


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((ss.MLP(2), torch.zeros(3, 2), torch.zeros(3, 2)), {}, ss.errors.IncompatibleError),
        ((lambda x: -x, torch.zeros(3, 2), torch.zeros(3, 2)), {}, ss.errors.IncompatibleError),
        (
            (ss.ScoreModel(ss.MLP(2), ss.VPSDE()), torch.zeros(3, 2), torch.zeros(3, 2)),
            {"t": 0.5},
            ss.errors.IncompatibleError,
        ),
        ((ENERGY, torch.zeros(3, 2), torch.zeros(4, 2)), {}, ss.errors.ShapeError),
        ((ENERGY, torch.zeros(3, 2), torch.zeros(2)), {}, ss.errors.ShapeError),
        ((ENERGY, torch.zeros(3, 2), None), {}, ss.errors.ShapeError),
        ((ENERGY, torch.zeros(0, 2), torch.zeros(0, 2)), {}, ss.errors.ShapeError),
        ((ENERGY, torch.zeros(3, 2).long(), torch.zeros(3, 2).long()), {}, ss.errors.ShapeError),
        ((ENERGY, [[0.0]], torch.zeros(1, 1)), {}, ss.errors.ShapeError),
        ((TIMED, torch.zeros(3, 2), torch.zeros(3, 2)), {}, ss.errors.IncompatibleError),
        *(
            ((energy, torch.zeros(3, 2), torch.zeros(3, 2)), {"t": t, "sde": ss.VPSDE()}, error)
            for energy in (TIMED, ss.EnergyModel(lambda x, c: c * x.sum(-1)))
            for t, error in (
                (NAN, ss.errors.TimeError),
                (torch.tensor([0.1, NAN, 0.1]), ss.errors.TimeError),
                (torch.ones(2), ss.errors.ShapeError),
                (torch.ones(3, 1), ss.errors.ShapeError),
            )
        ),
        (
            (ss.EnergyModel(lambda x: x), torch.zeros(3, 2), torch.zeros(3, 2)),
            {},
            ss.errors.ShapeError,
        ),
        *(
            (
                (ENERGY, torch.zeros(3, 2), torch.zeros(3, 2)),
                {"penalty": v},
                ss.errors.ParameterError,
            )
            for v in (-1.0, NAN, INF, None, "1")
        ),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple, options: dict, error: type) -> None:
    with pytest.raises(error):
        contrastive_divergence_loss(*arguments, **options)


@pytest.mark.parametrize("returned", [torch.zeros(3, 1), torch.zeros(()), 0.0, None])
def test_another_object_s_density_is_one_scalar_a_sample(returned: object) -> None:
    class Density:
        def log_density(self, x: Tensor) -> object:
            return returned

    with pytest.raises(ss.errors.ShapeError, match="one scalar per sample"):
        contrastive_divergence_loss(Density(), torch.zeros(3, 2), torch.zeros(3, 2))


# The buffer.


def noise(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=generator)


def test_chains_persist_and_only_what_is_put_back_changes() -> None:
    buffer = ReplayBuffer(10, noise, reinit=0.0)
    before = buffer.chains.clone()
    index, x = buffer.draw(4)
    assert torch.equal(x, before[index])
    x.add_(100)
    assert torch.equal(buffer.chains, before)  # what is drawn is a copy
    buffer.update(index, x.requires_grad_())
    assert not buffer.chains.requires_grad
    expected = before.clone()
    expected[index] += 100
    assert torch.equal(buffer.chains, expected)
    again, y = buffer.draw(10)
    assert sorted(again.tolist()) == list(range(10))
    assert torch.equal(y, expected[again])
    assert not torch.equal(again, torch.arange(10))


def test_the_share_started_afresh() -> None:
    """Each drawn chain by itself, wherever it lies; 1e-6 for each of the four tests."""
    buffer = ReplayBuffer(50, lambda n, g: torch.zeros(n, 1), reinit=0.2)
    buffer.update(torch.arange(50), torch.ones(50, 1))
    drawn = [buffer.draw(20) for _ in range(200)]
    afresh = torch.stack([x[:, 0] == 0 for _, x in drawn]).double()
    assert stats.binomtest(int(afresh.sum()), 4000, 0.2).pvalue > 1e-6
    for mean, variance, dim in ((4, 3.2, 1), (40, 32, 0)):  # per draw, then per row of a draw
        pearson = ((afresh.sum(dim) - mean).square() / variance).sum().item()
        assert pearson < stats.chi2.isf(1e-6, afresh.shape[1 - dim])
    # 80 expected at each of 50 places, drawn without replacement: variance below binomial.
    places = torch.bincount(torch.cat([index for index, _ in drawn]), minlength=50)
    assert (places - 80).abs().max() < stats.norm.isf(1e-6 / 100) * math.sqrt(200 * 0.4 * 0.6)
    assert torch.equal(buffer.chains, torch.ones(50, 1))  # until they are put back


@pytest.mark.parametrize(("reinit", "share"), [(0.0, 0), (0, 0), (1.0, 8), (1, 8)])
def test_none_or_all_afresh(reinit: float, share: int) -> None:
    buffer = ReplayBuffer(8, lambda n, g: torch.zeros(n), reinit=reinit)
    buffer.update(torch.arange(8), torch.ones(8))
    for _ in range(50):
        assert int((buffer.draw(8)[1] == 0).sum()) == share


def test_starts_may_be_data() -> None:
    data = torch.arange(5.0)[:, None]
    buffer = ReplayBuffer(
        300, lambda n, g: data[torch.randint(len(data), (n,), generator=g)], reinit=1.0
    )
    assert set(buffer.chains.flatten().tolist()) == set(range(5))
    assert len({tuple(buffer.draw(300)[1].flatten().tolist()) for _ in range(3)}) == 3
    assert len(buffer) == 300
    assert buffer.chains.dtype == data.dtype


def test_the_starts_stay_as_they_were() -> None:
    data = torch.ones(4, 2, requires_grad=True)
    buffer = ReplayBuffer(4, lambda n, g: data[:n], reinit=0.0)
    buffer.update(torch.arange(4), torch.zeros(4, 2))
    assert torch.equal(data, torch.ones(4, 2))
    assert not buffer.chains.requires_grad


def test_a_seed_means_the_same_buffer() -> None:
    def run(seed: int) -> list[Tensor]:
        buffer = ReplayBuffer(20, noise, reinit=0.3, seed=seed)
        drawn = [buffer.chains.clone()]
        for _ in range(5):
            index, x = buffer.draw(7)
            buffer.update(index, x + 1)
            drawn += [index.double(), x]
        return drawn

    one, two, other = run(3), run(3), run(4)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_buffer_goes_on_from_its_saved_state() -> None:
    buffer = ReplayBuffer(20, noise, reinit=0.3)
    index, x = buffer.draw(6)
    buffer.update(index, x + 1)
    state = buffer.state_dict()
    assert all(isinstance(v, Tensor) for v in state.values())

    def go_on(some: ReplayBuffer) -> list[Tensor]:
        drawn = []
        for _ in range(3):
            index, x = some.draw(6)
            some.update(index, 2 * x)
            drawn += [index, x]
        return [*drawn, some.chains.clone()]

    first = go_on(buffer)
    other = ReplayBuffer(20, noise, reinit=0.3, seed=99)
    other.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(first, go_on(other), strict=True))
    other.load_state_dict(state)  # and what ran since has not changed the saved state
    assert all(torch.equal(a, b) for a, b in zip(first, go_on(other), strict=True))


def test_a_state_of_another_buffer_is_refused() -> None:
    buffer = ReplayBuffer(4, noise)
    state = buffer.state_dict()
    for bad, error in (
        ({}, ss.errors.IncompatibleError),
        ({"chains": state["chains"]}, ss.errors.IncompatibleError),
        ({**state, "more": state["chains"]}, ss.errors.IncompatibleError),
        ({**state, "chains": torch.zeros(5, 2)}, ss.errors.ShapeError),
        ({**state, "chains": torch.full((4, 2), NAN)}, ss.errors.ParameterError),
        (
            {**state, "chains": torch.full((4, 2), 1e300, dtype=torch.float64)},
            ss.errors.ParameterError,
        ),
        ({**state, "chains": None}, ss.errors.ShapeError),
        ({**state, "generator": state["generator"][:-1]}, ss.errors.IncompatibleError),
        ({**state, "generator": state["generator"].float()}, ss.errors.IncompatibleError),
        ({**state, "generator": torch.zeros_like(state["generator"])}, ss.errors.IncompatibleError),
        ({**state, "generator": None}, ss.errors.IncompatibleError),
        (None, ss.errors.IncompatibleError),
        (["chains", "generator"], ss.errors.IncompatibleError),
    ):
        with pytest.raises(error):
            buffer.load_state_dict(bad)
    assert torch.equal(buffer.chains, state["chains"])
    assert torch.equal(buffer.state_dict()["generator"], state["generator"])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        *(({"size": v}, ss.errors.ParameterError) for v in (0, -1, True, 2.0, None)),
        *(({"reinit": v}, ss.errors.ParameterError) for v in (-0.1, 1.1, NAN, None, "0.1")),
        *(({"seed": v}, ss.errors.ParameterError) for v in (-1, 0.5, True, None)),
        ({"fresh": torch.zeros(4, 2)}, ss.errors.IncompatibleError),
        ({"fresh": lambda n, g: torch.zeros(n + 1, 2)}, ss.errors.ShapeError),
        ({"fresh": lambda n, g: torch.zeros(n, 2).long()}, ss.errors.ShapeError),
        ({"fresh": lambda n, g: None}, ss.errors.ShapeError),
    ],
)
def test_a_buffer_that_cannot_be_is_refused(options: dict, error: type) -> None:
    given_ = {"size": 4, "fresh": noise, **options}
    with pytest.raises(error):
        ReplayBuffer(**given_)


def test_draws_and_updates_that_do_not_fit_are_refused() -> None:
    buffer = ReplayBuffer(4, noise)
    before = buffer.chains.clone()
    for n in (0, 5, -1, True, 2.0, None):
        with pytest.raises(ss.errors.ParameterError, match="n >= 1 and at most 4"):
            buffer.draw(n)
    bad = [[0, 0], [0, 4], [-1, 0]]
    for index in (*map(torch.tensor, bad), torch.zeros(2), torch.tensor(1), [0, 1]):
        with pytest.raises(ss.errors.ShapeError, match="index"):
            buffer.update(index, torch.zeros(2, 2))
    for x in (torch.zeros(2, 3), torch.zeros(3, 2), None):
        with pytest.raises(ss.errors.ShapeError):
            buffer.update(torch.tensor([0, 1]), x)
    for value in (NAN, INF, 1e300):  # the last is finite until it is kept in float32
        with pytest.raises(ss.errors.ParameterError, match="finite"):
            buffer.update(torch.tensor([0, 1]), torch.full((2, 2), value, dtype=torch.float64))
    assert torch.equal(buffer.chains, before)
    calls = []
    fickle = ReplayBuffer(
        4, lambda n, g: torch.zeros(n, 2 if calls.append(n) or len(calls) == 1 else 3), reinit=1.0
    )
    with pytest.raises(ss.errors.ShapeError, match="fresh"):
        fickle.draw(2)


def test_chains_of_no_steps_are_refused() -> None:
    with pytest.raises(ss.SDEScoreError, match="n >= 1"):
        chains(ENERGY, torch.zeros(3, 2), 0.1, 0)


# Learning.


def train(
    net: nn.Module,
    data: Tensor,
    *,
    step: float,
    n: int,
    method: str = "unadjusted",
    buffer: ReplayBuffer | None = None,
    iterations: int = 300,
    rate: float = 0.1,
) -> Tensor:
    """The mean of the last half of the parameters under a falling learning rate."""
    energy, (parameter,) = ss.EnergyModel(net), net.parameters()
    optimiser = torch.optim.SGD(net.parameters(), lr=rate)
    kept = []
    for i in range(iterations):
        optimiser.param_groups[0]["lr"] = rate / math.sqrt(1 + 10 * i / iterations)
        index, start = (None, data) if buffer is None else buffer.draw(len(data))
        negatives = chains(energy, start, step, n, method=method, seed=i).x
        if buffer is not None:
            buffer.update(index, negatives)
        loss = contrastive_divergence_loss(energy, data, negatives).mean
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        kept.append(parameter.detach().clone())
    return torch.stack(kept[iterations // 2 :]).mean(0)


def double_noise(d: int):
    return lambda n, g: torch.randn(n, d, dtype=torch.float64, generator=g)


def test_persistent_chains_find_the_maximum_of_the_likelihood() -> None:
    """A Gaussian's: A is the inverse of the data's second moment, to 5 %."""
    L = torch.tensor([[1.0, 0.0], [0.6, 0.7]], dtype=torch.float64)
    data = normals(1000, 2, 0) @ L.T
    A = train(
        Quadratic(torch.eye(2, dtype=torch.float64)),
        data,
        step=0.15,
        n=2,
        method="mala",
        buffer=ReplayBuffer(1000, double_noise(2), reinit=0.0),
        rate=0.5,
    )
    exact = torch.linalg.inv(data.T @ data / len(data))
    assert (A - exact).norm() < 0.05 * exact.norm()
    assert (torch.eye(2) - exact).norm() > 0.3 * exact.norm()


def test_unadjusted_chains_fit_their_own_stationary_distribution() -> None:
    """A Gaussian energy ½ a x²: one step from data of variance S leaves (1−τa)² S + 2τ, which is
    S where a (1 − τa/2) = 1/S, as it is for the stationary distribution of many steps."""
    data = torch.special.ndtri(torch.linspace(0, 1, 2002, dtype=torch.float64)[1:-1])[:, None]
    S, tau = data.square().mean().item(), 0.4
    biased = (1 - math.sqrt(1 - 2 * tau / S)) / tau
    assert biased > 1.35 / S

    def run(**options) -> float:
        return train(
            Quadratic(torch.eye(1, dtype=torch.float64)), data, step=tau, rate=1.0, **options
        ).item()

    assert run(n=1) == pytest.approx(biased, rel=0.03)
    buffer = ReplayBuffer(len(data), double_noise(1), reinit=0.0)
    assert run(n=2, buffer=buffer) == pytest.approx(biased, rel=0.03)
    buffer = ReplayBuffer(len(data), double_noise(1), reinit=0.0)
    assert run(n=2, buffer=buffer, method="mala") == pytest.approx(1 / S, rel=0.03)


def test_one_small_step_from_the_data_is_score_matching() -> None:
    """f = −a x⁴/4 on Gaussian data of variance S: the likelihood has a = 1/(3S²), implicit score
    matching E[φ'' − a φ'²] = 0 with φ = x⁴/4, so a = 3S/(15S³). Where the expected gradient of
    CD-1 vanishes lies at the one or the other, and at what quadrature says for this step."""
    S, tau, n = 1.3, 0.01, 200_000
    z = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None]
    data = math.sqrt(S) * z

    def slope(a: float) -> float:
        net = Powers([-a / 4], [4])
        negatives = chains(ss.EnergyModel(net), data, tau, 1, seed=1).x
        loss = contrastive_divergence_loss(ss.EnergyModel(net), data, negatives).mean
        return gradient(net, loss).item()

    nodes, w = hermegauss(20)
    x, noise = np.meshgrid(math.sqrt(S) * nodes, math.sqrt(2 * tau) * nodes)

    def exact(a: float) -> float:
        moved = (x - tau * a * x**3 + noise) ** 4 - x**4
        return float((np.outer(w, w) * moved).sum())

    got = optimize.brentq(slope, 0.05, 0.6, xtol=1e-4)
    limit = optimize.brentq(exact, 0.05, 0.6)
    assert limit == pytest.approx(1 / (5 * S**2), rel=0.15)
    assert got == pytest.approx(limit, rel=0.1)
    assert got < 0.75 / (3 * S**2)


def test_persistent_chains_fit_two_wells() -> None:
    """θ of e^{θ₁ x + θ₂ x² + θ₃ x⁴} for a mixture's data; the exact fit by quadrature."""
    z = normals(1500, 1, 5)
    data = 0.4 * z + torch.where(torch.arange(1500)[:, None] < 600, -0.8, 0.8)
    grid = np.linspace(-4, 4, 2001)
    features = np.stack([grid, grid**2, grid**4])
    moments = np.array([(data**p).mean().item() for p in (1, 2, 4)])

    def negative_log_likelihood(theta: np.ndarray) -> float:
        return float(np.log(np.exp(theta @ features).sum()) - theta @ moments)

    best = optimize.minimize(negative_log_likelihood, [0.0, 0.0, -1.0], tol=1e-10)

    def uniform(n: int, generator: torch.Generator) -> Tensor:
        return 3 * torch.rand(n, 1, dtype=torch.float64, generator=generator) - 1.5

    theta = train(
        Powers([0.0, 0.0, -1.0], [1, 2, 4]),
        data,
        step=0.05,
        n=4,
        method="mala",
        # Wide starts would never move: where p falls faster than a Gaussian MALA rejects all.
        buffer=ReplayBuffer(len(data), uniform, reinit=0.0),
        iterations=400,
        rate=0.3,
    )
    excess = negative_log_likelihood(theta.numpy()) - negative_log_likelihood(best.x)
    start = negative_log_likelihood(np.array([0.0, 0.0, -1.0]))
    assert 0 <= excess < 1e-3
    assert start - negative_log_likelihood(best.x) > 0.1
    np.testing.assert_allclose(theta.numpy(), best.x, atol=0.2)
