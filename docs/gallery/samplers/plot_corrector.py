"""
What a corrector does, and what it costs
========================================

A predictor moves samples to less noise, and each of its steps makes an error. A corrector stays at
one noise level. It moves the samples towards the distribution there, by steps of Langevin dynamics.
"""

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# The data are eight narrow clusters, of which the score is known exactly. Ten steps of reverse
# diffusion leave too much noise. Langevin steps after each of them remove some of it.
sde = ss.VESDE(sigma_min=0.01, sigma_max=20.0)
angle = 2 * torch.pi * torch.arange(8) / 8
means = 4 * torch.stack([angle.cos(), angle.sin()], 1)
score = ss.MixtureScore(torch.full((8,), 1 / 8), means, torch.full((8,), 0.02), sde)
samplers = {
    "10 steps": (10, ss.NoCorrector()),
    "10 steps, each with\n1 Langevin step": (10, ss.Langevin(snr=0.5)),
    "10 steps, each with\n5 Langevin steps": (10, ss.Langevin(snr=0.5, steps=5)),
    "60 steps": (60, ss.NoCorrector()),
}

spread = {}
figure, panels = plt.subplots(2, 2, figsize=(6.4, 7), layout="constrained")
for axes, (name, (steps, corrector)) in zip(panels.flat, samplers.items(), strict=True):
    sampler = ss.PredictorCorrector(
        sde, ss.ReverseDiffusion(), corrector, grid=ss.UniformGrid(), steps=steps
    )
    x = sampler.sample(score, shape=(3000, 2), seed=0)
    from_centre = torch.cdist(x, means).min(1).values
    spread[name] = (from_centre.square().mean() / 0.04).sqrt().item()  # 2 · 0.02 in the data
    axes.scatter(*x.T, s=2, linewidths=0, color="#0f766e")
    axes.set(xlim=(-5.5, 5.5), ylim=(-5.5, 5.5), aspect="equal", xticks=[], yticks=[])
    axes.set_title(name, fontsize=10)
    axes.set_xlabel(f"{sampler.evaluations} evaluations, width {spread[name]:.2f}")
plt.show()

# %%
# The width is that of the clusters, over the width that they have in the data. The corrector
# narrows them. With an exact score, the same number of evaluations helps more as smaller steps of
# the predictor (last). A corrector is worth its cost where the predictor leaves an error that
# smaller steps do not remove.
#
# **Read on.** :doc:`Correctors </theory/08-correctors>`;
# :doc:`write your own corrector </howto/own-corrector>`.
