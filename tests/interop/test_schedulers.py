"""Schedulers of diffusers: their own loops against the samplers made of them, on the same noise."""

from __future__ import annotations

import inspect
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers import ROOT
from tests.helpers.diffusers import SHAPE, unet

diffusers = pytest.importorskip("diffusers")

PAGE = Path(ROOT, "docs", "howto", "diffusers-schedulers.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \|([^|]*)\|([^|]*)\|", re.MULTILINE)
TABLE = {name: (ours.strip(" `"), bound.strip()) for name, ours, bound in ROW.findall(PAGE)}
OURS = {name: row for name, row in TABLE.items() if re.fullmatch(r"\de-\d", row[1])}
EULER, HEUN = "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"
pytestmark = pytest.mark.filterwarnings("ignore:expected steps:sdescore.errors.StepsWarning")


def scheduler_of(name: str, **options: Any) -> Any:
    """With a prediction that no random network makes large, and without clipping."""
    kind = getattr(diffusers, name)
    known = inspect.signature(kind.__init__).parameters
    plain = {"clip_sample": False, "prediction_type": "v_prediction"}
    if name.startswith("EDM"):
        plain["prediction_type"] = "epsilon"
    return kind(**{key: value for key, value in plain.items() if key in known} | options)


def draws(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.stack([torch.randn(SHAPE, generator=generator) for _ in range(count)])


def theirs(scheduler: Any, net: Any, steps: int, **options: Any) -> Tensor:
    """The loop of diffusers' pipelines; it draws the numbers of :func:`draws` in their order."""
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(3)
    # Flow matching starts from standard normal noise, and does not scale the input.
    x = torch.randn(SHAPE, generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)
    scaled = getattr(scheduler, "scale_model_input", lambda x, t: x)
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = generator
    with torch.no_grad():
        for t in scheduler.timesteps:
            y = net(scaled(x, t), t).sample
            x = scheduler.step(y, t, x, **options).prev_sample
    return x


def difference(
    scheduler: Any, steps: int = 10, eta: float | None = None, channels: int = 3
) -> float:
    """The largest difference of a pixel, over the largest pixel."""
    net = unet(out_channels=channels)
    model = ss.load_diffusers(net, scheduler)
    sampler = ss.interop.from_scheduler(scheduler, steps, eta=eta)
    noise = ss.noise.ReplayNoise(draws(len(sampler.program.spans)))
    found = sampler.sample(model, SHAPE, noise=noise)
    expected = theirs(scheduler, net, steps, **({} if eta is None else {"eta": eta}))
    assert 0.5 < expected.abs().max() < 10
    return ((found - expected).abs().max() / expected.abs().max()).item()


def test_the_page_lists_every_scheduler() -> None:
    module = diffusers.schedulers
    names = {name for name in dir(module) if name.endswith("Scheduler")}
    names -= {"ScoreSdeVpScheduler"}  # a name that leads to no class
    assert set(TABLE) == names


def test_what_takes_the_place_of_a_scheduler_is_there() -> None:
    names = vars(ss.predictors) | {"ProbabilityFlow": ss.ProbabilityFlow, "inverse": ss.inverse}
    lines = [ours for name, (ours, _) in TABLE.items() if name not in OURS and ours != "—"]
    assert len(OURS) == 17 and len(lines) == 15
    for line in lines:
        assert eval(line, names | {"sde": ss.VPSDE()})


@pytest.mark.parametrize("name", sorted(OURS.keys() - {"ScoreSdeVeScheduler"}))
def test_the_images_are_those_that_the_page_says(name: str) -> None:
    """The method, and a bound on the difference, of each class with its defaults."""
    ours, bound = OURS[name]
    scheduler = scheduler_of(name)
    predictor = ss.interop.from_scheduler(scheduler, 20).predictor
    assert eval(ours, vars(ss.predictors)) == predictor
    assert difference(scheduler) < float(bound)


def test_the_predictor_and_corrector_of_score_sde() -> None:
    """Its pipeline returns the mean of the last step, clipped to [0, 1]."""
    scheduler, net = diffusers.ScoreSdeVeScheduler(sigma_min=0.05, sigma_max=6.0, snr=0.1), unet()
    pipeline = diffusers.ScoreSdeVePipeline(net, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    options = {"generator": torch.Generator().manual_seed(3), "output_type": "np"}
    found = pipeline(batch_size=SHAPE[0], num_inference_steps=12, **options).images
    sampler = ss.interop.from_scheduler(scheduler, 12)
    noise = ss.noise.ReplayNoise(draws(len(sampler.program.spans)))
    x = sampler.sample(ss.load_diffusers(net, scheduler), SHAPE, noise=noise).clamp(0, 1)
    assert (x - torch.from_numpy(found).permute(0, 3, 1, 2)).abs().max() < 1e-4
    assert x.std() > 0.1


CASES: list[tuple[str, dict[str, Any], int, float]] = [
    *(("DDIMScheduler", {"timestep_spacing": s}, 10, 1e-5) for s in ("leading", "trailing")),
    ("DDIMScheduler", {"timestep_spacing": "linspace"}, 10, 0.1),
    ("DDIMScheduler", {"set_alpha_to_one": False}, 10, 1e-5),
    ("DDIMScheduler", {"set_alpha_to_one": False, "steps_offset": 1}, 10, 1e-5),
    ("DDIMScheduler", {"steps_offset": 1}, 7, 1e-5),
    *(
        (name, {"timestep_spacing": spacing}, 7, 2e-5)
        for name in ("DDPMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler")
        for spacing in ("leading", "trailing", "linspace")
    ),
    *(
        ("DDPMScheduler", {"variance_type": v}, 10, 1e-5)
        for v in ("fixed_small_log", "fixed_large")
    ),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, 10, 5e-4),
    ("EulerDiscreteScheduler", {"use_exponential_sigmas": True}, 10, 1e-5),
    ("EulerDiscreteScheduler", {"use_beta_sigmas": True}, 10, 5e-4),
    ("HeunDiscreteScheduler", {"use_karras_sigmas": True}, 10, 5e-5),
    *(
        (
            "DPMSolverMultistepScheduler",
            {"algorithm_type": a, "solver_type": s, "final_sigmas_type": "sigma_min"},
            steps,
            5e-5,
        )
        for a in ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++")
        for s in ("midpoint", "heun")
        for steps in (10, 16)
    ),
    *(
        (name, {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, 10, bound)
        for name, bound in (
            ("DDIMScheduler", 1e-5),
            ("DDPMScheduler", 1e-5),
            ("EulerDiscreteScheduler", 5e-4),
            ("EulerAncestralDiscreteScheduler", 1e-3),
            ("DPMSolverMultistepScheduler", 1e-3),
        )
    ),
    ("DPMSolverMultistepScheduler", {"solver_order": 1}, 10, 1e-5),
    ("DPMSolverMultistepScheduler", {"solver_order": 3}, 10, 2e-2),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, 10, 5e-3),
    ("DPMSolverMultistepScheduler", {"euler_at_final": True}, 16, 1e-5),
    (
        "DPMSolverMultistepScheduler",
        {"euler_at_final": True, "final_sigmas_type": "sigma_min"},
        16,
        1e-5,
    ),
    ("DEISMultistepScheduler", {}, 20, 1e-5),
    ("DEISMultistepScheduler", {"solver_order": 3}, 20, 5e-4),
    ("UniPCMultistepScheduler", {}, 40, 2e-3),
    ("EDMEulerScheduler", {"sigma_schedule": "exponential", "sigma_data": 0.8}, 10, 1e-5),
    *(
        (name, {"shift": shift, "num_train_timesteps": levels}, steps, bound)
        for name, bound in ((EULER, 1e-6), (HEUN, 1e-4))
        for shift, levels in ((1.0, 500), (3.0, 1000), (0.5, 1000))
        for steps in (1, 2, 25)
    ),
    (EULER, {"shift_terminal": 0.1, "shift": 3.0}, 10, 1e-6),
    *(
        (EULER, {f"use_{kind}_sigmas": True}, 10, 1e-6)
        for kind in ("karras", "exponential", "beta")
    ),
]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of diffusers, about old algorithms
@pytest.mark.parametrize(("name", "options", "steps", "bound"), CASES)
def test_options_of_the_schedulers(
    name: str, options: dict[str, Any], steps: int, bound: float
) -> None:
    assert difference(scheduler_of(name, **options), steps) < bound


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "DDPMScheduler"])
def test_times_are_levels_for_a_network_that_takes_integers(name: str) -> None:
    """The scheduler's σ are rounded to float32, which must not move a time off its level."""
    scheduler, net = scheduler_of(name), unet()
    sde = ss.load_diffusers(net, scheduler).sde
    sampler = ss.interop.from_scheduler(scheduler, 25)
    assert sampler.sample(ss.ScoreModel(net, sde, "v", "level"), SHAPE).isfinite().all()
    scheduler.set_timesteps(25)
    assert sde.level(sampler.times).tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_noise(eta: float) -> None:
    assert difference(scheduler_of("DDIMScheduler"), eta=eta) < 1e-5


