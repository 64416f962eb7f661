r"""A denoiser of k-diffusion.

k-diffusion's models are denoisers :math:`D(x; \sigma) \approx E[x_0 | x]` of
:math:`x = x_0 + \sigma \epsilon` (Karras et al. 2022, arXiv:2206.00364, eq. 2), whatever network is
inside. On :class:`sdescore.EDMSDE`, where α = 1 and σ = t, that is ``prediction="x0"`` with
``time_input="sigma"``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.score.model import ScoreModel
from sdescore.sde.edm import EDMSDE
from sdescore.typing import Condition

__all__ = ["load_k_diffusion"]


class Denoiser(nn.Module):
    """``denoiser(x, sigma, **arguments)`` as ``net(x, c, label)``; a dict names the arguments."""

    def __init__(self, denoiser: Callable[..., Tensor]) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, c: Tensor, label: Condition | None = None) -> Tensor:
        """``x`` ``(B, *E)`` and σ ``(B,)`` → x̂₀ ``(B, *E)``."""
        if label is None:
            return self.denoiser(x, c)
        return self.denoiser(x, c, **(label if isinstance(label, Mapping) else {"cond": label}))


def load_k_diffusion(
    denoiser: Callable[..., Tensor],
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> ScoreModel:
    """A denoiser ``denoiser(x, sigma)`` of k-diffusion as a :class:`sdescore.ScoreModel`.

    Parameters
    ----------
    denoiser : callable
        ``(x, sigma)`` with ``sigma`` ``(B,)`` → x̂₀: a ``k_diffusion.layers.Denoiser``, a
        ``CompVisDenoiser``, or any function of that form.
    sigma_min, sigma_max : float, optional
        Range of σ, 0 < sigma_min < sigma_max. By default that of the denoiser's ``sigmas``, if it
        has a table of levels, else EDM's 0.002 and 80.

    Returns
    -------
    ScoreModel
        On :class:`sdescore.EDMSDE`. A label ``(B, *C)`` reaches the denoiser as ``cond=``, and a
        dict by its names, which is k-diffusion's ``extra_args``. ``ss.KarrasGrid()`` makes its
        ``get_sigmas_karras``.

    Raises
    ------
    IncompatibleError
        ``denoiser`` is not callable.
    ScheduleError
        A σ is out of range.

    Examples
    --------
    >>> import sdescore as ss
    >>> model = ss.load_k_diffusion(lambda x, sigma: x / (1 + sigma[:, None] ** 2))  # N(0, 1)
    >>> sampler = ss.PredictorCorrector(model.sde, ss.Heun(), grid=ss.KarrasGrid(), steps=40)
    >>> sampler.sample(model, (5000, 2)).std().round(decimals=1)
    tensor(1.)
    """
    checks.that(callable(denoiser), "a denoiser(x, sigma)", repr(denoiser)[:200], IncompatibleError)
    levels: Any = getattr(denoiser, "sigmas", None)
    table = isinstance(levels, Tensor) and levels.numel() > 1
    low = levels.min().item() if table else 0.002
    high = levels.max().item() if table else 80.0
    sde = EDMSDE(
        sigma_min=low if sigma_min is None else sigma_min,
        sigma_max=high if sigma_max is None else sigma_max,
    )
    return ScoreModel(Denoiser(denoiser), sde, prediction="x0", time_input="sigma").eval()
