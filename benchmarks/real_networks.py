"""What sampling, a likelihood and a training step cost beyond a real network, and beside diffusers.

Each task is run in several ways, which take turns in one process on one thread. A figure is the
median over the turns of the CPU time of ours divided by that of another way, with its quartiles.

- network alone: as many calls of the network as the task makes, with the derivatives it needs.
- two calls: as network alone, for a likelihood whose value and divergence are computed apart.
- plain loop: the network's own sampler written from its paper in torch. It is the
  predictor–corrector sampler of Song et al. 2021 (arXiv:2011.13456, algorithms 2 to 5), with the
  Langevin step by the batch's mean norms; for NCSNv2 annealed Langevin dynamics, for EDM
  algorithm 1 of Karras et al. 2022 (arXiv:2206.00364).
- diffusers: the loop of its pipelines with ``DDPMScheduler`` or ``ScoreSdeVeScheduler``, and its
  training recipe (benchmarks/training.py).

Three bars: a sampler takes at most 1.02 of the network alone; the Langevin corrector by batch
norms, with the cheapest score there is, at most 1.0 of the plain loop; a likelihood at most 0.65 of
two calls.

    pip install --no-deps diffusers==0.42.1
    python benchmarks/real_networks.py             # prints the table, in 15 minutes or less
    python benchmarks/real_networks.py --save      # and writes benchmarks/results/
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
from machine import conditions, machine_sentence
from real_networks_others import (
    SNR,
    STEPS,
    diffusers_ddpm,
    diffusers_ve,
    langevin_step,
    plain_edm,
    plain_ncsnv2,
    plain_ve,
    plain_vp,
)
from torch import Tensor, nn
from training import with_diffusers

import sdescore as ss
from sdescore.errors import StepsWarning

RESULT = Path(__file__).parent / "results" / "real-networks-cpu.json"
SHAPE = (2, 3, 32, 32)
TRAINED, WARM = 3, 1  # training steps a turn; the first WARM are not counted
NAMES = {
    "network": "network alone",
    "apart": "two calls",
    "plain": "plain loop",
    "diffusers": "diffusers",
}
SAMPLER, LANGEVIN, LIKELIHOOD = "sampler", "Langevin, cheapest score", "likelihood"
BARS = {(SAMPLER, "network"): 1.02, (LANGEVIN, "plain"): 1.0, (LIKELIHOOD, "apart"): 0.65}

Run = Callable[[], float]
"""One turn: the CPU seconds that it took, by the same unit as the other runs of its task."""


class Subject(NamedTuple):
    """A network, and its model."""

    net: nn.Module  # called as (x, c)
    model: ss.ScoreModel


def subjects() -> dict[str, Subject]:
    """Small configurations of six networks, all for 32×32 images in colour."""
    song = {"nf": 32, "ch_mult": (1, 2, 2), "num_res_blocks": 1, "dropout": 0.0}
    unet = diffusers.UNet2DModel(
        sample_size=32,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    of_diffusers = ss.load_diffusers(unet, diffusers.DDPMScheduler())
    ve = ss.nets.NCSNpp(32, 3, **song).eval()
    found = {"NCSNpp": Subject(ve, ss.ScoreModel(ve, ss.VESDE(), "score", "sigma"))}
    for name, net in {
        "DDPMpp": ss.nets.DDPMpp(32, 3, **song),
        "ADM": ss.nets.ADM(size=32, width=32, multipliers=(1, 2, 2), blocks=1, attention=(16,)),
    }.items():
        model = ss.ScoreModel(net, ss.DiscreteVPSDE.linear(), "epsilon", "continuous_level")
        found[name] = Subject(net, model.eval())
    found["UNet2DModel"] = Subject(of_diffusers.net, of_diffusers)
    ladder = ss.DiscreteVESDE.geometric(sigma_max=50.0, sigma_min=0.01, levels=2 * STEPS)
    ncsn = ss.nets.NCSNv2(3, ladder.sigmas, width=32)
    of_ncsn = ss.ScoreModel(ncsn, ladder, "score", "continuous_level")
    found["NCSNv2"] = Subject(ncsn, of_ncsn.eval())
    edm = ss.nets.SongUNet(32, 3, model_channels=32, channel_mult=(1, 2, 2), num_blocks=1)
    found["EDM"] = Subject(edm, ss.ScoreModel(edm, ss.EDMSDE(), sigma_data=0.5).eval())
    return found


def calls_alone(net: nn.Module, calls: int, trace: bool = False) -> Run:
    """The network called on noise; with ``trace``, with a vector–Jacobian product each time."""
    x, c = torch.randn(SHAPE), torch.full(SHAPE[:1], 3.0)

    def run() -> float:
        start = time.process_time()
        for _ in range(calls):
            if trace:
                y = x.clone().requires_grad_()
                torch.autograd.grad(net(y, c), y, x)
            else:
                with torch.no_grad():
                    net(x, c)
        return time.process_time() - start

    return run


def timed(task: Callable[[], object]) -> Run:
    """A task as a run."""

    def run() -> float:
        start = time.process_time()
        task()
        return time.process_time() - start

    return run


def training(subject: Subject) -> dict[str, Run]:
    """A training step: ours, the network's loss and gradient alone, and diffusers' recipe."""
    data = torch.randn(64, *SHAPE[1:]).clamp(-1, 1)
    model = copy.deepcopy(subject.model).train()
    net = copy.deepcopy(subject.net).train()
    level = 1.0 + torch.arange(SHAPE[0])

    def ours(steps: int) -> list[float]:
        moments: list[float] = []
        ss.train(
            model, data, steps=steps, batch_size=SHAPE[0], progress=False, standardize=False,
            callback=lambda _: moments.append(time.process_time()),
        )  # fmt: skip
        return moments

    def alone(steps: int) -> list[float]:
        moments = []
        for _ in range(steps):
            net.zero_grad(set_to_none=True)
            net(data[: SHAPE[0]], level).square().mean().backward()
            moments.append(time.process_time())
        return moments

    def of(block: Callable[[int], list[float]]) -> Run:
        def run() -> float:
            moments = block(TRAINED + WARM)[WARM - 1 :]
            return statistics.median(b - a for a, b in itertools.pairwise(moments))

        return run

    runs = {"ours": of(ours), "network": of(alone)}
    if not isinstance(subject.model.sde, ss.DiscreteVESDE | ss.EDMSDE):  # whose nets take no 999
        net_of_recipe = Shifted(copy.deepcopy(subject.net).train())
        runs["diffusers"] = of(with_diffusers(net_of_recipe, data, SHAPE[0]))
    return runs


class Shifted(nn.Module):
    """The network at level c + 1, for one that takes the logarithm of its level."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        y: Tensor = self.net(x, c + 1)
        return y


