r"""
An SDE of your own
==================

Any pair of functions α(t), σ(t) makes an SDE. Its drift and diffusion follow by autodiff, and every
sampler, loss and likelihood takes it.
"""

import math

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# This one turns the data away like the hand of a clock: α = cos φ, σ = sin φ.
sde = ss.LinearSDE.from_marginal(
    lambda t: (0.5 * math.pi * t).cos(), lambda t: (0.5 * math.pi * t).sin(), T=0.999, t_min=1e-3
)
ring = ss.datasets.ring(200, std=0.0) / 2
score = ss.MixtureScore(torch.full((200,), 1 / 200), ring, torch.full((200,), 0.02), sde)

figure, panels = plt.subplots(1, 5, figsize=(12, 2.6), layout="constrained")
x0 = score.sample(1500, seed=1)
noise = torch.randn(1500, 2, generator=torch.Generator().manual_seed(0))
for axes, t in zip(panels, (0.0, 0.3, 0.6, 0.999), strict=False):
    axes.scatter(*sde.perturb(x0, t, noise).T, s=2, color="#444444", linewidths=0)
    axes.set_title(f"t = {t:g}", fontsize=10)
x = ss.PredictorCorrector(sde, steps=20).sample(score, shape=(1500, 2), seed=0)
panels[4].scatter(*x.T, s=2, color="#c2410c", linewidths=0)
panels[4].set_title("sampled back, 20 steps", fontsize=10)
for axes in panels:
    axes.set(xlim=(-3.4, 3.4), ylim=(-3.4, 3.4), aspect="equal", xticks=[], yticks=[])
plt.show()

# %%
# **Read on.** :doc:`Use your own SDE </howto/own-sde>`, a non-linear one too.
