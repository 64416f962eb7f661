"""
Bits per dimension of digits
============================

A model of images could compress new ones. Its bits per dimension are the bits that this takes for
each pixel, so lower is better.
"""

import math

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# Digits of 17 grey levels, which is 4.09 bits a pixel without a model. The last 100 are held out.
# The others fit one Gaussian, a Gaussian for each class, and a small network. All three learn from
# dequantized data: noise fills the gaps between the levels.
images, labels = ss.datasets.labelled_digits()
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
train, held_out = order[:-100], images[order[-100:]].flatten(1)
data = ss.samplers.dequantize(images[train], levels=17).flatten(1)
classes = [data[labels[train] == k] for k in range(10)]
sde, eye = ss.VPSDE(), torch.eye(64)

torch.manual_seed(0)
network = ss.ScoreModel(ss.MLP(64, hidden=128, depth=2), sde)
models = {
    "one Gaussian": ss.GaussianScore(data.mean(0), data.T.cov() + 0.001 * eye, sde),
    "ten Gaussians": ss.MixtureScore(
        torch.full((10,), 0.1),
        torch.stack([x.mean(0) for x in classes]),
        torch.stack([x.T.cov() + 0.02 * eye for x in classes]),
        sde,
    ),
    "network": ss.train(network, data, steps=600, progress=False).model,
}

# %%
# The probability flow gives the density of each held-out digit. Four random probes estimate the
# divergence, so that a digit of 64 pixels does not need 64 derivatives.
flow = ss.ProbabilityFlow(sde, rtol=1e-3, atol=1e-3)
options = {"levels": 17, "flow": flow, "divergence": "hutchinson", "probes": 4}
found = {name: ss.bits_per_dimension(model, held_out, **options) for name, model in models.items()}
for name, bits in found.items():
    print(f"{name}: {bits.mean:.2f} ± {bits.standard_error:.2f} bits per dimension")

# %%
# The bits of the 100 digits, and the digits that cost the network least and most.
figure = plt.figure(figsize=(10, 3.4), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[1.5, 1])
axes = left.subplots()
for name, bits in found.items():
    axes.hist(bits.bits, bins=torch.linspace(1.8, 4.2, 25), alpha=0.5, label=name)
axes.axvline(math.log2(17), color="0.4", linestyle=":", label="no model")
axes.set(xlabel="bits per dimension", ylabel="digits")
axes.legend(fontsize=8)
rank = found["network"].bits.argsort()
rows = {"least": rank[:5], "most": rank[-5:]}
for panels, (title, those) in zip(right.subplots(2, 5), rows.items(), strict=True):
    panels[0].set_ylabel(title)
    for panel, index in zip(panels, those, strict=True):
        panel.imshow(held_out[index].reshape(8, 8), cmap="gray_r", vmin=-1, vmax=1)
        panel.set(xticks=[], yticks=[])
plt.show()

# %%
# A model on the integers themselves would learn that nothing lies between them.
#
# **Read on.** :doc:`Bits per dimension </howto/bits-per-dimension>` says why the number is an upper
# bound, and how to tighten it.
