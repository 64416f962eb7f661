"""Two processes draw what one draws, agree on what that is, and end together."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch

import sdescore as ss
from tests.helpers.distributed_samples import (
    ARGUMENTS,
    SAMPLERS,
    B,
    Elementwise,
    fail_on,
    network,
)
from tests.helpers.ranks import run_ranks, said

# What each rank does; it writes its results to a folder of its own.
ON_A_RANK = """
import json, os
import sdescore as ss
from tests.helpers.ranks import outcome
from tests.helpers.distributed_samples import *

own = folder / str(rank)
own.mkdir()
for name, sampler in SAMPLERS.items():
    for what, arguments in ARGUMENTS.items():
        x = ss.sample_distributed(sampler, Elementwise(), (B, 3), seed=4, **arguments)
        torch.save(x, own / f"{name}-{what}")
chain, draw, said = SAMPLERS["chain"], ss.sample_distributed, {}
torch.save(draw(chain, network(), (B, 3), max_batch=5), own / "network")
torch.save(draw(chain, Elementwise(), (1, 3)), own / "one")
torch.save(draw(chain, Elementwise(), (0, 3)), own / "no samples")
for name, most in (("whole share", None), ("share by parts", 5)):
    sizes = []
    watched = Elementwise(lambda label: sizes.append(len(label)))
    draw(chain, watched, (B, 3), label=torch.arange(B), max_batch=most)
    said[name] = max(sizes)
write = ss.samplers.sample_to_folder
paths = write(chain, Elementwise(), (B, 3), folder / "whole", shard_size=5)
said["paths"] = [path.name for path in paths]
said["seed"] = outcome(lambda: draw(chain, Elementwise(), (B, 3), seed=rank))
model = network()
model.net.last.bias.data += rank
said["weights"] = outcome(lambda: draw(chain, model, (B, 3)))
said["max_batch"] = outcome(lambda: draw(chain, network(), (B, 3), max_batch=2 + rank))
said["none"] = outcome(lambda: draw(chain, network(), (B, 3), max_batch=rank))
said["no sampler"] = outcome(lambda: draw((chain, ss.DDIM())[rank], network(), (B, 3)))
said["out"] = outcome(lambda: write(chain, Elementwise(), (B, 3), folder / f"whole{rank}"))
said["door"] = outcome(lambda: draw(chain, Elementwise(), (B, 3), label=torch.arange(B - rank)))
label, broken = {"label": torch.arange(B)}, Elementwise(fail_on(13))
in_shards = label | {"shard_size": 3}
said["failure"] = outcome(lambda: draw(chain, broken, (B, 3), max_batch=3, **label))
said["shard"] = outcome(lambda: write(chain, broken, (B, 3), folder / "part", **in_shards))
said["after"] = outcome(lambda: draw(chain, Elementwise(), (B, 3)))
(own / "said.json").write_text(json.dumps(said))
killed = Elementwise(lambda label: os._exit(3) if 17 in label.tolist() else None)
end = outcome(lambda: write(chain, killed, (B, 3), folder / "killed", **in_shards))
(own / "end").write_text(end)
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    (status, err), (other, other_err) = run_ranks(ON_A_RANK, 2, folder)
    assert (status, other) == (0, 3), err + other_err
    return folder


@pytest.mark.slow
@pytest.mark.guards("B10")
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("what", ARGUMENTS)
def test_two_processes_draw_the_bits_of_one(ranks: Path, name: str, what: str) -> None:
    one = SAMPLERS[name].sample(Elementwise(), (B, 3), seed=4, **ARGUMENTS[what])
    for rank in range(2):
        assert torch.equal(torch.load(ranks / f"{rank}/{name}-{what}"), one)


@pytest.mark.slow
def test_a_network_rounds_otherwise_and_no_more(ranks: Path) -> None:
    one = SAMPLERS["chain"].sample(network(), (B, 3))
    for rank in range(2):
        x = torch.load(ranks / f"{rank}/network")
        assert (x - one).abs().max() <= 1e-5 * one.abs().max()


@pytest.mark.slow
def test_a_rank_without_work_gets_the_samples_too(ranks: Path) -> None:
    one = SAMPLERS["chain"].sample(Elementwise(), (1, 3))
    assert all(torch.equal(torch.load(ranks / f"{rank}/one"), one) for rank in range(2))


