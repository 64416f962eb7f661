"""
Ten evaluations of the network
==============================

What can a sampler do if it may call the score ten times? The methods differ in order, and the
times at which they call it matter as much.
"""

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# A spiral as 200 narrow Gaussians, with its exact score. Heun calls the score twice in a step, so
# it takes five. ``recommended_sampler`` chooses times and weights for the data before any network
# runs.
sde = ss.VPSDE()
spiral = ss.datasets.swiss_roll(200, std=0.0) / 2
score = ss.MixtureScore(torch.full((200,), 1 / 200), spiral, torch.full((200,), 0.004), sde)
data = score.sample(2000, seed=9)
between_real = ss.metrics.sliced_wasserstein(data, score.sample(2000, seed=10))


def make(predictor: ss.Predictor, steps: int) -> ss.PredictorCorrector:
    return ss.PredictorCorrector(sde, predictor=predictor, grid=ss.LogSNRGrid(), steps=steps)


samplers = {
    "Euler–Maruyama": make(ss.EulerMaruyama(), 10),
    "DDIM": make(ss.DDIM(), 10),
    "Heun": make(ss.Heun(), 5),
    "exponential Adams": make(ss.ExponentialAdams(), 10),
    "recommended_sampler": ss.recommended_sampler(sde, evaluations=10, data=data),
}

distances = {}
figure, panels = plt.subplots(2, 3, figsize=(7.5, 5.3), layout="constrained")
panels[0, 0].scatter(*data.T, s=1.5, linewidths=0, color="#444444")
panels[0, 0].set_title("data", fontsize=10)
for axes, (name, sampler) in zip(panels.flat[1:], samplers.items(), strict=True):
    x = sampler.sample(score, shape=(2000, 2), seed=0)
    distances[name] = ss.metrics.sliced_wasserstein(x, data) / between_real
    axes.scatter(*x.T, s=1.5, linewidths=0, color="#7c3aed")
    axes.set_title(f"{name}\n{distances[name]:.1f}", fontsize=9)
for axes in panels.flat:
    axes.set(xlim=(-2.8, 2.8), ylim=(-2.8, 2.8), aspect="equal", xticks=[], yticks=[])
plt.show()

# %%
# The numbers are distances to the data (sliced W2), relative to the distance between two real
# samples: 1 is as good as real.
#
# **Read on.** :doc:`How many steps? </howto/steps>`;
# :doc:`exponential methods </theory/07-exponential>`.
