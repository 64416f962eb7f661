r"""Energy-based models by maximum likelihood.

The likelihood of :math:`p_\theta = e^{f_\theta} / Z_\theta` has an unknown Z, but its gradient has
none (Song & Kingma 2021, arXiv:2101.03288, section 2):

.. math::
   \nabla_\theta\, E_{data}[-\log p_\theta(x)]
   = E_{p_\theta}[\nabla_\theta f_\theta(\tilde x)] - E_{data}[\nabla_\theta f_\theta(x)] ,

which is that of :func:`contrastive_divergence_loss` where the negatives :math:`\tilde x` come from
the model. Langevin chains make them, :func:`sdescore.langevin.chains`, and where the chains
start names the method:

===========================  ===================================================================
contrastive divergence       at the data, few steps (Hinton 2002, Neural Computation 14(8))
persistent (PCD)             where they ended: :class:`ReplayBuffer` (Tieleman 2008, ICML)
with reinitialisation        the same, a share afresh (Du & Mordatch 2019, arXiv:1903.08689)
===========================  ===================================================================

What is fitted is the law of the *chain*. Short chains from the data are biased: with one small
step the fixed point is implicit score matching's (Hyvärinen 2007, "Connections between score
matching, contrastive divergence, and pseudolikelihood"). Unadjusted steps are biased however long
the chains are; ``method="mala"`` is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sdescore.checks import finite, is_count, require, require_same_shape, require_state
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.losses.given import check_samples, density, score_time
from sdescore.losses.loss import Loss
from sdescore.score.interface import log_density_of
from sdescore.typing import Time

__all__ = ["ReplayBuffer", "contrastive_divergence_loss"]


def contrastive_divergence_loss(
    energy: object,
    x: Tensor,
    negatives: Tensor,
    *,
    t: Time | None = None,
    penalty: float = 0.0,
) -> Loss:
    r"""``f(x̃) − f(x)``, whose gradient is that of the negative log-likelihood.

    Its value is not the likelihood and does not fall in training: near 0 it says that the energy
    takes data and negatives for the same.

    Parameters
    ----------
    energy : EnergyModel, ScoreModel or object
        A score that knows its log density f, e.g. ``EnergyModel(net)``.
    x : Tensor
        Data ``(B, *E)``, B >= 1.
    negatives : Tensor
        Samples of the model, like ``x``; no gradient flows into them.
    t : float or Tensor, optional
        ``()`` or ``(B,)``, handed to the log density of an energy that takes a time; ``x`` is
        noised data then.
    penalty : float
        λ >= 0 of :math:`\lambda (f(x)^2 + f(\tilde x)^2)`, which keeps near 0 what is free up to a
        constant (Du & Mordatch 2019, section 3.3).

    Returns
    -------
    Loss
        ``(per_sample, mean)``.

    Raises
    ------
    ShapeError
        ``x`` is not ``(B, *E)`` in floating point with B >= 1, ``negatives`` or ``t`` does not fit
        it, or the log density is not one scalar a sample.
    TimeError
        ``t`` is not finite, or outside the SDE of an energy that has one.
    IncompatibleError
        The score knows no log density, or needs a time and got none.
    ScheduleError
        ``penalty`` is negative or not finite.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> from sdescore.losses.contrastive import contrastive_divergence_loss
    >>> energy = ss.EnergyModel(lambda x: -0.5 * x.square().sum(-1))
    >>> contrastive_divergence_loss(energy, torch.zeros(1, 2), torch.ones(1, 2)).mean
    tensor(-1.)
    """
    log_density_of(energy)  # refuses a score without
    check_samples(energy, x)
    require_same_shape(negatives, x, "negatives")
    require(finite(penalty) and penalty >= 0, "penalty >= 0", f"{penalty!r}")
    time = score_time(energy, x, t)
    data, model = density(energy, time, x), density(energy, time, negatives.detach().to(x))
    per_sample = model - data
    if penalty > 0:
        per_sample = per_sample + penalty * (data.square() + model.square())
    return Loss(per_sample, per_sample.mean())


class ReplayBuffer:
    """Chains that go on from one training step to the next.

    Take some out, run them a little under the present energy, put them back. Each chain taken
    out is started afresh with probability ``reinit``, so that modes the chains have left can be
    found again; 0 is Tieleman's persistent chain, 1 starts all afresh.

    Parameters
    ----------
    size : int
        Number of chains, >= 1.
    fresh : callable
        ``fresh(n, generator)``, n new starts ``(n, *E)``: noise, or data picked at random. It
        decides the chains' shape, dtype and device.
    reinit : float
        In [0, 1].
    seed : int
        Seeds the buffer's own generator, which lives on the CPU and which ``fresh`` is given.

    Attributes
    ----------
    chains : Tensor
        ``(size, *E)``.

    Raises
    ------
    ScheduleError
        ``size``, ``reinit`` or ``seed`` out of range.
    IncompatibleError
        ``fresh`` cannot be called.
    ShapeError
        ``fresh`` returned no state of that many rows.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> from sdescore.losses.contrastive import ReplayBuffer
    >>> from sdescore.langevin.chains import chains
    >>> energy = ss.EnergyModel(lambda x: -0.5 * x.square().sum(-1))
    >>> buffer = ReplayBuffer(100, lambda n, g: torch.randn(n, 2, generator=g))
    >>> index, start = buffer.draw(16)
    >>> buffer.update(index, chains(energy, start, 0.1, 5, seed=1).x)
    """

    def __init__(
        self,
        size: int,
        fresh: Callable[[int, torch.Generator], Tensor],
        *,
        reinit: float = 0.05,
        seed: int = 0,
    ) -> None:
        require(is_count(size) and size >= 1, "a buffer of size >= 1", f"{size!r}")
        require(finite(reinit) and 0 <= reinit <= 1, "0 <= reinit <= 1", f"{reinit!r}")
        require(is_count(seed), "an integer seed >= 0", f"{seed!r}")
        if isinstance(fresh, type) or not callable(fresh):
            raise IncompatibleError(f"expected a callable fresh(n, generator), got {fresh!r:.200}")
        self.reinit = reinit
        self._fresh = fresh
        self._generator = torch.Generator().manual_seed(seed)
        chains = fresh(size, self._generator)
        require_state(chains, "the fresh chains")
        if len(chains) != size:
            raise ShapeError(
                f"expected fresh({size}, generator) to make {size} rows, got {tuple(chains.shape)}"
            )
        self.chains = chains.detach().clone()

    def __len__(self) -> int:
        return len(self.chains)

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """``n`` different chains: which they are, ``(n,)`` int64, and their states ``(n, *E)``.

        Raises
        ------
        ScheduleError
            ``n`` is not in 1 … size.
        ShapeError
            ``fresh`` returned another shape than at first.
        """
        require(is_count(n) and 1 <= n <= len(self), f"1 <= n <= {len(self)} chains", f"{n!r}")
        index = torch.randperm(len(self), generator=self._generator)[:n].to(self.chains.device)
        x = self.chains[index]
        again = (torch.rand(n, generator=self._generator) < self.reinit).nonzero().flatten()
        if len(again):
            fresh = self._fresh(len(again), self._generator).to(x)
            again = again.to(x.device)
            require_same_shape(fresh, x[again], "the fresh chains", "those in the buffer")
            x[again] = fresh
        return index, x

    def update(self, index: Tensor, x: Tensor) -> None:
        """Put the chains ``index`` ``(n,)`` back at ``x`` ``(n, *E)``.

        Raises
        ------
        ShapeError
            ``index`` is not of different places in the buffer, or ``x`` does not fit.
        ScheduleError
            NaN or infinity in ``x`` as the buffer keeps it, which no later run would get rid of.
        """
        if (
            not isinstance(index, Tensor)
            or index.dtype != torch.int64
            or index.ndim != 1
            or not bool(((index >= 0) & (index < len(self))).all())
            or len(set(index.tolist())) != len(index)
        ):
            raise ShapeError(
                f"expected the index that draw() gave, different integers in 0 … {len(self) - 1}, "
                f"got {index!r:.100}"
            )
        require_same_shape(x, self.chains[index], "x", "the chains drawn")
        self.chains[index] = self._kept(x, "x")

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the chains and of the generator's state, for a checkpoint."""
        return {"chains": self.chains.clone(), "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where :meth:`state_dict` was taken, draw for draw.

        Raises
        ------
        IncompatibleError
            Other entries than a buffer's, or no state of a generator.
        ShapeError
            Chains of another shape.
        ScheduleError
            NaN or infinity in the chains as the buffer keeps them.
        """
        if not isinstance(state, Mapping) or set(state) != {"chains", "generator"}:
            got = list(state) if isinstance(state, Mapping) else type(state).__name__
            raise IncompatibleError(
                f"expected the entries chains and generator, got {got!r:.200}; pass what "
                "ReplayBuffer.state_dict() returned"
            )
        chains, generator = state["chains"], state["generator"]
        require_same_shape(chains, self.chains, "the saved chains", "those of this buffer")
        kept = self._kept(chains, "the saved chains")
        try:
            restored = torch.Generator()
            restored.set_state(generator.cpu())
        except (AttributeError, TypeError, RuntimeError) as error:
            raise IncompatibleError(
                f"expected the state of a generator, got {generator!r:.100}: {error!s:.100}"
            ) from None
        self._generator = restored
        self.chains.copy_(kept)

    def _kept(self, x: Tensor, name: str) -> Tensor:
        """``x`` like the chains, refused unless it is finite in their dtype."""
        kept = x.detach().to(self.chains)
        require(bool(kept.isfinite().all()), "finite chains", f"NaN or infinity in {name}")
        return kept
