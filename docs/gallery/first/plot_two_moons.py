"""
Train on two moons and sample
=============================

A small network learns the score of two moons in some seconds, and a sampler draws new points.
"""

import matplotlib.pyplot as plt

import sdescore as ss

# %%
# **Train.** The SDE says how data become noise. The model is a network on that SDE. ``train``
# measures the scale of the data and fits the network.
data = ss.datasets.two_moons(4000)
sde = ss.VPSDE()
model = ss.ScoreModel(ss.MLP(2, hidden=64), sde)
trained = ss.train(model, data, steps=1000, batch_size=256, lr=7e-3, progress=False)

# %%
# **Sample.** The sampler goes from noise to data in 50 steps, and each calls the network once.
sampler = ss.PredictorCorrector(sde, predictor=ss.Ancestral(), steps=50)
x = sampler.sample(trained.model, shape=(2000, 2), seed=0)

figure, panels = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
for axes, points, title, colour in zip(
    panels, (data[:2000], x), ("data", "samples"), ("#444444", "#c2410c"), strict=True
):
    axes.scatter(*points.T, s=4, color=colour, linewidths=0)
    axes.set(title=title, xlim=(-3.6, 3.6), ylim=(-3.6, 3.6), aspect="equal", xticks=[], yticks=[])
plt.show()

# %%
# **How good is it?** A distance says more beside another one: that between two sets of real data.
fresh = ss.datasets.two_moons(2000, seed=1)
between_real = ss.metrics.sliced_wasserstein(data[:2000], fresh)
distance = ss.metrics.sliced_wasserstein(x, fresh)
print(f"samples to data {distance:.2f}, data to data {between_real:.2f}")

# %%
# The training is short, and some points lie between the moons. With three times as many steps fewer
# do.
#
# **Read on.** :doc:`Train, stop and resume </howto/train>`;
# :doc:`train on your own images </howto/own-images>`.
