r"""Whether a chain has steps enough for its method: its exact gain on Gaussian data, before a run.

The chain starts from the diffused data of a few Gaussian modes, in units of the data, and its
variance where the last denoise begins is compared with the diffused data's there. A flat
background has :math:`\Lambda = 0`: what it holds at the end is noise alone. Too much of it means
that the last step draws more noise than the model is told of. Wider modes show a method that is
unstable: its stages multiply what came before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from sdescore.errors import ScheduleError, StepsWarning
from sdescore.grids.base import CustomGrid, Grid
from sdescore.samplers.predictor_corrector.chain import Move, Program
from sdescore.samplers.predictor_corrector.exact import AffineRows, Spectrum
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import Predictor

LIMIT = 4.0  # times too wide
NOISE_LIMIT, VISIBLE = 2.0, 0.01  # of a flat background; noise as far below the data is not seen
MOST_STEPS = 4096


def warn_of_few_steps(
    program: Program,
    sde: LinearSDE,
    predictor: Predictor,
    grid: Grid,
    times: Tensor,
    denoise: bool | str,
) -> None:
    """Warn where the predictor's moves leave a mode too wide, as ``excess`` says.

    A corrector is not judged: it may be made for data of a known width.
    """

    def enough(steps: int) -> bool:
        finer = grid.times(sde, steps if denoise else steps + 1)
        tableau = predictor.tableau(sde, finer)
        rows = [Move(n, 0.0, 0.0, tableau, n) for n in range(len(tableau))]
        return not bool(excess(rows, sde, finer)[2].any())

    moves = [row.move for row in program.rows if not row.move.corrects]
    std, ratio, wide = excess(moves[: -1 if denoise else None], sde, times)
    if not bool(wide.any()):
        return
    if wide[0]:
        sigma = sde.marginal(times[-1])[1].item()
        got = f"{ratio[0].item():.2g} times the noise {sigma:.2g} that should be left at the end"
    else:
        worst = int(ratio.argmax())
        got = (
            f"an unstable chain: a Gaussian of standard deviation {std[worst].item():.2g} comes "
            f"out {ratio[worst].item():.2g} times too wide"
        )
    steps = len(times) if denoise else len(times) - 1
    own = isinstance(grid, CustomGrid) or predictor.grid_times
    advice = "take finer times" if own else steps_needed(enough, steps)
    warnings.warn(
        f"expected steps that are short enough for {predictor!r} on {type(sde).__name__} with "
        f"{type(grid).__name__}; {steps} leave {got}; {advice}, or ExponentialAdams(midpoint=True) "
        "on LogSNRGrid(), the defaults",
        StepsWarning,
        stacklevel=4,  # the line that makes the sampler
    )


def excess(moves: list[Move], sde: LinearSDE, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Standard deviations of modes, how many times too wide the moves leave each, and if too much.

    Each is ``(4,)``. The modes are 0, the noise left at ``times[-1]`` in units of the data, 1, and
    the geometric mean of these two. ``LIMIT`` times shows an unstable method. Noise on the flat
    background is seen from ``NOISE_LIMIT`` times on, unless it is below ``VISIBLE``.
    """
    left = sde.noise_ratio(times[-1])
    std = torch.stack([0 * left, left, left.sqrt(), torch.ones_like(left)])
    if not moves or not left:  # nothing to go wrong, or no score at the end
        return std, torch.ones_like(std), std < 0
    modes = Spectrum(std.square(), torch.zeros_like(std))
    start, end = (modes.marginal(sde, t)[1] for t in times[[0, -1]])
    chain = AffineRows(moves).on(sde, modes)
    ratio = ((chain.transfer.square() * start + chain.variance) / end).sqrt()
    ratio = ratio.nan_to_num(nan=torch.inf)
    wide = ratio > LIMIT
    wide[0] |= (ratio[0] > NOISE_LIMIT) & (ratio[0] * left > VISIBLE)
    return std, ratio, wide


def steps_needed(enough: Callable[[int], bool], steps: int) -> str:
    """What number of steps is enough, at most a seventh too many."""
    few, many = steps, 2 * steps
    try:
        while not enough(many):
            few, many = many, 2 * many
            if many > MOST_STEPS:
                return f"{few} steps are too few as well: choose another grid"
        for _ in range(3):
            middle = (few + many) // 2
            few, many = (few, middle) if enough(middle) else (middle, many)
    except ScheduleError:  # a table has no more levels
        return f"{few} steps are too few, and the grid has no {many}: choose another predictor"
    return f"take {many} steps"
