"""EDM's VE network: the denoiser of the paper's table 1."""

from __future__ import annotations

import torch

import sdescore as ss
from sdescore.nets import SongUNet, SongUNetVE
from tests.helpers.edm_nets import SMALL
from tests.helpers.nets import perturbed


def test_the_denoiser_is_the_papers() -> None:
    """Karras et al. 2022: D(x; σ) = x + σ F(x; log(σ/2)), of the same tensors."""
    torch.manual_seed(0)
    net, F = perturbed(SongUNetVE(**SMALL)).eval(), SongUNet(**SMALL).eval()
    F.load_state_dict(net.state_dict())
    assert net.config == F.config
    sde = ss.VESDE(sigma_min=0.02, sigma_max=100.0)
    model = ss.ScoreModel(net, sde, "epsilon", "log_sigma")
    sigma = torch.tensor([0.05, 1.0, 60.0], dtype=torch.float64)
    t = sde.time_at_log_snr(-2 * sigma.log())
    x = sigma[:, None, None, None].float() * torch.randn(3, 2, 8, 8)
    with torch.no_grad():
        D = x + sigma[:, None, None, None].float() * F(x, (sigma / 2).log().float())
        torch.testing.assert_close(model.denoise(x, t), D, rtol=1e-4, atol=1e-4)
