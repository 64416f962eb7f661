"""Random configurations of a sampler, bad values among them: each is valid or refused in time.

A configuration is an SDE, a grid, a number of steps, a predictor, a corrector, what the network
predicts, and a request. *Valid* means finite samples of the right shape and dtype, and the same
bits from a second call. *Refused* means an ``SDEScoreError`` before the network is called. A run
may also *diverge*: a ``DivergenceError``, which names the step, of parts that are all in range but
make the state grow without bound. Anything else is a fault.
"""

from __future__ import annotations

import math
import random
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import Tensor, nn

import sdescore as ss

BAD: list[Any] = [
    math.nan, math.inf, -math.inf, -1, -0.5, 0, 0.0, 1e-300, 1e300, 10**400, "x", "1", "", None,
    True, [], (), [1.0], {}, 1 + 2j, b"1", object(), torch.tensor([1.0, 2.0]),
    torch.tensor(math.nan), numpy.array([0.5]), numpy.array([0.5, 0.1]), numpy.nan, int,
]  # fmt: skip
SHAPES: list[Any] = [(3, 2), (1, 2), (2, 1, 4, 4), (2, 3, 2), (4,), (2, 1)]
BAD_SHAPES: list[Any] = [
    (), 3, "ab", None, (-1, 2), (2.0, 2), (2, "a"), (True, 2), [2, [2]], (math.nan, 2), {1: 2},
    (3, -2),
]  # fmt: skip
BAD_DTYPES: list[Any] = [torch.int64, torch.bfloat16, torch.complex64, "float32", 3]
PREDICTIONS = ["score", "epsilon", "x0", "v", "velocity", "F"]
TIME_INPUTS = ["t", "999t", "sigma", "log_snr", "log_sigma"]


DISCRETE = (ss.DiscreteVPSDE, ss.DiscreteVESDE)
SPACED = {ss.UniformGrid, ss.QuadraticGrid, ss.LogSNRGrid, ss.KarrasGrid, ss.CosineGrid}


class Counting(nn.Module):
    """A bounded network that counts its calls."""

    calls = 0

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(x)


class Draw:
    """Values of the options of one configuration; one in ``rarity`` is a bad one."""

    def __init__(self, seed: int, rarity: int = 25) -> None:
        self.random = random.Random(seed)
        self.rarity, self.bad = rarity, 0

    def __call__(self, *good: Any, bad: list[Any] = BAD) -> Any:
        if self.random.randrange(self.rarity):
            return self.random.choice(good)
        self.bad += 1
        return self.random.choice(bad)

    def some(self, kind: Callable[..., Any], **options: tuple[Any, ...]) -> Any:
        """A call of ``kind`` with a random part of its options."""
        used = {name: values for name, values in options.items() if self.random.random() < 0.6}
        return kind(**{name: self(*values) for name, values in used.items()})

    def one(self, *makers: Callable[[], Any]) -> Any:
        return self.random.choice(makers)()


def sde_of(d: Draw) -> Any:
    betas = tuple(0.01 + 0.02 * n for n in range(8))
    return d.one(
        lambda: d.some(ss.VPSDE, beta_min=(0.1, 0.01, 1.0), beta_max=(20.0, 5.0)),
        lambda: d.some(ss.VESDE, sigma_min=(0.01, 0.1), sigma_max=(50.0, 5.0)),
        lambda: d.some(ss.SubVPSDE, beta_min=(0.1, 0.01), beta_max=(20.0, 5.0)),
        lambda: d.some(ss.CosineVPSDE, offset=(0.008, 0.02), T=(0.9946, 0.99)),
        lambda: d.some(ss.EDMSDE, sigma_min=(0.002, 0.02), sigma_max=(80.0, 10.0)),
        lambda: d.some(ss.RectifiedFlowSDE, T=(0.999, 0.99)),
        lambda: ss.DiscreteVPSDE(betas=d(betas, list(betas), torch.tensor(betas))),
        lambda: ss.DiscreteVPSDE.linear(d(8, 20)),
        lambda: ss.DiscreteVESDE(sigmas=d((3.0, 1.0, 0.3, 0.1), (9.0, 2.0, 0.5))),
        lambda: ss.LinearSDE.from_marginal(torch.ones_like, lambda t: t, t_min=d(1e-3, 0.1)),
        lambda: d(ss.VPSDE()),
    )


def grid_of(d: Draw) -> Any:
    return d.one(
        lambda: None,
        ss.UniformGrid,
        ss.QuadraticGrid,
        ss.LogSNRGrid,
        ss.LevelGrid,
        lambda: d.some(ss.KarrasGrid, rho=(7.0, 3.0)),
        lambda: d.some(ss.CosineGrid, sigma_data=(1.0, 0.5)),
        lambda: ss.CustomGrid(d([0.9, 0.5, 0.1], (0.8, 0.2), torch.tensor([0.9, 0.3]))),
        lambda: ss.grids.TableGrid(d([3.0, 1.0, 0.4], [2.0, 0.5])),
        lambda: d([0.9, 0.4, 0.1], torch.tensor([0.7, 0.2])),
    )


