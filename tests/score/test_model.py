"""One model in every convention."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.score.mixture import GaussianScore

PREDICTIONS = ("score", "epsilon", "x0", "v", "velocity", "F")


MEAN, S, SIGMA_DATA = [0.5, -1.0], 0.3, 0.7


TABLE = ss.DiscreteVPSDE.linear(40, 1e-3, 0.25)


LADDER = ss.DiscreteVESDE.geometric(sigma_max=4.0, sigma_min=0.05, levels=20)


SDES = {
    "vp": ss.VPSDE(),
    "ve": ss.VESDE(sigma_min=0.05, sigma_max=4.0),
    "table": TABLE,
    "ladder": LADDER,
}


TIME_INPUTS = {
    "t": lambda sde, t, a, s: t,
    "999t": lambda sde, t, a, s: 999 * t,
    "sigma": lambda sde, t, a, s: s,
    "log_sigma": lambda sde, t, a, s: math.log(s),
    "log_snr": lambda sde, t, a, s: 2 * math.log(a / s),
    "quarter_log_sigma": lambda sde, t, a, s: math.log(s / a) / 4,
    "level": lambda sde, t, a, s: 40 * t - 1 if sde is TABLE else 19 * (1 - t),
    "continuous_level": lambda sde, t, a, s: 40 * t - 1 if sde is TABLE else 19 * (1 - t),
}


CASES = [
    (name, time_input)
    for name in SDES
    for time_input in TIME_INPUTS
    if "level" not in time_input or name in ("table", "ladder")
]


class Wrapped(nn.Module):
    """A network of some convention whose score is exact for N(MEAN, S).

    It is told the times it may be asked for, and finds which from its time input: an
    input that is none of them is an error.
    """

    def __init__(self, sde, prediction: str, time_input: str, unit: bool, times, dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=dtype))
        self.sde, self.prediction, self.unit = sde, prediction, unit
        self.times = times
        marginals = [[v.item() for v in sde.marginal(t)] for t in times]
        self.inputs = torch.tensor(
            [TIME_INPUTS[time_input](sde, t, *m) for t, m in zip(times, marginals, strict=True)]
        ).double()
        self.integer = time_input == "level"

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        assert x.dtype == self.weight.dtype
        assert c.shape == x.shape[:1] and c.dtype == (torch.int64 if self.integer else x.dtype)
        distance, which = (self.inputs - c[:, None].double()).abs().min(1)
        assert (distance < 1e-5 * (1 + c.abs())).all()
        if not len(x):
            return x
        return torch.stack([self.one(x[i], self.times[k]) for i, k in enumerate(which.tolist())])

    def one(self, x: Tensor, t: float) -> Tensor:
        alpha, sigma = (v.item() for v in self.sde.marginal(t))
        y = x.double()
        if self.unit:
            y = y * math.sqrt(alpha**2 * SIGMA_DATA**2 + sigma**2)
        mean = torch.tensor(MEAN).double()
        score = -(y - alpha * mean) / (alpha**2 * S + sigma**2)
        epsilon = -sigma * score
        x0 = mean + alpha * S * (y - alpha * mean) / (alpha**2 * S + sigma**2)
        if self.prediction == "velocity":
            f, g2 = (v.item() for v in self.sde.rates(t))
            answer = f * y - 0.5 * g2 * score  # the probability flow's own velocity
        elif self.prediction == "F":
            std, data = sigma / alpha, SIGMA_DATA
            skip, out = data**2 / (std**2 + data**2), std * data / math.hypot(std, data)
            answer = (x0 - skip * y / alpha) / out
        else:
            v = alpha * epsilon - sigma * x0
            answer = {"score": score, "epsilon": epsilon, "x0": x0, "v": v}[self.prediction]
        return answer.to(x.dtype)


def model_of(sde, prediction, time_input, times, dtype, scaling="none") -> ss.ScoreModel:
    unit = prediction == "F" or scaling == "unit"
    net = Wrapped(sde, prediction, time_input, unit, times, dtype)
    options = {"input_scaling": scaling, "sigma_data": SIGMA_DATA}
    return ss.ScoreModel(net, sde, prediction, time_input, **options)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("name", "time_input"), CASES)
def test_samples_do_not_depend_on_the_convention(name, time_input, prediction, dtype, tolerance):
    sde = SDES[name]
    sampler = ss.PredictorCorrector(
        sde, predictor=ss.Ancestral(), corrector=ss.Langevin(0.1), steps=8
    )
    model = model_of(sde, prediction, time_input, sampler.times.tolist(), dtype)
    exact = sampler.sample(GaussianScore(MEAN, S, sde), (3, 2), seed=2, dtype=dtype)
    got = sampler.sample(model, (3, 2), seed=2)
    assert got.dtype == dtype
    torch.testing.assert_close(got, exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("scaling", ["none", "unit"])
@pytest.mark.parametrize("name", SDES)
def test_one_model_says_all_kinds_of_things(name: str, scaling: str, prediction: str) -> None:
    sde, times = SDES[name], [0.05, 0.2, 0.9]
    model = model_of(sde, prediction, "t", times, torch.float64, scaling)
    exact = GaussianScore(MEAN, S, sde)
    x, t = torch.randn(3, 2).double(), torch.tensor(times, dtype=torch.float64)
    alpha, sigma = (v[:, None] for v in sde.marginal(t))
    score = exact(x, t)
    x0 = (x + sigma**2 * score) / alpha
    expected = {
        "score": score,
        "epsilon": -sigma * score,
        "x0": x0,
        "v": -alpha * sigma * score - sigma * x0,
    }
    close = {"rtol": 1e-10, "atol": 1e-10}
    for kind, value in expected.items():
        torch.testing.assert_close(model.predict(kind, x, t), value, **close)
    torch.testing.assert_close(model(x, t), score, **close)
    torch.testing.assert_close(model.denoise(x, t), exact.denoise(x, t), **close)
    torch.testing.assert_close(model.epsilon(x, t), -sigma * score, **close)
    for one in (0.2, torch.tensor(0.2, dtype=torch.float64)):
        torch.testing.assert_close(model(x, one)[1], score[1], **close)
    assert model(x[:0], 0.2).shape == (0, 2)


@pytest.mark.guards("T03")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_network_and_a_float32_state(dtype: torch.dtype) -> None:
    seen = []

    class Net(nn.Linear):
        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            seen.append((x.dtype, c.dtype))
            return super().forward(x)

    net = Net(2, 2).to(dtype)
    sde = ss.VPSDE()
    model = ss.ScoreModel(net, sde, prediction="epsilon")
    sampler = ss.PredictorCorrector(sde, predictor=ss.DDIM(), steps=20)
    x = sampler.sample(model, (4, 2))
    assert x.dtype == torch.float32 and set(seen) == {(dtype, dtype)}
    state = sde.prior_std() * ss.noise.standard_normal(0, range(4), range(1), (2,))[0]
    for t, s in zip(sampler.times, sampler.times[1:], strict=False):
        alpha, sigma = (v.item() for v in sde.marginal(t))
        to_alpha, to_sigma = (v.item() for v in sde.marginal(s))
        epsilon = net(state.to(dtype), t.expand(4).to(dtype)).float()
        state = to_alpha * (state - sigma * epsilon) / alpha + to_sigma * epsilon
    alpha, sigma = (v.item() for v in sde.marginal(sampler.times[-1]))
    epsilon = net(state.to(dtype), sampler.times[-1].expand(4).to(dtype)).float()
    # One rounding of the state to half precision may fall on the other side.
    close = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 40 * torch.finfo(dtype).eps}
    torch.testing.assert_close(x, (state - sigma * epsilon) / alpha, **close)
    assert model(x.to(dtype), 0.5).dtype == dtype
    # The prediction is converted in the state's precision, not in the network's.
    epsilon = net(x.to(dtype), torch.full((4,), 0.5).to(dtype)).float()
    torch.testing.assert_close(model(x, 0.5), -epsilon / sde.marginal(0.5)[1].float())


@pytest.mark.parametrize("prediction", ["score", "epsilon", "x0", "v"])
def test_what_a_network_predicts_is_handed_through(prediction: str) -> None:
    """Bit for bit, at σ = 0 too, where nothing could be converted."""
    model = ss.ScoreModel(lambda x, c: x / 3, ss.VPSDE(), prediction)
    x = torch.randn(4, 2)
    for t in (0.0, 1e-4, 0.3, 1.0):
        assert torch.equal(model.predict(prediction, x, t), x / 3)


@pytest.mark.guards("M02")
def test_levels_are_integers_exactly_on_every_level() -> None:
    """``(t (N − 1)).long()`` is off on any grid but the stock one."""
    for sde in (
        ss.DiscreteVPSDE.linear(1000),
        ss.DiscreteVESDE.geometric(sigma_max=50.0, sigma_min=0.01, levels=777),
    ):
        seen: list[int] = []

        def net(x: Tensor, c: Tensor, seen=seen) -> Tensor:
            seen.append(c[0].item())
            return torch.zeros_like(x)

        model = ss.ScoreModel(net, sde, time_input="level", prediction="epsilon")
        sampler = ss.PredictorCorrector(sde, predictor=ss.DDIM())
        sampler.sample(model, (1, 1))
        rising = list(range(sde.levels))
        assert seen == (rising if isinstance(sde, ss.DiscreteVESDE) else rising[::-1])
        seen.clear()
        model(torch.zeros(3, 1), sde.level_times()[[1, 5, 5]].float())
        assert seen == [1]


def test_labels_reach_the_network_as_they_are() -> None:
    seen = []

    def net(x: Tensor, c: Tensor, label: Tensor) -> Tensor:
        seen.append(label)
        return x * label[:, None]

    sde, label = ss.VPSDE(), torch.tensor([1, 0, 2])
    model = ss.ScoreModel(net, sde, "score")
    x = torch.ones(3, 2)
    assert torch.equal(model(x, 0.5, label), x * label[:, None])
    ss.PredictorCorrector(sde, predictor=ss.ReverseDiffusion(), steps=2).sample(
        model, (3, 2), label=label
    )
    assert all(torch.equal(s, label) and s.dtype == torch.int64 for s in seen)


def test_a_label_that_no_training_knew_is_refused_by_a_direct_call() -> None:
    """As the samplers refuse it; and one that the network does not take, trained or not."""
    x, label = torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64)
    known = ss.MLP(2, classes=3)
    unlabelled = ss.ScoreModel(known, ss.VPSDE(), label_required=None)
    net = ss.EnergyModel(lambda x, c, label=None: -x.square().sum(1))
    energy = ss.ScoreModel(net, ss.VPSDE(), label_required=None)
    for call in (unlabelled, unlabelled.denoise, unlabelled.epsilon, energy.log_density):
        assert call(x, 0.5).shape[0] == 2
        with pytest.raises(ss.errors.IncompatibleError, match="trained without labels; got one"):
            call(x, 0.5, label)
    plain = ss.ScoreModel(lambda x, c: x, ss.VPSDE())
    with pytest.raises(ss.errors.IncompatibleError, match="leave the label out"):
        plain(x, 0.5, label)
    broken = ss.ScoreModel(lambda x, c, label=None: x + "one", ss.VPSDE())
    with pytest.raises(TypeError, match="str"):  # a fault of the network's own is its own
        broken(x, 0.5, label)


def test_a_subclass_that_changes_the_score_is_obeyed() -> None:
    """The loop may skip ``forward`` only where it is ScoreModel's own."""

    class Doubled(ss.ScoreModel):
        def forward(self, x, t, label=None):
            return 2 * super().forward(x, t, label)

    class Zero(ss.ScoreModel):
        def predict(self, kind, x, t, label=None):
            return torch.zeros_like(x)

    sde = ss.VPSDE()
    sampler = ss.PredictorCorrector(sde, predictor=ss.ReverseDiffusion(), steps=5)
    for kind, score in ((Doubled, lambda x, t: -2 * x), (Zero, lambda x, t: 0 * x)):
        model = kind(lambda x, c: -x, sde, "score")
        torch.testing.assert_close(sampler.sample(model, (3, 2)), sampler.sample(score, (3, 2)))


