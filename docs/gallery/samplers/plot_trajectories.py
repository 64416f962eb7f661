"""
Paths of the SDE, of the ODE, and between
=========================================

The reverse SDE and the probability-flow ODE have the same distribution at every time. Their paths
differ: those of the SDE are rough and cross, those of the ODE are smooth and never cross. η is the
share of the noise, 1 for the SDE and 0 for the ODE.
"""

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# The data are three points, slightly blurred, in one dimension. Behind the paths is their density
# at each time, in which all three panels agree.
sde = ss.VPSDE()
score = ss.MixtureScore([0.5, 0.3, 0.2], [[-2.0], [0.5], [2.0]], [0.01, 0.01, 0.01], sde)
line = torch.linspace(-3.5, 3.5, 300)[:, None]
times = torch.linspace(1.0, 0.001, 300)
density = torch.stack([score.log_prob(line, t).exp() for t in times], 1)

figure, panels = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained", sharey=True)
for axes, eta in zip(panels, (1.0, 0.3, 0.0), strict=True):
    sampler = ss.PredictorCorrector(
        sde, predictor=ss.EulerMaruyama(eta=eta), grid=ss.UniformGrid(), steps=400
    )
    states = [(s.t, s.x[:, 0]) for s in sampler.iterate(score, shape=(12, 1), seed=2)]
    t, x = zip(*states[:-1], strict=True)  # the last one is the denoised state
    axes.imshow(
        density.sqrt(), extent=(1, 0, -3.5, 3.5), origin="lower", aspect="auto", cmap="Oranges"
    )
    axes.plot(t, torch.stack(x), lw=0.8, color="#1e3a8a", alpha=0.8)
    axes.set(title=f"η = {eta:g}", xlabel="t, from noise to data")
plt.show()

# %%
# **Read on.** :doc:`Reversal </theory/05-reversal>` derives the family of SDEs in η.
