r"""
A predictor of your own
=======================

A predictor is one method, ``step``: it goes from x at time t to time s < t. This one is DDIM with
an estimate of the data that is kept inside a square, in six lines.
"""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# The score gives an estimate of the data, :math:`\hat x_0 = (x + \sigma_t^2 s)/\alpha_t`. What is
# left of x is noise. The step puts both together again, at the noise level of time s.


@dataclass(frozen=True)
class Boxed(ss.Predictor):
    half_width: float = 2.2
    order, noises = 1, 0

    def step(self, sde, x, score, t, s, z):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = sde.marginal(t), sde.marginal(s)
        estimate = (x + sigma_t.item() ** 2 * score(x)) / alpha_t.item()
        x0 = estimate.clamp(-self.half_width, self.half_width)
        noise = (x - alpha_t.item() * x0) / sigma_t.item()
        return alpha_s.item() * x0 + sigma_s.item() * noise


# %%
# Everything else works as before: grids, correctors, seeds, chunks. Strong guidance pushes samples
# out of the range of the data (dotted). The new predictor keeps them there.
sde = ss.VPSDE()
corners = torch.cartesian_prod(torch.tensor([-2.0, 0.0, 2.0]), torch.tensor([-2.0, 0.0, 2.0]))
anything = ss.MixtureScore(torch.full((9,), 1 / 9), corners, torch.full((9,), 0.01), sde)
on_the_right = ss.MixtureScore(torch.full((3,), 1 / 3), corners[6:], torch.full((3,), 0.01), sde)
score = ss.classifier_free(on_the_right, anything, 6.0)
outside = {}
figure, panels = plt.subplots(1, 2, figsize=(7.4, 3.8), layout="constrained")
for axes, predictor in zip(panels, (ss.DDIM(), Boxed()), strict=True):
    sampler = ss.PredictorCorrector(
        sde, predictor=predictor, grid=ss.LogSNRGrid(), steps=20, denoise=False
    )
    x = sampler.sample(score, shape=(2000, 2), seed=0)
    outside[type(predictor).__name__] = (x.abs().amax(1) > 2.25).double().mean().item()
    axes.scatter(*x.T, s=3, color="#4d7c0f", linewidths=0)
    axes.plot([-2.2, 2.2, 2.2, -2.2, -2.2], [-2.2, -2.2, 2.2, 2.2, -2.2], ":", color="grey", lw=1)
    axes.set(xlim=(-3.6, 3.6), ylim=(-3.6, 3.6), aspect="equal", xticks=[], yticks=[])
    axes.set_title(f"{type(predictor).__name__}")
plt.show()

# %%
# **Read on.** :doc:`Your own predictor </howto/own-predictor>` has methods of higher order,
# whose numbers are a table.