def predictor_of(d: Draw) -> Any:
    etas, outputs = (0.0, 1.0, 0.5), ("x0", "epsilon")
    weights = [[1.0], [1.5, -0.5]]
    return d.one(
        lambda: d.some(ss.EulerMaruyama, eta=etas),
        lambda: d.some(ss.ReverseDiffusion, eta=etas),
        lambda: d.some(ss.Ancestral, variance=("fixed_small", "fixed_large")),
        lambda: d.some(ss.DDIM, eta=etas),
        lambda: d.some(ss.StochasticHeun, eta=etas),
        lambda: d.some(ss.Heun, s_churn=(0.0, 1.0), s_min=(0.0, 0.1), s_noise=(1.0, 1.01)),
        lambda: d.some(
            ss.ExponentialAdams, eta=etas, points=(1, 2, 3), corrector_points=(0, 1, 2),
            output=outputs, midpoint=(False, True),
        ),
        lambda: d.some(
            ss.ExponentialRungeKutta, eta=etas, stages=(1, 2, 3), output=outputs, node=(None, 0.4)
        ),
        lambda: ss.predictors.Multistep(d(weights)),
        ss.predictors.RungeKutta4,
        ss.NoPredictor,
        lambda: d(ss.DDIM()),
    )  # fmt: skip


def corrector_of(d: Draw) -> Any:
    snr, steps = (0.16, 0.01, 0.5), (1, 2)
    return d.one(
        ss.NoCorrector,
        lambda: d.some(ss.Langevin, snr=snr, steps=steps, norm=("expected", "sample", "batch")),
        lambda: d.some(ss.AnnealedLangevin, epsilon=(2e-5, 1e-3), steps=steps),
        lambda: d.some(ss.correctors.MALA, snr=snr, steps=steps),
        lambda: d.some(
            ss.correctors.Underdamped, snr=snr, friction=(1.0, 0.3), steps=steps, length=(1, 3)
        ),
        lambda: d(ss.NoCorrector()),
    )  # fmt: skip


def steps_of(d: Draw, grid: Any) -> Any:
    """Grids of values of one's own have their number of steps."""
    spaced = grid is None or type(grid) in SPACED
    return d(3, 5, 8, 8, 24, 24) if spaced else d(None)


def outcome(seed: int) -> tuple[str, str, int]:
    """What became of a configuration, what it was, and how many bad values it had."""
    d, net = Draw(seed), Counting()
    stage = "parts"
    try:
        sde, grid, predictor, corrector = sde_of(d), grid_of(d), predictor_of(d), corrector_of(d)
        stage = f"{sde!r:.60} {grid!r:.40} {predictor!r:.80} {corrector!r:.60}"
        levels = ["level", "continuous_level"] if isinstance(sde, DISCRETE) else []
        scale = {"sigma_data": d(0.5, 1.0)} if d.random.random() < 0.3 else {}
        model = ss.ScoreModel(net, sde, d(*PREDICTIONS), d(*TIME_INPUTS, *levels), **scale)
        sampler = ss.PredictorCorrector(
            sde, predictor, corrector, steps=steps_of(d, grid), grid=grid,
            corrector_first=d(False, True), denoise=d(True, False, "flow"), data_std=d(0.0, 1.0),
        )  # fmt: skip
        shape = d(*SHAPES, bad=BAD_SHAPES)
        options = {
            "seed": d(0, 7, 2**40),
            "dtype": d(None, torch.float32, torch.float64, bad=BAD_DTYPES),
            "max_batch": d(None, 1, 2),
            "device": d(None, "cpu", bad=["nowhere", 3, "cuda:99", "meta"]),
        }  # fmt: skip
        stage += f" {shape} {options}"
        found = sampler.sample(model, shape, **options)
        again = sampler.sample(model, shape, **options)
    except ss.errors.DivergenceError:
        return ("diverged" if net.calls else "fault: diverged before a call"), stage, d.bad
    except ss.SDEScoreError as error:
        kind = f"{type(error).__name__}: {error!s:.120}"
        return ("refused" if not net.calls else f"fault: refused late, {kind}"), stage, d.bad
    except Exception as error:
        return f"fault: {type(error).__name__}: {error!s:.120}", stage, d.bad
    dtype = options["dtype"] or torch.float32
    if found.shape != torch.Size(shape) or found.dtype != dtype:
        return f"fault: {tuple(found.shape)} of {found.dtype}", stage, d.bad
    if not found.isfinite().all():
        return "fault: not finite", stage, d.bad
    return ("valid" if torch.equal(found, again) else "fault: another result"), stage, d.bad


def configurations(count: int = 10_000) -> dict[str, Any]:
    """How many of the first ``count`` configurations are valid, refused, diverged or a fault."""
    counts: Counter[str] = Counter()
    faults: dict[str, str] = {}
    clean = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few steps
        for seed in range(count):
            if seed % 1000 == 0:
                print(seed, dict(counts), flush=True)
            what, stage, bad = outcome(seed)
            counts[what.split(":")[0]] += 1
            clean += what == "valid" and not bad
            if what.startswith("fault"):
                faults.setdefault(what, f"seed {seed}: {stage}")
    return {
        "configurations": count,
        **counts,
        "valid_without_bad_values": clean,
        "faults": len(faults),
        "examples": faults,
    }
