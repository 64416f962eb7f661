"""What a likelihood costs: evaluations and error of the probability flow on each SDE.

The data are a mixture of three Gaussians in the plane, whose score and density are known at every
time, so an error is that of the solver alone: the largest of 60 points, in nats. The same ODE is
also solved in t by SciPy's RK45, all points as one vector, as score_sde does. Evaluations are calls
of the score, ours also per point, on the average; they do not depend on the machine.

    python benchmarks/flow.py           # prints the table; a minute
    python benchmarks/flow.py --save    # and writes benchmarks/results/flow-cpu.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import conditions
from scipy.integrate import solve_ivp
from torch import Tensor

import sdescore as ss

RESULT = Path(__file__).parent / "results" / "flow-cpu.json"
POINTS = 60
TOLERANCES = (1e-3, 1e-5, 1e-9)
MIXTURE: dict[str, Any] = {
    "weights": [0.5, 0.3, 0.2],
    "means": [[-1.0, 0.0], [1.0, 1.0], [1.0, -1.5]],
    "covariances": [
        [[0.3, 0.1], [0.1, 0.2]], [[0.05, 0.0], [0.0, 0.4]], [[0.1, -0.05], [-0.05, 0.1]],
    ],
}  # fmt: skip
SDES: dict[str, ss.LinearSDE] = {
    "VE": ss.VESDE(),
    "VP": ss.VPSDE(),
    "sub-VP": ss.SubVPSDE(),
    "cosine": ss.CosineVPSDE(),
    "EDM": ss.EDMSDE(),
    "rectified flow": ss.RectifiedFlowSDE(),
    "DDPM's table": ss.DiscreteVPSDE.linear(),
}


def points(score: ss.MixtureScore, sde: ss.LinearSDE) -> Tensor:
    """States at t_min."""
    clean = score.sample(POINTS, seed=1, dtype=torch.float64)
    noise = torch.randn(POINTS, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return sde.perturb(clean, sde.t_min, noise)


def error_of(score: ss.MixtureScore, x: Tensor, latent: Tensor, log_det: Tensor) -> float:
    """The largest error of log p(x) from the exact density at T, in nats."""
    sde: Any = score.sde
    found = score.log_prob(latent, sde.T) + log_det
    return (found - score.log_prob(x, sde.t_min)).abs().max().item()


def ours(score: ss.MixtureScore, x: Tensor, tolerance: float) -> tuple[int, float, float]:
    """Evaluations of the hardest point, error, and evaluations per point, of our flow."""
    flow = ss.ProbabilityFlow(score.sde, rtol=tolerance, atol=tolerance)
    found = flow.log_likelihood(score, x)
    error = error_of(score, x, found.latent, found.log_det)
    return int(found.evaluations.max()), error, found.evaluations.double().mean().item()


def scipys(score: ss.MixtureScore, x: Tensor, tolerance: float) -> tuple[int, float]:
    """Those of RK45 in t, on the state and its log determinant."""
    sde: Any = score.sde

    def derivative(t: float, y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        state = torch.from_numpy(y[: x.numel()]).reshape(x.shape).requires_grad_()
        f, g2 = (rate.item() for rate in sde.rates(t))
        s = score(state, torch.tensor(t, dtype=torch.float64))
        columns = [torch.autograd.grad(s[:, i].sum(), state, retain_graph=True)[0] for i in (0, 1)]
        divergence = columns[0][:, 0] + columns[1][:, 1]
        velocity = (f * state - 0.5 * g2 * s).detach().flatten()
        return torch.cat([velocity, 2 * f - 0.5 * g2 * divergence]).numpy()

    start = np.concatenate([x.flatten().numpy(), np.zeros(POINTS)])
    found = solve_ivp(
        derivative, (sde.t_min, sde.T), start, method="RK45", rtol=tolerance, atol=tolerance
    )
    end = torch.from_numpy(found.y[:, -1])
    latent, log_det = end[: x.numel()].reshape(x.shape), end[x.numel() :]
    return found.nfev, error_of(score, x, latent, log_det)


def main() -> None:
    """Measure, print, and save where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    rows = []
    for name, sde in SDES.items():
        score = ss.MixtureScore(*MIXTURE.values(), sde)
        x = points(score, sde)
        row: dict[str, Any] = {"sde": name, "ours": [], "scipy": []}
        for tolerance in TOLERANCES:
            row["ours"].append(ours(score, x, tolerance))
            row["scipy"].append(scipys(score, x, tolerance))
        rows.append(row)
        shown = "   ".join(
            f"{kind}: " + ", ".join(f"{n} ({e:.0e})" for n, e, *_ in row[kind])
            for kind in ("ours", "scipy")
        )
        print(f"{name:15} {shown}", flush=True)
    if options.save:
        report = {**conditions(), "tolerances": TOLERANCES, "points": POINTS, "rows": rows}
        RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
