r"""Checkpoints of guided diffusion (Dhariwal & Nichol 2021, arXiv:2105.05233).

The network is given the level i = 0 … N − 1 of a DDPM's table and predicts ε. Half of its channels
are a learned variance, for :class:`sdescore.Ancestral`. The table is DDPM's linear one, or the
cosine

.. math:: \bar\alpha(u) = \cos^2\!\Bigl(\frac{\pi}{2} \frac{u + 0.008}{1.008}\Bigr), \qquad
   \beta_i = \min\Bigl(1 - \frac{\bar\alpha((i+1)/N)}{\bar\alpha(i/N)},\; 0.999\Bigr)

(Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch

from sdescore import checks
from sdescore.borrowed import borrowed_generator
from sdescore.errors import IncompatibleError
from sdescore.interop.weights import load_strictly, network_state, read_weights
from sdescore.nets.adm import ADM
from sdescore.score.model import ScoreModel
from sdescore.sde.discrete import DiscreteVPSDE

__all__ = ["load_guided_diffusion"]

DEFAULTS: dict[str, Any] = {
    "image_size": 64,
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_head_channels": -1,
    "attention_resolutions": "16,8",
    "channel_mult": "",
    "dropout": 0.0,
    "class_cond": False,
    "use_scale_shift_norm": True,
    "resblock_updown": False,
    "use_new_attention_order": False,
    "learn_sigma": False,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "predict_xstart": False,
    "rescale_timesteps": False,
}
RELEASED = {"attention_resolutions": "32,16,8", "resblock_updown": True, "learn_sigma": True}
LARGE = {**RELEASED, "num_channels": 256, "num_head_channels": 64}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "imagenet-64-cond": {
        **RELEASED, "image_size": 64, "num_channels": 192, "num_res_blocks": 3,
        "num_head_channels": 64, "use_new_attention_order": True, "noise_schedule": "cosine",
        "class_cond": True, "dropout": 0.1,
    },
    "imagenet-128-cond": {
        **RELEASED, "image_size": 128, "num_channels": 256, "num_heads": 4, "class_cond": True,
    },
    "imagenet-256-cond": {**LARGE, "image_size": 256, "class_cond": True},
    "imagenet-256-uncond": {**LARGE, "image_size": 256},
    "imagenet-512-cond": {**LARGE, "image_size": 512, "class_cond": True},
    "lsun-256": {**LARGE, "image_size": 256, "dropout": 0.1},
}  # fmt: skip
MULTIPLIERS = {
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}
CLASSES = 1000  # ImageNet's
NOT_USED = ("use_fp16", "use_checkpoint", "timestep_respacing", "use_kl", "rescale_learned_sigmas")


def load_guided_diffusion(
    path: str | os.PathLike[str],
    config: str | Mapping[str, Any],
    *,
    device: torch.device | str = "cpu",
) -> ScoreModel:
    """A checkpoint of guided diffusion, in evaluation mode.

    Parameters
    ----------
    path : path
        A file such as ``256x256_diffusion.pt`` or ``ema_0.9999_100000.pt``: the tensors of one
        network. Of a training of your own take the average, ``ema_….pt``.
    config : str or dict
        The name of a released network (``"imagenet-64-cond"``, ``"imagenet-128-cond"``,
        ``"imagenet-256-cond"``, ``"imagenet-256-uncond"``, ``"imagenet-512-cond"``,
        ``"lsun-256"``), or the flags of the original's scripts as a dict; those that are left out
        have its defaults.
    device : torch.device or str
        Where to put the network.

    Returns
    -------
    ScoreModel
        On :class:`sdescore.DiscreteVPSDE`. The network takes any real level, so every grid works.
        Samples are images in [−1, 1]. With ``class_cond`` the sampler needs ``label=``, ImageNet's
        classes 0 … 999.

    Raises
    ------
    CheckpointError, FileNotFoundError
        The file is damaged, holds more than tensors, or another network's tensors; or is not there.
    IncompatibleError, ParameterError
        ``config`` is no name, or a flag is unknown or out of range.

    Examples
    --------
    >>> import tempfile, torch, sdescore as ss
    >>> config = {"image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2"}
    >>> net = ss.nets.ADM(size=16, width=32, multipliers=(1, 2), blocks=1, attention=(16, 8),
    ...                   resample_blocks=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save(net.state_dict(), f"{folder}/ema_0.9999_100000.pt")
    ...     model = ss.load_guided_diffusion(f"{folder}/ema_0.9999_100000.pt", config)
    >>> model.sde.levels, model.prediction, model.convention.time_input
    (1000, 'epsilon', 'continuous_level')
    """
    device = checks.device(device)
    options = flags_of(config)
    with borrowed_generator(), torch.device("cpu"):  # initial weights are drawn in vain
        net = network_of(options).float()
    load_strictly(net, network_state(read_weights(path), path), path)
    sde = DiscreteVPSDE(betas=betas_of(options["noise_schedule"], options["diffusion_steps"]))
    prediction = "x0" if options["predict_xstart"] else "epsilon"
    required = bool(options["class_cond"])
    model = ScoreModel(
        net, sde, prediction, "continuous_level", label_required=required, data_range=(-1.0, 1.0)
    )
    return model.to(device).eval()


def flags_of(config: str | Mapping[str, Any]) -> dict[str, Any]:
    """All flags of a configuration, refused where one is unknown."""
    if isinstance(config, str):
        checks.choice("config", config, tuple(CONFIGURATIONS))
        config = CONFIGURATIONS[config]
    got = type(config).__name__
    checks.that(isinstance(config, Mapping), "config as a name or a dict", got, IncompatibleError)
    known = {name: value for name, value in config.items() if name not in NOT_USED}
    foreign = sorted(known.keys() - DEFAULTS.keys())
    checks.that(not foreign, f"flags among {', '.join(DEFAULTS)}", foreign, IncompatibleError)
    options = {**DEFAULTS, **known}
    rescaled = options["rescale_timesteps"] and options["diffusion_steps"] != 1000
    got = "rescale_timesteps with other diffusion_steps than 1000"
    checks.that(not rescaled, "levels as the network's input", got, IncompatibleError)
    return options


def network_of(options: Mapping[str, Any]) -> ADM:
    """The network of a configuration, with random weights."""
    size, listed = options["image_size"], options["channel_mult"]
    if listed == "" and size not in MULTIPLIERS:
        got = f"none for image_size={size}"
        checks.refuse("channel_mult, such as '1,2,3,4'", got, IncompatibleError)
    multipliers = _numbers(listed, float) if listed else MULTIPLIERS[size]
    head_channels = options["num_head_channels"]
    return ADM(
        size=size,
        width=options["num_channels"],
        multipliers=multipliers,
        blocks=options["num_res_blocks"],
        attention=_numbers(options["attention_resolutions"], int),
        heads=options["num_heads"],
        head_channels=None if head_channels == -1 else head_channels,
        classes=CLASSES if options["class_cond"] else None,
        learned_variance=options["learn_sigma"],
        scale_shift=options["use_scale_shift_norm"],
        resample_blocks=options["resblock_updown"],
        new_attention=options["use_new_attention_order"],
        dropout=options["dropout"],
    )


def betas_of(schedule: str, levels: int) -> tuple[float, ...]:
    """The table of β of a noise schedule."""
    checks.choice("noise_schedule", schedule, ("linear", "cosine"))
    levels = checks.count("diffusion_steps", levels)
    if schedule == "linear":
        scale = 1000 / levels
        return DiscreteVPSDE.linear(levels, scale * 1e-4, scale * 0.02).betas
    shares = [math.cos((i / levels + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(levels + 1)]
    return tuple(min(1 - after / before, 0.999) for before, after in pairwise(shares))


def _numbers(listed: Any, kind: type) -> tuple[Any, ...]:
    """``"1,2"`` or a sequence, as numbers."""
    parts = listed.split(",") if isinstance(listed, str) else listed
    return tuple(kind(part) for part in parts)
