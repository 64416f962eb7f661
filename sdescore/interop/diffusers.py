r"""A network of ``diffusers``, with its scheduler's table.

A scheduler's β table is a DDPM's chain (:class:`sdescore.DiscreteVPSDE`); all schedulers of that
kind (DDPM, DDIM, PNDM, Euler, Heun, DPM-Solver++, UniPC, …) differ in the sampler alone. With
:math:`x_i = \sqrt{\bar\alpha_i}\, x_0 + \sqrt{1 - \bar\alpha_i}\, \epsilon` their
``prediction_type`` is ε, x₀ (``"sample"``) or :math:`v = \sqrt{\bar\alpha_i}\, \epsilon -
\sqrt{1 - \bar\alpha_i}\, x_0` (``"v_prediction"``). The schedulers of score_sde hold an SDE:
``ScoreSdeVeScheduler`` that of NCSN++, whose network returns the score and is given σ. The
schedulers of EDM hold its SDE, and their networks predict F.

The networks of ``FlowMatchEulerDiscreteScheduler`` and ``FlowMatchHeunDiscreteScheduler`` predict
the velocity :math:`\epsilon - x_0` of :math:`x = (1 - \sigma) x_0 + \sigma \epsilon`, and are
given σ times ``num_train_timesteps``. This is :class:`sdescore.RectifiedFlowSDE` with t = σ. Its
shift moves the sampler's σ alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import CheckpointError, IncompatibleError, MissingFileError
from sdescore.nets.learned_variance import halves
from sdescore.score.model import ScoreModel
from sdescore.sde.discrete import DiscreteVPSDE
from sdescore.sde.edm import EDMSDE
from sdescore.sde.rectified_flow import RectifiedFlowSDE
from sdescore.sde.ve import VESDE
from sdescore.typing import Condition

__all__ = ["load_diffusers"]

EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
READ = ("DDPMScheduler", "ScoreSdeVeScheduler", *EDM, *FLOW)
CONFIG = "scheduler_config.json"
PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}


class DiffusersNetwork(nn.Module):
    """A network of ``diffusers`` as ``net(x, c, label)``, which returns the tensor.

    A label is ``class_labels`` if it holds one class each, else ``encoder_hidden_states``; a dict
    holds arguments by name. A learned variance comes after the prediction: see ``with_variance``.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, c: Tensor, label: Condition | None = None) -> Tensor:
        """``x`` ``(B, C, H, W)`` and levels ``c`` ``(B,)`` → ``(B, C, H, W)``."""
        return self._output(x, c, label)[:, : x.shape[1]]

    @property
    def time_dtype(self) -> torch.dtype:
        """At least float32: the network embeds its time before it rounds."""
        own = next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.float32)
        return torch.promote_types(own, torch.float32)

    @property
    def has_variance(self) -> bool:
        """Whether the network returns twice the channels that it takes."""
        config: Any = getattr(self.net, "config", {})
        taken, returned = config.get("in_channels"), config.get("out_channels")
        return taken is not None and returned == 2 * taken

    def with_variance(
        self, x: Tensor, c: Tensor, label: Condition | None = None
    ) -> tuple[Tensor, Tensor]:
        """The prediction and the learned variance v, each like ``x``; as :meth:`forward`."""
        return halves(self._output(x, c, label), x)

    def _output(self, x: Tensor, c: Tensor, label: Condition | None) -> Tensor:
        arguments: dict[str, Any] = {}
        if isinstance(label, Tensor):
            classes = label.ndim == 1
            arguments["class_labels" if classes else "encoder_hidden_states"] = label
        elif label is not None:
            arguments = dict(label)
        found: Tensor = self.net(x, c, **arguments).sample
        return found


