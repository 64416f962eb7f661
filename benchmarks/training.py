"""What a training step costs beyond the network, the data and AdamW, against a loop by hand.

Ours and the loops by hand train copies of one network on the same images, with the same batch size
and an exponential moving average of the weights. They take turns in blocks of steps in one process,
each turn in another random order. A step's time is the CPU time of a block without its first steps,
over the number of its steps, and of that the median over the blocks. On one thread CPU time is what
a step costs, and other processes of the machine add little to it. It is the mean within a block,
because ``ss.train`` computes some numbers for 32 steps at once. The allocator returns no memory to
the system: otherwise one loop gets 150 new pages a step and another 400, as its memory happens to
lie.

- bare: random rows, ``x₀ + noise``, the network, a mean squared error, clipping, AdamW, and the
  average by ``torch._foreach_lerp_``. It is the least that any of the others does.
- bare again: the same loop on another copy of the network. Its ratio is the error of the others'.
- ours: ``ss.train(model, data)``.
- diffusers: its training example's recipe, ``DDPMScheduler.add_noise``, a mean squared error on ε,
  clipping, AdamW, ``EMAModel``.
- azula: its README's loss, ``KarrasDenoiser(backbone, VPSchedule()).loss(x, t)``, in the bare loop.
- score_sde: the training step of score_sde_pytorch, ``losses.get_step_fn`` on its VP SDE, with its
  Adam, warm-up and average.
- lucidrains: ``GaussianDiffusion1D`` of denoising-diffusion-pytorch on the data as sequences, Adam
  and ``ema_pytorch.EMA`` every tenth step, as its Trainer does.

A peer that is not installed is left out, and the table says so.

    pip install --no-deps diffusers==0.42.1 azula==0.11.1 denoising-diffusion-pytorch
    pip install --no-deps ema-pytorch einops accelerate psutil
    git clone https://github.com/yang-song/score_sde_pytorch   # and its folder on PYTHONPATH
    python benchmarks/training.py             # prints the table
    python benchmarks/training.py MLP         # of the networks with this in their name; --save
                                              # leaves the other rows of the file
    python benchmarks/training.py --save      # and writes benchmarks/results/training-cpu.json
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from machine import conditions, machine_sentence
from peers import lucidrains
from torch import Tensor, nn

import sdescore as ss
from sdescore.datasets import digits, two_moons

RESULT = Path(__file__).parent / "results" / "training-cpu.json"
STEPS, WARM = 72, 8  # of a block; the first WARM of them are not counted

Block = Callable[[int], list[float]]
"""``(steps) -> the moments after each of them``."""


def keep_memory() -> None:
    """Tell glibc's allocator to return nothing to the system; another one goes on as it is."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, at its largest
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def networks() -> dict[str, tuple[nn.Module, Tensor, int, int]]:
    """A network, data ``(N, *E)``, a batch size, and how many blocks each loop is measured for."""
    images = digits()
    padded = nn.functional.pad(images, (12, 12, 12, 12), value=-1.0)
    return {
        "MLP, (512, 2)": (ss.MLP(2), two_moons(4000), 512, 24),
        "UNet, (64, 1, 8, 8)": (ss.UNet(1, width=32, multipliers=(1, 2), blocks=1), images, 64, 12),
        "UNet, (16, 1, 32, 32)": (ss.UNet(1, width=32, multipliers=(1, 2, 2)), padded, 16, 6),
    }


