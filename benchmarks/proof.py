"""What must not break, tried hard: kills, damage, malice, memory, other worlds, odd configurations.

    python benchmarks/proof.py                        # all parts, an hour of one core
    python benchmarks/proof.py kills --count 20       # one part, and less of it
    python benchmarks/proof.py damage malice --save   # and writes them to benchmarks/results/

Each part counts what it tried and what went wrong. The script ends with an error if anything did.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from machine import conditions
from many_samples import CASES, measure
from proof_configurations import configurations
from proof_malice import malice

import sdescore as ss
from sdescore.checkpoint.store import read_manifest

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "proof-cpu.json"
GIB = 2**30
# A killed process loses nothing that it wrote, so files in memory will do, and cost no waiting.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


# Kills of a training run.


def train(path: Path, seed: int, steps: int = 12) -> None:
    """A run that saves after every step; a resumed one has other weights before it reads them."""
    torch.manual_seed(seed)
    model = ss.ScoreModel(ss.MLP(2, hidden=16, classes=3), ss.VPSDE())
    x = torch.randn(256, 2, generator=torch.Generator().manual_seed(1))
    ss.train(
        model, x, labels=torch.arange(256) % 3, label_dropout=0.3, steps=steps, batch_size=32,
        warmup=5, save_every=1, progress=False, path=path, resume=True,
    )  # fmt: skip


def child(path: Path, seed: int, die_at: int = -1, after: bool = False) -> int:
    """Train in another process; it kills itself at the ``die_at``-th system call of its saves."""
    pid = os.fork()
    if pid:
        return pid
    count = 0

    def killing(real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == die_at and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            value = real(*args, **options)
            if count == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return value

        return call

    if die_at >= 0:
        for name in ("open", "fsync", "link", "replace", "fchmod"):
            setattr(os, name, killing(getattr(os, name)))
    try:
        train(path, seed)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def same(a: Path, b: Path) -> bool:
    """Weights, average, optimiser, options and step."""
    return a.read_bytes() == b.read_bytes()


def kills(count: int = 200, seed: int = 0) -> dict[str, Any]:
    """Half of the kills at a random moment, half at a random system call of a save."""
    draw, found = random.Random(seed), Counter()
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        whole = Path(name) / "whole.safetensors"
        train(Path(name) / "first.safetensors", 0, steps=1)  # loads what the children need
        began = time.monotonic()
        os.waitpid(child(whole, 0), 0)
        duration = time.monotonic() - began
        for n in range(count):
            folder = Path(name) / "parts"
            folder.mkdir()
            path = folder / "parts.safetensors"
            in_save = n % 2 == 1
            pid = child(path, 0, draw.randrange(1, 80) if in_save else -1, draw.random() < 0.5)
            if not in_save:
                time.sleep(draw.uniform(0.02, 0.95) * duration)
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            found["killed"] += os.WIFSIGNALED(status)
            unfinished = [p for p in folder.iterdir() if p.name.startswith(".")]
            found["killed inside a save"] += bool(unfinished) or (
                in_save and os.WIFSIGNALED(status)
            )
            found["killed before the first save"] += not path.exists()
            _, status = os.waitpid(child(path, 7 if path.exists() else 0), 0)
            exact = status == 0 and same(whole, path)
            found["resumes that end bit-exact"] += exact
            left = {p.name for p in folder.iterdir()}
            found["files left over"] += len(left - {path.name, "parts.previous.safetensors"})
            shutil.rmtree(folder)
        step = read_manifest(whole)["training"]["step"]
    faults = count - found["resumes that end bit-exact"]
    return {"kills": count, "steps": step, **found, "faults": faults + found["files left over"]}


# Damage.


def damage(count: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Half truncations, half flipped bits, of a checkpoint of a run; loading and resuming."""
    draw, found = random.Random(seed), Counter()
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        path = Path(name) / "run.safetensors"
        train(path, 0, steps=3)
        intact = path.read_bytes()
        before = ss.load(path)
        header = 8 + int.from_bytes(intact[:8], "little")
        for n in range(count):
            if n % 2:
                data = bytearray(intact[: draw.randrange(len(intact))])
            else:  # half of the flips in the header, which is the smaller part
                data = bytearray(intact)
                bit = draw.randrange(8 * (header if n % 4 else len(intact)))
                data[bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
            for what in (ss.load, lambda p: train(p, 0, steps=3)):
                try:
                    model = what(path)
                except ss.errors.CheckpointError:
                    found["refused"] += 1
                except Exception as error:
                    found[f"fault: {type(error).__name__}"] += 1
                else:
                    equal = isinstance(model, ss.ScoreModel) and all(
                        torch.equal(a, b)
                        for a, b in zip(model.parameters(), before.parameters(), strict=True)
                    )
                    found["loaded, with the same numbers" if equal else "fault: loaded"] += 1
    faults = sum(number for what, number in found.items() if what.startswith("fault"))
    return {"files": count, "bytes": len(intact), **found, "faults": faults}


# Memory.

IN_MEMORY = """
import resource, torch, sdescore as ss
torch.set_num_threads(1)
sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.Ancestral(), steps=10)
x = sampler.sample(lambda x, t: -torch.tanh(x), (10**6, 2))
assert x.shape == (10**6, 2) and bool(x.isfinite().all())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def memory(limit: int = 2 * GIB) -> dict[str, Any]:
    """The peak of a process that draws many samples: into one tensor, and into files."""
    done = subprocess.run(
        [sys.executable, "-c", IN_MEMORY], cwd=ROOT, check=True, capture_output=True, text=True
    )
    peaks = {"1,000,000 × 2, in memory": int(done.stdout)}
    for case in CASES:
        for processes in (1, 2):
            peak = int(measure(case, processes)["peak_mib"] * 2**20)
            peaks[f"{case}, to disk, {processes} processes"] = peak
    rows = {what: round(peak / 2**20) for what, peak in peaks.items()}
    return {"peak_mib": rows, "faults": sum(peak > limit for peak in peaks.values())}


# Other worlds.

WORLDS = {
    "as it is": {},
    "python -O": {"flags": ["-O"]},
    "default dtype float64": {"dtype": "float64"},
    "default dtype bfloat16": {"dtype": "bfloat16"},
    "default device meta": {"device": "meta"},
}


def worlds() -> dict[str, Any]:
    """The fast tests and those of the caller's world, in each of some worlds."""
    rows, faults = {}, 0
    for name, world in WORLDS.items():
        command = [sys.executable, *world.get("flags", []), "-m", "pytest", "-q", "-n0"]
        command += [
            "-p",
            "proof_world",
            "-p",
            "no:cacheprovider",
            "-m",
            "fast",
            "tests",
            "sdescore",
        ]
        env = os.environ | {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}",
            "OMP_NUM_THREADS": "1",
            "PROOF_DTYPE": world.get("dtype", "float32"),
            "PROOF_DEVICE": world.get("device", "cpu"),
        }
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        lines = done.stdout.strip().splitlines()
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        rows[name] = {"summary": lines[-1].strip("= "), "failed": failed}
        faults += len(failed) + (done.returncode != 0 and not failed)
        print(name, rows[name], flush=True)
    return {"worlds": rows, "faults": faults}


PARTS = {
    "kills": kills,
    "damage": damage,
    "malice": malice,
    "memory": memory,
    "worlds": worlds,
    "configurations": configurations,
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--count", type=int, help="of kills, files or configurations")
    parser.add_argument("--seed", type=int, default=0, help="of the kills and the damage")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    faults = 0
    for name in arguments.parts or PARTS:
        options = {} if arguments.count is None else {"count": arguments.count}
        if name in ("kills", "damage"):
            options["seed"] = arguments.seed
        began = time.monotonic()
        found = PARTS[name](**options)
        report[name] = conditions() | found | {"seconds": round(time.monotonic() - began)}
        print(json.dumps({name: report[name]}, indent=1, ensure_ascii=False), flush=True)
        faults += bool(found["faults"])
        if arguments.save:
            RESULT.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
