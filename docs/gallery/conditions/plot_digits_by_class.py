"""
Handwritten digits of a class
=============================

A network learns digits with their class as a label. A sampler then draws the class that it is
asked for.
"""

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# Images of 8×8 pixels are small enough for a network on vectors. A tenth of the labels is dropped,
# so that the network knows digits of any class too, which guidance needs.
images, labels = ss.datasets.labelled_digits()
torch.manual_seed(0)
net = ss.MLP(64, hidden=128, classes=10)
model = ss.ScoreModel(net, ss.VPSDE())
trained = ss.train(
    model, images.flatten(1), labels=labels, label_dropout=0.1, steps=500, batch_size=128,
    lr=4e-3, progress=False,
).model  # fmt: skip

# %%
# One row for each class, from 20 evaluations of the network. Guidance makes the digits clearer and
# less diverse.
wanted = torch.arange(10).repeat_interleave(12)
sampler = ss.PredictorCorrector(model.sde, steps=20)
guided = ss.classifier_free(trained, trained, 1.5)
x = sampler.sample(guided, shape=(120, 64), label=wanted, seed=0)

framed = torch.nn.functional.pad(x.reshape(10, 12, 8, 8), (1, 1, 1, 1), value=-1.0)
sheet = framed.permute(0, 2, 1, 3).reshape(100, 120)
figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
axes.imshow(sheet, cmap="gray_r", vmin=-1, vmax=1)
axes.set(xticks=[], yticks=range(5, 100, 10), yticklabels=range(10))
plt.show()

# %%
# How many of them would a nearest-neighbour classifier give the class that was asked for?
nearest = torch.cdist(x, images.flatten(1)).topk(5, largest=False).indices
agreement = (labels[nearest].mode(1).values == wanted).double().mean().item()
print(f"{100 * agreement:.0f} % of the samples")

# %%
# **Read on.** :doc:`Conditions </howto/conditions>`.
