"""Langevin chains that persist from one training step to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError

__all__ = ["ReplayBuffer"]


class ReplayBuffer:
    """Chains that go on from one training step to the next (Tieleman 2008; Du & Mordatch 2019).

    Take some chains out, run them a little under the present energy, and put them back. Each chain
    that is taken out starts afresh with probability ``reinit``, so that modes which the chains have
    left can be found again. A ``reinit`` of 0 gives Tieleman's persistent chain.

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
    ParameterError
        ``size``, ``reinit`` or ``seed`` out of range.
    IncompatibleError
        ``fresh`` cannot be called.
    ShapeError
        ``fresh`` returned no state of that many rows.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> energy = ss.EnergyModel(lambda x: -0.5 * x.square().sum(-1))
    >>> buffer = ss.losses.ReplayBuffer(100, lambda n, g: torch.randn(n, 2, generator=g))
    >>> index, start = buffer.draw(16)
    >>> buffer.update(index, ss.langevin.chains(energy, start, 0.1, 5, seed=1).x)
    """

    def __init__(
        self,
        size: int,
        fresh: Callable[[int, torch.Generator], Tensor],
        *,
        reinit: float = 0.05,
        seed: int = 0,
    ) -> None:
        size = checks.count("size", size)
        self.reinit = checks.number("reinit", reinit, at_least=0, at_most=1)
        self._fresh = checks.function("fresh", fresh)
        self._generator = torch.Generator("cpu").manual_seed(checks.count("seed", seed, at_least=0))
        chains = fresh(size, self._generator)
        checks.state(chains, "the fresh chains")
        expected = f"fresh({size}, generator) to make {size} rows"
        checks.that(len(chains) == size, expected, tuple(chains.shape), ShapeError)
        self.chains = chains.detach().clone()

    def __len__(self) -> int:
        return len(self.chains)

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """``n`` different chains: their indices, ``(n,)`` int64, and their states ``(n, *E)``.

        Raises
        ------
        ParameterError
            ``n`` is not in 1 … size.
        ShapeError
            ``fresh`` returned another shape than at first.
        """
        n = checks.count("n", n, at_most=len(self))
        source = self._generator
        order = torch.randperm(len(self), generator=source, device="cpu", dtype=torch.int64)
        index = order[:n].to(self.chains.device)
        x = self.chains[index]
        u = torch.rand(n, generator=source, device="cpu", dtype=torch.float32)
        again = (u < self.reinit).nonzero().flatten()
        if len(again):
            fresh = self._fresh(len(again), source).to(x)
            again = again.to(x.device)
            checks.same_shape(fresh, x[again], "the fresh chains", "those in the buffer")
            x[again] = fresh
        return index, x

    def update(self, index: Tensor, x: Tensor) -> None:
        """Put the chains ``index`` ``(n,)`` back at ``x`` ``(n, *E)``.

        Raises
        ------
        ShapeError
            ``index`` does not hold different chains of the buffer, or ``x`` does not fit.
        ParameterError
            NaN or infinity in ``x`` in the buffer's dtype, which no later run would get rid of.
        """
        drawn = isinstance(index, Tensor) and index.dtype == torch.int64 and index.ndim == 1
        found = set(index.tolist()) if drawn else set()
        if not drawn or len(found) != len(index) or not found <= set(range(len(self))):
            expected = f"the index that draw() gave, different integers in 0 … {len(self) - 1}"
            checks.refuse(expected, f"{index!r:.100}", ShapeError)
        checks.same_shape(x, self.chains[index], "x", "the chains drawn")
        self.chains[index] = self._as_chains(x, "x")

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the chains and of the generator's state, for a checkpoint."""
        return {"chains": self.chains.clone(), "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where :meth:`state_dict` was taken, draw for draw.

        Raises
        ------
        IncompatibleError
            Other entries than a buffer's, or no state of a generator.
        ShapeError, ParameterError
            Chains that do not fit, as in :meth:`update`.
        """
        found = list(state) if isinstance(state, Mapping) else type(state).__name__
        if set(found) != {"chains", "generator"}:
            got = f"{found!r:.200}; pass what ReplayBuffer.state_dict() returned"
            checks.refuse("the entries chains and generator", got, IncompatibleError)
        chains, generator = state["chains"], state["generator"]
        checks.same_shape(chains, self.chains, "the saved chains", "those of this buffer")
        saved = self._as_chains(chains, "the saved chains")
        try:
            restored = torch.Generator("cpu")
            restored.set_state(generator.cpu())
        except (AttributeError, TypeError, RuntimeError) as error:
            raise IncompatibleError(
                f"expected the state of a generator, got {generator!r:.100}: {error!s:.100}"
            ) from None
        self._generator = restored
        self.chains.copy_(saved)

    def _as_chains(self, x: Tensor, name: str) -> Tensor:
        """``x`` like the chains, refused unless it is finite in their dtype."""
        found = x.detach().to(self.chains)
        checks.that(bool(found.isfinite().all()), "finite chains", f"NaN or infinity in {name}")
        return found
