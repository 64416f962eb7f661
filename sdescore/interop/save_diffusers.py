r"""A score model as a pipeline of ``diffusers``: the way back.

The network's weights and configuration are written by ``diffusers`` itself. A network of this
library is first converted to one of ``diffusers``. The scheduler says the SDE: the β table of a
:class:`sdescore.DiscreteVPSDE` as ``trained_betas``, or σ_min and σ_max of a
:class:`sdescore.VESDE`. ``diffusers`` stores a table in float32, so a table that came from it goes
back exactly, and another is rounded.
"""

from __future__ import annotations

import os
from typing import Any

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.interop.diffusers import PREDICTIONS, DiffusersNetwork, require_diffusers
from sdescore.interop.to_unet2d import PLANS, to_unet2d
from sdescore.nets.ema import plain_network
from sdescore.score.model import ScoreModel
from sdescore.sde.ve import VESDE

__all__ = ["save_diffusers"]

NAMES = {ours: theirs for theirs, ours in PREDICTIONS.items()}


def save_diffusers(folder: str | os.PathLike[str], model: ScoreModel) -> None:
    """Write a folder that the pipelines of ``diffusers`` open.

    ``DDPMPipeline.from_pretrained(folder)`` and ``DDIMPipeline.from_pretrained(folder)`` open a
    model on a table of β, ``ScoreSdeVePipeline.from_pretrained(folder)`` one on
    :class:`sdescore.VESDE`. :func:`sdescore.load_diffusers` gives the same model back. The
    scheduler does not clip (``clip_sample=False``), as the model does not.

    Parameters
    ----------
    folder : path
        Where to write; it is made if it does not exist.
    model : ScoreModel
        A network of ``diffusers``: what :func:`sdescore.load_diffusers` returned, perhaps trained
        further, or ``ScoreModel(unet, …)`` around a ``UNet2DModel``. Or a network of this library
        that :func:`sdescore.interop.to_unet2d` converts, such as that of a checkpoint of score_sde
        or guided diffusion.

    Raises
    ------
    IncompatibleError
        The network is neither one of ``diffusers`` nor converted to one, or its output channels are
        neither as many as its input channels nor, for a learned variance, twice as many; the
        model's SDE, prediction, time input or scaling has no scheduler; or ``diffusers`` is not
        installed.

    Examples
    --------
    >>> import tempfile, diffusers, sdescore as ss
    >>> unet = diffusers.UNet2DModel(
    ...     sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
    ...     down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    >>> model = ss.ScoreModel(unet, ss.DiscreteVPSDE.linear(), "v", "continuous_level")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ss.interop.save_diffusers(folder, model)
    ...     pipeline = diffusers.DDPMPipeline.from_pretrained(folder)
    >>> pipeline.scheduler.config.prediction_type
    'v_prediction'
    """
    diffusers = require_diffusers()
    checks.instance("model", model, ScoreModel)
    net: Any = plain_network(model.net)
    net = plain_network(net.net) if isinstance(net, DiffusersNetwork) else net
    net = to_unet2d(net) if type(net) in PLANS else net
    got = f"{type(net).__name__}; ss.save writes any network to a file of this library"
    expected = "a network of diffusers, such as UNet2DModel, or one that to_unet2d converts"
    checks.that(isinstance(net, diffusers.ModelMixin), expected, got, IncompatibleError)
    taken, returned = net.config.get("in_channels"), net.config.get("out_channels")
    expected = "a network with as many output channels as input channels, or twice as many"
    checks.that(returned in (taken, 2 * taken), expected, f"{taken}, {returned}", IncompatibleError)
    scheduler = _scheduler(diffusers, model, learned=returned == 2 * taken)
    pipelines = {"ScoreSdeVeScheduler": diffusers.ScoreSdeVePipeline}
    pipeline = pipelines.get(type(scheduler).__name__, diffusers.DDPMPipeline)
    pipeline(unet=net, scheduler=scheduler).save_pretrained(folder)


def _scheduler(diffusers: Any, model: ScoreModel, learned: bool) -> Any:
    """The scheduler of diffusers that says the model's SDE and prediction."""
    options, sde = model.options, model.sde
    own = model.convention is not None and model.data_scale.plain
    plain = own and options["input_scaling"] == "none"
    asked = options["prediction"], options["time_input"]
    betas, sigmas = (getattr(sde, name, None) for name in ("betas", "sigma_max"))
    low, high = model.data_range or (-1.0, 1.0)
    if (
        betas
        and plain
        and low == -high
        and asked[0] in NAMES
        and asked[1] in ("level", "continuous_level")
    ):
        return diffusers.DDPMScheduler(
            num_train_timesteps=len(betas),
            trained_betas=list(betas),
            prediction_type=NAMES[str(asked[0])],
            clip_sample=False,
            clip_sample_range=high,
            variance_type="learned_range" if learned else "fixed_small",
        )
    if sigmas and plain and asked == ("score", "sigma"):
        ends = {"sigma_min": getattr(sde, "sigma_min", 0.0), "sigma_max": sigmas}
        if sde == VESDE(**ends):
            return diffusers.ScoreSdeVeScheduler(**ends)
    shown = ", ".join(f"{name}={value!r}" for name, value in options.items())
    checks.refuse(
        "a model that a scheduler of diffusers describes: DiscreteVPSDE with prediction epsilon, "
        "x0 or v and levels as time input, or VESDE with prediction score and time input sigma, "
        "without data_mean, data_std or scaling, and with a data_range around 0",
        f"{type(model).__name__} on {type(sde).__name__} with {shown}; ss.save writes any model",
        IncompatibleError,
    )