def average(net: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The weights, and a copy of them to average into."""
    weights = [p.detach() for p in net.parameters()]
    return weights, [w.clone() for w in weights]


def loop(net: nn.Module, data: Tensor, size: int, loss_of: Callable[[Tensor], Tensor]) -> Block:
    """The loop by hand: batch, loss, gradient, clipping, AdamW, average."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    weights, averaged = average(net)

    def block(steps: int) -> list[float]:
        moments = []
        for _ in range(steps):
            x0 = data[torch.randint(len(data), (size,))]
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(x0)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            torch._foreach_lerp_(averaged, weights, 1e-3)
            loss.item()
            moments.append(time.process_time())
        return moments

    return block


def bare(net: nn.Module, data: Tensor, size: int) -> Block:
    def loss_of(x0: Tensor) -> Tensor:
        t = torch.rand(size)
        sigma = t.view(-1, *(1,) * (x0.ndim - 1))
        z = torch.randn_like(x0)
        return (net((1 - sigma) * x0 + sigma * z, t) - z).square().mean()

    return loop(net, data, size, loss_of)


def ours(net: nn.Module, data: Tensor, size: int) -> Block:
    model = ss.ScoreModel(net, ss.VPSDE())

    def block(steps: int) -> list[float]:
        moments: list[float] = []
        ss.train(
            model, data, steps=steps, batch_size=size, lr=1e-3, progress=False,
            callback=lambda _: moments.append(time.process_time()),
        )  # fmt: skip
        return moments

    return block


def with_diffusers(net: nn.Module, data: Tensor, size: int) -> Block:
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    ema = EMAModel(net.parameters(), decay=0.9999)

    def block(steps: int) -> list[float]:
        moments = []
        for _ in range(steps):
            x0 = data[torch.randint(len(data), (size,))]
            noise = torch.randn_like(x0)
            timesteps = torch.randint(0, 1000, (size,))
            noisy = scheduler.add_noise(x0, noise, timesteps)
            loss = nn.functional.mse_loss(net(noisy, timesteps.float()), noise)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            ema.step(net.parameters())
            loss.item()
            moments.append(time.process_time())
        return moments

    return block


def with_azula(net: nn.Module, data: Tensor, size: int) -> Block:
    from azula.denoise import KarrasDenoiser
    from azula.noise import VPSchedule

    denoiser = KarrasDenoiser(net, VPSchedule())
    return loop(net, data, size, lambda x0: denoiser.loss(x0, torch.rand(size)).mean())


def with_score_sde(net: nn.Module, data: Tensor, size: int) -> Block:
    from losses import get_step_fn, optimization_manager
    from models.ema import ExponentialMovingAverage
    from sde_lib import VPSDE

    class Images(nn.Module):
        """Its losses take images: a point is one of two channels and a pixel."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            y: Tensor = self.net(x.reshape(len(x), *data.shape[1:]), t)
            return y.reshape(x.shape)

    model = Images()
    state = {
        "model": model,
        "optimizer": torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.9, 0.999), eps=1e-8),
        "ema": ExponentialMovingAverage(net.parameters(), decay=0.9999),
        "step": 0,
    }
    optim = SimpleNamespace(lr=2e-4, warmup=5000, grad_clip=1.0)
    manager = optimization_manager(SimpleNamespace(optim=optim))
    step = get_step_fn(VPSDE(), train=True, optimize_fn=manager, reduce_mean=True)
    images = data if data.ndim == 4 else data[..., None, None]

    def block(steps: int) -> list[float]:
        moments = []
        for _ in range(steps):
            step(state, images[torch.randint(len(images), (size,))]).item()
            moments.append(time.process_time())
        return moments

    return block


def with_lucidrains(net: nn.Module, data: Tensor, size: int) -> Block:
    from ema_pytorch import EMA

    class Named(nn.Module):
        channels, self_condition = 1, False

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, t: Tensor, _: Any = None) -> Tensor:
            y: Tensor = self.net(x.flatten(1).unflatten(1, data.shape[1:]), t.float())
            return y.flatten(1).unsqueeze(1)

    flat = data.flatten(1).unsqueeze(1)
    low, high = flat.min(), flat.max()
    flat = (flat - low) / (high - low)
    diffusion = lucidrains().GaussianDiffusion1D(
        Named(), seq_length=flat.shape[2], objective="pred_v"
    )
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
    ema = EMA(diffusion, beta=0.995, update_every=10)

    def block(steps: int) -> list[float]:
        moments = []
        for _ in range(steps):
            loss = diffusion(flat[torch.randint(len(flat), (size,))])
            loss.backward()
            nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            ema.update()
            loss.item()
            moments.append(time.process_time())
        return moments

    return block


LOOPS: dict[str, Callable[[nn.Module, Tensor, int], Block]] = {
    "bare": bare,
    "bare again": bare,
    "ours": ours,
    "diffusers": with_diffusers,
    "azula": with_azula,
    "score_sde": with_score_sde,
    "lucidrains": with_lucidrains,
}


def measure(
    net: nn.Module, data: Tensor, size: int, turns: int
) -> tuple[dict[str, float], dict[str, str]]:
    """The CPU seconds of a step of each loop, and what was left out and why."""
    blocks, missing = {}, {}
    for name, make in LOOPS.items():
        try:
            blocks[name] = make(copy.deepcopy(net), data, size)
        except ImportError as error:
            missing[name] = str(error)
    seconds: dict[str, list[float]] = {name: [] for name in blocks}
    for turn in range(turns + 1):
        for name in random.Random(turn).sample(list(blocks), len(blocks)):
            moments = blocks[name](STEPS)
            if turn:  # the first warms up
                seconds[name].append((moments[-1] - moments[WARM - 1]) / (STEPS - WARM))
    return {name: statistics.median(found) for name, found in seconds.items()}, missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", nargs="?", default="")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    rows, missing = [], {}
    for name, (net, data, size, turns) in networks().items():
        if options.network not in name:
            continue
        found, missing = measure(net, data, size, turns)
        ratios = {k: v / found["bare"] for k, v in found.items()}
        row = {"network": name, "bare_seconds": found["bare"], "ratios": ratios}
        rows.append({**row, "device": conditions()["device"]})
        shown = "  ".join(f"{k} {v:.3f}" for k, v in ratios.items())
        print(f"{name:24} {1e3 * found['bare']:6.2f} ms  {shown}", flush=True)
    for name, why in missing.items():
        print(f"{name} left out: {why}")
    report = {**conditions(), "missing": sorted(missing), "rows": rows}
    print(machine_sentence(report))
    if options.save:
        measured = {row["network"] for row in rows}
        before = json.loads(RESULT.read_text())["rows"] if options.network else []
        report["rows"] = rows + [row for row in before if row["network"] not in measured]
        RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