def test_ddpm_with_a_learned_variance() -> None:
    assert (
        difference(scheduler_of("DDPMScheduler", variance_type="learned_range"), channels=6) < 1e-5
    )


def test_ddpm_that_clips_is_a_clipped_model() -> None:
    scheduler, net = scheduler_of("DDPMScheduler", clip_sample=True), unet()
    model = ss.guidance.clipped(ss.load_diffusers(net, scheduler))
    sampler = ss.interop.from_scheduler(scheduler, 10)
    found = sampler.sample(model, SHAPE, noise=ss.noise.ReplayNoise(draws(10)))
    assert (found - theirs(scheduler, net, 10)).abs().max() < 1e-4
    assert (sampler.sample(model.score, SHAPE) - found).abs().max() > 0.1  # it does clip


def test_the_scheduler_is_not_changed() -> None:
    scheduler = scheduler_of("EulerDiscreteScheduler")
    before = scheduler.timesteps.clone()
    ss.interop.from_scheduler(scheduler, 5)
    assert torch.equal(scheduler.timesteps, before) and scheduler.num_inference_steps is None


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_callers_default_dtype_and_device_change_nothing(name: str) -> None:
    scheduler = scheduler_of(name)
    expected = ss.interop.from_scheduler(scheduler, 7)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.inference_mode():
            found = ss.interop.from_scheduler(scheduler, 7)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == expected and torch.equal(found.times, expected.times)
    assert found.start_std == expected.start_std


