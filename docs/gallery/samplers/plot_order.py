"""
Measured order of convergence
=============================

A method of order p has an error that falls like the p-th power of the step size. Every method here
declares its order, and a test measures it. This is the measurement.
"""

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# The data are normal in one dimension with variance 0.25. The standard deviation of the samples is
# known exactly for every number of steps, and its error is that against 4,096 steps.
sde = ss.VPSDE()
steps = [8, 16, 32, 64, 128, 256]
methods = {
    "DDIM": ss.DDIM(),
    "Heun": ss.Heun(),
    "RungeKutta4": ss.predictors.RungeKutta4(),
    "ExponentialAdams": ss.ExponentialAdams(),
}
variance = torch.tensor([0.25], dtype=torch.float64)


def width(predictor: ss.Predictor, n: int) -> float:
    """The standard deviation of the samples of a method with n steps."""
    sampler = ss.PredictorCorrector(
        sde, predictor=predictor, grid=ss.LogSNRGrid(), steps=n, denoise=False
    )
    return ss.analysis.gaussian_error(sampler, variance).variance.sqrt().item()


figure, axes = plt.subplots(figsize=(6, 4.4), layout="constrained")
for name, predictor in methods.items():
    limit = width(predictor, 4096)
    errors = [abs(width(predictor, n) - limit) for n in steps]
    order = ss.analysis.order(predictor, sde)
    axes.loglog(steps, errors, marker="o", ms=4, label=f"{name}: order {order:.1f}")
axes.set(xlabel="steps", ylabel="error of the standard deviation")
axes.legend()
plt.show()

# %%
# **Read on.** :doc:`Predictors </theory/06-predictors>` has the table of all methods.
