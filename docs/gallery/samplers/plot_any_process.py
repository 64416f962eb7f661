"""
One request, many machines
==========================

A sample depends on its seed and on its number in the request, and on nothing else. So two machines
can draw one half each, and together have what one machine would have drawn.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

# %%
# The program of a process. It draws its share of 2,000 samples, and learns which share this is from
# the two variables that ``torchrun`` sets.
PROGRAM = """
import os
import sys

import torch
import sdescore as ss

sde = ss.VPSDE()
score = ss.MixtureScore([0.5, 0.5], [[-1.5, -1.0], [1.5, 1.0]], [0.2, 0.2], sde)
sampler = ss.PredictorCorrector(sde, predictor=ss.EulerMaruyama(), steps=30)
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
share = range(rank * 2000 // size, (rank + 1) * 2000 // size)
x = sampler.sample(score, shape=(2000, 2), seed=7, samples=share)
torch.save({"x": x, "process": os.getpid()}, sys.argv[1])
"""


def start(rank, size):
    """Start process ``rank`` of ``size``."""
    own = {"RANK": str(rank), "WORLD_SIZE": str(size)}
    own["PYTHONPATH"] = os.pathsep.join(sys.path)  # it finds the modules that are found here
    command = [sys.executable, str(folder / "draw.py"), str(folder / f"{rank}-of-{size}.pt")]
    return subprocess.Popen(command, env=os.environ | own)


# %%
# A request for 2,000 samples, whole and in two parts.
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    (folder / "draw.py").write_text(PROGRAM)
    processes = [start(0, 1), start(0, 2), start(1, 2)]
    assert all(process.wait() == 0 for process in processes)
    files = ["0-of-1.pt", "0-of-2.pt", "1-of-2.pt"]
    drawn = [torch.load(folder / file) for file in files]

whole, first, second = (part["x"] for part in drawn)
same = torch.equal(torch.cat([first, second]), whole)
print(f"{len({part['process'] for part in drawn})} processes; the same samples: {same}")

figure, panels = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
parts = {
    "samples 0 … 999": (first, "#b91c1c"),
    "samples 1000 … 1999": (second, "#1d4ed8"),
    "the whole request": (whole, "#404040"),
}
for axes, (title, (x, colour)) in zip(panels, parts.items(), strict=True):
    axes.scatter(*x.T, s=3, color=colour, linewidths=0)
    axes.set(title=title, xlim=(-3.5, 3.5), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[])
plt.show()

# %%
# Two processes of one machine do the same with this command. Each writes its part to a folder::
#
#     torchrun --nproc-per-node=2 -m sdescore sample model.safetensors -n 2000 --out samples
#
# **Read on.** :doc:`A million samples </howto/million-samples>`;
# :doc:`noise and reproducibility </theory/10-noise>`.
