"""A million samples by one, two and four processes: the same bits, and how much memory.

An elementwise score costs next to nothing and rounds alike in every batch, so the time is the
library's own: the noise, the steps, and the files.

    python benchmarks/many_samples.py          # prints the table
    python benchmarks/many_samples.py --save   # and writes benchmarks/results/
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
import torch
from machine import conditions, machine_sentence
from torch import Tensor, distributed

import sdescore as ss

CASES = {"1,000,000 × 2": (10**6, 2), "200,000 × (3, 32, 32)": (2 * 10**5, 3, 32, 32)}
STEPS, MAX_BATCH = 10, 512
RESULT = Path(__file__).parent / "results" / "many-samples-cpu.json"


def score(x: Tensor, t: Tensor) -> Tensor:
    """Elementwise, and not affine."""
    return -torch.tanh(x)


def worker(case: str, folder: Path) -> None:
    """Write one request with the other ranks; leave time and peak memory of this one."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, shape = distributed.get_rank(), CASES[case]
    sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.Ancestral(), steps=STEPS)
    max_batch = MAX_BATCH if len(shape) > 2 else None
    start = time.perf_counter()
    ss.samplers.sample_to_folder(sampler, score, shape, folder / "samples", max_batch=max_batch)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    (folder / f"{rank}.json").write_text(json.dumps({"seconds": seconds, "peak": peak}))
    distributed.destroy_process_group()


def measure(case: str, processes: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launch += [f"--nproc-per-node={processes}", __file__, "--worker", case, name]
        subprocess.run(launch, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        ranks = [json.loads((folder / f"{r}.json").read_text()) for r in range(processes)]
        digest, shards = hashlib.sha256(), sorted((folder / "samples").glob("*.npy"))
        for shard in shards:
            digest.update(numpy.load(shard).tobytes())
        return {
            "case": case,
            "processes": processes,
            "shards": len(shards),
            "gigabytes": sum(shard.stat().st_size for shard in shards) / 1e9,
            "seconds": max(rank["seconds"] for rank in ranks),
            "peak_mib": max(rank["peak"] for rank in ranks) / 2**20,
            "sha256": digest.hexdigest(),
        }


def table(report: dict) -> str:
    lines = ["| samples | processes | GB | seconds | peak of a process, MiB | bits |"]
    lines += ["|---|---:|---:|---:|---:|---|"]
    for row in report["rows"]:
        lines.append(
            f"| {row['case']} | {row['processes']} | {row['gigabytes']:.2f} | {row['seconds']:.1f} "
            f"| {row['peak_mib']:.0f} | {row['sha256'][:8]} |"
        )
    return "\n".join([machine_sentence(report), "", *lines])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--worker", nargs=2, metavar=("CASE", "FOLDER"))
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker[0], Path(arguments.worker[1]))
    else:
        torch.set_num_threads(1)
        rows = [measure(case, processes) for case in CASES for processes in (1, 2, 4)]
        report = conditions() | {"steps": STEPS, "rows": rows}
        print(table(report))
        if arguments.save:
            RESULT.write_text(json.dumps(report, indent=1) + "\n")
