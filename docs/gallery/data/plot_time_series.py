"""
Time series
===========

Series are tensors (N, C, L). A network for one dimension takes the place of one for images, and
nothing else changes.
"""

import math

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# The data are damped oscillations of random frequency, damping and phase.
u = torch.rand(4, 1500, 1, generator=torch.Generator().manual_seed(0))
time = torch.linspace(0, 2, 48)
phase = (4 + 8 * u[0]) * time + 2 * math.pi * u[1]
series = ((0.6 + u[2]) * torch.exp(-(0.3 + u[3]) * time) * phase.cos())[:, None]

# %%
# A small network, trained for some seconds only: its samples are rougher than the data.
torch.manual_seed(0)
net = ss.UNet(1, dimensions=1, width=16, multipliers=(1, 2), blocks=1)
model = ss.ScoreModel(net, ss.VPSDE())
trained = ss.train(model, series, steps=150, batch_size=64, lr=3e-3, progress=False).model
x = ss.PredictorCorrector(model.sde, steps=20).sample(trained, shape=(8, 1, 48), seed=0)

figure, panels = plt.subplots(2, 1, figsize=(7, 4), layout="constrained", sharex=True, sharey=True)
for axes, rows, title in zip(panels, (series[:8], x), ("data", "samples"), strict=True):
    axes.plot(time, rows[:, 0].T, lw=1.2)
    axes.set(title=title, ylabel="displacement")
panels[1].set_xlabel("time")
plt.show()

# %%
# **Read on.** :doc:`Time series </howto/time-series>` trains longer, and forecasts.
