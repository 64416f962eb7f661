r"""
Noise schedules side by side
============================

Every SDE here is a pair of functions of time, :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`.
NCSN's SDE (VE) keeps α = 1 and lets σ grow. DDPM's (VP) lets α fall, so that the variance stays.
"""

import matplotlib.pyplot as plt
import torch

import sdescore as ss

# %%
# **The two functions of six SDEs.**
sdes = {
    "VE (NCSN)": ss.VESDE(),
    "EDM": ss.EDMSDE(),
    "VP (DDPM)": ss.VPSDE(),
    "sub-VP": ss.SubVPSDE(),
    "cosine": ss.CosineVPSDE(),
    "rectified flow": ss.RectifiedFlowSDE(),
}
figure, panels = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
for name, sde in sdes.items():
    t = torch.linspace(1e-3, 1 - 1e-3, 400, dtype=torch.float64) * sde.T
    alpha, sigma = sde.marginal(t)
    panels[0].plot(t / sde.T, alpha, label=name)
    panels[1].plot(t / sde.T, sigma)
    panels[2].plot(t / sde.T, sde.log_snr(t))
panels[0].set(title="signal α", xlabel="t / T")
panels[1].set(title="noise σ", xlabel="t / T", yscale="log")
panels[2].set(title="log-SNR, log α²/σ²", xlabel="t / T")
panels[0].legend(fontsize=8)
plt.show()

# %%
# **One picture under all of them.** A digit at the same five log-SNRs looks the same under every
# SDE, up to its scale: two linear SDEs differ by a change of time and of scale. So a model that was
# trained under one can be sampled under another (:func:`sdescore.under`).
digit = ss.datasets.digits()[3:4]
noise = torch.randn(digit.shape, generator=torch.Generator().manual_seed(0))
figure, panels = plt.subplots(3, 5, figsize=(7.5, 4.6), layout="constrained")
for row, name in zip(panels, ("VE (NCSN)", "VP (DDPM)", "rectified flow"), strict=True):
    for axes, log_snr in zip(row, (6, 3, 0, -3, -6), strict=True):
        t = sdes[name].time_at_log_snr(float(log_snr))
        alpha, sigma = sdes[name].marginal(t)
        x = sdes[name].perturb(digit, t, noise)
        axes.imshow((x / torch.hypot(alpha, sigma)).squeeze(), cmap="gray_r", vmin=-1.5, vmax=1.5)
        axes.set(xticks=[], yticks=[], title=f"log-SNR {log_snr}, t = {t:.2f}")
        axes.title.set_fontsize(8)
    row[0].set_ylabel(name)
plt.show()

# %%
# **Read on.** :doc:`Linear SDEs </theory/01-sde>`; :doc:`use your own SDE </howto/own-sde>`.