def sampling(subject: Subject) -> dict[str, dict[str, Run]]:
    """The network's own sampler, and for a network of diffusers' kind DDPM's."""
    net, model = subject
    sde, seeds = model.sde, itertools.count()

    def runs(sampler: ss.PredictorCorrector, **others: Callable[[], object]) -> dict[str, Run]:
        own = timed(lambda: sampler.sample(model, SHAPE, seed=next(seeds)))
        alone = calls_alone(net, sampler.evaluations)
        return {"ours": own, "network": alone} | {k: timed(other) for k, other in others.items()}

    if isinstance(sde, ss.DiscreteVESDE):
        annealed = ss.published.ncsnv2(model, n_steps_each=1, denoise=False)
        return {SAMPLER: runs(annealed, plain=plain_ncsnv2(net, SHAPE, sde.sigmas))}
    if isinstance(sde, ss.EDMSDE):
        heun = ss.published.edm(model, num_steps=STEPS)
        return {SAMPLER: runs(heun, plain=plain_edm(net, SHAPE))}
    ve = isinstance(sde, ss.VESDE)
    sampler = ss.PredictorCorrector(
        sde,
        predictor=ss.EulerMaruyama() if not ve else ss.ReverseDiffusion(),
        corrector=ss.Langevin(snr=SNR, norm="batch"),
        corrector_first=True,
        grid=ss.LogSNRGrid(),
        steps=STEPS,
    )
    if ve:
        others = {"plain": plain_ve(net, SHAPE), "diffusers": diffusers_ve(net, SHAPE)}
        return {SAMPLER: runs(sampler, **others)}
    steps = 2 * STEPS
    ancestral = ss.PredictorCorrector(sde, predictor=ss.Ancestral(), steps=steps)
    ddpm = runs(ancestral, diffusers=diffusers_ddpm(net, SHAPE, steps))
    return {SAMPLER: runs(sampler, plain=plain_vp(net, SHAPE)), "DDPM": ddpm}


