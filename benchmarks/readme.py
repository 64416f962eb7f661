"""The README's ten lines, as written: their bar for every predictor, and the two pictures.

The code of docs/ten_lines.py runs for three training seeds. Of each trained network every predictor
draws 2,000 samples, with 100 steps (Heun 50, and the recommended sampler 10 evaluations). The bar
is: at most 1 % of them more than 0.3 from the moons' two arcs, where 0.3 % of the data are, and
none beyond |x| = 5. Two rows with 20 evaluations are outside the bar.

Two peers train a network of the same class on the same data for as many CPU seconds, as their
tutorials do, and sample with their tutorials' samplers. One that is not installed is left out.

- azula: its README's loop, ``KarrasDenoiser`` on ``VPSchedule``, uniform times, Adam at 1e-3,
  batches of 512, ``DDPMSampler`` with 1000 steps and ``DDIMSampler`` with 50.
- lucidrains: denoising-diffusion-pytorch's README for sequences, ``GaussianDiffusion1D`` with
  ``objective="pred_v"``, data in [0, 1], Adam at 8e-5, batches of 32 twice a step, the average of
  0.995 every tenth step, and 1000 ancestral steps.

    python benchmarks/readme.py            # prints the table
    python benchmarks/readme.py --cost     # the CPU time of the ten lines, and of a bare loop
    python benchmarks/readme.py --save     # and writes benchmarks/results/readme-cpu.json, pictures
    pip install --no-deps azula==0.11.1 denoising-diffusion-pytorch ema-pytorch einops accelerate
"""

from __future__ import annotations

import argparse
import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import conditions, machine_sentence
from peers import lucidrains
from torch import Tensor

import sdescore as ss
from sdescore.datasets import two_moons

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "readme-cpu.json"
PICTURES = ROOT / "docs" / "_static" / "readme"
SEEDS, COUNT = 3, 2000
HERO = {
    "reverse diffusion": ss.ReverseDiffusion(),
    "ancestral": ss.Ancestral(),
    "DDIM": ss.DDIM(),
    "exponential Adams": ss.ExponentialAdams(),
}


def arcs(points: int = 2001) -> Tensor:
    """Points of the two arcs that the moons lie about."""
    angle = math.pi * torch.arange(points, dtype=torch.float64) / (points - 1)
    arc = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], 1)
    return torch.cat([2 * arc, -2 * arc])


def distance(x: Tensor) -> Tensor:
    """From each sample to the nearer arc."""
    return torch.cdist(x.double(), arcs()).min(1).values


def run(seed: int) -> tuple[dict[str, Any], float]:
    """The ten lines' names after they ran with a training seed, and the seconds they took."""
    code = (ROOT / "docs" / "ten_lines.py").read_text(encoding="utf-8")
    code = code.replace(").model", f", seed={seed}, progress=False).model")
    names: dict[str, Any] = {}
    torch.manual_seed(seed)
    began = time.process_time()
    exec(compile(code, "ten_lines.py", "exec"), names)
    return names, time.process_time() - began


def bare(seed: int, steps: int = 3200) -> float:
    """The CPU seconds of as many steps of the same network in a loop that does the least."""
    torch.manual_seed(seed)
    data, net = two_moons(4000), ss.MLP(2, hidden=64)
    optimizer = torch.optim.AdamW(net.parameters(), lr=7e-3, weight_decay=0.0, fused=True)
    began = time.process_time()
    for _ in range(steps):
        x0, t = data[torch.randint(len(data), (512,))], torch.rand(512)
        z, sigma = torch.randn_like(x0), t[:, None]
        loss = (net((1 - sigma) * x0 + sigma * z, t) - z).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return time.process_time() - began


def samplers(model: ss.ScoreModel, data: Tensor) -> dict[str, Any]:
    make = partial(ss.PredictorCorrector, model.sde, grid=ss.LogSNRGrid())
    langevin = ss.Langevin(snr=0.16)
    return {
        "reverse diffusion + Langevin": make(ss.ReverseDiffusion(), langevin, steps=100),
        "Euler–Maruyama": make(ss.EulerMaruyama(), steps=100),
        "ancestral": make(ss.Ancestral(), steps=100),
        "DDIM": make(ss.DDIM(), steps=100),
        "Heun": make(ss.Heun(), steps=50),
        "exponential Adams": make(ss.ExponentialAdams(), steps=100),
        "recommended": ss.recommended_sampler(model, evaluations=10, data=data),
        "DDIM, 20": make(ss.DDIM(), steps=20),
        "exponential Adams, 20": make(ss.ExponentialAdams(), steps=20),
    }


