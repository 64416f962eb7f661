"""
One request, many machines
==========================

A sample depends on its seed and on its number in the request, and on nothing else. So two machines
can draw one half each, and together have what one machine would have drawn.
"""

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# A request for 2,000 samples, whole and in two parts.
sde = ss.VPSDE()
score = ss.MixtureScore([0.5, 0.5], [[-1.5, -1.0], [1.5, 1.0]], [0.2, 0.2], sde)
sampler = ss.PredictorCorrector(sde, predictor=ss.EulerMaruyama(), steps=30)
request = {"shape": (2000, 2), "seed": 7}

whole = sampler.sample(score, **request)
first = sampler.sample(score, **request, samples=range(0, 1000))
second = sampler.sample(score, **request, samples=range(1000, 2000))
same = torch.equal(torch.cat([first, second]), whole)
print(same)

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
