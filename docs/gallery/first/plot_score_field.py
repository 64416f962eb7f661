"""
The score field, from noise to data
===================================

The score is the gradient of the log density of the noisy data. Far from the data it points to their
mean. With less noise it points to the nearest part of them.
"""

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# The score of a mixture of Gaussians is known exactly, and so is the density behind it.
sde = ss.VPSDE()
means = 2.5 * torch.tensor([[1.0, 0.0], [-0.5, 0.87], [-0.5, -0.87]])
score = ss.MixtureScore([0.5, 0.3, 0.2], means, [0.1, 0.1, 0.1], sde)

line = torch.linspace(-4, 4, 161)
fine = torch.cartesian_prod(line, line)
coarse = torch.cartesian_prod(line[::10], line[::10])
figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.7), layout="constrained")
for axes, t in zip(panels, (0.6, 0.25, 0.05), strict=True):
    density = score.log_prob(fine, t).exp().reshape(161, 161).T
    axes.imshow(density, origin="lower", extent=(-4, 4, -4, 4), cmap="Oranges")
    arrows = score(coarse, t)
    arrows = arrows / (1 + arrows.norm(dim=1, keepdim=True))  # long ones are shortened
    axes.quiver(*coarse.T, *arrows.T, color="#1e3a8a", scale=22, width=0.004)
    axes.set(title=f"t = {t:g}", xticks=[], yticks=[])
plt.show()

# %%
# **Read on.** :doc:`Scores </theory/03-scores>`; :doc:`learning a score </theory/04-learning>`.
