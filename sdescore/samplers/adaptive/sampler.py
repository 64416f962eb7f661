r"""Adaptive sampling: every sample has its own time and its own step.

The reverse SDE of noise scale η, or at η = 0 the probability flow, from T to ``t_min`` in steps of
:math:`\lambda = \log(\alpha/\sigma)`. A trial step has an error estimate from an embedded pair
(:mod:`sdescore.samplers.adaptive.pairs`); a step within the tolerance is taken, another one is
tried again shorter (:mod:`sdescore.samplers.adaptive.controller`), on the same path
(:mod:`sdescore.samplers.adaptive.path`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.checks import finite, is_count, named, require
from sdescore.errors import DivergenceError, IncompatibleError
from sdescore.samplers.adaptive.denoiser import denoised, require_any_time, require_finite
from sdescore.samplers.adaptive.pairs import NOISY, SMOOTH
from sdescore.samplers.adaptive.run import Rules, run
from sdescore.samplers.model import Model
from sdescore.samplers.request import (
    Request,
    evaluating,
    make_request,
    progress_bar,
    require_mean_or_none,
)
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.exponential import half_log_snr

__all__ = ["AdaptiveResult", "AdaptiveSampler"]


@dataclass(frozen=True, eq=False)
class AdaptiveResult:
    """Samples, and what each of them cost.

    Attributes
    ----------
    x : Tensor
        ``(B, *E)``.
    accepted, rejected : Tensor
        ``(B,)`` int64 on the CPU: steps taken and steps tried in vain.
    evaluations : Tensor
        ``(B,)`` int64 on the CPU: score evaluations, the last denoise among them.
    """

    x: Tensor
    accepted: Tensor
    rejected: Tensor
    evaluations: Tensor


@dataclass(frozen=True)
class AdaptiveSampler:
    r"""Sampling to a tolerance in place of a number of steps (module docstring).

    The tolerance is on the error of single steps along a sample's own path, in the units of the
    state: elementwise :math:`atol + rtol\,|x|`, in root mean square over a sample. What that means
    for the law of the samples depends on the data; halve the tolerances to see. At η = 0 the error
    of the end falls in proportion to them. At η > 0 a step's error along the path, which is what
    the estimate sees, falls as :math:`h^{3/2}` alone, so that a tolerance ten times tighter costs
    4.6 times the evaluations, and the law is far better than the path.

    Parameters
    ----------
    sde : LinearSDE
        The forward SDE; the model's own.
    eta : float
        Noise scale in [0, 1]: 1 is the reverse SDE, 0 the probability-flow ODE.
    rtol, atol : float
        Tolerances, relative and in the units of the state; >= 0, and atol > 0.
    longest : float
        Longest step in λ, > 0. The estimate sees nothing behind a step's last node, so a step that
        jumps over where the samples part may look good.
    max_steps : int
        Steps that one sample may try, >= 1.
    denoise : bool
        Whether to end with Tweedie's mean at ``t_min``, one more evaluation.
    data_std : float
        The data's standard deviation, for a prior that remembers it (see
        :meth:`LinearSDE.prior_std`); 0 is the field's usual prior.

    Raises
    ------
    IncompatibleError
        An SDE that is not linear, or a ``denoise`` that is neither True nor False.
    ScheduleError
        A number out of its range, or an SDE whose log-SNR is infinite at T or ``t_min``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> from sdescore.samplers.adaptive.sampler import AdaptiveSampler
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore(torch.tensor([1.0, -2.0]), 0.25, sde)
    >>> result = AdaptiveSampler(sde).solve(score, shape=(1000, 2), seed=0)
    >>> bool((result.x.mean(0) - torch.tensor([1.0, -2.0])).abs().max() < 0.1)
    True
    """

    sde: LinearSDE
    eta: float = 1.0
    rtol: float = 0.05
    atol: float = 0.05
    longest: float = 1.5
    max_steps: int = 1000
    denoise: bool = True
    data_std: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.sde, LinearSDE):
            raise IncompatibleError(
                f"expected a LinearSDE, got {self.sde!r:.200}; for another SDE use "
                "PredictorCorrector with EulerMaruyama()"
            )
        require_mean_or_none(self.denoise)
        usable = finite(self.eta) and 0 <= self.eta <= 1
        require(usable, "0 <= eta <= 1", named("eta", self.eta))
        for name, value in (("rtol", self.rtol), ("data_std", self.data_std)):
            require(finite(value) and value >= 0, f"a finite {name} >= 0", named(name, value))
        for name, value in (("atol", self.atol), ("longest", self.longest)):
            require(finite(value) and value > 0, f"a finite {name} > 0", named(name, value))
        counted = is_count(self.max_steps) and self.max_steps >= 1
        require(counted, "an integer max_steps >= 1", named("max_steps", self.max_steps))
        require(
            all(map(finite, self._ends)),
            "an SDE with a finite log-SNR at T and t_min",
            f"log(alpha/sigma) = {self._ends[0]:g} and {self._ends[1]:g}",
        )

    @property
    def _ends(self) -> tuple[float, float]:
        """λ at T and at ``t_min``."""
        times = torch.tensor([self.sde.T, self.sde.t_min], dtype=torch.float64)
        first, last = half_log_snr(self.sde, times).tolist()
        return first, last

    @property
    def _rules(self) -> Rules:
        pair = NOISY if self.eta else SMOOTH
        return Rules(
            self.sde,
            pair,
            self.eta,
            self.rtol,
            self.atol,
            self.longest,
            self.max_steps,
            *self._ends,
        )

    def sample(
        self,
        model: Model,
        shape: tuple[int, ...] | None = None,
        *,
        seed: int = 0,
        init: Tensor | None = None,
        label: Tensor | None = None,
        max_batch: int | None = None,
        progress: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """The samples alone; arguments and errors as in :meth:`solve`."""
        return self.solve(
            model,
            shape,
            seed=seed,
            init=init,
            label=label,
            max_batch=max_batch,
            progress=progress,
            dtype=dtype,
            device=device,
        ).x

    def solve(
        self,
        model: Model,
        shape: tuple[int, ...] | None = None,
        *,
        seed: int = 0,
        init: Tensor | None = None,
        label: Tensor | None = None,
        max_batch: int | None = None,
        progress: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> AdaptiveResult:
        """Draw ``shape[0]`` samples, and count what each cost.

        Parameters
        ----------
        model : ScoreModel or callable
            A score ``(x, t) -> like x`` with ``t`` ``(B,)``; a module is put in eval mode
            meanwhile. The batch it is given shrinks as samples finish.
        shape : tuple of int
            ``(B, *E)``; optional where ``init`` is given.
        seed : int
            Sample ``i`` uses the stream (seed, i): its value and its steps depend neither on
            ``B`` nor on ``max_batch``, and it starts where it starts in
            :meth:`PredictorCorrector.sample`.
        init : Tensor, optional
            ``(B, *E)``, the state at T in place of a draw from the prior.
        label : Tensor, optional
            ``(B,)``, handed to the model as its third argument.
        max_batch : int, optional
            Run at most so many samples at a time.
        progress : bool
            Show a progress bar, of samples.
        dtype, device : optional
            Of the state; by default the model's, and at least float32.

        Returns
        -------
        AdaptiveResult
            The samples, and steps and evaluations of each.

        Raises
        ------
        ShapeError, IncompatibleError, ScheduleError, TimeError
            A bad argument, before the model is called.
        DivergenceError
            The score turned NaN or infinite, or a sample was not done after ``max_steps``;
            ``error.finished`` holds the chunks before.
        """
        request = make_request(
            self.sde, model, shape, seed, None, init, label, dtype, device, max_batch
        )
        # Any time may come; one that is no round number finds out a model of levels.
        some = torch.tensor([1.0, 0.6180339887, 0.0], dtype=torch.float64)
        require_any_time(model, self.sde.t_min + (self.sde.T - self.sde.t_min) * some)
        found: list[AdaptiveResult] = []
        with (
            evaluating(model),
            torch.no_grad(),
            progress_bar(progress, request.shape[0]) as move_bar,
        ):
            for samples in request.chunks:
                try:
                    found.append(self._run(request, samples, move_bar))
                except DivergenceError as error:
                    error.finished = torch.cat([r.x for r in found]) if found else None
                    raise
        if len(found) == 1:
            return found[0]
        parts = zip(*((r.x, r.accepted, r.rejected, r.evaluations) for r in found), strict=True)
        return AdaptiveResult(*map(torch.cat, parts))

    def _run(
        self, request: Request, samples: range, finish: Callable[[], object] | None
    ) -> AdaptiveResult:
        part, numbers = (
            slice(samples.start, samples.stop),
            torch.arange(samples.start, samples.stop),
        )
        label = None if request.label is None else request.label[part].to(request.device)
        evaluations = torch.zeros(len(samples), dtype=torch.int64)

        def evaluate(x: Tensor, t: Tensor, rows: Tensor, trial: int) -> Tensor:
            own = None if label is None else label[rows.to(label.device)]
            x0 = denoised(request.model, self.sde, x, t, own)
            require_finite(x0, t, numbers[rows], trial)
            evaluations[rows] += 1
            return x0

        stream = request.noise.open(
            samples,
            request.shape[1:],
            [None] * (1 + len(NOISY.nodes) * self.max_steps if self.eta else 1),
            dtype=request.dtype,
            device=request.device,
        )
        if request.init is not None:
            x = request.init[part].detach().to(request.device, request.dtype, copy=True)
        else:
            x = self.sde.prior_std(self.data_std) * stream.draw(0)
        x, accepted, rejected = run(self._rules, x, stream, evaluate, numbers, finish)
        if self.denoise and len(samples):
            t_min = torch.full((len(samples),), self.sde.t_min, dtype=torch.float64)
            trial = int((accepted + rejected).max()) + 1
            x = evaluate(x, t_min, torch.arange(len(samples)), trial)
        return AdaptiveResult(x, accepted, rejected, evaluations)
