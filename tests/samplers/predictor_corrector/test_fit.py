"""Whether a sampler warns of too few steps, against the exact distribution computed otherwise."""

from __future__ import annotations

import math
import pickle
import re
import warnings

import numpy as np
import pytest
import torch

import sdescore as ss
from sdescore.errors import StepsWarning
from sdescore.samplers.predictor_corrector.fit import LIMIT, NOISE_LIMIT, VISIBLE, excess
from tests.helpers.affine import Modes, output_moments

SDES = {
    "VP": ss.VPSDE(),
    "VE": ss.VESDE(),
    "sub-VP": ss.SubVPSDE(),
    "cosine": ss.CosineVPSDE(),
    "EDM": ss.EDMSDE(),
    "rectified flow": ss.RectifiedFlowSDE(),
}
SEEDS = ss.ExponentialRungeKutta(eta=1.0, stages=3, output="epsilon")
ROWS = {
    "reverse diffusion": {"predictor": ss.ReverseDiffusion(), "grid": ss.UniformGrid()},
    "corrected": {"predictor": ss.Ancestral(), "corrector": ss.Langevin(snr=0.3, steps=2)},
    "multistep": {"predictor": ss.ExponentialAdams(eta=1.0, points=3, corrector_points=4)},
    "several noises": {"predictor": SEEDS},
    "churn": {"predictor": ss.Heun(s_churn=3.0)},
    "corrected multistep": {
        "predictor": ss.ExponentialAdams(),
        "corrector": ss.Langevin(snr=0.2),
        "corrector_first": True,
    },
}


def silent(*arguments: object, **options: object) -> ss.PredictorCorrector:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ss.PredictorCorrector(*arguments, **options)


