"""
Langevin dynamics, and why noise levels help
============================================

A score says where density rises, but not how much of it lies in another mode. Langevin chains that
start everywhere end half in each of two separate modes, whatever their weights. Annealed Langevin
dynamics start with much noise, where the modes are one, and so get the weights right.
"""

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# A fifth of the data is in the left mode (Song & Ermon 2019, section 3.2.2).
sde = ss.VESDE(sigma_min=0.05, sigma_max=20.0)
data = ss.MixtureScore([0.2, 0.8], [[-5.0, -5.0], [5.0, 5.0]], [1.0, 1.0], sde)
start = 16 * torch.rand(1500, 2, generator=torch.Generator().manual_seed(0)) - 8

# %%
# **One level.** 1,000 steps on the score of the data with hardly any noise.
plain = ss.langevin.chains(data, start, step=0.05, n=1000, t=0.0).x

# %%
# **All levels.** Langevin steps alone, on a falling ladder of 20 levels with 30 steps each.
ladder = ss.PredictorCorrector(
    sde,
    predictor=ss.NoPredictor(),
    corrector=ss.AnnealedLangevin(epsilon=2e-4, steps=30),
    grid=ss.UniformGrid(),
    steps=20,
)
annealed = ladder.sample(data, shape=(1500, 2), seed=0)
exact = data.sample(1500, seed=1)

left = {}
figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.7), layout="constrained")
titles = ("data", "Langevin at one level", "annealed Langevin")
for axes, title, x in zip(panels, titles, (exact, plain, annealed), strict=True):
    left[title] = (x.sum(1) < 0).double().mean().item()
    axes.scatter(*x.T, s=3, linewidths=0, color="#9d174d")
    axes.set(title=title, xlim=(-9, 9), ylim=(-9, 9), aspect="equal", xticks=[], yticks=[])
    axes.set_xlabel(f"{100 * left[title]:.0f} % in the left mode")
plt.show()

# %%
# **Read on.** :doc:`Why noise: three pictures </theory/12-low-density>`;
# :doc:`sample from an energy </howto/langevin>`.
