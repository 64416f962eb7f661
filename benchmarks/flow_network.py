"""The probability flow of a trained network: time against SciPy's RK45, and what the batch changes.

A network is trained on a mixture of Gaussians for a moment. Then 64 states at T are taken down the
flow of VPSDE, by ours and by SciPy's RK45 in t on all of them as one vector, as score_sde does,
with the same network and the rates as plain numbers. Each solver has the loosest tolerance, of five
to a decade, that brings the worst sample (RMS over its elements) within 1e-3 of the solution by
SciPy's DOP853 in float64 at 1e-9. The two are timed in turns, the network included; a ratio below 1
is for ours.

The second part asks how many samples in the plane move by more than 1e-5 where they are solved one
by one, in place of all together.

    python benchmarks/flow_network.py           # prints the tables; some minutes
    python benchmarks/flow_network.py --save    # and benchmarks/results/flow-network-cpu.json
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from machine import conditions
from scipy.integrate import solve_ivp
from torch import Tensor

import sdescore as ss

RESULT = Path(__file__).parent / "results" / "flow-network-cpu.json"
SDE = ss.VPSDE()
DIMENSIONS = (2, 20, 200, 2000)
ROWS, ERROR, REPEATS = 64, 1e-3, 9
TOLERANCES = tuple(10 ** (-i / 5) for i in range(10, 36))
MOVED, SAMPLES = 1e-5, 200
Solver = Callable[[ss.ScoreModel, Tensor, float], Tensor]


def trained(dim: int, steps: int = 400) -> ss.ScoreModel:
    """A network of the noise, for four Gaussians of width 0.2 around random points."""
    generator = torch.Generator().manual_seed(dim)
    torch.manual_seed(dim)
    centres = torch.randn(4, dim, generator=generator)
    model = ss.ScoreModel(ss.MLP(dim, hidden=128), SDE, prediction="epsilon", time_input="t")
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(steps):
        which = torch.randint(4, (128,), generator=generator)
        x0 = centres[which] + 0.2 * torch.randn(128, dim, generator=generator)
        loss = ss.denoising_loss(model, x0, generator=generator).mean
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def ours(model: ss.ScoreModel, x: Tensor, tolerance: float) -> Tensor:
    """By a step of its own for each sample, in the angle."""
    return ss.ProbabilityFlow(SDE, rtol=tolerance, atol=tolerance).decode(model, x)


def scipys(model: ss.ScoreModel, x: Tensor, tolerance: float, method: str = "RK45") -> Tensor:
    """By one step for all, in t."""
    net, like = model.net, next(model.parameters())

    def derivative(t: float, y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        beta = SDE.beta_min + t * (SDE.beta_max - SDE.beta_min)
        sigma = np.sqrt(-np.expm1(-t * (SDE.beta_min + beta) / 2))
        state = torch.from_numpy(y).to(like.dtype).reshape(x.shape)
        epsilon = net(state, torch.full((len(x),), t, dtype=like.dtype))
        return -0.5 * beta * (y - epsilon.flatten().double().numpy() / sigma)

    with torch.no_grad():
        start, ends = x.flatten().double().numpy(), (SDE.T, SDE.t_min)
        found = solve_ivp(derivative, ends, start, method=method, rtol=tolerance, atol=tolerance)
    return torch.from_numpy(found.y[:, -1]).reshape(x.shape)


def worst(found: Tensor, exact: Tensor) -> float:
    """The largest RMS error of a sample."""
    return (found.double() - exact).square().mean(1).sqrt().max().item()


def loosest(solver: Solver, model: ss.ScoreModel, x: Tensor, exact: Tensor) -> float:
    """The first tolerance that meets the error, as the next one does."""
    met = 0
    for i, tolerance in enumerate(TOLERANCES):
        met = met + 1 if worst(solver(model, x, tolerance), exact) <= ERROR else 0
        if met == 2:
            return TOLERANCES[i - 1]
    raise RuntimeError("no tolerance meets the error")


def seconds(solver: Solver, model: ss.ScoreModel, x: Tensor, tolerance: float) -> float:
    """Of one solve."""
    before = time.perf_counter()
    solver(model, x, tolerance)
    return time.perf_counter() - before


def prepared(dim: int) -> dict[str, Any]:
    """Model, states and the tolerance of each solver."""
    model = trained(dim)
    x = torch.randn(ROWS, dim, generator=torch.Generator().manual_seed(1))
    exact = scipys(copy.deepcopy(model).double(), x, 1e-9, "DOP853")
    tolerances = [loosest(solver, model, x, exact) for solver in (ours, scipys)]
    errors = [
        worst(solver(model, x, tolerance), exact)
        for solver, tolerance in zip((ours, scipys), tolerances, strict=True)
    ]
    return {"model": model, "x": x, "tolerances": tolerances, "errors": errors}


def timed(case: dict[str, Any]) -> dict[str, Any]:
    """The ratio of the times, its quartiles, in turns."""
    model, x, tolerances = case["model"], case["x"], case["tolerances"]
    pairs = [
        [seconds(s, model, x, t) for s, t in zip((ours, scipys), tolerances, strict=True)]
        for _ in range(REPEATS + 1)
    ][1:]
    low, middle, high = statistics.quantiles([a / b for a, b in pairs], n=4)
    return {
        "dimension": x.shape[1],
        "tolerances": tolerances,
        "errors": case["errors"],
        "ratio": middle,
        "quartiles": [low, high],
    }


def moved(tolerance: float, dtype: torch.dtype) -> dict[str, Any]:
    """What share of the samples moves where each is solved by itself, and how far at most."""
    model, flow = trained(2).to(dtype), ss.ProbabilityFlow(SDE, rtol=tolerance, atol=tolerance)
    x = torch.randn(SAMPLES, 2, dtype=dtype, generator=torch.Generator().manual_seed(1))
    off = (flow.decode(model, x, max_batch=1) - flow.decode(model, x)).abs().amax(1)
    return {
        "tolerance": tolerance,
        "dtype": str(dtype).removeprefix("torch."),
        "share": (off > MOVED).double().mean().item(),
        "largest": off.max().item(),
    }


def time_table(report: dict[str, Any]) -> str:
    """The ratio of the times in each dimension, with its quartiles and both tolerances."""
    lines = ["| dimension | time, ours / RK45 | tolerance, ours | RK45 |", "|---|---|---|---|"]
    for row in report["rows"]:
        low, high = row["quartiles"]
        first, second = (f"{tolerance:.1e}" for tolerance in row["tolerances"])
        ratio = f"{row['ratio']:.2f} ({low:.2f}–{high:.2f})"
        lines.append(f"| {row['dimension']} | {ratio} | {first} | {second} |")
    return "\n".join(lines)


def moved_table(report: dict[str, Any]) -> str:
    """What share of the samples the batch moves, by tolerance and dtype."""
    lines = ["| tolerance | network | moved by more than 1e-5 | farthest |", "|---|---|---|---|"]
    for row in report["moved"]:
        share = f"{100 * row['share']:.1f} %"
        lines.append(f"| {row['tolerance']:g} | {row['dtype']} | {share} | {row['largest']:.0e} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and save where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases, rows = [prepared(dim) for dim in DIMENSIONS], []
    for case in cases:
        rows.append(timed(case))
        print(rows[-1], flush=True)
    batches = []
    for tolerance in (1e-5, 1e-6):
        for dtype in (torch.float32, torch.float64):
            batches.append(moved(tolerance, dtype))
            print(batches[-1], flush=True)
    if options.save:
        report = {
            "command": "python benchmarks/flow_network.py --save",
            **conditions(),
            "scipy": scipy.__version__,
            "rows": rows,
            "moved": batches,
        }
        RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
