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
* iDDPM: D and the state as for VP, on a table of M levels; :math:`c_{noise}` is the level whose σ
  is nearest. :class:`sdescore.nets.DhariwalUNetIDDPM` finds it.

EDM2 (Karras et al. 2024, arXiv:2312.02696) has EDM's preconditioning and another network,
:class:`sdescore.nets.EDM2UNet`.
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
from sdescore.errors import CheckpointError, IncompatibleError
from sdescore.interop.edm_configurations import options_of
from sdescore.interop.weights import load_strictly, network_state, read_weights
from sdescore.nets.edm import SongUNet
from sdescore.nets.edm2 import EDM2UNet
from sdescore.nets.edm_adm import DhariwalUNet
from sdescore.nets.edm_iddpm import DhariwalUNetIDDPM, iddpm_betas
from sdescore.nets.edm_ve import SongUNetVE
from sdescore.score.model import ScoreModel
from sdescore.sde.discrete import DiscreteVPSDE
from sdescore.sde.edm import EDMSDE
from sdescore.sde.ve import VESDE
from sdescore.sde.vp import VPSDE

__all__ = ["load_edm"]

PRECONDITIONINGS = {
    "EDMPrecond": "edm",
    "VPPrecond": "vp",
    "VEPrecond": "ve",
    "iDDPMPrecond": "iddpm",
    "Precond": "edm2",  # of EDM2's networks_edm2
}
NETWORKS: dict[str, type[nn.Module]] = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}
OF_PRECOND: dict[str, type[nn.Module]] = {
    "ve": SongUNetVE, "iddpm": DhariwalUNetIDDPM, "edm2": EDM2UNet,
}  # fmt: skip
CONVERT = (
    "where EDM's code runs, save its tensors: "
    'net = pickle.load(open("NAME.pkl", "rb"))["ema"]; torch.save(net.state_dict(), "NAME.pt")'
)