@pytest.mark.slow
def test_a_rank_draws_its_share_at_a_time(ranks: Path) -> None:
    """Of 23 samples 12 and 11, or what max_batch lets it draw."""
    assert said(ranks, "whole share") == [12, 11]
    assert said(ranks, "share by parts") == [5, 5]
    assert all(torch.load(ranks / f"{rank}/no samples").shape == (0, 3) for rank in range(2))


@pytest.mark.slow
def test_the_shards_of_two_processes_are_the_samples(ranks: Path) -> None:
    paths = sorted((ranks / "whole").glob("*.npy"))
    assert said(ranks, "paths") == [[path.name for path in paths]] * 2
    x = numpy.concatenate([numpy.load(path) for path in paths])
    one = SAMPLERS["chain"].sample(Elementwise(), (B, 3))
    assert numpy.array_equal(x, one.numpy())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "named"),
    [("seed", "seed"), ("weights", "model"), ("max_batch", "max_batch"), ("out", "out")],
)
def test_ranks_that_ask_for_different_samples_are_refused(
    ranks: Path, what: str, named: str
) -> None:
    got = f"got another {named} on rank 1 than on rank 0"
    for message in said(ranks, what):
        assert message.startswith("IncompatibleError: expected the same request") and got in message


@pytest.mark.slow
def test_a_bad_argument_of_one_rank_ends_both(ranks: Path) -> None:
    assert all("another label on rank 1" in message for message in said(ranks, "door"))
    one, other = said(ranks, "none")
    assert one.startswith("ParameterError") and "max_batch >= 1; got max_batch=0" in one
    assert other == f"RankError: rank 0 of 2 failed: {one}"
    one, other = said(ranks, "no sampler")
    assert other.startswith("IncompatibleError: expected sampler to be")
    assert one == f"RankError: rank 1 of 2 failed: {other}"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["failure", "shard"])
def test_a_failing_rank_ends_both_with_its_error(ranks: Path, what: str) -> None:
    """Parts of 3 go to the ranks by turns, so that of sample 13 is rank 0's."""
    own, other = said(ranks, what)
    assert own == "ArithmeticError: no score here"
    assert other == "RankError: rank 0 of 2 failed: ArithmeticError: no score here"
    assert said(ranks, "after") == ["done", "done"]


@pytest.mark.slow
def test_a_killed_rank_ends_the_other(ranks: Path) -> None:
    end = (ranks / "0" / "end").read_text()
    assert end.startswith("RankError: another rank is gone") and not (ranks / "1" / "end").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["part", "killed"])
def test_a_run_that_ended_early_goes_on(ranks: Path, name: str) -> None:
    """On one process where it was on two: the shards that are there stay, and are not drawn."""
    left = sorted((ranks / name).glob("*.npy"))
    before = {path: path.stat().st_mtime_ns for path in left}
    drawn: list[int] = []
    score = Elementwise(lambda label: drawn.extend(label.tolist()))
    label = torch.arange(B)
    paths = ss.samplers.sample_to_folder(
        SAMPLERS["chain"], score, (B, 3), ranks / name, shard_size=3, label=label
    )
    assert 4 <= len(left) < len(paths) == 8
    assert {path: path.stat().st_mtime_ns for path in left} == before
    assert set(drawn) == {
        i for k, path in enumerate(paths) if path not in before for i in range(B)[3 * k :][:3]
    }
    x = numpy.concatenate([numpy.load(path) for path in paths])
    one = SAMPLERS["chain"].sample(Elementwise(), (B, 3), label=label)
    assert numpy.array_equal(x, one.numpy())
    assert {path.suffix for path in (ranks / name).iterdir()} == {".npy", ".json"}


def test_without_a_group_one_process_draws_all() -> None:
    chain = SAMPLERS["chain"]
    x = ss.sample_distributed(chain, Elementwise(), (B, 3), seed=2, max_batch=4)
    assert torch.equal(x, chain.sample(Elementwise(), (B, 3), seed=2))
    with pytest.raises(ArithmeticError):  # the error itself, as it was raised
        ss.sample_distributed(chain, Elementwise(fail_on(2)), (B, 3), label=torch.arange(B))
