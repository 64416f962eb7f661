"""hypothesis strategies for the whole suite, and the papers' marginals in mpmath.

Every strategy draws parameters a user may give; nothing here imports a private name.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import torch
from hypothesis import strategies as st
from torch import Tensor

import sdescore as ss
from sdescore.rooms import members

EPS = torch.finfo(torch.float64).eps
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
KINDS = ("score", "epsilon", "x0", "v")
Marginal = Callable[[mpmath.mpf], tuple[mpmath.mpf, mpmath.mpf]]


def log_uniform(low: float, high: float) -> st.SearchStrategy[float]:
    """Floats whose exponent is uniform."""
    exponent = st.floats(float(mpmath.log(low)), float(mpmath.log(high)))
    return exponent.map(lambda e: float(mpmath.exp(e)))


# SDEs.


@st.composite
def linear_betas(draw: st.DrawFn, kind: type[ss.LinearSDE] = ss.VPSDE) -> ss.LinearSDE:
    low = draw(st.one_of(st.just(0.0), log_uniform(1e-3, 5.0)))
    return kind(beta_min=low, beta_max=low + draw(log_uniform(0.5, 25.0)))


def vp_sdes() -> st.SearchStrategy[ss.LinearSDE]:
    return linear_betas(ss.VPSDE)


def subvp_sdes() -> st.SearchStrategy[ss.LinearSDE]:
    return linear_betas(ss.SubVPSDE)


@st.composite
def ve_sdes(draw: st.DrawFn, kind: type[ss.LinearSDE] = ss.VESDE) -> ss.LinearSDE:
    low = draw(log_uniform(1e-3, 1.0))
    return kind(sigma_min=low, sigma_max=low * draw(log_uniform(2.0, 1e4)))


def edm_sdes() -> st.SearchStrategy[ss.LinearSDE]:
    return ve_sdes(ss.EDMSDE)


def cosine_sdes() -> st.SearchStrategy[ss.LinearSDE]:
    return st.builds(
        lambda offset, T: ss.CosineVPSDE(offset=offset, T=T),
        log_uniform(1e-3, 0.1),
        st.floats(0.5, 0.999),
    )


def flow_sdes() -> st.SearchStrategy[ss.LinearSDE]:
    return st.builds(lambda T: ss.RectifiedFlowSDE(T=T), st.floats(0.5, 0.9999))


def discrete_vp_sdes(max_levels: int = 60) -> st.SearchStrategy[ss.LinearSDE]:
    """Tables without any order, so that the interpolation is tried on rough ones too."""
    betas = st.lists(log_uniform(1e-4, 0.4), min_size=2, max_size=max_levels)
    return betas.map(lambda b: ss.DiscreteVPSDE(betas=tuple(b)))


@st.composite
def discrete_ve_sdes(draw: st.DrawFn, max_levels: int = 30) -> ss.LinearSDE:
    ratios = draw(st.lists(log_uniform(1.02, 2.0), min_size=1, max_size=max_levels - 1))
    ladder = [draw(log_uniform(0.005, 0.5))]
    for ratio in ratios:
        ladder.append(ladder[-1] * ratio)
    return ss.DiscreteVESDE(sigmas=tuple(reversed(ladder)))


def _straight(T: float) -> ss.LinearSDE:
    return ss.LinearSDE.from_marginal(lambda t: 1 - t, lambda t: t.clone(), T=T)


def _trigonometric(rate: float) -> ss.LinearSDE:
    return ss.LinearSDE.from_marginal(
        lambda t: torch.cos(rate * t), lambda t: torch.sin(rate * t), T=1.0
    )


def _constant_beta(beta: float) -> ss.LinearSDE:
    return ss.LinearSDE.from_marginal(
        lambda t: torch.exp(-0.5 * beta * t), lambda t: torch.sqrt(-torch.expm1(-beta * t)), T=1.0
    )


def _power(scale: float, power: float) -> ss.LinearSDE:
    return ss.LinearSDE.from_marginal(
        torch.ones_like, lambda t: scale * (0.01 + t) ** power, T=2.0, t_min=0.0
    )


def marginal_sdes() -> st.SearchStrategy[ss.LinearSDE]:
    """``LinearSDE.from_marginal`` with σ(0) zero, σ(0) > 0 and σ'(0) infinite."""
    return st.one_of(
        st.floats(0.5, 0.99).map(_straight),
        st.floats(0.3, 1.5).map(_trigonometric),
        log_uniform(0.5, 20.0).map(_constant_beta),
        st.builds(_power, log_uniform(0.1, 10.0), st.floats(0.5, 3.0)),
    )


def continuous_sdes() -> st.SearchStrategy[ss.LinearSDE]:
    """The SDEs with a formula: VE, VP, sub-VP, cosine, EDM, rectified flow."""
    return st.one_of(ve_sdes(), vp_sdes(), subvp_sdes(), cosine_sdes(), edm_sdes(), flow_sdes())


def discrete_sdes() -> st.SearchStrategy[ss.LinearSDE]:
    return st.one_of(discrete_vp_sdes(), discrete_ve_sdes())


def linear_sdes() -> st.SearchStrategy[ss.LinearSDE]:
    """Any linear SDE."""
    return st.one_of(continuous_sdes(), discrete_sdes(), marginal_sdes())


