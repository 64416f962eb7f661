"""What the sampler costs beyond the network, against a bare loop of the same arithmetic.

The bare loop is what one would write by hand: the score, ``torch.randn(out=)`` where there
is noise, and in-place arithmetic with Python numbers. Ours and the bare loop take turns in
one process on one thread, and their CPU time is compared (on a GPU, the wall's). A figure is the
median over the turns of ours divided by bare, and of several passes over all methods the median
again, for a pass can be lucky: all are saved.

    python benchmarks/overhead.py                      # prints the tables
    python benchmarks/overhead.py --save               # and writes benchmarks/results/
    python benchmarks/overhead.py --device cuda --save
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import conditions, machine_sentence
from torch import Tensor

import sdescore as ss
from sdescore.noise.sources import SeededNoise

SDE = ss.VPSDE()


def score(x: Tensor, t: Tensor) -> Tensor:
    """The cheapest score there is: whatever is beyond it is overhead."""
    return x.neg()


def bare_loop(shape: tuple[int, ...], steps: int, device: str, *, noise: bool, corrector: bool):
    """The arithmetic of ``steps`` steps, by hand."""
    times = torch.linspace(1, 1e-3, steps, device=device).unbind(0)

    def run() -> Tensor:
        x = torch.randn(shape, device=device)
        z = torch.empty_like(x)
        for t in times:
            o = score(x, t)
            x.mul_(0.999).add_(o, alpha=1e-3)
            if noise:
                x.add_(torch.randn(shape, out=z), alpha=1e-3)
            if corrector:
                o = score(x, t)
                x.add_(o, alpha=1e-3)
                x.add_(torch.randn(shape, out=z), alpha=1e-3)
        return x

    return run


def bare_high_order(
    shape: tuple[int, ...], steps: int, device: str, *, stages: int, outputs: int, noises: int
):
    """A multistage or multistep method on x₀ by hand: each output converted, old ones kept."""
    times = torch.linspace(1, 1e-3, steps, device=device).unbind(0)

    def run() -> Tensor:
        x = torch.randn(shape, device=device)
        z = [torch.empty_like(x) for _ in range(noises)]
        old: list[Tensor] = []
        for t in times:
            for z_k in z:
                torch.randn(shape, out=z_k)
            y = x
            for j in range(stages):
                o = score(y, t).mul_(0.5).add_(y, alpha=0.5)
                old = [o, *old[: outputs - 1]]
                y = x.mul_(0.999) if j + 1 == stages else x.mul(0.999)
                for o in old:
                    y.add_(o, alpha=1e-3)
                for z_k in z[: j + 1]:
                    y.add_(z_k, alpha=1e-3)
        return x

    return run


def scores_alone(shape: tuple[int, ...], evaluations: int, device: str):
    """The score evaluations and nothing else."""

    def run() -> Tensor:
        x = torch.randn(shape, device=device)
        t = torch.zeros((), device=device)
        for _ in range(evaluations):
            o = score(x, t)
        return o

    return run


def interleaved(runs: dict[str, Callable[[], object]], turns: int, device: str):
    """Seconds of each run, taking turns: CPU time of the one thread, or wall time on a GPU."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            if device == "cuda":
                torch.cuda.synchronize()
            start = clock()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first warms up
                seconds[name].append(clock() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> float:
    """Median over the turns of one run's time divided by another's."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[base], strict=True))


METHODS = {
    "Euler–Maruyama": ({"predictor": ss.EulerMaruyama()}, {"noise": True, "corrector": False}),
    "reverse diffusion": (
        {"predictor": ss.ReverseDiffusion()},
        {"noise": True, "corrector": False},
    ),
    "ancestral": ({"predictor": ss.Ancestral()}, {"noise": True, "corrector": False}),
    "reverse diffusion + Langevin": (
        {"predictor": ss.ReverseDiffusion(), "corrector": ss.Langevin(snr=0.01)},
        {"noise": True, "corrector": True},
    ),
    "DDIM": ({"predictor": ss.DDIM()}, {"noise": False, "corrector": False}),
}

HIGH_ORDER = {
    "Adams, 2 points": (ss.ExponentialAdams(points=2), (1, 2, 0)),
    "Adams, 2 points, corrected": (
        ss.ExponentialAdams(points=2, corrector_points=3),
        (1, 3, 0),
    ),
    "Adams, 2 points, η = 1": (ss.ExponentialAdams(eta=1.0, points=2), (1, 2, 1)),
    "Heun": (ss.Heun(), (2, 2, 0)),
    "DPM-Solver++ (2S)": (ss.ExponentialRungeKutta(stages=2), (2, 2, 0)),
    "SEEDS-2": (ss.ExponentialRungeKutta(eta=1.0, stages=2, output="epsilon"), (2, 2, 2)),
}


def bare_of(name: str, shape: tuple[int, ...], steps: int, device: str):
    """The loop by hand that a method is compared with."""
    if name in METHODS:
        return bare_loop(shape, steps, device, **METHODS[name][1])
    stages, outputs, noises = HIGH_ORDER[name][1]
    return bare_high_order(shape, steps, device, stages=stages, outputs=outputs, noises=noises)


def measure_samplers(device: str, turns: int) -> list[dict[str, object]]:
    """One row per method and shape."""
    rows = []
    for shape, steps in (((64, 3, 32, 32), 100), ((64, 2), 1000)):
        parts = {name: parts for name, (parts, _) in METHODS.items()}
        parts |= {name: {"predictor": p} for name, (p, _) in HIGH_ORDER.items()}
        for name, selected in parts.items():
            sampler = ss.PredictorCorrector(
                SDE, steps=steps, denoise=False, grid=ss.LogSNRGrid(), **selected
            )
            seconds = interleaved(
                {
                    "ours": lambda s=sampler, e=shape: s.sample(score, e, seed=1, device=device),
                    "bare": bare_of(name, shape, steps, device),
                    "scores": scores_alone(shape, sampler.evaluations, device),
                },
                turns,
                device,
            )
            beyond = statistics.median(
                (a - b) / steps * 1e6
                for a, b in zip(seconds["ours"], seconds["scores"], strict=True)
            )
            rows.append(
                {
                    "method": name,
                    "shape": shape,
                    "steps": steps,
                    "ratio_to_bare": round(ratio(seconds, "ours", "bare"), 3),
                    "us_per_step_beyond_score": round(beyond, 2),
                }
            )
    return rows


def over_passes(passes: list[list[dict[str, object]]]) -> list[dict[str, object]]:
    """The medians of each row over the passes, and the ratios they are of."""
    merged = []
    for rows in zip(*passes, strict=True):
        row = dict(rows[0])
        for name in ("ratio_to_bare", "us_per_step_beyond_score"):
            row[name] = statistics.median(r[name] for r in rows)
        merged.append(row | {"ratios": [r["ratio_to_bare"] for r in rows]})
    return merged


def measure_noise(device: str, turns: int) -> list[dict[str, object]]:
    """Per-sample streams against ``torch.randn`` over a 1,000-step run."""
    rows = []
    for shape, draws in (((64, 3, 32, 32), 1000), ((20000, 2), 1000)):
        z = torch.empty(shape, device=device)

        def ours(shape=shape, draws=draws) -> None:
            stream = SeededNoise(1).open(
                range(shape[0]),
                shape[1:],
                [None] * draws,
                dtype=torch.float32,
                device=torch.device(device),
            )
            for k in range(draws):
                stream.draw(k)

        def randn(shape=shape, draws=draws, z=z) -> None:
            for _ in range(draws):
                torch.randn(shape, out=z)

        seconds = interleaved({"ours": ours, "randn": randn}, max(3, turns // 3), device)
        rows.append(
            {
                "shape": shape,
                "draws": draws,
                "ratio_to_randn": round(ratio(seconds, "ours", "randn"), 3),
            }
        )
    return rows


def main() -> None:
    """Measure, print, and save where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here")
    torch.set_num_threads(1)
    report = {
        "command": f"python benchmarks/overhead.py --device {arguments.device} "
        f"--turns {arguments.turns} --passes {arguments.passes} --save",
        **conditions(arguments.device),
        "samplers": over_passes(
            [measure_samplers(arguments.device, arguments.turns) for _ in range(arguments.passes)]
        ),
        "noise": measure_noise(arguments.device, arguments.turns),
    }
    print(machine_sentence(report) + "\n")
    print("| method | shape | ours / bare loop | µs a step beyond the score |\n|---|---|---|---|")
    for row in report["samplers"]:
        print(
            f"| {row['method']} | {row['shape']} | {row['ratio_to_bare']:.2f} | "
            f"{row['us_per_step_beyond_score']:.1f} |"
        )
    print("\n| noise | draws | ours / torch.randn |\n|---|---|---|")
    for row in report["noise"]:
        print(f"| {row['shape']} | {row['draws']} | {row['ratio_to_randn']:.2f} |")
    if arguments.save:
        target = Path(__file__).parent / "results" / f"overhead-{arguments.device}.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        print(f"\nwrote {target.relative_to(Path(__file__).parent.parent)}")


if __name__ == "__main__":
    main()