@pytest.mark.parametrize(
    ("scheduler", "options", "match"),
    [
        (lambda: diffusers.PNDMScheduler(), {}, "among CogVideoXDDIMScheduler.*page on diffusers"),
        (lambda: 3, {}, "got int"),
        (lambda: scheduler_of("DDPMScheduler", variance_type="learned"), {}, "variance_type"),
        (lambda: scheduler_of("EulerDiscreteScheduler"), {"eta": 0.5}, "for a DDIM scheduler"),
        (lambda: scheduler_of("UniPCMultistepScheduler", disable_corrector=[0]), {}, "UniPC"),
        *(
            (lambda option=option: scheduler_of(EULER, **{option: True}), {}, f"{option}=True")
            for option in ("use_dynamic_shifting", "stochastic_sampling", "invert_sigmas")
        ),
        (lambda: {"shift": 3.0}, {}, "_class_name.*such as CogVideoXDDIM.*UniPC.*got None"),
        (lambda: {"_class_name": "AutoencoderKL"}, {}, "such as Cog.*got 'AutoencoderKL'"),
        (lambda: {"_class_name": "PNDMScheduler"}, {}, "among Cog.*got PNDMScheduler"),
        (
            lambda: {
                "_class_name": EULER,
                "use_karras_sigmas": True,
                "use_beta_sigmas": True,
            },
            {},
            f"a configuration of {EULER}; got one with which Only one",
        ),
    ],
)
def test_what_is_refused(scheduler: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ss.errors.IncompatibleError, match=match):
        ss.interop.from_scheduler(scheduler(), 10, **options)


