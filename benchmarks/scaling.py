"""What a second process is worth: a training step and a request of samples on one process and two.

Each process has one thread and talks by gloo. Turns of one process and of two alternate; a figure
is the median over the turns.

- weak: each process has the batch of the single one. The efficiency is the single one's time over
  that of the two, 1 at best.
- strong: the two share the batch of the single one. The speed-up is 2 at best.
- sampling: the two share a request by ``ss.sample_distributed``; 2 at best.

    python benchmarks/scaling.py             # prints the table
    python benchmarks/scaling.py --save      # and writes benchmarks/results/scaling-cpu.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from machine import conditions, machine_sentence
from torch import distributed
from training import networks

import sdescore as ss

RESULT = Path(__file__).parent / "results" / "scaling-cpu.json"
TURNS, STEPS, WARM = 5, 60, 15
SAMPLES, SAMPLER_STEPS = 4, 10  # as many times the batch


def worker(name: str) -> None:
    """Print, from rank 0, the seconds of a step at one and at two batches, and of a request."""
    torch.set_num_threads(1)
    net, data, size = networks()[name]
    seconds = {}
    for batches in (1, 2):
        torch.manual_seed(0)
        model, moments = ss.ScoreModel(net, ss.VPSDE()), list[float]()
        ss.train(
            model, data, steps=STEPS, batch_size=size * batches, progress=False,
            callback=lambda told, moments=moments: moments.append(time.perf_counter()),
        )  # fmt: skip
        gaps = zip(moments[WARM:], moments[WARM + 1 :], strict=False)
        seconds[f"{batches} batches"] = statistics.median(b - a for a, b in gaps) if moments else 0
    sampler = ss.PredictorCorrector(model.sde, steps=SAMPLER_STEPS)
    shape = (SAMPLES * size, *data.shape[1:])
    ss.sample_distributed(sampler, model, (2 * size, *shape[1:]), max_batch=size)
    began = time.perf_counter()
    ss.sample_distributed(sampler, model, shape, max_batch=size)
    seconds["samples"] = time.perf_counter() - began
    if int(os.environ.get("RANK", 0)) == 0:
        print(json.dumps(seconds))
    if distributed.is_initialized():
        distributed.destroy_process_group()


def run(name: str, processes: int) -> dict[str, float]:
    """What the workers print."""
    call = [sys.executable]
    if processes > 1:
        call += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = [str(Path(__file__).resolve()), "--worker", name]
    done = subprocess.run([*call, *script], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(name: str) -> dict[str, float | str]:
    """The ratios of one network."""
    turns: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(TURNS):
        for processes, found in turns.items():
            found.append(run(name, processes))
    time_of = {
        (processes, key): statistics.median(turn[key] for turn in found)
        for processes, found in turns.items()
        for key in found[0]
    }
    return {
        "network": name,
        "seconds": time_of[1, "1 batches"],
        "weak": time_of[1, "1 batches"] / time_of[2, "2 batches"],
        "strong": time_of[1, "1 batches"] / time_of[2, "1 batches"],
        "sampling": time_of[1, "samples"] / time_of[2, "samples"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return
    torch.set_num_threads(1)
    rows = []
    for name in networks():
        row = measure(name)
        rows.append(row)
        print({k: v if isinstance(v, str) else round(v, 4) for k, v in row.items()}, flush=True)
    report = {**conditions(), "cores": os.cpu_count(), "rows": rows}
    print(machine_sentence(report))
    if options.save:
        RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
