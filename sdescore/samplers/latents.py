r"""Spherical interpolation between latent codes."""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore import checks
from sdescore.shapes import align, flat, float64

__all__ = ["slerp"]

OPPOSITE = 1e-6  # an angle this close to π, where no direction to turn in is left


def slerp(a: Tensor, b: Tensor, weight: float | Tensor) -> Tensor:
    r"""States between ``a`` and ``b`` on the arc from one to the other, sample by sample:

    .. math:: \frac{\sin((1 - w)\theta)}{\sin\theta}\, a + \frac{\sin(w\theta)}{\sin\theta}\, b,
              \qquad \cos\theta = \frac{a \cdot b}{\|a\| \|b\|}

    (Shoemake 1985; Song, Meng & Ermon 2021, arXiv:2010.02502, appendix D.5). Two draws of a prior
    :math:`N(0, s^2 I)` in d dimensions have norms near :math:`s\sqrt d` and stand nearly at right
    angles, and so do all states between them, for any s. The middle of the straight line
    has a norm that is :math:`\sqrt 2` times smaller. No draw has such a norm, and a sampler turns
    it into a blurred or plain sample. In a few dimensions the states between do not have the
    prior's distribution.

    Parameters
    ----------
    a, b : Tensor
        ``(B, *E)``, latent codes: draws of the prior, or what
        :meth:`sdescore.ProbabilityFlow.encode` gives.
    weight : float or Tensor
        In [0, 1], ``()`` or ``(B,)``: 0 gives ``a``, and 1 gives ``b``.

    Returns
    -------
    Tensor
        ``(B, *E)``, in the dtype of ``a``.

    Raises
    ------
    ShapeError
        ``a`` and ``b`` are not states of one shape, or the weights are not one per sample.
    ParameterError
        A weight outside [0, 1]; a state that is 0 or not finite; two that are opposite, so that no
        shortest arc joins them.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    >>> ss.samplers.slerp(a, b, 0.5)
    tensor([[1.4142, 1.4142]])
    """
    checks.same_shape(b, a, "b", "a")
    w = float64(weight, like=a)
    align(w, a)  # refuses weights that are neither one nor one per sample
    checks.that(bool(((w >= 0) & (w <= 1)).all()), "weights in [0, 1]", f"{weight!r:.100}")
    u, v = float64(flat(a)), float64(flat(b))
    lengths = u.norm(dim=1), v.norm(dim=1)
    usable = all(bool((length.isfinite() & (length > 0)).all()) for length in lengths)
    checks.that(usable, "finite states other than 0, which has no direction", "others")
    u, v = u / lengths[0][:, None], v / lengths[1][:, None]
    # By half of the angle's tangent, without the cancellation of the arc cosine near 0 and π.
    angle = 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))
    opposite = (angle > torch.pi - OPPOSITE).nonzero().flatten().tolist()
    checks.that(not opposite, "states that are not opposite", f"opposite samples {opposite[:8]}")
    same = angle == 0
    sine = angle.where(~same, torch.ones_like(angle)).sin()
    of_a = torch.where(same, 1 - w, ((1 - w) * angle).sin() / sine)
    of_b = torch.where(same, w, (w * angle).sin() / sine)
    return align(of_a.to(a), a) * a + align(of_b.to(a), a) * b.to(a)
