"""What score_sde's sampler is by default, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ScheduleError
from sdescore.published import ScoreSDELangevin, ScoreSDEStep, score_sde_pc

VE, VP = ss.VESDE(), ss.VPSDE()
TABLE = ss.DiscreteVPSDE.linear(20, 5e-3, 0.5)
LADDER = ss.DiscreteVESDE.geometric(sigma_max=5.0, sigma_min=0.01, levels=20)


def test_the_defaults_are_those_of_the_configurations() -> None:
    """Of ``sampling.predictor``, ``sampling.corrector`` and the last time, by the SDE."""
    for sde, predictor, corrector, count, last in [
        (VE, "reverse_diffusion", ss.Langevin(0.16, 1, "batch"), 1000, 1e-5),
        (LADDER, "reverse_diffusion", ss.Langevin(0.16, 1, "batch"), 20, 1e-5),
        (VP, "euler_maruyama", ss.NoCorrector(), 1000, 1e-3),
        (ss.SubVPSDE(), "euler_maruyama", ss.NoCorrector(), 1000, 1e-3),
        (TABLE, "ancestral_sampling", ss.NoCorrector(), 20, (1e-3 * 19 + 1) / 20),
    ]:
        sampler = score_sde_pc(sde)
        assert sampler.predictor == ScoreSDEStep(predictor, count)
        assert sampler.corrector == corrector and sampler.corrector_first
        assert sampler.times[-1].item() == pytest.approx(last) and len(sampler.times) == count
    assert score_sde_pc(VP, corrector="ald").corrector == ScoreSDELangevin(0.16, 1, "expected")
    assert score_sde_pc(VP).start_std == pytest.approx(1.0, abs=1e-12)
    assert score_sde_pc(ss.SubVPSDE()).start_std == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("sde", "options", "error", "message"),
    [
        (VP, {"predictor": "heun"}, IncompatibleError, "predictor among"),
        (VP, {"corrector": "mala"}, IncompatibleError, "corrector among"),
        (VP, {"num_scales": 1}, ParameterError, "num_scales"),
        (VP, {"num_scales": 0}, ParameterError, "num_scales"),
        (VP, {"predictor": "reverse_diffusion", "num_scales": 20}, ScheduleError, "below 1"),
        (VP, {"corrector": "langevin", "num_scales": 20}, ScheduleError, "below 1"),
        (TABLE, {"num_scales": 30}, ScheduleError, "num_scales=20"),
        (VP, {"eps": 0.0}, ScheduleError, "eps"),
        (VP, {"eps": 1.0}, ScheduleError, "eps"),
        (VP, {"corrector": "langevin", "snr": 0.0}, ParameterError, "snr"),
        (VP, {"corrector": "langevin", "n_steps_each": 0}, ParameterError, "inner steps"),
        (ss.SubVPSDE(), {"corrector": "langevin"}, IncompatibleError, "VE or VP"),
        (ss.SubVPSDE(), {"predictor": "ancestral_sampling"}, IncompatibleError, "VE or VP"),
        (TABLE, {"predictor": "euler_maruyama"}, IncompatibleError, "table of levels"),
        (
            VE,
            {"predictor": "ancestral_sampling", "probability_flow": True},
            IncompatibleError,
            "without probability_flow",
        ),
        (lambda x, t: x, {}, IncompatibleError, "pass a ScoreModel, or its SDE"),
    ],
)
def test_refusals(sde: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        score_sde_pc(sde, **options)


def test_the_corrector_of_vp_is_refused_elsewhere() -> None:
    with pytest.raises(IncompatibleError, match="use Langevin"):
        ss.PredictorCorrector(VE, corrector=ScoreSDELangevin(), steps=5)
    with pytest.raises(IncompatibleError, match="norm"):
        ScoreSDELangevin(norm="sample")
