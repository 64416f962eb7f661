r"""Exponential Runge–Kutta methods in log-SNR: DPM-Solver, DPM-Solver++ (S) and SEEDS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ScheduleError
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.exponential import FAR, OUTPUTS, clock, exponential_step
from sdescore.tableau.method import EtaPredictor
from sdescore.tableau.tableau import Tableau

__all__ = ["ExponentialRungeKutta"]

HIGHEST, NOISY = 3, 2
NEAREST = 0.01  # The weights of two outputs grow like 1/node, and with them the model's error.


@dataclass(frozen=True)
class ExponentialRungeKutta(EtaPredictor):
    r"""``stages`` evaluations a step, equally far apart in λ.

    With p = ``stages`` the model is called at :math:`\lambda_j = \lambda_t + j h/p`, j < p. The
    state at :math:`\lambda_{j+1}` comes from the start of the step by the exact solution in
    :mod:`sdescore.tableau.exponential`, where the integrand is the newest output for p <= 2,
    and for p = 3 the line in λ through the first output and the newest. That is

    ======  =======  ===  ==================================================================
    stages  output   η    method
    ======  =======  ===  ==================================================================
    1       either   0    DDIM
    2, 3    epsilon  0    DPM-Solver-2, -3 (Lu et al. 2022a, arXiv:2206.00927, algorithms 1–2)
    2       x0       0    DPM-Solver++(2S) (Lu et al. 2022b, arXiv:2211.01095, algorithm 1)
    3       x0       0    DPM-Solver-3 with x₀ in place of ε
    1–3     epsilon  1    SEEDS-1, -2, -3 (Gonzalez et al. 2023, arXiv:2305.14267, alg. 1–3)
    ======  =======  ===  ==================================================================

    with the papers' :math:`r_1 = 1/2` and :math:`(r_1, r_2) = (1/3, 2/3)`. At η > 0 each interval
    between two nodes has its own noise. The state at a node contains the noises of all intervals
    before it, carried there by the exact solution, so all stages are on one path.

    Parameters
    ----------
    eta : float
        Noise scale in [0, 1]: 0 the probability flow, 1 the reverse SDE.
    stages : int
        Evaluations a step, 1 to 3.
    output : {"x0", "epsilon"}
        What the polynomial approximates. x₀ stays bounded where σ → 0.
    node : float, optional
        For two stages: call the model at :math:`\lambda_t + r_1 h` with this :math:`r_1` in
        [0.01, 1), and end with the line through both outputs. Every node gives order 2. At η = 1
        the node 2/5 leaves little error of the distribution on Gaussian data.

    Raises
    ------
    ParameterError, IncompatibleError
        A parameter out of range.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore([2.0], 0.25, sde)
    >>> sampler = ss.PredictorCorrector(sde, predictor=ss.ExponentialRungeKutta(), steps=20)
    >>> x = sampler.sample(score, shape=(4000, 1), seed=0)
    >>> round(x.mean().item(), 1), round(x.std().item(), 1)
    (2.0, 0.5)
    """

    eta: float = 0.0
    stages: int = 2
    output: str = "x0"
    node: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        stages = checks.count("stages", self.stages, at_most=HIGHEST)
        checks.choice("output", self.output, OUTPUTS)
        node = self.node
        if node is not None:
            checks.that(stages == 2, "stages=2 beside node=", f"stages={stages}")
            node = checks.number("node", node, at_least=NEAREST, below=1)
        vars(self).update(stages=stages, node=node)

    @classmethod
    def examples(cls) -> Sequence[ExponentialRungeKutta]:
        return [
            *(cls(stages=p, output=o) for o in OUTPUTS for p in (1, 2, 3)),
            *(cls(eta=1.0, stages=p, output="epsilon") for p in (1, 2, 3)),
            cls(eta=1.0, node=0.4),
        ]

    @property
    def order(self) -> int:  # type: ignore[override]
        """Of the error of the distribution on Gaussian data: ``stages`` at η = 0, and at most 2 at
        η > 0, where the order along one Brownian path is 1."""
        return min(self.stages, NOISY) if self.eta else self.stages

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        p, first, last = self.stages, times[:-1], times[1:]
        lam = clock(sde, times)
        got = "alpha_t = 0; use ExponentialAdams()"
        finite = p == 1 or bool((lam > FAR).all())
        checks.that(finite, "alpha_t > 0 for several stages a step", got, ScheduleError)
        shares = [j / p for j in range(p)] if self.node is None else [0.0, self.node]
        inner = [
            sde.time_at_half_log_snr(torch.lerp(lam[:-1], lam[1:], share)) for share in shares[1:]
        ]
        nodes = torch.stack([first, *inner, last], 1)
        offsets = lam.diff()[:, None] * times.new_tensor(shares)
        a, b, c = [], [], []
        noise = times.new_zeros(len(first), p if self.eta else 0)
        for j in range(p):
            move = exponential_step(sde, first, nodes[:, j + 1], self.output, self.eta)
            used = [0, j] if j and (p == 3 or self.node is not None) else [j]
            a.append(move.a)
            weights = times.new_zeros(len(first), p)
            weights[:, [j - i for i in used]] = move.weights(offsets[:, used])
            b.append(weights)
            if self.eta:
                part = exponential_step(sde, nodes[:, j], nodes[:, j + 1], self.output, self.eta)
                own = times.new_zeros(len(first), p)
                own[:, j] = part.c
                noise = part.a[:, None] * noise + own
            c.append(noise)
        spans = torch.stack([nodes[:, :-1], nodes[:, 1:]], -1) if self.eta else None
        a_all, b_all, c_all = (torch.stack(v, 1) for v in (a, b, c))
        return Tableau(nodes[:, :-1], a_all, b_all, c_all, self.output, spans=spans)
