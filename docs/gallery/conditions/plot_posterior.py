"""
A measurement, and the exact posterior
======================================

One number is measured, a noisy sum of the two coordinates. Which points explain it? For a mixture
of Gaussians the posterior is a mixture again, so methods that only approximate it can be checked.
"""

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# The prior are two moons as 200 Gaussians. The measurement is y = x₁ + x₂ + 0.3 n.
sde = ss.VPSDE()
moons = ss.datasets.two_moons(200)
prior = ss.MixtureScore(torch.full((200,), 1 / 200), moons, torch.full((200,), 0.01), sde)
A, y, noise = torch.tensor([[1.0, 1.0]]), torch.tensor([0.5]), 0.3
posterior = prior.posterior(A, y, noise)

# %%
# The score of the posterior is one more score: every sampler takes it.
sampler = ss.PredictorCorrector(sde, steps=60)
x = sampler.sample(posterior, shape=(1500, 2), seed=0)

figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.7), layout="constrained")
shown = {
    "prior": prior.sample(1500, seed=1),
    "posterior, exact draws": posterior.sample(1500, seed=1),
    "posterior, by a sampler": x,
}
line = torch.tensor([-4.0, 4.0])
for axes, (title, points) in zip(panels, shown.items(), strict=True):
    axes.fill_between(line, 0.5 - noise - line, 0.5 + noise - line, color="#fde68a", alpha=0.6)
    axes.scatter(*points.T, s=3, linewidths=0, color="#0369a1")
    axes.set(title=title, xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect="equal")
    axes.set(xticks=[], yticks=[])
plt.show()

log_evidence = prior.log_evidence(A, y, noise)
print(f"log p(y) = {log_evidence:.2f}")

# %%
# The band is where the measurement agrees within one standard deviation of its noise.
#
# **Read on.** :doc:`Inpaint, deblur or super-resolve </howto/inverse-problems>`.