def load_diffusers(
    source: str | os.PathLike[str] | object,
    scheduler: object | None = None,
    *,
    device: torch.device | str = "cpu",
) -> ScoreModel:
    r"""A model of ``diffusers``, in evaluation mode.

    Parameters
    ----------
    source : path, pipeline or network
        A folder that ``pipeline.save_pretrained`` wrote, a pipeline, or a network such as
        ``UNet2DModel``. Nothing is downloaded.
    scheduler : scheduler of diffusers, dict or path, optional
        For a network alone: the one that it was trained with; or its configuration, as in
        :func:`sdescore.interop.from_scheduler`.
    device : torch.device or str
        Where to put the network.

    Returns
    -------
    ScoreModel
        On :class:`sdescore.DiscreteVPSDE`, by ``time_input="continuous_level"``, for these networks
        take sinusoidal embeddings of the level; so every grid works. On :class:`sdescore.VESDE` for
        a ``ScoreSdeVeScheduler``, on :class:`sdescore.EDMSDE` for a scheduler of EDM, and on
        :class:`sdescore.RectifiedFlowSDE` for flow matching. Samples are in the range of the
        original's training data: [0, 1] on VESDE, else [−1, 1] or what the scheduler clips to;
        flow matching states none. A network with labels takes ``label=`` as
        :class:`DiffusersNetwork` says.

    Raises
    ------
    CheckpointError, FileNotFoundError
        The folder holds no network or no scheduler.
    IncompatibleError
        The scheduler is of another kind, or has σ inverted; or ``diffusers`` is not installed.

    Examples
    --------
    >>> import diffusers, sdescore as ss
    >>> unet = diffusers.UNet2DModel(
    ...     sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
    ...     down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    >>> model = ss.load_diffusers(unet, diffusers.DDIMScheduler(prediction_type="v_prediction"))
    >>> model.sde.levels, model.prediction
    (1000, 'v')
    >>> sampler = ss.PredictorCorrector(model.sde, predictor=ss.DDIM(), steps=5)
    >>> sampler.sample(model, (2, 3, 8, 8)).shape
    torch.Size([2, 3, 8, 8])
    """
    device = checks.device(device)
    net: Any = source
    if isinstance(source, str | os.PathLike):
        net, scheduler = _read_folder(Path(source))
    elif not isinstance(source, nn.Module):
        net, scheduler = getattr(source, "unet", None), getattr(source, "scheduler", scheduler)
    expected, got = "a folder, a pipeline with a unet, or a network", type(source).__name__
    checks.that(isinstance(net, nn.Module), expected, got, IncompatibleError)
    advice = "pass the one that the network was trained with"
    checks.that(scheduler is not None, "a scheduler", f"none; {advice}", IncompatibleError)
    model = ScoreModel(DiffusersNetwork(net), **convention_of(scheduler_of(scheduler, READ)))
    return model.to(device).eval()


def convention_of(scheduler: Any) -> dict[str, Any]:
    """The arguments of :class:`sdescore.ScoreModel` for a scheduler's networks."""
    name, config = type(scheduler).__name__, getattr(scheduler, "config", {})
    if name == "ScoreSdeVeScheduler":
        sigmas = {"sigma_min": config["sigma_min"], "sigma_max": config["sigma_max"]}
        ours = {"prediction": "score", "time_input": "sigma", "data_range": (0.0, 1.0)}
        return {"sde": VESDE(**sigmas), **ours}
    kind = config.get("prediction_type", "epsilon")
    if name in EDM and kind == "epsilon":
        sigmas = {"sigma_min": config["sigma_min"], "sigma_max": config["sigma_max"]}
        ours = {"prediction": "F", "sigma_data": config["sigma_data"], "data_range": (-1.0, 1.0)}
        return {"sde": EDMSDE(**sigmas), **ours}
    if name in FLOW:
        expected, got = "invert_sigmas=False", "invert_sigmas=True, where time runs to the data"
        checks.that(not config.get("invert_sigmas"), expected, got, IncompatibleError)
        scaled = partial(torch.mul, other=float(config["num_train_timesteps"]))
        # α = 1e-8 in place of 0, where the SDE's rates are infinite: float32 sees no difference.
        sde = RectifiedFlowSDE(T=1 - 1e-8)
        return {"sde": sde, "prediction": "velocity", "time_input": scaled}
    betas: Any = getattr(scheduler, "betas", None)
    kinds = "a table of β and prediction_type epsilon, sample or v_prediction"
    expected = f"a scheduler with {kinds}, or one among {', '.join(READ[1:])}"
    known = isinstance(betas, Tensor) and kind in PREDICTIONS and not config.get("use_flow_sigmas")
    checks.that(known, expected, f"{name} with prediction_type={kind!r}", IncompatibleError)
    limit = float(config.get("clip_sample_range", 1.0))
    return {
        "sde": DiscreteVPSDE(betas=tuple(table_of(scheduler).tolist())),
        "data_range": (-limit, limit),
        "prediction": PREDICTIONS[kind],
        "time_input": "continuous_level",
    }


