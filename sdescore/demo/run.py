"""The demonstration from beginning to end: train, sample, measure, draw."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdescore import __version__
from sdescore.analysis.optimal_grid.recommended import recommended_sampler
from sdescore.checkpoint.store import load
from sdescore.demo.conditional import one_class_a_row
from sdescore.demo.field import score_field
from sdescore.demo.judge import Judge
from sdescore.demo.recipes import RECIPES, digit_model, make_sampler
from sdescore.demo.threads import fastest_threads
from sdescore.losses.denoising import denoising_loss
from sdescore.plotting import plot_rows, plot_trajectory
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.score.model import ScoreModel
from sdescore.training.loop import train

__all__ = ["DemoOptions", "run_demo"]

BATCH = 128
SHOWN = 20  # images in a row of the figures
FEW = 10  # evaluations of the sampler whose times are fitted to the data
say = partial(print, flush=True)


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the command line can change."""

    sdes: Sequence[str] = ("ve", "vp")
    predictors: Sequence[str] = ("euler-maruyama", "reverse-diffusion", "ancestral", "ddim")
    correctors: Sequence[str] = ("none", "langevin")
    steps: int = 100
    train_steps: int = 1600
    samples: int = 400
    seed: int = 0
    device: str = "cpu"
    out: Path = Path("out")
    conditional: bool = False


def run_demo(options: DemoOptions) -> dict[str, Any]:
    """Leave checkpoints, figures and ``results.json`` in ``options.out``; return the results."""
    started = time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    say("Fitting a classifier on the real digits")
    judge = Judge(options.samples, options.seed)
    with fastest_threads(_training_step(judge, options)) as threads:
        say(f"Threads: {threads}, which was the faster in a short trial")
        return _run(judge, options, started)


def _training_step(judge: Judge, options: DemoOptions) -> Callable[[], object]:
    """A step of the first model's training, as far as its gradients."""
    model = digit_model(options.sdes[0]).to(options.device)
    batch = judge.images[:BATCH].to(options.device)
    generator = torch.Generator(options.device).manual_seed(options.seed)

    def step() -> None:
        denoising_loss(model, batch, generator=generator).mean.backward()  # type: ignore[no-untyped-call]

    return step


