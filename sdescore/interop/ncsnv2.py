r"""Checkpoints of NCSN and NCSNv2 (the codes ``ermongroup/ncsn`` and ``ermongroup/ncsnv2``)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import torch

from sdescore import checks
from sdescore.borrowed import borrowed_generator
from sdescore.errors import CheckpointError, ParameterError
from sdescore.interop.ncsnv2_config import ladder, required, sections
from sdescore.interop.weights import load_strictly, network_state, read_weights
from sdescore.nets.ncsn import NCSN
from sdescore.nets.ncsnv2 import NCSNv2
from sdescore.score.model import ScoreModel
from sdescore.sde.discrete import DiscreteVESDE

__all__ = ["load_ncsnv2"]

OF_AN_AVERAGE = 5  # the list is (network, optimiser, epoch, step, average)


def load_ncsnv2(
    path: str | os.PathLike[str],
    config: str | Mapping[str, Any],
    *,
    weights: str = "ema",
    device: torch.device | str = "cpu",
) -> ScoreModel:
    r"""The model of a checkpoint of Song & Ermon 2019 (arXiv:1907.05600) or 2020
    (arXiv:2006.09011).

    The network f was trained on data in [0, 1], at levels :math:`\sigma_0 > \dots > \sigma_{L-1}`,
    to minimise

    .. math:: \frac{1}{2L} \sum_{i=0}^{L-1} \sigma_i^2\,
       E \left\| s(x + \sigma_i z, i) + z/\sigma_i \right\|^2 ,
       \qquad s(x, i) = f(2x - 1)/\sigma_i

    (2019, eqs. 5 and 6; 2020, technique 3; the network of 2019 is :math:`s(x, i) = f(2x - 1, i)`).
    The minimum is the score of :math:`x_0 + \sigma_i z`. That is the marginal of
    :class:`sdescore.DiscreteVESDE` with these σ at its level i, so the prediction is ``"score"``.
    Samples are in [0, 1], up to the network's errors.

    The network of 2020 knows the level by σ alone. On a geometric ladder it therefore has a value
    between levels, the time input is ``"continuous_level"``, and every sampler and likelihood runs.
    The network of 2019, or another ladder, has integer levels (``"level"``).

    Parameters
    ----------
    path : path
        The official ``checkpoint_….pth``, the list of network, optimiser, epoch, step and average;
        or a file of a network's tensors alone.
    config : str or dict
        The name of the official configuration: ``"cifar10"``, ``"celeba"``, ``"church"``,
        ``"bedroom"``, ``"tower"``, ``"ffhq"``; ``"ncsn_mnist"``, ``"ncsn_cifar10"``,
        ``"ncsn_celeba"`` for 2019. Or the parsed YAML file, a dict with ``"data"`` and ``"model"``.
        Depth and normalisation of the network are read from the file.
    weights : {"ema", "raw"}
        The averaged weights, as the paper takes (the raw ones, if the file holds no average), or
        the raw ones.
    device : torch.device or str
        Where to put the network.

    Returns
    -------
    ScoreModel
        In evaluation mode.

    Raises
    ------
    FileNotFoundError, CheckpointError
        There is no such file, it holds more than tensors and plain containers, or its tensors or
        noise levels are not those of the configuration.
    IncompatibleError, ParameterError
        The configuration is unknown, lacks a value, or asks for what the paper does not have.

    Examples
    --------
    >>> import tempfile, torch, sdescore as ss
    >>> model = {"ngf": 8, "num_classes": 10, "sigma_begin": 1.0, "sigma_end": 0.01}
    >>> config = {"data": {"channels": 1}, "model": model}
    >>> sigmas = ss.DiscreteVESDE.geometric(sigma_max=1.0, sigma_min=0.01, levels=10).sigmas
    >>> with tempfile.TemporaryDirectory() as folder:  # a file of random weights
    ...     net = ss.nets.NCSNv2(1, sigmas, width=8)
    ...     torch.save([net.state_dict()], f"{folder}/checkpoint.pth")
    ...     model = ss.load_ncsnv2(f"{folder}/checkpoint.pth", config)
    >>> model.sde.levels, model.prediction
    (10, 'score')
    """
    checks.choice("weights", weights, ("ema", "raw"), ParameterError)
    device = checks.device(device)
    data, options = sections(config)
    parts = read_weights(path)
    parts = list(parts) if isinstance(parts, (list, tuple)) else [parts]
    state = network_state(parts[0] if parts else None, path)
    rescaled = checks.flag("data.rescaled", data.get("rescaled", False))
    channels, width = required(data, "data.channels"), required(options, "model.ngf")
    nonlinearity = str(options.get("nonlinearity", "elu")).lower()
    sigmas, geometric = ladder(options)
    net: NCSN | NCSNv2
    with borrowed_generator(), torch.device("cpu"):
        depth = 6 if any(name.startswith("res31.") for name in state) else 5
        depth = depth if any(name.startswith("res5.") for name in state) else 4
        by_level = state.get("normalizer.embed.weight")
        if by_level is not None:
            norm = "InstanceNorm" if by_level.shape[1:] == (2 * width,) else "InstanceNorm++"
            net = NCSN(channels, len(sigmas), width, rescaled, nonlinearity, depth, norm).float()
        else:
            net = NCSNv2(channels, sigmas, width, depth, rescaled, nonlinearity).float()
            state = {"sigmas": net.sigmas, **state}  # an average alone has none
    if weights == "ema" and len(parts) >= OF_AN_AVERAGE:
        average = network_state(parts[-1], path)
        trained = {name for name, value in net.named_parameters() if value.requires_grad}
        different = sorted(trained ^ set(average))
        expected = f"an average of every parameter of the network in {path}"
        got = f"{len(different)} names that differ, first {different[:1]}; check the configuration"
        checks.that(not different, expected, got, CheckpointError)
        state = {**state, **average}
    load_strictly(net, state, path)
    if isinstance(net, NCSNv2):
        found = net.sigmas.tolist()
        same = all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(found, sigmas, strict=True))
        expected = f"the noise levels of the configuration, {sigmas[0]:g} … {sigmas[-1]:g}"
        got = f"{found[0]:g} … {found[-1]:g} in {path}; check the configuration"
        checks.that(same, expected, got, CheckpointError)
        sigmas = found
    model = ScoreModel(
        net,
        DiscreteVESDE(sigmas=tuple(sigmas)),
        prediction="score",
        time_input="continuous_level" if geometric and isinstance(net, NCSNv2) else "level",
        # The states of such a network are 2x − 1.
        data_mean=0.5 if rescaled else 0.0,
        data_std=0.5 if rescaled else 1.0,
        data_range=(0.0, 1.0),
    )
    return model.to(device).eval()
