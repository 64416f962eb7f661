r"""A residual perceptron for vectors.

Each block normalises, mixes, is scaled and shifted by the time embedding (FiLM, Perez et al.
2018, Eq. 2) and adds its output to the stream:

.. math::

    u &= W_1\, \mathrm{norm}(h) \\
    h &\leftarrow h + W_2\, \mathrm{silu}\big((1 + \gamma(c)) \odot u + \beta(c)\big)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.nets.embedding import Conditioning

__all__ = ["MLP"]


class MLP(nn.Module):
    """A network for vector data ``(B, dim)``.

    Parameters
    ----------
    dim : int
        Dimension of the data.
    hidden : int
        Width of the stream and of the blocks.
    depth : int
        Number of residual blocks.
    embedding : {"positional", "fourier"}
        Time embedding. "positional" forgives any scale of ``c``; "fourier" wants its
        ``embedding_scale`` matched to ``c``.
    embedding_dim : int
        Number of time features; even.
    embedding_scale : float or None
        Scale of the frequencies; None is 30 for "positional", 1 for "fourier". What suits which
        range of ``c`` stands at :class:`~sdescore.nets.embedding.PositionalEmbedding` and
        :class:`~sdescore.nets.embedding.FourierEmbedding`.
    classes : int or None
        Number of classes; None builds a network without labels.

    Attributes
    ----------
    config : dict[str, Any]
        JSON-able arguments; ``MLP(**net.config)`` builds the same architecture.

    Raises
    ------
    ParameterError
        An argument lies outside its range.
    IncompatibleError
        An unknown embedding.

    Examples
    --------
    >>> import torch
    >>> net = MLP(2, hidden=32)
    >>> net(torch.randn(5, 2), torch.rand(5)).shape
    torch.Size([5, 2])
    """

    config: dict[str, Any]

    def __init__(
        self,
        dim: int,
        hidden: int = 128,
        depth: int = 3,
        embedding: str = "positional",
        embedding_dim: int = 64,
        embedding_scale: float | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        dim, hidden = checks.count("dim", dim), checks.count("hidden", hidden)
        depth = checks.count("depth", depth)
        self.condition = Conditioning(
            embedding, embedding_dim, scale=embedding_scale, classes=classes
        )
        embedding_dim = self.condition.dim
        self.config = {
            "dim": dim,
            "hidden": hidden,
            "depth": depth,
            "embedding": embedding,
            "embedding_dim": embedding_dim,
            "embedding_scale": self.condition.scale,
            "classes": self.condition.classes,
        }
        self.first = nn.Linear(dim, hidden)
        self.blocks = nn.ModuleList(_Block(hidden, embedding_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)
        self.last = nn.Linear(hidden, dim)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        """The network's output, shaped like ``x``.

        Parameters
        ----------
        x : Tensor
            ``(B, dim)``, in the network's dtype.
        c : Tensor
            ``(B,)`` time input, floating point.
        label : Tensor or None
            ``(B,)`` int64 in ``0 … classes``; None, or the value ``classes``, is "no label".

        Raises
        ------
        ShapeError
            A wrong shape, dtype, device or label value.
        IncompatibleError
            A label was given to a network built without ``classes``.
        """
        checks.state(x)
        if x.ndim != 2 or x.shape[1] != self.config["dim"]:
            raise ShapeError(
                f"expected x of shape (B, {self.config['dim']}), got {tuple(x.shape)}; "
                f"reshape x, or build the network for its dimension"
            )
        vector = self.condition(x, c, label)
        h = self.first(x)
        for block in self.blocks:
            h = block(h, vector)
        y: Tensor = self.last(nn.functional.silu(self.norm(h)))
        return y


class _Block(nn.Module):
    def __init__(self, hidden: int, embedding_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.inner = nn.Linear(hidden, hidden)
        self.film = nn.Linear(embedding_dim, 2 * hidden)
        self.outer = nn.Linear(hidden, hidden)
        # The block starts as the identity.
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, h: Tensor, vector: Tensor) -> Tensor:
        scale, shift = self.film(vector).chunk(2, dim=1)
        branch: Tensor = self.outer(
            nn.functional.silu(torch.addcmul(shift, self.inner(self.norm(h)), 1.0 + scale))
        )
        return h + branch
