"""What only a GPU can show; skipped, with the reason shown, where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import sdescore as ss
from sdescore.noise.counter import standard_normal
from tests.helpers.ranks import run_ranks

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device; not run on a GPU here"
)

SDE = ss.VPSDE()


def test_a_seed_is_the_same_noise_on_both_devices() -> None:
    # Integer steps are exact everywhere; log, sqrt, sin and cos may differ in the last bits.
    on_cpu = standard_normal(3, range(64), range(50), (33,))
    on_gpu = standard_normal(3, range(64), range(50), (33,), device="cuda")
    assert torch.allclose(on_cpu, on_gpu.cpu(), rtol=0, atol=5e-6)


@pytest.mark.parametrize("corrector", [ss.NoCorrector(), ss.Langevin(snr=0.1)])
@pytest.mark.parametrize("predictor", [ss.EulerMaruyama(), ss.ReverseDiffusion(), ss.DDIM()])
def test_samples_agree_with_the_cpu(predictor: ss.Predictor, corrector: ss.Corrector) -> None:
    score = ss.GaussianScore(torch.tensor([1.0, -2.0]), torch.tensor([0.25, 0.04]), SDE)
    sampler = ss.PredictorCorrector(SDE, predictor=predictor, corrector=corrector, steps=100)
    on_cpu = sampler.sample(score, (512, 2), seed=1)
    on_gpu = sampler.sample(score, (512, 2), seed=1, device="cuda")
    assert on_gpu.device.type == "cuda"
    assert torch.allclose(on_cpu, on_gpu.cpu(), rtol=0, atol=1e-3)


def test_chunks_do_not_change_a_bit_with_an_elementwise_score() -> None:
    sampler = ss.PredictorCorrector(
        SDE, predictor=ss.ReverseDiffusion(), corrector=ss.Langevin(snr=0.1), steps=20
    )

    def draw(max_batch: int | None) -> torch.Tensor:
        return sampler.sample(
            lambda x, t: -x, (100, 3, 8, 8), seed=4, max_batch=max_batch, device="cuda"
        )

    whole = draw(None)
    for size in (1, 7, 64):
        assert torch.equal(whole, draw(size))


def test_two_processes_on_one_gpu_draw_the_bits_of_one(tmp_path: Path) -> None:
    """What they say to each other goes over the CPU; the samples are back on the GPU."""
    done = run_ranks(
        """