def test_heun_in_t_is_nearer_to_the_flow_than_theirs() -> None:
    """Against the velocity's own loop in float64; theirs divides a difference by a small σ."""
    scheduler, net = scheduler_of(HEUN, shift=0.5), unet()
    sampler, x = ss.interop.from_scheduler(scheduler, 3), draws(1)[0].double()
    assert sampler.data_std == 0 and sampler.start_std == sampler.sde.T
    found = sampler.sample(ss.load_diffusers(net, scheduler), SHAPE, init=draws(1)[0])
    rounded = theirs(scheduler, net, 3)
    sigmas = torch.unique_consecutive(scheduler.sigmas.double()).tolist()
    net.double()
    with torch.no_grad():
        for sigma, after in pairwise(sigmas):
            v = net(x, torch.tensor(1000 * sigma)).sample
            y = x + (after - sigma) * v
            if after:
                v = 0.5 * (v + net(y, torch.tensor(1000 * after)).sample)
            x = x + (after - sigma) * v
    assert (found - x).abs().max() < 1e-6 * x.abs().max() < (rounded - x).abs().max()


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_configuration_is_its_scheduler(name: str, tmp_path: Path) -> None:
    scheduler = scheduler_of(name)
    expected, net = ss.interop.from_scheduler(scheduler, 7), unet()
    scheduler.save_pretrained(tmp_path / "scheduler")
    file = tmp_path / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    assert config["_class_name"] == name
    for source in (config, file, str(file), file.parent, tmp_path):
        with torch.device("meta"):
            found = ss.interop.from_scheduler(source, 7)
        assert found == expected and torch.equal(found.times, expected.times)
    model, again = ss.load_diffusers(net, scheduler), ss.load_diffusers(net, config)
    assert (again.sde, again.prediction) == (model.sde, model.prediction)
    x = draws(1)[0]
    assert torch.equal(again(x, 0.5), model(x, 0.5))


def test_a_path_without_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"to be or to hold scheduler_config\.json"):
        ss.interop.from_scheduler(tmp_path, 7)
    for text, match in (("{", "JSON in"), ("[1]", "options in")):
        (tmp_path / "scheduler_config.json").write_text(text)
        with pytest.raises(ss.errors.CheckpointError, match=match):
            ss.interop.from_scheduler(tmp_path, 7)


@pytest.mark.parametrize("steps", [0, 2.5])
def test_steps_are_a_number(steps: Any) -> None:
    with pytest.raises(ss.errors.ParameterError, match="steps"):
        ss.interop.from_scheduler(scheduler_of("DDIMScheduler"), steps)


def test_a_last_step_of_the_first_order() -> None:
    """DDIM's step at the end, and the method's own before; a correction is refused."""
    sde = ss.VPSDE()
    times = torch.linspace(1.0, 0.1, 6, dtype=torch.float64)
    method = ss.ExponentialAdams(points=3)
    found = ss.interop.FirstOrderLast(method).tableau(sde, times)
    own, ddim = method.tableau(sde, times), ss.ExponentialAdams(points=1).tableau(sde, times)
    assert torch.equal(found.b[:-1], own.b[:-1])
    assert torch.allclose(found.b[-1, 0, :1], ddim.b[-1, 0, :1])
    assert not found.b[-1, 0, 1:].any() and torch.equal(found.a, own.a)
    last = ss.interop.FirstOrderLast
    assert last(method).order == 2 and last(ss.ExponentialAdams(eta=0.5)).eta == 0.5
    with pytest.raises(ss.errors.IncompatibleError, match="without a correction"):
        last(ss.ExponentialAdams(corrector_points=3))