def load_edm(path: str | os.PathLike[str], config: str | Mapping[str, Any]) -> ScoreModel:
    """A network of EDM or EDM2 (Karras et al. 2022, 2024) as a score model.

    EDM's own files are pickles of objects, which run code when they are opened. They are refused.
    In an environment with EDM's code, two lines write the averaged weights as a file of tensors::

        net = pickle.load(open("edm-cifar10-32x32-cond-vp.pkl", "rb"))["ema"]
        torch.save(net.state_dict(), "edm-cifar10-32x32-cond-vp.pt")

    What D(x; σ) of EDM is to the model, and why, is in :mod:`sdescore.interop.edm`. EDM's states
    have α = 1, as on ``EDMSDE``; ``model.under(ss.EDMSDE())`` brings those of VP, VE and iDDPM
    there. Samples are images in [−1, 1], or latents for EDM2's ``img512`` (:doc:`/howto/edm`).

    Parameters
    ----------
    path : path-like
        A ``.pt``, ``.pth`` or ``.safetensors`` file of the tensors of ``EDMPrecond``,
        ``VPPrecond``, ``VEPrecond``, ``iDDPMPrecond`` or EDM2's ``Precond``, or of the network in
        it.
    config : str or dict
        The name of a released network, such as ``"cifar10-32x32-cond-vp"``,
        ``"baseline-cifar10-32x32-uncond-ve"`` or ``"edm2-img512-xs"``; or the arguments of the
        network as a dict: the pickled object's ``init_kwargs``, or ``network_kwargs`` of
        ``training_options.json`` with ``img_resolution``, and with ``label_dim`` where there are
        labels. ``"precond"`` is ``"edm"``, the default, ``"vp"``, ``"ve"``, ``"iddpm"`` or
        ``"edm2"``.

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
    options = options_of(config)
    precond = _preconditioning(options)
    build = _network(precond, options)
    sde, convention = _convention(precond, options)
    classes = options.pop("label_dim", 0) or None
    # Label dropout is no part of the network here: train(label_dropout=…).
    unlabelled = options.pop("label_dropout", 0) > 0
    options.pop("use_fp16", None)  # in which precision it was run; its weights are float32
    options["in_channels"] = options.pop("img_channels", 3)
    known = set(inspect.signature(build).parameters) - {"classes", "out_channels"}
    unknown = ", ".join(sorted(options.keys() - known))
    expected = f"arguments of EDM's {build.__name__}"
    checks.that(not unknown, expected, f"{unknown}; leave them out", IncompatibleError)
    needs = "img_resolution in config, the height of the images"
    checks.that("img_resolution" in options, needs, "none", IncompatibleError)
    with borrowed_generator(), torch.device("cpu"):  # initial weights are drawn in vain
        net: Any = build(classes=classes, **options).float()
    if isinstance(found, Mapping) and isinstance(found.get("ema"), Mapping):
        found = found["ema"]
    prefix = "unet." if precond == "edm2" else "model."
    state = {n.removeprefix(prefix): v for n, v in network_state(found, path).items()}
    if precond == "iddpm":
        own = net.u.clone()
        state = {"u": own, **state}  # the network by itself has none
        load_strictly(net, state, path)
        same = torch.allclose(net.u, own, rtol=5e-3)  # the file's were summed in float32
        expected = f"the noise levels of the configuration in {path}"
        checks.that(same, expected, "others; check M, C_1 and C_2", CheckpointError)
    else:
        load_strictly(net, state, path)
    required = classes is not None and not unlabelled
    # Images of four channels are codes of an autoencoder, which have no range (EDM2 at 512 pixels).
    ends = (-1.0, 1.0) if options["in_channels"] < 4 else None
    return ScoreModel(net, sde, label_required=required, data_range=ends, **convention).eval()


def _preconditioning(options: dict[str, Any]) -> str:
    """Take the preconditioning's name out of the options."""
    default, name = "edm", str(options.pop("class_name", "")).rpartition(".")[2]
    if name:
        default = PRECONDITIONINGS[checks.choice("class_name", name, list(PRECONDITIONINGS))]
    found: str = options.pop("precond", default)
    return checks.choice("precond", found, list(PRECONDITIONINGS.values()))


def _network(precond: str, options: dict[str, Any]) -> type[nn.Module]:
    """The network's class; takes its type out of the options."""
    if precond == "edm2":
        options.setdefault("logvar_channels", 128)
        return EDM2UNet
    default = "SongUNet" if precond in ("vp", "ve") else "DhariwalUNet"
    kind = checks.choice("model_type", options.pop("model_type", default), list(NETWORKS))
    needed = {"ve": "SongUNet", "iddpm": "DhariwalUNet"}.get(precond, kind)
    expected = f"a {needed} for the preconditioning {precond!r}"
    checks.that(kind == needed, expected, kind, IncompatibleError)
    return OF_PRECOND.get(precond, NETWORKS[kind])


def _convention(
    precond: str, options: dict[str, Any]
) -> tuple[EDMSDE | VPSDE | VESDE | DiscreteVPSDE, dict[str, Any]]:
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
    if precond == "iddpm":
        numbers = {name: options[name] for name in ("M", "C_1", "C_2") if name in options}
        table = DiscreteVPSDE(betas=iddpm_betas(**numbers))
        return table, {"prediction": "epsilon", "time_input": "quarter_log_sigma"}
    low, high = options.pop("sigma_min", None), options.pop("sigma_max", None)
    if precond == "ve":
        ve = VESDE(sigma_min=0.02 if low is None else low, sigma_max=high or 100.0)
        return ve, {"prediction": "epsilon", "time_input": "log_sigma"}
    # As EDM's sampler: from 80 to 0.002, within what the network was made for.
    edm = EDMSDE(sigma_min=max(0.002, low or 0.0), sigma_max=min(80.0, high or 80.0))
    return edm, {"prediction": "F", "sigma_data": options.pop("sigma_data", 0.5)}
