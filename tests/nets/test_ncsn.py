"""NCSN: the weights of each level are its own, and the data are in [0, 1]."""

from __future__ import annotations

import pytest
import torch

from sdescore.nets import NCSN
from tests.helpers.nets import perturbed


@pytest.fixture
def net() -> NCSN:
    torch.manual_seed(0)
    return perturbed(NCSN(1, levels=3, width=4)).double().eval()


@torch.no_grad()
def test_a_level_reads_its_own_row_of_every_table(net: NCSN) -> None:
    """Song & Ermon 2019, appendix A: a conditional normalisation has a row a level."""
    tables = {name: p for name, p in net.named_parameters() if name.endswith("embed.weight")}
    assert tables and {len(p) for p in tables.values()} == {3}
    x, level = torch.rand(3, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2])
    before = net(x, level)
    for table in tables.values():
        table[1] += 0.5
    after = net(x, level)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert not torch.isclose(after[1], before[1]).all()


@torch.no_grad()
def test_it_sees_data_from_minus_one_to_one(net: NCSN) -> None:
    twin = NCSN(1, levels=3, width=4, rescaled=True).double().eval()
    twin.load_state_dict(net.state_dict())
    x, level = torch.rand(2, 1, 8, 8, dtype=torch.float64), torch.tensor([2, 0])
    torch.testing.assert_close(net(x, level), twin(2 * x - 1, level), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_the_output_is_not_divided_by_sigma(net: NCSN) -> None:
    """The score is that of its tables alone: with equal rows every level says the same."""
    for name, table in net.named_parameters():
        if name.endswith("embed.weight"):
            table[:] = table[:1].clone()
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64).expand(3, 1, 8, 8)
    y = net(x, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(y[1:], y[:1].expand(2, 1, 8, 8), rtol=1e-12, atol=1e-12)