def warned(*arguments: object, **options: object) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ss.PredictorCorrector(*arguments, **options)
    return [str(w.message) for w in caught if w.category is StepsWarning]


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
@pytest.mark.parametrize("parts", ROWS.values(), ids=ROWS)
def test_the_excess_is_that_of_the_exact_distribution(
    sde: ss.LinearSDE, parts: dict[str, object]
) -> None:
    """Against the draws' coefficients of the chain without its last denoise."""
    sampler = silent(sde, grid=silent(sde, steps=7).times, denoise=False, predictor=ss.DDIM())
    sampler = silent(sde, **{"grid": sampler.times} | parts, steps=7, denoise=False)
    std, ratio, _ = excess(list(sampler.moves()), sde, sampler.times)
    left = sde.noise_ratio(sampler.times[-1]).item()
    assert std.tolist() == pytest.approx([0, left, math.sqrt(left), 1])
    modes = Modes(np.zeros(4), std.numpy() ** 2)
    expected = np.sqrt(
        output_moments(sampler, modes)[1] / modes.marginal(sde, sampler.times[-1].item())[1]
    )
    np.testing.assert_allclose(ratio.numpy(), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
@pytest.mark.parametrize("steps", [1, 4, 5, 10, 25, 100])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_default_and_its_stochastic_form_are_silent(
    sde: ss.LinearSDE, steps: int, eta: float
) -> None:
    predictor = ss.ExponentialAdams(eta=eta, midpoint=True)
    assert warned(sde, predictor=predictor, steps=steps) == []


def test_noise_above_what_is_left_is_said_with_the_number_of_steps_that_is_enough() -> None:
    """The paper's own setting on VP: visible noise at 100 steps, and little at 1000."""
    sde, parts = ss.VPSDE(), {"predictor": ss.ReverseDiffusion(), "grid": ss.UniformGrid()}
    (message,) = warned(sde, **parts, steps=100)
    # The last step's own noise is √V; the chain keeps some more.
    t, s = silent(sde, **parts, steps=100).times[-2:]
    last = sde.transition(s, t).variance.sqrt() / sde.marginal(s)[1]
    said = float(re.search(r"leave ([\d.e+]+) times the noise 0.01 ", message)[1])
    assert last < said < 1.2 * last and said > LIMIT
    enough = int(re.search(r"take (\d+) steps", message)[1])
    assert 300 < enough < 400
    assert warned(sde, **parts, steps=enough) == []
    assert warned(sde, **parts, steps=int(enough / 1.2)) != []
    assert warned(sde, **parts, steps=1000) == []


def test_noise_that_one_sees_is_said_below_the_limit_of_an_unstable_chain() -> None:
    """The SDE of the galaxies (docs/howto/galaxies.md): a background of 0.24 for 0.1."""
    parts = {"predictor": ss.ReverseDiffusion(), "grid": ss.UniformGrid()}
    (message,) = warned(ss.VPSDE(beta_min=10.0, beta_max=10.0), **parts, steps=100)
    said = float(re.search(r"leave ([\d.e+]+) times the noise 0.1 ", message)[1])
    assert NOISE_LIMIT < said < LIMIT
    assert warned(ss.VPSDE(beta_min=10.0, beta_max=10.0), **parts, steps=1000) == []


def test_noise_far_below_the_data_is_not_said_there() -> None:
    """Sub-VP's σ at t_min is 1e-4 of the data's: 2.4 times that is not seen."""
    sde, parts = ss.SubVPSDE(), {"predictor": ss.EulerMaruyama(), "grid": ss.UniformGrid()}
    sampler = silent(sde, **parts, steps=1000)
    std, ratio, _ = excess(list(sampler.moves())[:-1], sde, sampler.times)
    assert NOISE_LIMIT < ratio[0] < LIMIT and ratio[0] * std[1] < VISIBLE
    assert warned(sde, **parts, steps=1000) == []


@pytest.mark.parametrize("predictor", [SEEDS, ss.predictors.StochasticHeun(), ss.Heun()], ids=repr)
def test_an_unstable_method_names_its_steps(predictor: ss.Predictor) -> None:
    """They come out 10 to 10⁶ times too far away in benchmarks/results/accuracy-cpu.md."""
    (message,) = warned(ss.VPSDE(), predictor=predictor, steps=3)
    enough = int(re.search(r"take (\d+) steps", message)[1])
    assert repr(predictor) in message and "VPSDE" in message and "LogSNRGrid" in message
    assert warned(ss.VPSDE(), predictor=predictor, steps=enough) == []


def test_a_flow_that_is_unstable_draws_no_noise_and_is_said_to_widen() -> None:
    (message,) = warned(ss.VPSDE(), predictor=ss.Heun(), steps=3)
    assert "a Gaussian of standard deviation" in message and "times the noise" not in message


def test_where_no_number_of_steps_is_enough_another_grid_is_advised() -> None:
    parts = {"predictor": ss.ReverseDiffusion(), "grid": ss.UniformGrid()}
    (message,) = warned(ss.EDMSDE(), **parts, steps=25)
    assert "3200 steps are too few as well: choose another grid" in message


def test_a_table_has_no_more_levels_than_it_has() -> None:
    sde = ss.DiscreteVPSDE.linear(levels=12)
    (message,) = warned(sde, predictor=ss.ReverseDiffusion(), steps=3)
    assert "12 steps are too few, and the grid has no 24" in message


def test_your_own_times_are_to_be_finer() -> None:
    (message,) = warned(ss.VPSDE(), predictor=ss.Heun(), grid=[1.0, 0.5, 0.001])
    assert "take finer times" in message


def test_without_the_last_denoise_a_step_is_a_move() -> None:
    parts = {"predictor": ss.Heun(), "denoise": False}
    (message,) = warned(ss.VPSDE(), **parts, steps=2)
    assert "; 2 leave" in message
    enough = int(re.search(r"take (\d+) steps", message)[1])
    assert warned(ss.VPSDE(), **parts, steps=enough) == []
    assert len(warned(ss.VPSDE(), **parts, steps=enough - 1)) == 1


def test_it_is_said_once_and_points_at_the_line_that_made_the_sampler() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.Heun(), steps=3)
        sampler.sample(ss.GaussianScore(torch.zeros(2), 1.0, sampler.sde), (3, 2))
        pickle.loads(pickle.dumps(sampler.sde))
    assert len(caught) == 1 and caught[0].filename == __file__


def test_a_corrector_made_for_wide_data_is_not_judged() -> None:
    """With the data's covariance it moves a flat background too far, which the data do not have."""
    wide = ss.Langevin(preconditioner=ss.langevin.Preconditioner.diagonal([0.25]))
    assert warned(ss.VPSDE(), corrector=wide, steps=50) == []


def test_a_corrector_cures_no_predictor() -> None:
    parts = {"predictor": ss.ReverseDiffusion(), "grid": ss.UniformGrid(), "steps": 50}
    for corrector in (ss.Langevin(), ss.Langevin(norm="sample")):
        assert len(warned(ss.VPSDE(), corrector=corrector, **parts)) == 1


def test_what_no_numbers_describe_is_not_judged() -> None:
    class Halves(ss.Predictor):
        order = 1

        def step(self, sde, x, score, t, s, z):
            return 0.5 * x + z

    assert warned(ss.VPSDE(), predictor=Halves(), steps=4) == []
