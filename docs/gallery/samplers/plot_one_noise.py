"""
Four samplers from one noise
============================

Four samplers start from the same noise and call the same score ten times each. The deterministic
ones (below) keep neighbours together. The stochastic ones (above) mix them.
"""

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# An exact score takes the place of a network: two moons as 400 narrow Gaussians. So the picture
# shows the errors of the samplers alone, and none of a training.
moons = ss.datasets.two_moons(400)
sde = ss.VPSDE()
score = ss.MixtureScore(torch.full((400,), 1 / 400), moons, torch.full((400,), 0.01), sde)
noise = torch.randn(1500, 2, generator=torch.Generator().manual_seed(0))

# %%
# Each sample has the colour of the direction in which its noise lies.
samplers = {
    "reverse diffusion": ss.ReverseDiffusion(),
    "ancestral": ss.Ancestral(),
    "DDIM": ss.DDIM(),
    "exponential Adams": ss.ExponentialAdams(),
}
colour = torch.atan2(noise[:, 1], noise[:, 0])
figure, panels = plt.subplots(2, 2, figsize=(6.4, 6.6), layout="constrained")
for axes, (name, predictor) in zip(panels.flat, samplers.items(), strict=True):
    sampler = ss.PredictorCorrector(sde, predictor=predictor, grid=ss.LogSNRGrid(), steps=10)
    x = sampler.sample(score, init=noise, seed=0)
    axes.scatter(*x.T, c=colour, cmap="twilight", s=4, linewidths=0)
    axes.set(title=name, xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect="equal", xticks=[], yticks=[])
plt.show()

# %%
# **Read on.** :doc:`Predictors and correctors </theory/06-predictors>` derives the four,
# and :doc:`How many steps? </howto/steps>` says how many evaluations each needs.