REPRESENTATIVES: dict[str, ss.LinearSDE] = {
    "ve": ss.VESDE(),
    "ve-small": ss.VESDE(sigma_min=0.05, sigma_max=3.0),
    "vp": ss.VPSDE(),
    "vp-from-zero": ss.VPSDE(beta_min=0.0, beta_max=12.0),
    "vp-constant": ss.VPSDE(beta_min=3.0, beta_max=3.0),
    "subvp": ss.SubVPSDE(),
    "cosine": ss.CosineVPSDE(),
    "edm": ss.EDMSDE(),
    "flow": ss.RectifiedFlowSDE(),
    "discrete-vp": ss.DiscreteVPSDE(betas=(0.01, 0.02, 0.05, 0.3, 0.1, 0.4)),
    "discrete-ve": ss.DiscreteVESDE(sigmas=(5.0, 2.0, 1.5, 0.4, 0.1)),
    "marginal-straight": _straight(0.99),
    "marginal-trigonometric": _trigonometric(1.5),
    "marginal-constant-beta": _constant_beta(5.0),
    "marginal-power": _power(2.0, 1.5),
}
"""One of each, for tests too slow to run on random ones."""
# An SDE that a file in the room adds is tested with its defaults.
REPRESENTATIVES |= {
    kind.__name__: kind()
    for kind in members("sdescore.sde", ss.LinearSDE)
    if kind not in map(type, REPRESENTATIVES.values())
}


# Times, shapes, grids, predictions.


@st.composite
def ordered_times(draw: st.DrawFn, sde: ss.LinearSDE, count: int, low: float = 1e-5) -> list[float]:
    """``count`` strictly rising times in ``[low T, T]``, often close together, often at T."""
    fraction = st.one_of(log_uniform(low, 1.0), st.floats(low, 1.0), st.just(1.0))
    times = draw(st.lists(fraction, min_size=count, max_size=count, unique=True))
    return [min(t, 1.0) * sde.T for t in sorted(times)]


def shapes(max_batch: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    """``(B, *E)`` with B >= 1; the event may be empty."""
    event = st.lists(st.integers(1, 4), min_size=0, max_size=3)
    return st.builds(lambda b, e: (b, *e), st.integers(1, max_batch), event)


def dtypes() -> st.SearchStrategy[torch.dtype]:
    return st.sampled_from(DTYPES)


def seeds() -> st.SearchStrategy[int]:
    return st.integers(0, 2**32 - 1)


def states(shape: tuple[int, ...], dtype: torch.dtype, seed: int, count: int) -> list[Tensor]:
    """``count`` standard normal states, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(count, *shape, dtype=torch.float64, generator=generator)
    return list(draws.to(dtype))


def coefficients() -> st.SearchStrategy[tuple[float, float]]:
    """``(α, σ)`` as SDEs have them, from nearly clean to nearly noise."""
    return st.one_of(
        st.floats(0.01, 1.56).map(lambda a: (float(mpmath.cos(a)), float(mpmath.sin(a)))),
        log_uniform(0.01, 50.0).map(lambda sigma: (1.0, sigma)),
        st.floats(0.01, 0.99).map(lambda t: (1.0 - t, t)),
    )


@st.composite
def prediction_pairs(draw: st.DrawFn, alpha: float, sigma: float) -> tuple[float, float]:
    """``(p, q)`` whose determinant ``αq − σp`` is not degenerate."""
    value = st.floats(-3.0, 3.0).filter(lambda v: v == 0 or abs(v) > 1e-3)
    pairs = st.tuples(value, value)
    return draw(
        pairs.filter(
            lambda p: (
                abs(alpha * p[1] - sigma * p[0])
                > 0.05 * (abs(alpha * p[1]) + abs(sigma * p[0]))
                > 0
            )
        )
    )


@st.composite
def grids(draw: st.DrawFn, sde: ss.LinearSDE) -> ss.grids.Grid:
    """Any grid that fits the SDE, the ones in log-SNR included."""
    options = [ss.UniformGrid(), ss.QuadraticGrid(), ss.LogSNRGrid()]
    options.append(ss.KarrasGrid(rho=draw(log_uniform(1.0, 20.0))))
    if hasattr(sde, "level_times"):
        options.append(ss.LevelGrid())
    ends_finite = bool(sde.log_snr(torch.tensor([sde.t_min, sde.T])).isfinite().all())
    return draw(st.sampled_from(options if ends_finite else options[:2]))


# The papers' formulas, written again in mpmath.


def paper_marginal(sde: ss.LinearSDE) -> Marginal:
    """``t -> (α_t, σ_t)`` at mpmath's precision, from the papers and not from the library."""
    mp = mpmath.mpf

    def linear_b(t: mpmath.mpf) -> mpmath.mpf:
        low, high = mp(sde.beta_min), mp(sde.beta_max)
        return low * t + (high - low) * t**2 / 2

    def cosine_alpha(t: mpmath.mpf) -> mpmath.mpf:
        s = mp(sde.offset)

        def f(u: mpmath.mpf) -> mpmath.mpf:
            return mpmath.cos((u + s) / (1 + s) * mpmath.pi / 2) ** 2

        return mpmath.sqrt(f(t) / f(mp(0)))

    formulas: dict[type, Marginal] = {
        ss.VPSDE: lambda t: (
            mpmath.exp(-linear_b(t) / 2),
            mpmath.sqrt(1 - mpmath.exp(-linear_b(t))),
        ),
        ss.SubVPSDE: lambda t: (mpmath.exp(-linear_b(t) / 2), 1 - mpmath.exp(-linear_b(t))),
        ss.VESDE: lambda t: (
            mp(1),
            mp(sde.sigma_min) * (mp(sde.sigma_max) / mp(sde.sigma_min)) ** t,
        ),
        ss.EDMSDE: lambda t: (mp(1), t),
        ss.RectifiedFlowSDE: lambda t: (1 - t, t),
        ss.CosineVPSDE: lambda t: (cosine_alpha(t), mpmath.sqrt(1 - cosine_alpha(t) ** 2)),
    }
    return formulas[type(sde)]