import sdescore as ss
sampler = ss.PredictorCorrector(ss.VPSDE(), corrector=ss.Langevin(snr=0.1), steps=20)
x = ss.sample_distributed(sampler, lambda x, t: -x, (100, 3), seed=4, max_batch=7, device="cuda")
torch.save(x, folder / str(rank))
""",
        2,
        tmp_path,
    )
    assert [status for status, _ in done] == [0, 0], done
    sampler = ss.PredictorCorrector(SDE, corrector=ss.Langevin(snr=0.1), steps=20)
    one = sampler.sample(lambda x, t: -x, (100, 3), seed=4, device="cuda")
    for rank in range(2):
        x = torch.load(tmp_path / str(rank))
        assert x.device.type == "cuda" and torch.equal(x, one)


def test_training_and_a_half_precision_network() -> None:
    model = ss.ScoreModel(
        ss.UNet(1, width=16, blocks=1), SDE, time_input="999t", prediction="epsilon"
    ).cuda()
    data = torch.randn(256, 1, 8, 8)
    trained = ss.train(model, data, steps=5, batch_size=32, progress=False).model
    assert trained.device.type == "cuda"
    sampler = ss.PredictorCorrector(SDE, predictor=ss.ReverseDiffusion(), steps=4)
    full = sampler.sample(trained, (4, 1, 8, 8), seed=0)
    half = sampler.sample(trained.to(torch.bfloat16), (4, 1, 8, 8), seed=0)
    assert half.dtype == torch.float32
    assert (full - half).abs().max() < 0.2


@pytest.mark.parametrize(
    ("options", "most"), [({"precision": "bf16"}, 0.05), ({"compile": True}, 1e-3)]
)
def test_training_in_bfloat16_or_compiled(options: dict[str, Any], most: float) -> None:
    """The losses of a plain run, to what rounds."""
    found = []
    for how in ({}, options):
        torch.manual_seed(0)
        model = ss.ScoreModel(ss.UNet(1, width=16, blocks=1), SDE).cuda()
        data = torch.linspace(-1, 1, 64 * 64).view(64, 1, 8, 8)
        found.append(
            ss.train(model, data, steps=5, batch_size=32, seed=1, progress=False, **how).losses
        )
    assert found[1] == pytest.approx(found[0], rel=most)


def test_a_cuda_graph_replays_a_sampler() -> None:
    """``pure_function`` waits for no device: the capture would fail."""
    model = ss.ScoreModel(
        ss.UNet(1, width=16, blocks=1), SDE, data_mean=(2.0,), data_std=(3.0,)
    ).cuda()
    sampler = ss.PredictorCorrector(SDE, corrector=ss.Langevin(snr=0.1), steps=5)
    draw = ss.samplers.pure_function(sampler, model, (4, 1, 8, 8))
    z = torch.randn(draw.draws, 4, 1, 8, 8, device="cuda")
    warm = torch.cuda.Stream()
    with torch.cuda.stream(warm):
        for _ in range(3):
            draw(z)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x = draw(z)
    z.copy_(torch.randn_like(z))
    graph.replay()
    torch.testing.assert_close(x, draw(z), rtol=1e-4, atol=1e-4)


def test_a_nan_names_its_step() -> None:
    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.where(t < 0.5, torch.full_like(x, torch.nan), -x)

    sampler = ss.PredictorCorrector(SDE, predictor=ss.ReverseDiffusion(), grid=[1.0, 0.6, 0.4, 0.2])
    with pytest.raises(ss.errors.DivergenceError) as error:
        sampler.sample(score, (3, 2), device="cuda")
    assert error.value.step == 2
    assert error.value.samples == [0, 1, 2]


TRAIN = """
import sdescore as ss
torch.manual_seed(rank)
model = ss.ScoreModel(ss.MLP(2), ss.VPSDE())
data = torch.linspace(-1, 3, 400).view(200, 2)
result = ss.train(model, data, steps=20, device="cuda", progress=False)
torch.save((result.losses, str(model.device)), folder / str(rank))
"""


def test_a_sharded_network_trains_as_a_whole_one(tmp_path: Path) -> None:
    """FSDP2 over NCCL, on one GPU."""
    losses = []
    for shard in (False, True):
        out = tmp_path / f"{shard}.pt"
        script = tmp_path / f"{shard}.py"
        script.write_text(
            f"import torch\nimport sdescore as ss\ntorch.manual_seed(0)\n"
            f"model = ss.ScoreModel(ss.MLP(2), ss.VPSDE())\n"
            f"data = torch.linspace(-1, 3, 400).view(200, 2)\n"
            f"result = ss.train(model, data, steps=20, device='cuda', progress=False, "
            f"shard={shard})\ntorch.save(result.losses, {str(out)!r})\n"
        )
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        subprocess.run([*start, "--nproc-per-node=1", str(script)], check=True)
        losses.append(torch.load(out))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_two_processes_train_as_one(tmp_path: Path, backend: str) -> None:
    """Over gloo on one GPU, and over NCCL by torchrun on two; to what a GPU's sums round."""
    names: dict[str, object] = {"rank": 0, "folder": tmp_path / "one", "torch": torch}
    (tmp_path / "one").mkdir()
    exec(TRAIN, names)
    one, _ = torch.load(tmp_path / "one" / "0")
    if backend == "gloo":
        done = run_ranks(TRAIN, 2, tmp_path)
        assert [status for status, _ in done] == [0, 0], done
    else:
        if torch.cuda.device_count() < 2:
            pytest.skip("needs two CUDA devices")
        begin = (
            f"import os, torch, pathlib\nrank = int(os.environ['RANK'])\nfolder = {tmp_path!r}\n"
        )
        (tmp_path / "train.py").write_text("from pathlib import PosixPath\n" + begin + TRAIN)
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        subprocess.run([*start, "--nproc-per-node=2", str(tmp_path / "train.py")], check=True)
    for rank in range(2):
        losses, device = torch.load(tmp_path / str(rank))
        assert losses == pytest.approx(one, rel=1e-4)
        assert device == ("cuda:0" if backend == "gloo" else f"cuda:{rank}")
