"""
A checkpoint of diffusers
=========================

A network and a scheduler of ``diffusers`` become a score model in one line. Then any sampler of
this library draws from it.
"""

import diffusers
import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# No file is downloaded here: the network is a small one of diffusers, trained for some seconds on
# digits by DDPM's loss. ``load_diffusers`` takes a folder or a pipeline in the same way.
torch.manual_seed(0)
unet = diffusers.UNet2DModel(
    sample_size=8, in_channels=1, out_channels=1, block_out_channels=(24, 24),
    norm_num_groups=4, layers_per_block=1, down_block_types=("DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),
)  # fmt: skip
model = ss.load_diffusers(unet, diffusers.DDPMScheduler())
trained = ss.train(
    model, ss.datasets.digits(), steps=150, batch_size=64, lr=4e-3, progress=False
).model
print(type(model.sde).__name__, model.sde.levels, model.prediction)

# %%
# The same noise, three samplers, twenty evaluations each.
figure, panels = plt.subplots(3, 10, figsize=(8, 2.7), layout="constrained")
samplers = {
    "DDIM": ss.DDIM(),
    "ancestral": ss.Ancestral(),
    "exponential\nAdams": ss.ExponentialAdams(),
}
for row, (name, predictor) in zip(panels, samplers.items(), strict=True):
    sampler = ss.PredictorCorrector(model.sde, predictor=predictor, steps=20)
    x = sampler.sample(trained, shape=(10, 1, 8, 8), seed=1)
    for axes, image in zip(row, x, strict=True):
        axes.imshow(image[0], cmap="gray_r", vmin=-1, vmax=1)
        axes.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, fontsize=8)
plt.show()

# %%
# **Read on.** :doc:`Move here from diffusers </howto/diffusers>`;
# :doc:`the sampler of a diffusers scheduler </howto/diffusers-schedulers>`.
