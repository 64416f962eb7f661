"""
How large a Langevin step may be
================================

The size of a Langevin step is given by a signal-to-noise ratio, ``snr``. Small steps change little.
Steps that are too large leave noise of their own. Between lies a broad optimum.
"""

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# On Gaussian data the error of a whole sampler is known without drawing a sample. Here it is
# computed for 30 values of ``snr``, for data whose directions have standard deviations from 0.05
# to 1.
sde = ss.VESDE(sigma_min=0.01, sigma_max=20.0)
spectrum = torch.logspace(-1.3, 0, 24, dtype=torch.float64) ** 2
values = torch.logspace(-1.7, -0.1, 30).tolist()


def error(steps: int, corrector: ss.Corrector) -> float:
    sampler = ss.PredictorCorrector(
        sde, ss.ReverseDiffusion(), corrector, grid=ss.UniformGrid(), steps=steps
    )
    return ss.analysis.gaussian_error(sampler, spectrum).w2.item()


figure, axes = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
for steps, colour in ((20, "#c2410c"), (50, "#0f766e"), (200, "#1e3a8a")):
    with_corrector = [error(steps, ss.Langevin(snr=snr)) for snr in values]
    axes.plot(values, with_corrector, color=colour, label=f"{steps} steps")
    axes.axhline(error(steps, ss.NoCorrector()), color=colour, ls=":", lw=1)
axes.axvline(0.16, color="grey", lw=0.8)
axes.text(0.165, axes.get_ylim()[0] * 1.1, "paper's 0.16", color="grey", fontsize=8)
axes.set(xscale="log", yscale="log", xlabel="snr", ylabel="exact W2 of the sampler")
axes.set_xticks([0.02, 0.05, 0.1, 0.2, 0.5], ["0.02", "0.05", "0.1", "0.2", "0.5"], minor=False)
axes.tick_params(axis="x", which="minor", labelbottom=False)
axes.legend(title="dotted: no corrector")
plt.show()

# %%
# **Read on.** :doc:`The exact error of a sampler </theory/13-exact-error>`.
