"""Rows that processes share, and how they are joined again."""

import pytest
import torch

from undrift.processes import ALONE, Processes, gather


@pytest.mark.parametrize(("count", "total"), [(1, 7), (2, 7), (3, 7), (4, 3), (5, 100)])
def test_shares_are_contiguous_even_and_hold_every_row_once(count, total):
    shares = [list(range(total)[Processes(index, count).share(total)]) for index in range(count)]
    assert [row for rows in shares for row in rows] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_rows_of_all_processes_are_those_that_one_draws():
    def draw(count):
        return torch.rand(count, 2, generator=torch.Generator().manual_seed(3))

    parts = [Processes(index, 3).drawn(draw, 4) for index in range(3)]
    assert torch.equal(torch.cat(parts), ALONE.drawn(draw, 12))


def in_each_process():
    from accelerate import PartialState
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    state = PartialState(cpu=True)
    processes = Processes.of(state)
    assert processes == Processes.running() and processes.count == 2
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        whole = torch.arange(10).reshape(5, 2).to(dtype)
        own = whole[processes.share(5)]
        assert torch.equal(processes.gather(own), whole)
    assert float(processes.mean(torch.tensor(float(processes.index)))) == 0.5
    weight = torch.tensor(2.0, requires_grad=True)
    own = torch.tensor([1.0, 2.0])[processes.share(2)] * weight  # rows x w
    rows = gather(own)
    assert rows.tolist() == [2.0, 4.0]
    (rows[0] * rows[1] ** 2).backward()  # 4 w^3, whose derivative is 12 w^2 = 48
    assert float(processes.mean(weight.grad)) == 48


def test_two_processes_gather_rows_and_average_to_the_gradient_of_the_joined_loss():
    from accelerate import debug_launcher

    debug_launcher(in_each_process, num_processes=2)
    rows = torch.ones(2, requires_grad=True)
    assert gather(rows) is rows and float(ALONE.mean(torch.tensor(3.0))) == 3
