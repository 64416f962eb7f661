"""
The error of a sampler, without sampling
========================================

On Gaussian data the score is linear. Then the numbers of a sampler give the distribution of its
samples exactly, in milliseconds: no network, no samples, no luck.
"""

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# The spectrum of natural images falls with the frequency. This one has 40 directions with standard
# deviations from 1 to 0.01.
sde = ss.VPSDE()
std = torch.logspace(0, -2, 40, dtype=torch.float64)
steps = [10, 12, 16, 24, 32, 48, 64, 96, 128, 256]
predictors = {
    "Euler–Maruyama": ss.EulerMaruyama(),
    "reverse diffusion": ss.ReverseDiffusion(),
    "ancestral": ss.Ancestral(),
    "DDIM": ss.DDIM(),
    "exponential Adams": ss.ExponentialAdams(),
}

figure, panels = plt.subplots(1, 2, figsize=(10.5, 4), layout="constrained")
for name, predictor in predictors.items():
    samplers = [
        ss.PredictorCorrector(sde, predictor=predictor, grid=ss.LogSNRGrid(), steps=n)
        for n in steps
    ]
    errors = [ss.analysis.gaussian_error(sampler, std**2) for sampler in samplers]
    panels[0].loglog(steps, [e.w2.item() for e in errors], marker=".", label=name)
    panels[1].semilogx(std, errors[4].variance.sqrt() / std, label=name)
panels[0].set(xlabel="steps", ylabel="W2 to the data", title="the whole error")
panels[1].set(
    xlabel="standard deviation of a direction",
    ylabel="of the samples / of the data",
    title="by direction, 32 steps",
    ylim=(0.5, 2),
)
panels[1].axhline(1, color="grey", lw=0.8)
panels[0].legend(fontsize=8)
plt.show()

# %%
# On the right, a value above 1 is noise that is left, and one below 1 is detail that is lost. The
# finest directions are lost by every method: the sampler ends at a noise level above them.
#
# **Read on.** :doc:`The exact error of a sampler </theory/13-exact-error>`;
# :doc:`how many steps? </howto/steps>`.
