r"""Layers that preserve magnitudes (Karras et al. 2024, arXiv:2312.02696, appendix B).

The magnitude of a tensor is the root mean square of its elements. For inputs of magnitude 1 that
are independent, every layer here has outputs of magnitude 1. So activations and weights cannot
grow during training. Names of parts are those of EDM2's files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdescore import checks

EPSILON = 1e-4  # added to a magnitude before a division by it
SILU_MAGNITUDE = 0.596  # of SiLU(z), for z normal
BRANCH = 0.3  # share of a residual branch, and of attention, in the sum with its input
HALF = 0.5  # share of labels in the embedding, and of skips in the decoder
LARGEST = 256.0  # activation
CHANNELS_PER_HEAD = 64


def normalized(x: Tensor, dim: Sequence[int]) -> Tensor:
    """``x`` over its magnitude along ``dim``, which is computed in at least float32."""
    precision = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=precision)
    count = math.prod([x.shape[i] for i in dim])
    y: Tensor = x / (EPSILON + norm / math.sqrt(count)).to(x.dtype)
    return y


def mp_silu(x: Tensor) -> Tensor:
    """SiLU over the magnitude that it gives to normal numbers (eq. 81)."""
    return F.silu(x) / SILU_MAGNITUDE


def mp_sum(a: Tensor, b: Tensor, share: float) -> Tensor:
    """``(1 − share) a + share b`` over the magnitude of that for independent parts (eq. 88)."""
    size = math.hypot(1 - share, share)
    return a * ((1 - share) / size) + b * (share / size)


def mp_cat(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Channels of both; each contributes its share to the next layer, however many it has
    (eq. 103)."""
    n, m = a.shape[1], b.shape[1]
    scale = math.sqrt(n + m) / math.hypot(1 - share, share)
    parts = [a * (scale * (1 - share) / math.sqrt(n)), b * (scale * share / math.sqrt(m))]
    return torch.cat(parts, dim=1)


class MPFourier(nn.Module):
    r"""Features :math:`\sqrt2 \cos(\omega_k c + \phi_k)` (eq. 75) with constant, random ω and φ."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        device = torch.get_default_device()
        turns = torch.randn(features, dtype=torch.float32, device="cpu").to(device)
        self.register_buffer("freqs", 2 * math.pi * turns)
        turns = torch.rand(features, dtype=torch.float32, device="cpu").to(device)
        self.register_buffer("phases", 2 * math.pi * turns)

    def forward(self, c: Tensor) -> Tensor:
        """``(B,)`` → ``(B, features)`` in at least float32."""
        precision = torch.promote_types(c.dtype, torch.float32)
        angle = torch.outer(c.to(precision), self.freqs.to(precision))
        return math.sqrt(2) * (angle + self.phases.to(precision)).cos()


class MPConv(nn.Module):
    """A convolution, or without a kernel a linear layer, of normalised weights (eq. 47).

    In training mode a call also overwrites the weights by the normalised ones, "forced weight
    normalisation" (eq. 66). It leaves the function as it is, and keeps the relative size of the
    optimiser's steps.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 0) -> None:
        super().__init__()
        shape = (outputs, inputs, *(kernel, kernel)[: 2 if kernel else 0])
        dtype, device = torch.get_default_dtype(), torch.get_default_device()
        self.weight = nn.Parameter(torch.randn(shape, dtype=dtype, device=device))
        self.padding = kernel // 2

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """``(B, inputs, …)`` → ``(B, outputs, …)``, times ``gain``."""
        dim = tuple(range(1, self.weight.ndim))
        if self.training:
            # By .data: an earlier call may wait for its gradient, which does not change by this.
            self.weight.data.copy_(normalized(self.weight.data, dim))
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        weight = normalized(weight, dim) * (gain / math.sqrt(weight[0].numel()))
        weight = weight.to(x.dtype)
        if weight.ndim == 2:
            return F.linear(x, weight)
        return F.conv2d(x, weight, padding=self.padding)


class MPBlock(nn.Module):
    """A residual block, with attention where asked for (figure 21 of the paper).

    A block of the encoder normalises every pixel first. ``resample`` is 2 or 0.5 where the block
    changes the resolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        dropout: float,
        *,
        decoder: bool,
        attend: bool = False,
        resample: float = 1,
    ) -> None:
        super().__init__()
        self.decoder, self.dropout, self.resample = decoder, dropout, resample
        self.out_channels = outputs
        self.emb_gain = zero()
        self.conv_res0 = MPConv(inputs if decoder else outputs, outputs, 3)
        self.emb_linear = MPConv(embedding, outputs)
        self.conv_res1 = MPConv(outputs, outputs, 3)
        self.conv_skip = MPConv(inputs, outputs, 1) if inputs != outputs else None
        self.heads = outputs // CHANNELS_PER_HEAD if attend else 0
        if self.heads:
            divides = outputs % self.heads == 0
            checks.that(divides, f"channels in {self.heads} equal heads of attention", outputs)
            self.attn_qkv = MPConv(outputs, 3 * outputs, 1)
            self.attn_proj = MPConv(outputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` and the embedding ``(B, ·)`` → ``(B, outputs, ·, ·)``."""
        if self.resample < 1:
            x = F.avg_pool2d(x, 2)
        elif self.resample > 1:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        if not self.decoder:
            x = x if self.conv_skip is None else self.conv_skip(x)
            x = normalized(x, (1,))
        level = 1 + self.emb_linear(embedding, self.emb_gain)[:, :, None, None]
        y = mp_silu(self.conv_res0(mp_silu(x)) * level)
        y = self.conv_res1(F.dropout(y, self.dropout, self.training))
        if self.decoder and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, y, BRANCH)
        if self.heads:
            x = mp_sum(x, self.attn_proj(self.attention(x)), BRANCH)
        return x.clamp(-LARGEST, LARGEST)

    def attention(self, x: Tensor) -> Tensor:
        """Cosine attention among all positions, in at least float32, like ``x``."""
        y = self.attn_qkv(x).flatten(2).unflatten(1, (self.heads, x.shape[1] // self.heads, 3))
        q, k, v = (part.transpose(2, 3) for part in normalized(y, (2,)).unbind(3))
        # Written out: the fused kernels have no second derivative and no forward mode.
        precision = torch.promote_types(q.dtype, torch.float32)
        scaled = (k * k.shape[-1] ** -0.5).to(precision)
        weight = (q.to(precision) @ scaled.transpose(2, 3)).softmax(dim=-1).to(v.dtype)
        found: Tensor = (weight @ v).transpose(2, 3).reshape(x.shape)
        return found


def zero() -> nn.Parameter:
    """A trainable number that starts at 0."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    return nn.Parameter(torch.zeros((), dtype=dtype, device=device))