@pytest.mark.guards("T04")
def test_the_score_at_small_times_keeps_its_digits() -> None:
    """σ from ``1 − exp(−B)`` is 1.6 % off below t = 1e-3 in float32, and 0 at 1e-7."""
    sde = ss.VPSDE()
    model = ss.ScoreModel(lambda x, c: torch.ones_like(x), sde, prediction="epsilon")
    for t in (1e-3, 1e-5, 1e-7):
        B = t * (0.1 + 0.5 * 19.9 * t)
        score = model(torch.zeros(1, 1), torch.tensor(t, dtype=torch.float32)).item()
        assert score == pytest.approx(-1 / math.sqrt(-math.expm1(-B)), rel=3e-7)


def test_modules_are_put_in_eval_mode_and_back() -> None:
    sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.ReverseDiffusion(), steps=3)
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    seen = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            seen.append((self.training, net[1].training, torch.is_grad_enabled()))
            return self.inner(x)

    model = ss.ScoreModel(Net(), ss.VPSDE(), prediction="epsilon")
    net[0].eval()
    sampler.sample(model, (2, 2))
    for _ in sampler.iterate(model, (2, 2)):
        assert model.training and torch.is_grad_enabled()
    assert set(seen) == {(False, False, False)}
    assert model.training and net[1].training and not net[0].training
    with pytest.raises(ZeroDivisionError):
        sampler.sample(
            ss.ScoreModel(Net(), ss.VPSDE(), prediction="epsilon"), (2, 2), noise=Broken()
        )
    assert model.training


class Broken(ss.noise.NoiseSource):
    def open(self, *args, **options):
        return 1 / 0


class Timed(torch.nn.Module):
    """A network in half precision that asks for its time in float32, and remembers it."""

    time_dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
        self.times: list[float] = []

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        assert x.dtype == torch.bfloat16 and c.dtype == torch.float32
        self.times += c[:1].tolist()
        return self.weight * x


def test_a_network_in_half_precision_may_ask_for_exact_times() -> None:
    """bfloat16 has 8 bits: of the levels from 512 to 999 it has every fourth."""
    net, sde = Timed(), ss.DiscreteVPSDE.linear()
    model = ss.ScoreModel(net, sde, "epsilon", "continuous_level")
    sampler = ss.PredictorCorrector(sde, ss.DDIM(), grid=ss.LevelGrid(), steps=20)
    sampler.sample(model, (1, 2))
    assert net.times == sde.level(sampler.times).tolist()
    net.times.clear()
    model(torch.zeros(1, 2), sde.level_times()[997])
    ss.ProbabilityFlow(sde, rtol=1e-2, atol=1e-2).sample(model, (1, 2))
    assert net.times[0] == 997 and net.times[1] == pytest.approx(999, abs=1e-3)
