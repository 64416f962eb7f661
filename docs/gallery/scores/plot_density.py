"""
Log densities by the probability flow
=====================================

The probability-flow ODE carries each point to noise, whose density is known. The divergence of the
flow along the way gives the log density of the point itself, from the score alone.
"""

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# The exact score of 60 Gaussians on a spiral. The flow is not told their density.
sde = ss.VPSDE()
centres = ss.datasets.swiss_roll(60, std=0.0) / 2
score = ss.MixtureScore(torch.full((60,), 1 / 60), centres, torch.full((60,), 0.05), sde)
line = torch.linspace(-3, 3, 50, dtype=torch.float64)
points = torch.cartesian_prod(line, line)
result = ss.ProbabilityFlow(sde).log_likelihood(score, points)
exact = score.log_prob(points, sde.t_min)

# %%
# The two densities, and their difference.
figure, panels = plt.subplots(1, 3, figsize=(11, 3.5), layout="constrained")
shown = {
    "by the flow": result.log_prob.exp(),
    "exact": exact.exp(),
    "difference of log densities": result.log_prob - exact,
}
for axes, (title, values) in zip(panels, shown.items(), strict=True):
    colours = "RdBu" if title.startswith("diff") else "viridis"
    picture = axes.imshow(
        values.reshape(50, 50).T, origin="lower", extent=(-3, 3, -3, 3), cmap=colours
    )
    axes.set(title=title, xticks=[], yticks=[])
    figure.colorbar(picture, ax=axes, shrink=0.8)
plt.show()

inside = exact > exact.max() - 12
error = (result.log_prob - exact).abs()[inside].max().item()
print(f"largest difference where there are data: {error:.0e} nats")

# %%
# What is left is the prior: the flow ends in a standard normal distribution, and the noised data
# are not quite one.
#
# **Read on.** :doc:`Bits per dimension </howto/bits-per-dimension>`, and the same
# :ref:`of digits <sphx_glr_examples_scores_plot_bits.py>`;
# :doc:`the sampler </theory/09-sampler>` has the formula.
