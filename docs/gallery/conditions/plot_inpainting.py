"""
Inpaint half a digit
====================

The upper half of a digit is known. What may the lower half be? Samples of the posterior show what
the upper half leaves open.
"""

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# The prior is a Gaussian for each of the ten classes of digits. Its posterior is exact.
images, labels = ss.datasets.labelled_digits()
flat = images.flatten(1).double()
means = torch.stack([flat[labels == k].mean(0) for k in range(10)])
covariances = torch.stack([flat[labels == k].T.cov() for k in range(10)])
covariances = covariances + 0.01 * torch.eye(64, dtype=torch.float64)
prior = ss.MixtureScore(torch.full((10,), 0.1), means, covariances, ss.VPSDE())

# %%
# A mask says which pixels are seen: here the first 32 of 64.
seen = torch.zeros(64, dtype=torch.bool)
seen[:32] = True
A = torch.eye(64, dtype=torch.float64)[seen]
sampler = ss.PredictorCorrector(ss.VPSDE(), steps=30)
figure, panels = plt.subplots(4, 9, figsize=(9, 4.2), layout="constrained")
for row, index in zip(panels, (0, 3, 5, 14), strict=True):
    posterior = prior.posterior(A, flat[index][seen], 0.1)
    draws = sampler.sample(posterior, shape=(6, 64), seed=0, dtype=torch.float64)
    observed = flat[index].where(seen, torch.nan)
    pictures = [flat[index], observed, *draws, posterior.sample(500).mean(0)]
    for axes, picture in zip(row, pictures, strict=True):
        axes.imshow(picture.reshape(8, 8), cmap="gray_r", vmin=-1, vmax=1)
        axes.set(xticks=[], yticks=[], facecolor="#fde68a")
for axes, title in zip(panels[0], ["digit", "seen", *6 * ["draw"], "mean"], strict=True):
    axes.set_title(title, fontsize=9)
plt.show()

# %%
# **Read on.** :doc:`Inpaint, deblur or super-resolve </howto/inverse-problems>` does it with a
# trained network.
