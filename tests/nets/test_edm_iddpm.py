"""The level that EDM's iDDPM network is given, by the recursion of the paper's table 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sdescore.nets import DhariwalUNet, DhariwalUNetIDDPM
from tests.helpers.edm_nets import SMALL
from tests.helpers.nets import perturbed

OPTIONS = SMALL | {"model_channels": 32}


def table(M: int, C_1: float, C_2: float) -> np.ndarray:
    """u_0 … u_M of Karras et al. 2022."""
    bar = [math.sin(math.pi / 2 * j / (M * (C_2 + 1))) ** 2 for j in range(M + 1)]
    u = np.zeros(M + 1)
    for j in range(M, 0, -1):
        u[j - 1] = math.sqrt((u[j] ** 2 + 1) / max(bar[j - 1] / bar[j], C_1) - 1)
    return u


@pytest.mark.parametrize("numbers", [(40, 0.02, 0.05), (12, 0.001, 0.008)])
def test_the_network_below_gets_the_nearest_level(numbers: tuple[int, float, float]) -> None:
    """c is ¼ log σ; ε is F at M − 1 − argmin |u_j − σ|, and the variance what follows it."""
    M, C_1, C_2 = numbers
    torch.manual_seed(0)
    net = perturbed(DhariwalUNetIDDPM(**OPTIONS, M=M, C_1=C_1, C_2=C_2)).eval()
    below = DhariwalUNet(**OPTIONS, out_channels=4).eval()
    state = {key: value for key, value in net.state_dict().items() if key != "u"}
    below.load_state_dict(state)
    u = table(*numbers)
    np.testing.assert_allclose(net.u.numpy(), u, rtol=1e-5)
    sigma = np.array([1.01 * u[1], 0.9 * u[M // 2], u[M - 1], 1.4])
    level = M - 1 - np.abs(u[:, None] - sigma).argmin(0)
    x, c = torch.randn(4, 2, 8, 8), torch.from_numpy(np.log(sigma) / 4).float()
    with torch.no_grad():
        both = below(x, torch.from_numpy(level).float())
        epsilon, v = net.with_variance(x, c)
        torch.testing.assert_close(net(x, c), epsilon)
    torch.testing.assert_close(epsilon, both[:, :2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(v, both[:, 2:], rtol=1e-4, atol=1e-4)
