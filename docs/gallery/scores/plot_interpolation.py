"""
From one digit to another, through noise
========================================

The probability flow gives each image a code in noise, and decodes it again. Between two codes one
goes on an arc, since codes lie near a sphere. The images on the way are made by the model.
"""

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# The model is simple and exact here: one Gaussian with a full covariance for each of the ten
# classes of handwritten digits. A trained network takes the same place.
images, labels = ss.datasets.labelled_digits()
flat = images.flatten(1).double()
means = torch.stack([flat[labels == k].mean(0) for k in range(10)])
covariances = torch.stack([flat[labels == k].T.cov() for k in range(10)])
covariances = covariances + 0.01 * torch.eye(64, dtype=torch.float64)
sde = ss.VPSDE()
score = ss.MixtureScore(torch.full((10,), 0.1), means, covariances, sde)

# %%
# **Encode, walk, decode.**
flow = ss.ProbabilityFlow(sde)
first, last = flat[[0, 4, 26]], flat[[3, 9, 7]]
codes = flow.encode(score, first), flow.encode(score, last)
path = [ss.samplers.slerp(*codes, share) for share in torch.linspace(0, 1, 9).tolist()]
decoded = flow.decode(score, torch.stack(path).flatten(0, 1)).reshape(9, 3, 8, 8)

figure, panels = plt.subplots(3, 9, figsize=(9, 3.1), layout="constrained")
for i, row in enumerate(panels):
    for j, axes in enumerate(row):
        axes.imshow(decoded[j, i], cmap="gray_r", vmin=-1, vmax=1)
        axes.set(xticks=[], yticks=[])
plt.show()

print(f"largest error of encoding and decoding: {(decoded[0].flatten(1) - first).abs().max():.0e}")

# %%
# **Read on.** :doc:`Img2img and interpolation </howto/img2img-and-interpolation>`.