def likelihood(subject: Subject) -> dict[str, Run]:
    """A step of a Runge–Kutta method and Hutchinson's estimate: four calls with gradients."""
    flow = ss.ProbabilityFlow(subject.model.sde, method="rk4", steps=1)
    x = torch.randn(SHAPE)
    found = flow.log_likelihood(subject.model, x, divergence="hutchinson")
    calls = int(found.evaluations[0])
    value, both = (calls_alone(subject.net, calls, trace) for trace in (False, True))
    return {
        "ours": timed(lambda: flow.log_likelihood(subject.model, x, divergence="hutchinson")),
        "network": both,
        "apart": lambda: value() + both(),
    }


def corrector() -> dict[str, Run]:
    """The Langevin corrector by batch norms, with x ↦ −x as the score."""
    shape, steps = (64, 3, 32, 32), 20
    sampler = ss.PredictorCorrector(
        ss.VPSDE(),
        predictor=ss.NoPredictor(),
        corrector=ss.Langevin(snr=SNR, norm="batch"),
        steps=steps,
        denoise=False,
    )

    def plain() -> Tensor:
        x = torch.randn(shape)
        for _ in range(sampler.evaluations):
            x = langevin_step(x, x.neg())
        return x

    seeds = itertools.count()
    return {
        "ours": timed(lambda: sampler.sample(lambda x, t: x.neg(), shape, seed=next(seeds))),
        "plain": timed(plain),
    }


def compare(runs: dict[str, Run], turns: int) -> list[dict[str, Any]]:
    """Ours against each other run: the ratios' median and quartiles."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            took = run()
            if turn:  # the first warms up
                seconds[name].append(took)
    rows = []
    for other in seconds.keys() - {"ours"}:
        ratios = [a / b for a, b in zip(seconds["ours"], seconds[other], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        rows.append(
            {
                "against": other,
                "ratio": round(middle, 3),
                "quartiles": [round(low, 3), round(high, 3)],
                "milliseconds": round(1e3 * statistics.median(seconds["ours"]), 1),
            }
        )
    return sorted(rows, key=lambda row: list(NAMES).index(row["against"]))


def measure(turns: int) -> list[dict[str, Any]]:
    """All rows of the table."""
    tasks: list[tuple[str, str, dict[str, Run]]] = [("–", LANGEVIN, corrector())]
    for name, subject in subjects().items():
        tasks += [(name, task, runs) for task, runs in sampling(subject).items()]
        tasks += [(name, LIKELIHOOD, likelihood(subject))]
        tasks += [(name, "training step", training(subject))]
    rows = []
    for name, task, runs in tasks:
        more = 3 if task == LANGEVIN else 1
        for row in compare(runs, more * turns):
            rows.append({"network": name, "task": task, **row})
            print(line(rows[-1]), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """A row of the table; a bar that is missed is said."""
    bar = BARS.get((row["task"], row["against"]))
    said = "" if bar is None else f"≤ {bar}" + (", missed" if row["ratio"] > bar else "")
    low, high = row["quartiles"]
    return (
        f"| {row['network']} | {row['task']} | {NAMES[row['against']]} | {row['ratio']:.3f} "
        f"({low:.3f}–{high:.3f}) | {row['milliseconds']} | {said} |"
    )


def main() -> None:
    """Measure, print, and save where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    if options.turns < 2:
        parser.error("quartiles take two turns or more")
    warnings.simplefilter("ignore", StepsWarning)  # few steps are as fast as many
    torch.set_num_threads(1)
    torch.manual_seed(0)
    began = time.monotonic()
    print("| network | task | ours / | ratio (quartiles) | ours, ms | bar |")
    print("|---|---|---|---|---|---|")
    report = {
        "command": f"python benchmarks/real_networks.py --turns {options.turns} --save",
        **conditions(),
        "diffusers": version("diffusers"),
        "shape": SHAPE,
        "rows": measure(options.turns),
    }
    report["seconds"] = round(time.monotonic() - began)
    print(f"\n{machine_sentence(report)}, diffusers {report['diffusers']}")
    if options.save:
        RESULT.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
