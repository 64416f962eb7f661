"""Exponential Adams methods: orders, corrections, their names in the field, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.tableau.exponential import exponential_step
from tests.helpers.adams import EVERY, F64
from tests.helpers.affine import extrapolated


@EVERY
@pytest.mark.parametrize(("output", "eta"), [("x0", 0.0), ("epsilon", 0.0), ("x0", 1.0)])
def test_one_point_is_ddim(sde: ss.LinearSDE, output: str, eta: float) -> None:
    """And ancestral sampling for η = 1."""
    score = ss.GaussianScore(torch.tensor([1.0, -2.0]), 0.3, sde)
    adams = ss.ExponentialAdams(eta=eta, points=1, output=output)
    x, y = (
        ss.PredictorCorrector(sde, predictor=p, steps=12, grid=ss.LogSNRGrid()).sample(
            score, (4, 2), seed=3, dtype=F64
        )
        for p in (adams, ss.DDIM(eta=eta))
    )
    torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-10)


def flow(sde: ss.LinearSDE, x: Tensor, t: float, s: float, mean: Tensor, variance: float) -> Tensor:
    """The probability flow of Gaussian data: deviations scale as the marginal's."""
    alpha, sigma = sde.marginal(torch.tensor([t, s], dtype=F64))
    std = (alpha.square() * variance + sigma.square()).sqrt()
    return alpha[1] * mean + (x - alpha[0] * mean) * std[1] / std[0]


def nested(sde: ss.LinearSDE, first: float, last: float, steps: int, skew: float) -> Tensor:
    """Grids of one smooth density, not uniform in λ."""
    ends = sde.log_snr(torch.tensor([first, last], dtype=F64)).tolist()
    u = torch.linspace(0, 1, steps + 1, dtype=F64)
    u = u + skew * torch.sin(math.pi * u) / math.pi
    times = sde.time_at_log_snr(ends[0] + (ends[1] - ends[0]) * u)
    times[0], times[-1] = first, last
    return times


METHODS = [
    *((p, 0, output, min(p, 3)) for p in (1, 2, 3, 4) for output in ("x0", "epsilon")),
    (2, "midpoint", "x0", 2),
    (2, "midpoint", "epsilon", 2),
    *((p, p + 1, output, min(p + 1, 3)) for p in (1, 2, 3) for output in ("x0", "epsilon")),
    (3, 2, "x0", 2),
]


