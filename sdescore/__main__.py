"""The command line: ``python -m sdescore demo`` and ``python -m sdescore sample FILE``.

Under ``torchrun`` all processes sample together.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import distributed

from sdescore import checks
from sdescore.demo.recipes import CORRECTORS, PREDICTORS, RECIPES, make_sampler
from sdescore.demo.run import DemoOptions, run_demo
from sdescore.errors import CheckpointError, MissingFileError, SDEScoreError, ShapeError

__all__ = ["main"]

# What torchrun, and others like it, tell the processes that they start.
GROUP = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
MOST_NUMBERS = 2**31  # a file cannot ask for more memory than samples of this size take


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "demo":
            checks.device(arguments.device)
            asked = {k: v for k, v in vars(arguments).items() if k != "command"}
            run_demo(DemoOptions(**asked))
        else:
            with _process_group():
                _sample(arguments)
    except (SDEScoreError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        saved = "; the checkpoint that was being trained is saved" * (arguments.command == "demo")
        print(f"\nInterrupted{saved}.", file=sys.stderr)
        return 130
    return 0


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sdescore", description="Score-based diffusion")
    commands = parser.add_subparsers(dest="command", required=True)
    look = argparse.ArgumentDefaultsHelpFormatter

    about = "train on real digits, sample with every predictor and corrector"
    demo = commands.add_parser("demo", help=about, formatter_class=look)
    demo.add_argument("--sde", dest="sdes", nargs="+", choices=RECIPES)
    demo.add_argument("--predictor", dest="predictors", nargs="+", choices=PREDICTORS)
    demo.add_argument("--corrector", dest="correctors", nargs="+", choices=CORRECTORS)
    demo.add_argument("--steps", type=_positive, help="steps of each sampler")
    demo.add_argument("--train-steps", type=_positive)
    demo.add_argument("--samples", type=_positive, help="samples of each sampler")
    demo.add_argument("--out", type=Path, help="folder of all results")
    classes = "one model of the first SDE with the digits' classes, guided, one class a row"
    demo.add_argument("--conditional", action="store_true", help=classes)

    sample = commands.add_parser("sample", help="draw from a checkpoint", formatter_class=look)
    sample.add_argument("checkpoint", type=Path)
    sample.add_argument("-n", "--n", type=_positive, default=64, help="how many samples")
    sample.add_argument(
        "--shape", type=_positive, nargs="+", help="shape of a sample; else the file's event_shape"
    )
    sample.add_argument("--label", type=int, help="the class of all samples")
    sample.add_argument("--predictor", choices=PREDICTORS, default="exponential-adams")
    sample.add_argument("--corrector", choices=CORRECTORS, default="none")
    sample.add_argument("--steps", type=_positive, default=DemoOptions.steps)
    sample.add_argument("--max-batch", type=_positive, default=256, help="samples at a time")
    out = "a picture, a .npy file, or a folder of .npy shards; by default a .png beside it"
    sample.add_argument("--out", type=Path, help=out)

    demo.set_defaults(**vars(DemoOptions()))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for command in (demo, sample):
        command.add_argument("--seed", type=int, default=DemoOptions.seed)
        command.add_argument("--device", default=device, help="cpu or cuda")
    return parser


def _sample(arguments: argparse.Namespace) -> None:
    from sdescore.checkpoint.store import load
    from sdescore.plotting import plot_samples
    from sdescore.samplers.distributed import sample_distributed
    from sdescore.samplers.folder import sample_to_folder

    device, first = arguments.device, int(os.environ.get("RANK", 0)) == 0
    if device == "cuda" and distributed.is_initialized():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    model = load(arguments.checkpoint, device=checks.device(device))
    sampler = make_sampler(model.sde, arguments.predictor, arguments.corrector, arguments.steps)
    event_shape = arguments.shape or _event_shape(arguments.checkpoint)
    shape = (arguments.n, *event_shape)
    out = arguments.out or arguments.checkpoint.with_suffix(".samples.png")
    options: dict[str, Any] = {"seed": arguments.seed, "max_batch": arguments.max_batch}
    if arguments.label is not None:
        options["label"] = torch.full(shape[:1], arguments.label, dtype=torch.int64, device="cpu")
    if out.is_dir() or not out.suffix:
        sample_to_folder(sampler, model, shape, out, progress=True, **options)
    else:
        _check_out(out, event_shape)
        x = sample_distributed(sampler, model, shape, progress=True, **options)
        if first and out.suffix == ".npy":
            numpy.save(out, x.cpu().numpy())
        elif first:
            plot_samples(x.cpu()).savefig(out, dpi=110)
    if first:
        print(f"{arguments.n} samples in {out}")


@contextmanager
def _process_group() -> Iterator[None]:
    """The group of the processes that torchrun has started; none for one that stands alone."""
    if not os.environ.keys() >= GROUP:
        yield
        return
    distributed.init_process_group("gloo")  # what samplers say to each other goes over the CPU
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _event_shape(path: Path) -> tuple[int, ...]:
    """The shape of one sample, from the notes in a checkpoint or from the run that trained it."""
    from sdescore.checkpoint.store import read_manifest

    manifest = read_manifest(path)
    info, training = manifest.get("info"), manifest.get("training")
    run = training.get("options") if isinstance(training, dict) else None
    noted = [part["event_shape"] for part in (info, run) if part and "event_shape" in part]
    found: Any = noted[0] if noted else None
    counts = isinstance(found, list) and bool(found) and all(map(checks.is_count, found))
    if not counts or not 0 < math.prod(found) <= MOST_NUMBERS:
        raise CheckpointError(
            f"expected event_shape in the notes of {path} as a list of positive integers, of at "
            f"most {MOST_NUMBERS} numbers a sample, got {found!r:.80}; pass --shape"
        )
    return tuple(found)


def _check_out(out: Path, event_shape: Sequence[int]) -> None:
    """Refuse a file that could not be written, before the samples for it are drawn."""
    expected, got = "--out in a folder that exists", f"{out}; make it first"
    checks.that(out.parent.is_dir(), expected, got, MissingFileError)
    if out.suffix == ".npy":
        return
    from sdescore.plotting import plot_samples

    try:
        figure = plot_samples(torch.zeros(1, *event_shape, dtype=torch.float32, device="cpu"))
    except ShapeError:
        raise ShapeError(
            f"expected images to draw, (H, W) or (C, H, W) with C = 1 or 3, got samples of shape "
            f"{tuple(event_shape)}; save them with --out FILE.npy"
        ) from None
    kinds = figure.canvas.get_supported_filetypes()
    if out.suffix.lstrip(".").lower() not in kinds:
        raise ShapeError(f"expected --out FILE.npy or a picture such as FILE.png, got {out}")


if __name__ == "__main__":
    raise SystemExit(main())
