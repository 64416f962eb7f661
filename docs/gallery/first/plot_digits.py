"""
Train on images and sample
==========================

A small U-Net learns handwritten digits of 8×8 pixels in some seconds, and a sampler draws new ones.
"""

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# **Train.** Images have the shape ``(N, channels, height, width)`` and values in [−1, 1]. A U-Net
# takes the place of the network on points. The other lines are as for points.
images = ss.datasets.digits()
print(images.shape)
sde = ss.VPSDE()
torch.manual_seed(0)
model = ss.ScoreModel(ss.UNet(channels=1, width=16, multipliers=(1, 2), blocks=1), sde)
trained = ss.train(model, images, steps=400, batch_size=64, lr=2e-3, progress=False)

# %%
# **Sample.** The sampler goes from noise to images in 20 steps, and each calls the network once.
sampler = ss.PredictorCorrector(sde, steps=20)
x = sampler.sample(trained.model, shape=(900, 1, 8, 8), seed=0)

figure, panels = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
for axes, shown, title in zip(panels, (images, x), ("data", "samples"), strict=True):
    framed = torch.nn.functional.pad(shown[:60], (1, 1, 1, 1), value=-1.0)
    sheet = framed.reshape(6, 10, 10, 10).permute(0, 2, 1, 3).reshape(60, 100)
    axes.imshow(sheet, cmap="gray_r", vmin=-1, vmax=1)
    axes.set(title=title, xticks=[], yticks=[])
plt.show()

# %%
# **How good is it?** A distance says more beside another one: that between two halves of the data.
even, odd = images[::2].flatten(1), images[1::2].flatten(1)
between_real = ss.metrics.sliced_wasserstein(even, odd)
distance = ss.metrics.sliced_wasserstein(x.flatten(1), odd)
print(f"samples to data {distance:.3f}, data to data {between_real:.3f}")

# %%
# The training is short, and some samples are no digit.
#
# **Read on.** :doc:`Train on your own images </howto/own-images>`;
# :doc:`ask for a digit by its class </howto/conditions>`; :doc:`how many steps? </howto/steps>`.