@pytest.mark.guards("M09")
@pytest.mark.parametrize(("points", "corrector", "output", "order"), METHODS)
@pytest.mark.parametrize("sde", [ss.VPSDE(), ss.VESDE(sigma_max=10.0)], ids=["vp", "ve"])
def test_the_order_along_a_path(
    sde: ss.LinearSDE, points: int, corrector: int | str, output: str, order: int
) -> None:
    """Pathwise against the closed form, on a grid that is not uniform, from the first step on."""
    midpoint = corrector == "midpoint"
    corrector = 0 if midpoint else corrector
    predictor = ss.ExponentialAdams(0.0, points, corrector, output, midpoint)
    assert predictor.order == order
    mean, variance = torch.tensor([1.0, -2.0], dtype=F64), 0.5
    score = ss.GaussianScore(mean, variance, sde)
    x = sde.T**0.5 * torch.randn(3, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    # Over this range of λ the start from one output, which is of order 3 and no more, shows at few
    # steps in the methods of four points as well.
    first, last = 0.6 * sde.T, 0.3 * sde.T
    errors = []
    for steps in (60, 120, 240):
        times = nested(sde, first, last, steps, 0.3)
        sampler = ss.PredictorCorrector(sde, predictor=predictor, grid=times, denoise=False)
        end = sampler.sample(score, init=x, dtype=F64)
        errors.append((end - flow(sde, x, first, last, mean, variance)).norm().item())
    assert extrapolated(errors) == pytest.approx(order, abs=0.05)


@pytest.mark.parametrize(
    ("eta", "points", "corrector", "output"),
    [
        (1.0, 1, 0, "x0"),
        (1.0, 1, 0, "epsilon"),
        (1.0, 2, 0, "x0"),
        (1.0, 2, 0, "epsilon"),
        (1.0, 3, 0, "x0"),
        (0.5, 1, 2, "x0"),
        (0.5, 2, 3, "x0"),
    ],
)
def test_the_order_of_the_distribution(
    eta: float, points: int, corrector: int, output: str
) -> None:
    predictor = ss.ExponentialAdams(eta, points, corrector, output)
    measured = ss.analysis.order(predictor, ss.VPSDE(), steps=1024)
    assert measured == pytest.approx(predictor.order, abs=0.1)


def test_the_correction_costs_no_evaluation() -> None:
    plain, corrected = (
        ss.PredictorCorrector(
            ss.VPSDE(), predictor=ss.ExponentialAdams(points=2, corrector_points=q), steps=9
        )
        for q in (0, 3)
    )
    assert plain.evaluations == corrected.evaluations == 9


@pytest.mark.parametrize("output", ["x0", "epsilon"])
@pytest.mark.parametrize(("points", "corrector"), [(1, 2), (2, 3), (3, 2), (2, 5)])
def test_the_correction_by_hand(output: str, points: int, corrector: int) -> None:
    """Predict, evaluate, take the same step again from where it began, go on from there."""
    sde, times = ss.VPSDE(), torch.tensor([0.9, 0.7, 0.55, 0.4, 0.3, 0.15], dtype=F64)
    model = ss.MixtureScore([0.4, 0.6], [[-1.0, 0.5], [1.0, 0.0]], [0.1, 0.3], sde)
    step = exponential_step(sde, times[:-1], times[1:], output, 0.0)
    lam = sde.half_log_snr(times)
    alpha, sigma = sde.marginal(times)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=F64)

    def evaluate(y: Tensor, n: int) -> Tensor:
        score = model(y, times[n])
        return (y + sigma[n] ** 2 * score) / alpha[n] if output == "x0" else -sigma[n] * score

    def moved(y: Tensor, n: int, outputs: list[Tensor], ahead: int) -> Tensor:
        used = outputs[: corrector if ahead else points]
        nodes = (lam[[n + ahead - j for j in range(len(used))]] - lam[n])[None]
        weights = step.rows(torch.tensor([n])).weights(nodes)[0]
        return step.a[n] * y + sum(w * o for w, o in zip(weights, used, strict=True))

    begin, predicted, outputs = x, x, []
    for n in range(len(times) - 1):
        outputs.insert(0, evaluate(predicted, n))
        if n:
            begin = moved(begin, n - 1, outputs, ahead=1)
        predicted = moved(begin, n, outputs, ahead=0)
    predictor = ss.ExponentialAdams(points=points, corrector_points=corrector, output=output)
    sampler = ss.PredictorCorrector(sde, predictor=predictor, grid=times, denoise=False)
    ours = sampler.sample(model, init=x, dtype=F64)
    torch.testing.assert_close(ours, predicted, rtol=1e-9, atol=1e-10)


# Diffusers


def scheduler_of(name: str, **options: object):
    diffusers = pytest.importorskip("diffusers", reason="the peer is not installed")
    made = getattr(diffusers, name)(prediction_type="epsilon", lower_order_final=False, **options)
    made.set_timesteps(20)
    return made


