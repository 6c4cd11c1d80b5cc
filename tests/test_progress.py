"""Progress without a terminal: when a line is written, and the time left in it."""

import io
import sys

import pytest

from undrift.progress import EVERY, FIRST, ProgressLines, progress_bar


class Clock:
    """A clock that is moved on by hand."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_a_line_comes_in_the_first_seconds_and_then_every_so_often(clock, capsys):
    advance, times = ProgressLines("training", 1000, clock=clock), []
    for second in range(1, 101):  # ten units a second
        clock.now = 100 + second
        advance(10, f"loss {second}")
        times += [second] * len(lines(capsys))
    assert times == list(range(int(FIRST), 101, int(EVERY)))
    assert FIRST <= 5 and 15 <= EVERY <= 30


def test_a_line_tells_what_is_done_the_loss_and_the_time_left_at_the_mean_speed(clock, capsys):
    advance = ProgressLines("training run-1", 2000, clock=clock)
    clock.now += 10
    advance(500, "loss 0.25")  # 50 a second: 1500 take 30 s
    assert lines(capsys) == ["training run-1: 500 of 2,000 (25 %), loss 0.25, 30 s left"]


def test_work_done_before_does_not_count_for_the_speed(clock, capsys):
    advance = ProgressLines("training", 1000, done=900, clock=clock)
    clock.now += 10
    advance(10)  # one a second: 90 take 90 s
    assert lines(capsys) == ["training: 910 of 1,000 (91 %), 2 min left"]


def test_no_time_left_is_given_before_anything_is_done(clock, capsys):
    advance = ProgressLines("study", 10, clock=clock)
    clock.now += 10
    advance(0, "base starts")
    assert lines(capsys) == ["study: 0 of 10 (0 %), base starts"]


def test_lines_without_a_terminal_unless_they_are_not_wanted(monkeypatch, capsys):
    monkeypatch.setattr("undrift.progress.FIRST", 0.0)
    for show, count in ((True, 1), (False, 0)):
        with progress_bar("sampling", 4, show=show) as advance:
            advance(2)
        assert len(lines(capsys)) == count


def test_a_terminal_gets_a_bar_with_the_loss(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress_bar("training [x]", 1000, done=100) as advance:
        advance(150, "loss 0.25")
    drawn = terminal.getvalue()
    assert "training [x]" in drawn and "250 of 1,000" in drawn and "loss 0.25" in drawn
