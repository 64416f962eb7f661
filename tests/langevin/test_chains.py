"""What a run of chains gives, costs and refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.langevin.chains import chains
from sdescore.langevin.preconditioner import Preconditioner
from sdescore.noise.counter import Domain, standard_normal
from sdescore.shapes import sum_event
from tests.helpers.langevin import METHODS, X, replay


class Counted:
    """A Gaussian that counts what is asked of it."""

    def __init__(self) -> None:
        self.scores = self.densities = 0

    def __call__(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        self.scores += 1
        return -x

    def log_density(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        self.densities += 1
        return -0.5 * sum_event(x.square())


@pytest.mark.parametrize(
    ("method", "scores", "densities"),
    [("unadjusted", 14, 0), ("mala", 15, 15), ("underdamped", 15, 0)],
)
def test_what_a_run_costs(method: str, scores: int, densities: int) -> None:
    score = Counted()
    run = chains(score, torch.zeros(3, 2), 0.1, 10, method=method, burn_in=4)
    assert (score.scores, score.densities) == (scores, densities)
    assert run.evaluations == scores
    assert (run.acceptance is None) == (method != "mala") and run.path is None


@pytest.mark.parametrize("method", METHODS)
def test_a_chain_does_not_know_its_companions(method: str) -> None:
    x, options = torch.randn(8, 3), {"method": method, "seed": 5}
    many = chains(Counted(), x, 0.9, 20, **options)
    few = chains(Counted(), x[:3], 0.9, 20, **options)
    assert torch.equal(many.x[:3], few.x)
    assert not torch.equal(chains(Counted(), x, 0.9, 20, method=method, seed=6).x, many.x)
    if method == "mala":
        assert torch.equal(many.acceptance[:3], few.acceptance)


@pytest.mark.parametrize("method", METHODS)
def test_path_burn_in_and_thinning(method: str) -> None:
    x = torch.randn(4, 2)
    options: dict[str, Any] = {"method": method, "return_path": True}
    whole = chains(Counted(), x, 1.2, 18, **options)
    part = chains(Counted(), x, 1.2, 13, burn_in=5, thin=3, **options)
    assert torch.equal(part.path, whole.path[5:][2::3]) and len(part.path) == 4
    assert torch.equal(part.x, whole.x) and torch.equal(whole.x, whole.path[-1])
    assert torch.equal(whole.path[0], chains(Counted(), x, 1.2, 1, method=method).x)
    if method == "mala":
        moved = (whole.path[5:] != whole.path[4:-1]).any(2).float().mean(0)
        torch.testing.assert_close(part.acceptance, moved)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_goes_on_is_one_longer_run(method: str) -> None:
    x, options = torch.randn(4, 2, dtype=torch.float64), {"method": method, "seed": 3}
    whole = chains(Counted(), x, 0.5, 7, **options, return_path=True)
    first = chains(Counted(), x, 0.5, 2, **options, burn_in=1)
    rest = chains(Counted(), first, 0.5, 4, **options, return_path=True)
    assert torch.equal(first.x, whole.path[2]) and torch.equal(rest.path, whole.path[3:])
    repeated = chains(Counted(), first.x, 0.5, 4, **options)  # the state alone: the noise again
    assert not torch.allclose(repeated.x, rest.x, atol=0.1)


def test_the_noise_of_chains_is_their_own() -> None:
    """Where no score moves it, x goes by √(2τ) z, and z is no number of another role."""
    x = torch.randn(3, 2, dtype=torch.float64)
    run = chains(torch.zeros_like, x, 0.5, 1, seed=5)
    z = standard_normal(5, range(3), range(1, 2), (2,), domain=Domain.LANGEVIN)[0]
    torch.testing.assert_close(run.x, x + z, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 1, 2, 3), (0, 2), (2, 0)])
def test_any_shape_and_dtype(method: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=dtype)
    run = chains(Counted(), x, 0.1, 10, method=method, return_path=True)
    assert run.x.shape == shape and run.x.dtype == dtype and run.path.shape == (10, *shape)
    if shape[0]:
        assert run.effective_sample_size().shape == run.r_hat().shape == shape[1:]
    kept = x.clone()
    chains(lambda y: y.neg_(), x, 0.1, 2)
    assert torch.equal(x, kept), "the start is the caller's"


@pytest.mark.parametrize("method", METHODS)
def test_a_score_in_another_precision_leaves_the_states_alone(method: str) -> None:
    class Double(Counted):
        def __call__(self, x: Tensor, t: Tensor | None = None) -> Tensor:
            return -x.double()

        def log_density(self, x: Tensor, t: Tensor | None = None) -> Tensor:
            return super().log_density(x.double())

    run = chains(Double(), torch.ones(4, 2), 0.1, 5, method=method)
    assert run.x.dtype == torch.float32


def test_a_score_that_writes_to_its_input_does_no_harm() -> None:
    x = torch.randn(5, 2)
    one, two = (chains(s, x, 0.1, 5).x for s in (torch.neg, lambda y: y.neg_()))
    assert torch.equal(one, two)


def test_energies_plain_scores_exact_scores_and_models_agree() -> None:
    """One distribution, four ways to give it, at a noise level or without."""
    sde, t = ss.VPSDE(), 0.3
    alpha, sigma = (v.item() for v in sde.marginal(t))
    S = alpha**2 * 0.25 + sigma**2
    exact = ss.GaussianScore(torch.zeros(2), 0.25, sde)
    model = ss.ScoreModel(
        ss.EnergyModel(lambda x, c: -0.5 * x.square().sum(1) / S), sde, prediction="score"
    )
    energy = ss.EnergyModel(lambda x: -0.5 * x.square().sum(1) / S)
    x = torch.randn(6, 2, dtype=torch.float64)
    for method in METHODS:
        runs = [
            chains(exact, x, 0.3, 10, method=method, t=t).x,
            chains(exact, x, 0.3, 10, method=method, t=torch.full((6,), t)).x,
            chains(model.double(), x, 0.3, 10, method=method, t=t).x,
            chains(energy, x, 0.3, 10, method=method).x,
        ]
        if method != "mala":
            runs.append(chains(lambda x: -x / S, x, 0.3, 10, method=method).x)
        for run in runs[1:]:
            torch.testing.assert_close(run, runs[0], rtol=1e-5, atol=1e-5)


def test_the_time_is_handed_on_to_each_chain_in_the_states_dtype() -> None:
    seen: list[Tensor] = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return -x

    chains(score, torch.zeros(3, 2), 0.1, 1, t=0.25)
    own = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    for t in (0.25, torch.tensor(0.25), torch.tensor([0.25]), own):
        chains(score, torch.zeros(3, 2), 0.1, 1, t=t)
    assert all(t.dtype == torch.float32 and t.shape == (3,) for t in seen)
    assert all(bool((t == 0.25).all()) for t in seen[:-1]) and torch.equal(seen[-1], own.float())
    chains(score, torch.zeros(0, 2), 0.1, 1, t=0.25)
    assert seen[-1].shape == (0,)
    # The density is given the same as the score, under an energy that wants (B,).
    energy = ss.EnergyModel(lambda x, c: -0.5 * (x.square() / c.reshape(len(x), 1)).sum(1))
    chains(energy, torch.zeros(3, 2), 0.1, 1, t=0.25, method="mala")


@pytest.mark.parametrize("method", METHODS)
def test_a_score_under_an_sde_needs_its_time(method: str) -> None:
    calls: list[int] = []
    energy = ss.EnergyModel(lambda x, c: calls.append(1) or -x.square().sum(1))
    model = ss.ScoreModel(energy, ss.VPSDE(), prediction="score")

    class Own(Counted):
        sde = ss.VPSDE()

        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            return calls.append(1) or -x

    for score in (model, ss.GaussianScore([0.0, 0.0], 1.0, ss.VPSDE()), Own()):
        with pytest.raises(
            ss.errors.IncompatibleError, match=f"expected t= for {type(score).__name__}"
        ):
            chains(score, X, 0.1, 5, method=method)
        for t in (1.5, -0.1, torch.tensor([0.1, 0.2, 1.5])):
            with pytest.raises(ss.errors.TimeError, match="T = 1"):
                chains(score, X, 0.1, 5, method=method, t=t)
    assert not calls


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"n": 0}, ss.errors.ParameterError, "n >= 1"),
    ({"n": -1}, ss.errors.ParameterError, "n >= 1"),
    ({"n": True}, ss.errors.ParameterError, "n >= 1"),
    ({"n": 2.0}, ss.errors.ParameterError, "n >= 1"),
    ({"step": 0.0}, ss.errors.ParameterError, "step > 0"),
    ({"step": -0.1}, ss.errors.ParameterError, "step > 0"),
    ({"step": math.inf}, ss.errors.ParameterError, "step > 0"),
    ({"step": math.nan}, ss.errors.ParameterError, "step > 0"),
    ({"step": True}, ss.errors.ParameterError, "step > 0"),
    (
        {"step": torch.tensor(0.1)},
        ss.errors.ParameterError,
        r"step > 0; .* no Python number; use .item",
    ),
    ({"step": "0.1"}, ss.errors.ParameterError, r"step > 0; .* no Python number$"),
    (
        {"temperature": torch.tensor(1.0)},
        ss.errors.ParameterError,
        "temperature > 0; .* no Python number",
    ),
    (
        {"friction": torch.tensor(1.0), "method": "underdamped"},
        ss.errors.ParameterError,
        "friction >= 0; .* no Python number",
    ),
    ({"temperature": 0.0}, ss.errors.ParameterError, "temperature > 0"),
    ({"temperature": -1.0}, ss.errors.ParameterError, "temperature > 0"),
    ({"method": "ula"}, ss.errors.IncompatibleError, "unadjusted, mala, underdamped"),
    ({"convention": "alpha"}, ss.errors.IncompatibleError, "tau, epsilon"),
    ({"friction": -1.0, "method": "underdamped"}, ss.errors.ParameterError, "friction >= 0"),
    ({"friction": math.nan, "method": "underdamped"}, ss.errors.ParameterError, "friction >= 0"),
    ({"friction": True, "method": "underdamped"}, ss.errors.ParameterError, "friction >= 0"),
    ({"friction": 1.0}, ss.errors.IncompatibleError, "underdamped"),
    ({"convention": "epsilon", "method": "underdamped"}, ss.errors.IncompatibleError, "time h"),
    ({"burn_in": -1}, ss.errors.ParameterError, "burn_in"),
    ({"burn_in": False}, ss.errors.ParameterError, "burn_in"),
    ({"thin": 0, "return_path": True}, ss.errors.ParameterError, "thin"),
    ({"thin": 6, "return_path": True}, ss.errors.ParameterError, "thin"),
    ({"thin": 2}, ss.errors.IncompatibleError, "return_path"),
    ({"seed": 0.5}, ss.errors.ParameterError, "seed"),
    ({"noise": torch.zeros(9, 3, 2)}, ss.errors.IncompatibleError, "NoiseSource"),
    ({"noise": replay(5, 3, 2)}, ss.errors.ShapeError, "replayed"),
    ({"noise": replay(6, 2, 2)}, ss.errors.ShapeError, "replayed"),
    ({"noise": replay(10, 3, 2), "method": "mala"}, ss.errors.ShapeError, "replayed"),
    ({"x": torch.zeros(3, 2, dtype=torch.int64)}, ss.errors.ShapeError, "floating"),
    ({"x": torch.zeros(3, 2).half()}, ss.errors.ShapeError, "float32 or float64"),
    ({"x": torch.zeros(())}, ss.errors.ShapeError, "batch"),
    ({"x": [0.0]}, ss.errors.ShapeError, "Tensor"),
    ({"x": torch.full((3, 2), math.nan)}, ss.errors.ParameterError, "finite"),
    ({"t": math.nan}, ss.errors.TimeError, "finite"),
    ({"t": torch.tensor(math.nan)}, ss.errors.TimeError, "finite t"),
    ({"t": torch.tensor([0.1, math.inf, 0.2])}, ss.errors.TimeError, "finite t"),
    ({"t": "now"}, ss.errors.TimeError, "finite"),
    ({"t": torch.zeros(2)}, ss.errors.ShapeError, "one time"),
    ({"preconditioner": torch.ones(3)}, ss.errors.ShapeError, r"\(2,\), or a matrix \(2, 2\)"),
    ({"preconditioner": torch.ones(3, 3)}, ss.errors.ShapeError, "matrix"),
    ({"preconditioner": Preconditioner.diagonal([1.0])}, ss.errors.ShapeError, "event's shape"),
    ({"preconditioner": Preconditioner.full([[1.0]])}, ss.errors.ShapeError, "2 rows"),
    ({"preconditioner": -1.0}, ss.errors.ParameterError, "positive"),
    (
        {"preconditioner": torch.tensor([[1.0, 2.0], [2.0, 1.0]])},
        ss.errors.ParameterError,
        "definite",
    ),
]


@pytest.mark.parametrize(("wrong", "error", "says"), BAD, ids=lambda v: repr(v)[:40])
def test_bad_input_is_refused_at_the_door(
    wrong: dict[str, Any], error: type[Exception], says: str
) -> None:
    score = Counted()
    arguments: dict[str, Any] = {"x": X, "step": 0.1, "n": 5, **wrong}
    with pytest.raises(error, match=says):
        chains(score, **arguments)
    assert score.scores == score.densities == 0


def test_bad_scores_are_refused() -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="callable"):
        chains("score", X, 0.1, 5)  # type: ignore[arg-type]
    with pytest.raises(ss.errors.IncompatibleError, match="callable"):
        chains(Counted, X, 0.1, 5)
    calls = []
    with pytest.raises(ss.errors.IncompatibleError, match="log density"):
        chains(lambda x: calls.append(1) or -x, X, 0.1, 5, method="mala")
    assert not calls
    with pytest.raises(ss.errors.ShapeError, match="score shaped like"):
        chains(lambda x: -x[:, :1], X, 0.1, 5)

    class Wide(Counted):
        def log_density(self, x: Tensor, t: Tensor | None = None) -> Tensor:
            return -x.square()

    with pytest.raises(ss.errors.ShapeError, match="one a sample"):
        chains(Wide(), X, 0.1, 5, method="mala")


@pytest.mark.parametrize("method", ["unadjusted", "underdamped"])
def test_divergence_names_step_and_chains(method: str) -> None:
    """Only chain 2 starts where the cubic force overshoots."""
    x = torch.zeros(4, 1)
    x[2] = 50.0
    with pytest.raises(ss.errors.DivergenceError, match="1 of 4 chains: 2") as caught:
        chains(lambda x: -(x**3), x, 0.05 if method == "unadjusted" else 0.3, 40, method=method)
    error = caught.value
    assert error.samples == [2] and 0 < error.step < 20
    steps = error.step
    chains(
        lambda x: -(x**3), x, 0.05 if method == "unadjusted" else 0.3, steps, method=method
    )  # one step less is finite


@pytest.mark.parametrize(("lost", "shown"), [(8, r"6, 7\."), (9, r"6, 7, …\.")])
def test_at_most_eight_chains_are_named(lost: int, shown: str) -> None:
    x = torch.zeros(9, 1)
    x[:lost] = 50.0
    with pytest.raises(ss.errors.DivergenceError, match=shown) as caught:
        chains(lambda x: -(x**3), x, 0.05, 40, method="unadjusted")
    assert caught.value.samples == [*range(lost)]


def test_mala_from_where_there_is_no_density_says_so() -> None:
    """A chain that can accept nothing must not look like one that stands still."""

    class Half(Counted):
        def log_density(self, x: Tensor, t: Tensor | None = None) -> Tensor:
            return torch.where(x[:, 0] > 0, 0.0, torch.nan)

    with pytest.raises(ss.errors.DivergenceError, match=r"step 0 in 1 of 2 chains: 1"):
        chains(Half(), torch.tensor([[1.0], [-1.0]]), 1e-6, 5, method="mala")