def _run(judge: Judge, options: DemoOptions, started: float) -> dict[str, Any]:
    results: dict[str, Any] = {
        "command": "python -m sdescore demo",
        "options": {k: str(v) if k == "out" else v for k, v in vars(options).items()},
        "versions": {
            "sdescore": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "threads": torch.get_num_threads(),
        "reference": judge.report,
    }
    if options.conditional:
        target = options.out / "conditional.json"
        results["conditional"] = _conditional(judge, options)
    else:
        target = options.out / "results.json"
        results["models"] = {name: _one_model(name, judge, options) for name in options.sdes}
        say("Learning a score field on 2-D data")
        field = options.out / "score_field.png"
        results["score_field"] = score_field(field, options.seed, options.train_steps)
    results["seconds"] = time.perf_counter() - started
    target.write_text(json.dumps(results, indent=1) + "\n")
    files = f"figures, checkpoints and {target.name} are in {options.out}/"
    say(f"Done in {results['seconds']:.0f} s; {files}")
    return results


def _conditional(judge: Judge, options: DemoOptions) -> dict[str, Any]:
    """A model of the first SDE with the digits' classes, by the recommended sampler."""
    model, training = _trained(options.sdes[0], judge, options, classes=10)
    few = max(2, min(FEW, options.steps))
    sampler = recommended_sampler(model, few, data=judge.images)
    return training | one_class_a_row(model, sampler, judge, options.seed, options.out)


def _trained(
    name: str, judge: Judge, options: DemoOptions, classes: int | None = None
) -> tuple[ScoreModel, dict[str, Any]]:
    """The recipe's model, and what its training was; with ``classes``, a conditional one."""
    recipe, labels = RECIPES[name], None if classes is None else judge.labels
    path = options.out / f"{name}{'' if classes is None else '_conditional'}.safetensors"
    say(f"\n{name}: {recipe.title}")
    torch.manual_seed(options.seed)
    result = train(
        digit_model(name, classes),
        judge.images,
        labels=labels,
        label_dropout=0.0 if classes is None else 0.1,
        steps=options.train_steps,
        batch_size=BATCH,
        lr=2e-3,
        ema_decay=0.998,
        seed=options.seed,
        standardize=False,  # the recipes know the digits' scale
        device=options.device,
        path=path,
        info={"event_shape": [1, 8, 8], "data": "scikit-learn's 8×8 digits in [−1, 1]"},
    )
    report: dict[str, Any] = {
        "sde": recipe.title,
        "training": {
            "steps": result.step,
            "seconds": result.seconds,
            "loss_last_100": statistics.fmean(result.losses[-100:]),
        },
    }
    return load(path, device=options.device), report


def _one_model(name: str, judge: Judge, options: DemoOptions) -> dict[str, Any]:
    recipe = RECIPES[name]
    model, report = _trained(name, judge, options)
    report["samplers"] = {}
    rows = {"real digits": judge.images[:SHOWN]}
    for label, sampler in _samplers(name, model, judge.images, options).items():
        started = time.perf_counter()
        shape = (options.samples, 1, 8, 8)
        x = sampler.sample(model, shape, seed=options.seed, max_batch=256).cpu()
        seconds = time.perf_counter() - started
        verdict = {"evaluations": sampler.evaluations, "seconds": seconds, **judge(x)}
        report["samplers"][label] = verdict
        rows[label] = x[:SHOWN]
        say(
            f"  {label:32s} sliced W2 {verdict['sliced_w2']['relative']:5.2f} × real, "
            f"nearest real {verdict['nearest_real']:.2f}, {verdict['classes']:2d} classes, "
            f"confidence {verdict['confidence']:.2f}, {seconds:5.1f} s"
        )
    title = f"{recipe.title} · {options.steps} steps"
    plot_rows(rows, columns=SHOWN, title=title).savefig(options.out / f"{name}.png", dpi=110)
    _trajectory(name, model, options)
    return report


def _samplers(
    name: str, model: ScoreModel, images: Tensor, options: DemoOptions
) -> dict[str, PredictorCorrector]:
    """The default, the recommended one, every predictor with every corrector, and NCSN's own."""
    few = max(2, min(FEW, options.steps))
    samplers = {
        "default": PredictorCorrector(model.sde, steps=options.steps),
        f"recommended, {few} evaluations": recommended_sampler(model, few, data=images),
    }
    samplers |= {
        predictor if corrector == "none" else f"{predictor} + {corrector}": make_sampler(
            model.sde, predictor, corrector, options.steps
        )
        for predictor in options.predictors
        for corrector in options.correctors
    }
    if RECIPES[name].ladder:
        samplers["annealed Langevin"] = make_sampler(model.sde, "none", "annealed-langevin", None)
    return samplers


def _trajectory(name: str, model: ScoreModel, options: DemoOptions, columns: int = 12) -> None:
    """A strip of eight samples on their way from noise to data."""
    sampler = make_sampler(model.sde, "exponential-adams", "none", options.steps)
    run = sampler.iterate(model, (8, 1, 8, 8), seed=options.seed)
    states = [(state.t, state.x.cpu().clone()) for state in run]
    shown = min(columns, len(states))
    indices = [round(i * (len(states) - 1) / max(shown - 1, 1)) for i in range(shown)]
    times, x = zip(*(states[i] for i in indices), strict=True)
    title = f"{RECIPES[name].title}: from noise to data"
    figure = plot_trajectory(x, times, value_range=None, title=title)
    figure.savefig(options.out / f"{name}_trajectory.png", dpi=110)
