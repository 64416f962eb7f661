"""Checkpoints of score_sde (Song et al. 2021, arXiv:2011.13456), the PyTorch code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sdescore import checks
from sdescore.borrowed import borrowed_generator
from sdescore.errors import CheckpointError, ParameterError
from sdescore.interop.convention_score_sde import convention_of
from sdescore.interop.weights import averaged, load_strictly, network_state, read_weights
from sdescore.nets.configurations_ncsnpp import score_sde_configuration, score_sde_network
from sdescore.score.model import ScoreModel

__all__ = ["load_score_sde"]


def load_score_sde(
    path: str | os.PathLike[str],
    config: str | Mapping[str, Any],
    *,
    weights: str = "ema",
    device: torch.device | str = "cpu",
) -> ScoreModel:
    """A checkpoint of score_sde, in evaluation mode.

    What its network is given and predicts: :mod:`sdescore.interop.convention_score_sde`.

    Parameters
    ----------
    path : path
        A file such as ``checkpoint_24.pth``. A file of the network's tensors alone serves as well.
    config : str or dict
        The name of the official configuration file, such as ``"ve/cifar10_ncsnpp_continuous"``, or
        a dict of options; see :func:`sdescore.nets.score_sde_configuration`.
    weights : {"ema", "raw"}
        The averaged weights (the raw ones, if the file holds no average), or the raw ones. The
        average is a list without names, of the parameters that are trained: all but the
        frequencies of the Fourier features.
    device : torch.device or str
        Where to put the network.

    Returns
    -------
    ScoreModel
        Its states and samples are images in the range that the network was trained on: [−1, 1] for
        a ``centered`` configuration, which VP and sub-VP are, and [0, 1] for VE. Networks of levels
        take any real level, so every grid works; those of VE round it, as the original does.

    Raises
    ------
    CheckpointError, FileNotFoundError
        The file is damaged, holds more than tensors and plain containers, or another network's
        tensors or another ladder of σ than ``config`` says; or there is none.
    IncompatibleError, ParameterError
        ``config`` is no configuration, or an option, ``weights`` or ``device`` is out of range.

    Examples
    --------
    >>> import tempfile, torch, sdescore as ss
    >>> config = {
    ...     "sde": "vpsde", "continuous": True, "centered": True, "scale_by_sigma": False,
    ...     "embedding_type": "positional", "image_size": 8, "nf": 8, "ch_mult": (1, 2),
    ...     "num_res_blocks": 1, "attn_resolutions": ()}
    >>> net = ss.nets.score_sde_network(config)
    >>> state = {f"module.{name}": value for name, value in net.state_dict().items()}
    >>> average = [value.detach() for value in net.parameters() if value.requires_grad]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = f"{folder}/checkpoint_1.pth"
    ...     torch.save({"model": state, "ema": {"shadow_params": average}, "step": 0}, file)
    ...     model = ss.load_score_sde(file, config)
    >>> model.sde, model.prediction, model.convention.time_input
    (VPSDE(beta_min=0.1, beta_max=20.0), 'epsilon', '999t')
    """
    checks.choice("weights", weights, ("ema", "raw"), ParameterError)
    device = checks.device(device)
    options = score_sde_configuration(config)
    sde, prediction, time_input = convention_of(options)
    with borrowed_generator(), torch.device("cpu"):
        net = score_sde_network(config).float()
    file = read_weights(path)
    training = isinstance(file, Mapping) and "model" in file
    state = network_state(file["model"] if training else file, path)
    ladder = net.sigmas.clone()
    load_strictly(net, state, path)
    expected = f"levels from {ladder[0]:g} to {ladder[-1]:g} in {path}, as config says"
    got = f"{net.sigmas[0]:g} to {net.sigmas[-1]:g}; check the configuration"
    same = torch.allclose(net.sigmas, ladder, rtol=1e-5, atol=0)
    checks.that(same, expected, got, CheckpointError)
    ema = file.get("ema") if training else None
    if weights == "ema" and ema is not None:
        average = ema.get("shadow_params") if isinstance(ema, Mapping) else None
        if not isinstance(average, list | tuple) or not all(isinstance(v, Tensor) for v in average):
            got = type(average).__name__
            checks.refuse(f"ema.shadow_params in {path} as tensors", got, CheckpointError)
        load_strictly(net, averaged(net, state, average), path)
    pixels = (-1.0 if options["centered"] else 0.0, 1.0)
    return ScoreModel(net, sde, prediction, time_input, data_range=pixels).to(device).eval()