def table_of(scheduler: Any) -> Tensor:
    """The table of β, float64: the one listed, or where its product is not ᾱ, that of ᾱ."""
    betas: Tensor = scheduler.betas.double().cpu()
    products: Tensor = scheduler.alphas_cumprod.double().cpu()
    if torch.allclose((1 - betas).cumprod(0), products, rtol=1e-3, atol=1e-7):
        return betas
    return 1 - products / torch.cat([products.new_ones(1), products[:-1]])


def scheduler_of(source: object, known: Iterable[str]) -> Any:
    """A scheduler as it is, or made from its configuration; an error names ``known`` classes."""
    if isinstance(source, str | os.PathLike):
        source = _read_configuration(checks.path(source))
    if not isinstance(source, Mapping):
        return source
    diffusers, name = require_diffusers(), source.get("_class_name")
    kind: Any = getattr(diffusers, str(name), None)
    there = isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)
    expected = f"_class_name of a scheduler of diffusers, such as {', '.join(known)}"
    checks.that(there, expected, f"{name!r:.100}", IncompatibleError)
    try:
        with torch.device("cpu"):
            return kind.from_config(dict(source))
    except (TypeError, ValueError, NotImplementedError) as error:
        checks.refuse(f"a configuration of {name}", f"one with which {error}", IncompatibleError)


def _read_configuration(path: Path) -> object:
    """The configuration in a file, or in the folder of a scheduler or of a pipeline."""
    names = [path, path / CONFIG, path / "scheduler" / CONFIG]
    files = [name for name in names if name.is_file()]
    checks.that(bool(files), f"{path} to be or to hold {CONFIG}", "none there", MissingFileError)
    try:
        found = json.loads(files[0].read_text(encoding="utf-8"))
    except ValueError as error:
        checks.refuse(f"JSON in {files[0]}", error, CheckpointError)
    checks.that(isinstance(found, dict), f"options in {files[0]}", found, CheckpointError)
    return found


def _read_folder(path: Path) -> tuple[nn.Module, object]:
    """The network and the scheduler of a folder, by the classes of diffusers that it names."""
    index = path / "model_index.json"
    there = index.is_file()
    checks.that(there, f"a folder of diffusers, with {index}", "none there", MissingFileError)
    diffusers = require_diffusers()
    parts = {"unet": "a unet", "scheduler": "a scheduler"}
    found: list[Any] = []
    entries = json.loads(index.read_text(encoding="utf-8"))
    for part, what in parts.items():
        library, kind = (*(entries.get(part) or ()), None, None)[:2]
        known: Any = library == "diffusers" and getattr(diffusers, str(kind), None)
        got = f"{part}={entries.get(part)}"
        checks.that(bool(known), f"{what} of diffusers in {path}", got, CheckpointError)
        found.append(known.from_pretrained(path / part, local_files_only=True))
    return found[0], found[1]


def require_diffusers() -> Any:
    """The package, or a refusal that says how to get it."""
    try:
        import diffusers
    except ImportError:
        got = "an environment without it; pip install diffusers"
        checks.refuse("the package diffusers", got, IncompatibleError)
    return diffusers
