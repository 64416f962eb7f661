r"""EDM's networks as score models (Karras et al. 2022, arXiv:2206.00364).

Each of EDM's preconditionings (its table 1) makes a denoiser of a network F,

.. math:: D(x; \sigma) = c_{skip}\, x + c_{out}\, F(c_{in}\, x;\ c_{noise}) ,

of data in [−1, 1] with noise of standard deviation σ. Each is a convention of
:class:`sdescore.ScoreModel`:

* EDM: ``EDMSDE``, where α = 1, and prediction ``"F"``, eq. 7 of the paper; its time input is
  :math:`c_{noise} = \tfrac14 \log\sigma`.
* VP: :math:`D = x - \sigma F`, so F estimates ε. The input :math:`c_{in} x = x/\sqrt{1 + \sigma^2}`
  is the state αx of ``VPSDE`` at the t of this σ/α, and :math:`c_{noise} = 999\,t`.
* VE: :math:`D = x + \sigma F`, so −F estimates ε; :math:`c_{in} = 1` and
  :math:`c_{noise} = \log(\sigma/2)`. :class:`sdescore.nets.SongUNetVE` has both.

The iDDPM preconditioning, that of the ADM baseline, rounds σ to the levels of a table.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sdescore import checks
from sdescore.borrowed import borrowed_generator
from sdescore.errors import IncompatibleError
from sdescore.interop.weights import load_strictly, network_state, read_weights
from sdescore.nets.edm import SongUNet
from sdescore.nets.edm_adm import DhariwalUNet
from sdescore.nets.edm_ve import SongUNetVE
from sdescore.score.model import ScoreModel
from sdescore.sde.edm import EDMSDE
from sdescore.sde.ve import VESDE
from sdescore.sde.vp import VPSDE

__all__ = ["load_edm"]

DDPMPP: dict[str, Any] = {
    "model_type": "SongUNet",
    "embedding_type": "positional",
    "encoder_type": "standard",
    "decoder_type": "standard",
    "channel_mult_noise": 1,
    "resample_filter": [1, 1],
    "model_channels": 128,
}
NCSNPP: dict[str, Any] = {
    **DDPMPP,
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
ADM: dict[str, Any] = {
    "model_type": "DhariwalUNet",
    "model_channels": 192,
    "channel_mult": [1, 2, 3, 4],
}
CIFAR = {"img_resolution": 32, "augment_dim": 9, "channel_mult": [2, 2, 2], "dropout": 0.13}
FACES = {"img_resolution": 64, "augment_dim": 9, "channel_mult": [1, 2, 2, 2], "dropout": 0.05}
SONG = {"img_resolution": 32, "channel_mult": [1, 2, 2, 2], "dropout": 0.10}
CONFIGS: dict[str, dict[str, Any]] = {
    "cifar10-32x32-cond-vp": {**DDPMPP, **CIFAR, "label_dim": 10},
    "cifar10-32x32-cond-ve": {**NCSNPP, **CIFAR, "label_dim": 10},
    "cifar10-32x32-uncond-vp": {**DDPMPP, **CIFAR},
    "cifar10-32x32-uncond-ve": {**NCSNPP, **CIFAR},
    "ffhq-64x64-uncond-vp": {**DDPMPP, **FACES},
    "ffhq-64x64-uncond-ve": {**NCSNPP, **FACES},
    "afhqv2-64x64-uncond-vp": {**DDPMPP, **FACES, "dropout": 0.25},
    "afhqv2-64x64-uncond-ve": {**NCSNPP, **FACES, "dropout": 0.25},
    "imagenet-64x64-cond-adm": {**ADM, "img_resolution": 64, "dropout": 0.10, "label_dim": 1000},
    "baseline-cifar10-32x32-uncond-vp": {**DDPMPP, **SONG, "precond": "vp"},
    "baseline-cifar10-32x32-uncond-ve": {**NCSNPP, **SONG, "precond": "ve"},
}
PRECONDITIONINGS = {"EDMPrecond": "edm", "VPPrecond": "vp", "VEPrecond": "ve"}
NETWORKS: dict[str, type[nn.Module]] = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}
CONVERT = (
    "where EDM's code runs, save its tensors: "
    'net = pickle.load(open("NAME.pkl", "rb"))["ema"]; torch.save(net.state_dict(), "NAME.pt")'
)


def load_edm(path: str | os.PathLike[str], config: str | Mapping[str, Any]) -> ScoreModel:
    """A network of EDM (Karras et al. 2022) as a score model of images in [−1, 1].

    EDM's own files are pickles of objects, which run code when they are opened. They are refused.
    In an environment with EDM's code, two lines write the averaged weights as a file of tensors::

        net = pickle.load(open("edm-cifar10-32x32-cond-vp.pkl", "rb"))["ema"]
        torch.save(net.state_dict(), "edm-cifar10-32x32-cond-vp.pt")

    What D(x; σ) of EDM is to the model, and why, is in :mod:`sdescore.interop.edm`. EDM's states
    have α = 1, as on ``EDMSDE``; ``model.under(ss.EDMSDE())`` brings those of VP and VE there.

    Parameters
    ----------
    path : path-like
        A ``.pt``, ``.pth`` or ``.safetensors`` file of the tensors of ``EDMPrecond``,
        ``VPPrecond`` or ``VEPrecond``, or of the network in it.
    config : str or dict
        The name of a released network, such as ``"cifar10-32x32-cond-vp"`` or
        ``"baseline-cifar10-32x32-uncond-ve"``; or the arguments of the network as a dict: the
        pickled object's ``init_kwargs``, or ``network_kwargs`` of ``training_options.json`` with
        ``img_resolution``, and with ``label_dim`` where there are labels. ``"precond"`` is
        ``"edm"``, the default, ``"vp"`` or ``"ve"``.

    Returns
    -------
    ScoreModel
        In evaluation mode. Labels are class indices. A network that was trained with labels alone
        requires one.

    Raises
    ------
    CheckpointError, FileNotFoundError
        A pickle, a damaged file, or tensors of another network.
    IncompatibleError
        An unknown name or argument, or a preconditioning without a convention here.

    Examples
    --------
    >>> import sdescore as ss, tempfile, torch
    >>> config = {"img_resolution": 8, "model_type": "SongUNet", "model_channels": 16,
    ...           "channel_mult": [1, 2], "num_blocks": 1, "label_dim": 10}
    >>> net = ss.nets.SongUNet(8, 3, classes=10, model_channels=16, channel_mult=[1, 2],
    ...                        num_blocks=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = f"{folder}/edm.pt"
    ...     torch.save({f"model.{k}": v for k, v in net.state_dict().items()}, file)
    ...     model = ss.load_edm(file, config)
    >>> sampler = ss.PredictorCorrector(
    ...     model.sde, predictor=ss.Heun(), grid=ss.KarrasGrid(), steps=18
    ... )
    >>> sampler.sample(model, shape=(2, 3, 8, 8), label=torch.tensor([0, 9])).shape
    torch.Size([2, 3, 8, 8])
    """
    found = read_weights(path, CONVERT)
    options = _options(config)
    precond = _preconditioning(options)
    default = "DhariwalUNet" if precond == "edm" else "SongUNet"
    kind = checks.choice("model_type", options.pop("model_type", default), list(NETWORKS))
    sde, convention = _convention(precond, kind, options)
    classes = options.pop("label_dim", 0) or None
    # Label dropout is no part of the network here: train(label_dropout=…).
    unlabelled = options.pop("label_dropout", 0) > 0
    options.pop("use_fp16", None)  # in which precision it was run; its weights are float32
    build = SongUNetVE if precond == "ve" else NETWORKS[kind]
    options["in_channels"] = options["out_channels"] = options.pop("img_channels", 3)
    known = set(inspect.signature(NETWORKS[kind]).parameters) - {"classes"}
    unknown = ", ".join(sorted(options.keys() - known))
    expected = f"arguments of EDM's {kind}"
    checks.that(not unknown, expected, f"{unknown}; leave them out", IncompatibleError)
    needs = "img_resolution in config, the height of the images"
    checks.that("img_resolution" in options, needs, "none", IncompatibleError)
    with borrowed_generator(), torch.device("cpu"):  # initial weights are drawn in vain
        net = build(classes=classes, **options).float()
    if isinstance(found, Mapping) and isinstance(found.get("ema"), Mapping):
        found = found["ema"]
    state = network_state(found, path)
    if all(name.startswith("model.") for name in state):
        state = {name.removeprefix("model."): value for name, value in state.items()}
    load_strictly(net, state, path)
    required = classes is not None and not unlabelled
    return ScoreModel(net, sde, label_required=required, **convention).eval()


def _options(config: str | Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by EDM's names, as a new dict."""
    if isinstance(config, Mapping):
        return dict(config)
    name = str(config).removesuffix(".pkl").removeprefix("edm-")
    return dict(CONFIGS[checks.choice("config", name, sorted(CONFIGS))])


def _preconditioning(options: dict[str, Any]) -> str:
    """Take the preconditioning's name out of the options."""
    default, name = "edm", str(options.pop("class_name", "")).rpartition(".")[2]
    if name == "iDDPMPrecond" or options.get("precond") == "iddpm":
        got = (
            "iDDPM's, whose network has a learned variance and takes the levels of a table; load "
            "the original file of guided-diffusion"
        )
        checks.refuse("EDM's, the VP or the VE preconditioning", got, IncompatibleError)
    if name:
        default = PRECONDITIONINGS[checks.choice("class_name", name, list(PRECONDITIONINGS))]
    found: str = options.pop("precond", default)
    return checks.choice("precond", found, ("edm", "vp", "ve"))


def _convention(
    precond: str, kind: str, options: dict[str, Any]
) -> tuple[EDMSDE | VPSDE | VESDE, dict[str, Any]]:
    """The SDE and the convention; takes the preconditioning's numbers out of the options."""
    if precond == "vp":
        low = options.pop("beta_min", 0.1)
        high = low + options.pop("beta_d", 19.9)
        options.pop("epsilon_t", None)
        steps = options.pop("M", 1000)
        needs = "M = 1000, for a network that takes 999 t"
        checks.that(steps == 1000, needs, steps, IncompatibleError)
        sde = VPSDE(beta_min=low, beta_max=high)
        return sde, {"prediction": "epsilon", "time_input": "999t"}
    low, high = options.pop("sigma_min", None), options.pop("sigma_max", None)
    if precond == "ve":
        needs = "a SongUNet for the VE preconditioning, whose sign and log(σ/2) SongUNetVE has"
        checks.that(kind == "SongUNet", needs, kind, IncompatibleError)
        ve = VESDE(sigma_min=0.02 if low is None else low, sigma_max=high or 100.0)
        return ve, {"prediction": "epsilon", "time_input": "log_sigma"}
    # As EDM's sampler: from 80 to 0.002, within what the network was made for.
    edm = EDMSDE(sigma_min=max(0.002, low or 0.0), sigma_max=min(80.0, high or 80.0))
    return edm, {"prediction": "F", "sigma_data": options.pop("sigma_data", 0.5)}