def test_two_points_on_epsilon_are_deis() -> None:
    """The whole chain, on a score that is not linear; float32 in the peer."""
    scheduler = scheduler_of("DEISMultistepScheduler", solver_order=2)
    noise_ratio = scheduler.sigmas.double()
    sde = ss.EDMSDE(sigma_min=1e-4, sigma_max=1e4)
    score = ss.MixtureScore([0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], [0.1, 0.2], sde)
    x = noise_ratio[0] * torch.randn(3, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    theirs = x / (1 + noise_ratio[0].square()).sqrt()
    for i, t in enumerate(scheduler.timesteps):
        scale = (1 + noise_ratio[i].square()).sqrt()  # the peer's state is VP's
        epsilon = -noise_ratio[i] * score(theirs * scale, noise_ratio[i].item())
        theirs = scheduler.step(epsilon, t, theirs).prev_sample
    predictor = ss.ExponentialAdams(points=2, output="epsilon")
    sampler = ss.PredictorCorrector(sde, predictor=predictor, grid=noise_ratio, denoise=False)
    ours = sampler.sample(score, init=x, dtype=F64)
    torch.testing.assert_close(
        ours, theirs * (1 + noise_ratio[-1].square()).sqrt(), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_two_points_with_midpoint_are_dpm_solver_of_order_two(eta: float) -> None:
    """The whole chain against the peer, its noise handed to both; float32 in the peer."""
    kind = "sde-dpmsolver++" if eta else "dpmsolver++"
    scheduler = scheduler_of(
        "DPMSolverMultistepScheduler",
        solver_order=2,
        algorithm_type=kind,
        solver_type="midpoint",
        final_sigmas_type="sigma_min",
    )
    noise_ratio = scheduler.sigmas.double()
    sde = ss.EDMSDE(sigma_min=1e-4, sigma_max=1e4)
    score = ss.MixtureScore([0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], [0.1, 0.2], sde)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(len(noise_ratio), 3, 2, generator=generator, dtype=F64)
    x = noise_ratio[0] * z[0]
    theirs = x / (1 + noise_ratio[0].square()).sqrt()
    for i, t in enumerate(scheduler.timesteps):
        scale = (1 + noise_ratio[i].square()).sqrt()  # the peer's state is VP's
        epsilon = -noise_ratio[i] * score(theirs * scale, noise_ratio[i].item())
        noise = {"variance_noise": z[i + 1].float()} if eta else {}
        theirs = scheduler.step(epsilon, t, theirs, **noise).prev_sample.double()
    predictor = ss.ExponentialAdams(eta=eta, points=2, midpoint=True)
    sampler = ss.PredictorCorrector(sde, predictor=predictor, grid=noise_ratio, denoise=False)
    noise_of_ours = ss.noise.ReplayNoise(z) if eta else None
    ours = sampler.sample(score, init=x, dtype=F64, noise=noise_of_ours)
    torch.testing.assert_close(
        ours, theirs * (1 + noise_ratio[-1].square()).sqrt(), rtol=1e-3, atol=1e-3
    )


def test_three_points_and_four_are_unipc_of_order_three() -> None:
    """One step in mid-chain: ours solves for weights that are exact on cubics, as the peer does."""
    scheduler = scheduler_of(
        "UniPCMultistepScheduler",
        solver_order=3,
        solver_type="bh2",
        final_sigmas_type="sigma_min",
    )
    lam = -scheduler.sigmas.double().log()
    noise_ratio = (-lam).exp()
    n = 7
    outputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(2), dtype=F64)
    newest_first = [outputs[3], outputs[2], outputs[1], outputs[0]]  # of times n + 1 … n − 2
    x = torch.ones(1, 5, dtype=F64)
    scheduler.model_outputs = [o[None] for o in outputs[:3]]
    scheduler.timestep_list = list(scheduler.timesteps[n - 2 : n + 1])
    scheduler._step_index = n
    predicted = scheduler.multistep_uni_p_bh_update(outputs[2][None], sample=x, order=3)
    scheduler._step_index = n + 1
    corrected = scheduler.multistep_uni_c_bh_update(
        outputs[3][None], last_sample=x, this_sample=predicted, order=3
    )
    alpha = (1 + noise_ratio.square()).rsqrt()
    edm = ss.EDMSDE(sigma_min=1e-4, sigma_max=1e4)
    step = exponential_step(edm, noise_ratio[:-1], noise_ratio[1:], "x0", 0.0)
    for ahead, theirs in ((0, predicted), (1, corrected)):
        weights = step.adams_weights(lam, 3 + ahead, ahead=ahead)[n]
        used = newest_first[1 - ahead :]
        z = step.a[n] * x / alpha[n] + sum(w * o for w, o in zip(weights, used, strict=True))
        torch.testing.assert_close(alpha[n + 1] * z, theirs, rtol=1e-4, atol=1e-5)


# Bad input
