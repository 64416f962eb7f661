r"""A predictor or corrector as a table of numbers.

On a linear SDE every step of every fixed-step method is affine in the state, the model's
outputs and the noise. Step ``n`` starts at :math:`y_{n,0} = x_n` and runs stages
``j = 0 … J−1``

.. math::
   o_{new} = \text{model}(y_{n,j},\, t_{n,j}), \qquad
   y_{n,j+1} = a_{n,j}\, x_n + \sum_h b_{n,j,h}\, o_h + \sum_k c_{n,j,k}\, z_{n,k},

and ends at :math:`x_{n+1} = y_{n,J}`. :math:`o_0` is the newest output and older ones follow,
across steps: a multistep method has H > 1, a multistage one J > 1. A method that adds noise
before it first calls the model starts at

.. math:: y_{n,0} = a'_n\, x_n + \sum_k c'_{n,k}\, z_{n,k}

instead. This is Butcher's table for linear SDEs. A method is a function (SDE, times) → tableau,
vectorised over the steps. :meth:`Tableau.step` is these equations in code; the samplers' loop
computes the same with fewer passes over memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.errors import ShapeError
from sdescore.sde.linear import LinearSDE

__all__ = ["Tableau", "flow_ending", "mean_ending", "no_stages", "one_stage"]


@dataclass(frozen=True, eq=False)
class Tableau:
    """Numbers of N steps with J stages, H outputs and K noises; float64.

    Attributes
    ----------
    times : Tensor
        ``(N, J)``: where the model is evaluated.
    a : Tensor
        ``(N, J)``: weight of the state at the start of the step.
    b : Tensor
        ``(N, J, H)``: weights of the outputs, newest first. An output that does not exist yet must
        have weight 0.
    c : Tensor
        ``(N, J, K)``: weights of the step's noises; a noise whose weights are all zero is
        not drawn.
    output : str
        What the outputs are: ``"score"``, ``"epsilon"``, ``"x0"`` or ``"v"``.
    start : (Tensor, Tensor) or None
        Weights of the state, ``(N,)``, and of the noises, ``(N, K)``, in :math:`y_{n,0}`; None
        where it is :math:`x_n`.
    spans : Tensor or None
        ``(N, K, 2)``: the later and the earlier end of the stretch of time that each noise
        drives the state over, so that all noises are increments of one Brownian path; two equal
        ends where no time passes. None where every noise is over the whole step.

    Raises
    ------
    ShapeError
        The tables do not fit together.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> times = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)
    >>> numbers = ss.DDIM(eta=1.0).tableau(ss.VPSDE(), times)
    >>> len(numbers), numbers.evaluations, numbers.noises  # two steps of one call and one noise
    (2, 1, 1)
    """

    times: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    output: str = "score"
    start: tuple[Tensor, Tensor] | None = None
    spans: Tensor | None = None

    def __post_init__(self) -> None:
        stages, a, b, c = self.times.shape, self.a.shape, self.b.shape, self.c.shape
        if len(stages) != 2 or not stages == a == b[:-1] == c[:-1]:
            raise ShapeError(
                "expected times and a of shape (N, J), b (N, J, H) and c (N, J, K); got "
                f"{tuple(stages)}, {tuple(a)}, {tuple(b)}, {tuple(c)}"
            )
        noises = (stages[0], c[-1])
        if self.start is not None and [v.shape for v in self.start] != [noises[:1], noises]:
            raise ShapeError(
                f"expected start of shapes {noises[:1]} and {noises}, weights of the state and of "
                f"the noises; got {', '.join(str(tuple(v.shape)) for v in self.start)}"
            )
        if self.spans is not None and self.spans.shape != (*noises, 2):
            raise ShapeError(
                f"expected spans of shape {(*noises, 2)}, two times a noise; got "
                f"{tuple(self.spans.shape)}"
            )

    def __len__(self) -> int:
        return len(self.times)

    @property
    def evaluations(self) -> int:
        """How often a step calls the model, which is the number of stages J."""
        return self.times.shape[1]

    @property
    def noises(self) -> int:
        """Noises a step: those with a weight other than 0 in some step."""
        weights = self.c if self.start is None else torch.cat([self.c, self.start[1][:, None]], 1)
        return int((weights != 0).flatten(0, 1).any(0).sum())

    def step(
        self,
        n: int,
        x: Tensor,
        outputs: list[Tensor],
        model: Callable[[Tensor, Tensor], Tensor],
        z: Sequence[Tensor],
    ) -> Tensor:
        """The state after step ``n``, like ``x``: what the numbers mean, as the formula says it.

        Parameters
        ----------
        n : int
            The step, 0 to N − 1.
        x : Tensor
            ``(B, *E)``, the state at the start of the step; it is not written to.
        outputs : list of Tensor
            The outputs of the steps before, each like ``x``, newest first; ``[]`` at the first
            step. The step puts its own outputs in front and removes those that no later step can
            use.
        model : callable
            ``model(y, t)`` for a state ``y`` like ``x`` and a time ``t`` ``()``: the output in the
            representation that the tableau asks for, like ``y``.
        z : sequence of Tensor
            The step's K noises, standard normal, each like ``x``.

        Examples
        --------
        >>> import torch, sdescore as ss
        >>> sde, times = ss.VPSDE(), torch.tensor([1.0, 0.5], dtype=torch.float64)
        >>> numbers = ss.DDIM().tableau(sde, times)
        >>> x, z = torch.randn(2, 4, 3, dtype=torch.float64)
        >>> score = ss.GaussianScore(torch.zeros(3), 1.0, sde)
        >>> numbers.step(0, x, [], score, [z]).shape
        torch.Size([4, 3])
        """
        y = x
        if self.start is not None:
            y = self.start[0][n] * x + weighted_sum(self.start[1][n], z, x)
        for j, t in enumerate(self.times[n]):
            outputs.insert(0, model(y, t))
            y = (
                self.a[n, j] * x
                + weighted_sum(self.b[n, j], outputs, x)
                + weighted_sum(self.c[n, j], z, x)
            )
        del outputs[self.b.shape[-1] :]
        return y


def weighted_sum(weights: Tensor, values: Sequence[Tensor], x: Tensor) -> Tensor:
    """``Σ_k weights[k] values[k]``, like ``x``. Values that do not exist yet have weight 0."""
    total = torch.zeros_like(x)
    for weight, value in zip(weights, values, strict=False):
        total = total + weight * value
    return total


def one_stage(times: Tensor, a: Tensor, b: Tensor, c: Tensor, output: str = "score") -> Tableau:
    """The tableau ``x ← a x + b o + c z`` of N one-stage steps, from ``(N,)`` numbers.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> times = torch.tensor([1.0, 0.5], dtype=torch.float64)
    >>> a, b, c = (torch.full((1,), v, dtype=torch.float64) for v in (2.0, 3.0, 0.0))
    >>> tableau = ss.tableau.one_stage(times, a, b, c)  # x ← 2 x + 3 o
    >>> tableau.step(0, torch.ones(1, 1), [], lambda x, t: -x, [torch.zeros(1, 1)]).item()
    -1.0
    """
    a, b, c = (v.expand(times.shape) for v in (a, b, c))
    return Tableau(times[:, None], a[:, None], b[:, None, None], c[:, None, None], output)


def no_stages(n: int) -> Tableau:
    """``n`` steps that leave the state as it is and do not call the model.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> rest = ss.tableau.no_stages(2)
    >>> rest.step(0, torch.tensor([[1.0, 2.0]]), [], None, []), rest.evaluations
    (tensor([[1., 2.]]), 0)
    """
    none = torch.zeros(n, 0, dtype=torch.float64, device="cpu")
    return Tableau(none, none, none[..., None], none[..., None])


def mean_ending(sde: LinearSDE, times: Tensor, share: float = 1.0) -> Tableau:
    r"""The last row of a chain: Tweedie's mean :math:`(x + \sigma^2 s)/\alpha` at ``times``.

    In :math:`\bar x = x/\alpha` the noise that is left has variance :math:`r^2 =
    \sigma^2/\alpha^2`, and Tweedie's mean is :math:`\hat x_0 = \bar x + r^2 \nabla \log
    p(\bar x)`. On a Gaussian mode of variance Λ it ends with variance :math:`\Lambda - r^2 +
    O(r^4)`, which is too smooth. ``share`` scales the score's weight.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> t = torch.tensor([2.0], dtype=torch.float64)
    >>> row = ss.tableau.mean_ending(ss.EDMSDE(), t)  # (x + σ² s)/α
    >>> row.a.item(), row.b.item()
    (1.0, 4.0)
    """
    alpha_t, sigma_t = sde.marginal(times)
    on_score = share * sigma_t.square() / alpha_t
    return one_stage(times, 1 / alpha_t, on_score, torch.zeros_like(times))


def flow_ending(sde: LinearSDE, times: Tensor) -> Tableau:
    r""":math:`(x + \tfrac12 \sigma^2 s)/\alpha` at ``times[-1]``: half of :func:`mean_ending`.

    It is the Euler step of the probability flow :math:`d\bar x/dr^2 = -\tfrac12 \nabla \log p`,
    and leaves :math:`\Lambda + r^4 / 4(\Lambda + r^2)` of a Gaussian mode's variance.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> t = torch.tensor([2.0], dtype=torch.float64)
    >>> row = ss.tableau.flow_ending(ss.EDMSDE(), t)
    >>> row.a.item(), row.b.item()
    (1.0, 2.0)
    """
    return mean_ending(sde, times[-1:], 0.5)