def azula_rows(data: Tensor, seconds: float, seed: int) -> dict[tuple[str, int], Tensor]:
    """Samples of azula's tutorial, trained for so many CPU seconds."""
    from azula.denoise import KarrasDenoiser
    from azula.noise import VPSchedule
    from azula.sample import DDIMSampler, DDPMSampler

    class Backbone(torch.nn.Module):
        """The network; azula's samplers pass one time for all samples."""

        def __init__(self) -> None:
            super().__init__()
            self.net = ss.MLP(2)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            y: Tensor = self.net(x, t.expand(len(x)))
            return y

    denoiser = KarrasDenoiser(Backbone(), VPSchedule())
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-3)
    began = time.process_time()
    while time.process_time() - began < seconds:
        x = data[torch.randint(len(data), (512,))]
        loss = denoiser.loss(x, torch.rand(512)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found = {}
    with torch.no_grad():
        for kind, steps in ((DDPMSampler, 1000), (DDIMSampler, 50)):
            sampler = kind(denoiser.eval(), steps=steps)
            found[f"azula, {kind.__name__}", steps] = sampler(sampler.init((COUNT, 2)))
    return found


def lucidrains_rows(data: Tensor, seconds: float, seed: int) -> dict[tuple[str, int], Tensor]:
    """Samples of denoising-diffusion-pytorch's tutorial, trained for so many CPU seconds."""
    from ema_pytorch import EMA

    class Points(torch.nn.Module):
        """The network, on sequences of one channel and length 2."""

        channels, self_condition = 1, False

        def __init__(self) -> None:
            super().__init__()
            self.net = ss.MLP(2)

        def forward(self, x: Tensor, t: Tensor, _: Any = None) -> Tensor:
            y: Tensor = self.net(x[:, 0], t.float())
            return y[:, None]

    low, high = data.min(), data.max()
    scaled = ((data - low) / (high - low))[:, None]
    diffusion = lucidrains().GaussianDiffusion1D(
        Points(), seq_length=2, timesteps=1000, objective="pred_v"
    )
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=8e-5, betas=(0.9, 0.99))
    ema = EMA(diffusion, beta=0.995, update_every=10)
    began = time.process_time()
    while time.process_time() - began < seconds:
        for _ in range(2):
            (diffusion(scaled[torch.randint(len(data), (32,))]) / 2).backward()
        torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()
    x = ema.ema_model.sample(batch_size=COUNT)[:, 0]
    return {("lucidrains", 1000): x * (high - low) + low}


PEERS = {"azula": azula_rows, "lucidrains": lucidrains_rows}


def save(figure: Any, name: str, dpi: int) -> None:
    """Write a picture in 32 colours, which takes a third of the bytes."""
    from PIL import Image

    file = PICTURES / f"{name}.png"
    figure.savefig(file, dpi=dpi)
    Image.open(file).convert("RGB").quantize(32).save(file, optimize=True)


def draw(names: dict[str, Any]) -> None:
    """The two pictures: the samples beside the data, and four samplers at ten evaluations."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    PICTURES.mkdir(parents=True, exist_ok=True)
    dots = {"s": 2.0, "linewidths": 0, "alpha": 0.7}

    def frame(axes: Any, limit: float) -> None:
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
        for side in axes.spines.values():
            side.set_visible(False)

    figure, panels = plt.subplots(1, 2, figsize=(6.4, 3.2), layout="constrained")
    shown = (("4,000 data", names["data"]), ("1,000 samples", names["x"]))
    for axes, (title, x) in zip(panels, shown, strict=True):
        axes.scatter(*x.T, color="#444444" if title.endswith("data") else "#c2410c", **dots)
        axes.set_title(title, fontsize=10)
        frame(axes, 3.6)
    save(figure, "ten_lines", 140)

    figure, panels = plt.subplots(4, 6, figsize=(9.0, 6.2), layout="constrained")
    for row, (title, predictor) in zip(panels, HERO.items(), strict=True):
        sampler = ss.PredictorCorrector(
            names["sde"], predictor=predictor, grid=ss.LogSNRGrid(), steps=10
        )
        states = list(sampler.iterate(names["trained"], (2000, 2), seed=0))
        start = names["sde"].prior_sample((2000, 2), seed=0)
        for axes, state in zip(row, [None, *(states[i] for i in (2, 4, 6, 8, 9))], strict=True):
            x = names["trained"].to_data(start if state is None else state.x)
            axes.scatter(*x.T, color="#1d4ed8" if state is not states[-1] else "#c2410c", **dots)
            frame(axes, 3.6)
        row[0].text(-0.02, 0.5, title, transform=row[0].transAxes, rotation=90, fontsize=9,
                    ha="right", va="center")  # fmt: skip
    save(figure, "noise_to_data", 130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--cost", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.cost:
        for seed in range(SEEDS):
            own, least = run(seed)[1], bare(seed)
            print(
                f"seed {seed}: {own:.1f} CPU s, a bare loop {least:.1f}: {own / least:.3f}",
                flush=True,
            )
        print(machine_sentence(conditions()))
        return
    rows: list[dict[str, Any]] = []

    def add(seed: int, name: str, evaluations: int, x: Tensor, seconds: float) -> None:
        far = 100 * (distance(x) > 0.3).double().mean().item()
        largest = x.norm(dim=1).max().item()
        rows.append(
            {"seed": seed, "sampler": name, "evaluations": evaluations, "far": far,
             "largest": largest, "seconds": seconds}
        )  # fmt: skip
        print(f"seed {seed}  {name:30} {far:5.2f} %  largest {largest:.2f}", flush=True)

    for seed in range(SEEDS):
        names, seconds = run(seed)
        for name, sampler in samplers(names["trained"], names["data"]).items():
            x = sampler.sample(names["trained"], shape=(COUNT, 2), seed=seed)
            add(seed, name, sampler.evaluations, x, seconds)
        print(f"seed {seed}: the ten lines took {seconds:.1f} CPU seconds", flush=True)
        for package, samples_of in PEERS.items():
            torch.manual_seed(seed)
            try:
                found = samples_of(names["data"], seconds, seed)
            except ImportError as error:
                print(f"{package} left out: {error}")
                continue
            for (name, evaluations), x in found.items():
                add(seed, name, evaluations, x, seconds)
        if options.save and seed == 0:
            draw(names)
    if options.save:
        report = {**conditions(), "rows": rows}
        RESULT.write_text(json.dumps(report, indent=1) + "\n")
        print(machine_sentence(report))


if __name__ == "__main__":
    main()
