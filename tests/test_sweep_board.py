"""What a sweep shows: lines from rows, a log without control characters, what a real terminal has at last."""

import os
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from mech_grok.progress import Status
from mech_grok.sweep.display import board as board_module
from mech_grok.sweep.display.board import Board, Row, Total
from mech_grok.sweep.display.live_lines import live_lines
from mech_grok.sweep.display.rows import change_line, printable, status_line, total_line

TRAINING = Status("train", "step", 1200, 3000, 23.0, 52.13, "train loss 3.12e-04, test accuracy 0.312")
PROBING = Status("probe", "checkpoint", 3, 10, 9.0, 0.3125)
TOTAL = Total(cells=40, complete=3, failed=1, waiting=34, work_done=0.125, elapsed=62.0, seconds_left=490.0)


def drawn(rows: list[Row], width: int, height: int = 24, total: Total = TOTAL) -> list[str]:
    return [line.plain for line in live_lines(rows, total, width, height)]


def test_a_wide_terminal_has_room_for_everything() -> None:
    rows = [
        Row("off_lr=0.003", "waiting"),
        Row("mlp-pre", "running", TRAINING),
        Row("off", "done", PROBING),
        Row("off_lr=0.001", "running", PROBING),
        Row("pre", "running"),
    ]
    assert drawn(rows, 120) == [
        "mlp-pre       train     ━━━━━━──────────  1,200/3,000  52.1/s  0:35 left  "
        "train loss 3.12e-04, test accuracy 0.312",
        "off_lr=0.001  probe     ━━━━╸───────────         3/10  0.31/s  0:22 left",
        "pre           starting  ────────────────                                ",
        "3/40 complete, 1 failed  ━━──────────────  12%  1:02 elapsed  8:10 left",
    ]


def test_a_narrow_terminal_shows_less_of_each_cell() -> None:
    rows = [Row("mlp-pre_lr=0.003_weight_decay=0.1", "running", TRAINING)]
    name, *rest = drawn(rows, 79)[0].split("  ")
    assert (name[:10], name[-8:], name.count("…")) == ("mlp-pre_lr", "ecay=0.1", 1)
    assert rest == ["train", "━━━─────", "1,200/3,000", "52.1/s", "0:35 left"]
    assert drawn(rows, 39) == [
        "mlp-pre…cay=0.1  1,200/3,000  0:35 left",
        "3/40 complete, 1 failed  12%  8:10 left",
    ]


def test_short_names_tell_cells_apart() -> None:
    rows = [Row(f"mlp-pre_lr=0.00{i}_weight_decay=0.1", "running", TRAINING) for i in range(3)]
    assert [line.split("  ")[0] for line in drawn(rows, 39)[:3]] == [f"…r=0.00{i}_weigh…" for i in range(3)]


def test_cells_that_others_work_on_come_last() -> None:
    busy = Row("a", "busy", PROBING, "claimed by gpu7, pid 12")
    lines = drawn([busy, Row("b", "running", TRAINING)], 100)
    assert [line.split()[0] for line in lines[:2]] == ["b", "a"]
    assert re.search(r"a +busy +━━.* 3/10 .*claimed by gpu7, pid 12", lines[1])


def test_more_cells_than_lines() -> None:
    rows = [Row(f"cell-{i}", "running", TRAINING) for i in range(1000)]
    lines = drawn(rows, 79, height=5)
    assert [line.split()[0] for line in lines] == ["cell-0", "cell-1", "cell-2", "...", "3/40"]
    assert lines[3] == "... and 997 more running"
    assert len(drawn(rows[:4], 79, height=5)) == 5
    assert [len(drawn(rows, 79, height)) for height in (1, 2, 3)] == [1, 2, 3]


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,60}", fullmatch=True)
STATUSES = st.builds(
    Status,
    label=st.sampled_from(["train", "probe", "ablate"]),
    unit=st.just("step"),
    done=st.integers(0, 10**6),
    total=st.integers(1, 10**6),
    elapsed=st.floats(0, 1e6),
    rate=st.just(0.0) | st.floats(1e-4, 1e6),
    note=st.text(),
)
STATES = st.sampled_from(["waiting", "running", "busy", "done", "failed", "stopped"])
ROWS = st.lists(st.builds(Row, NAMES, STATES, st.none() | STATUSES, st.text()), max_size=12)
TOTALS = st.builds(
    Total,
    *[st.integers(0, 10**5)] * 4,
    work_done=st.floats(0, 1),
    elapsed=st.floats(0, 1e7),
    seconds_left=st.none() | st.floats(0, 1e7),
)


@given(ROWS, TOTALS, st.integers(1, 200), st.integers(1, 16))
def test_nothing_ever_wraps_or_scrolls(rows: list[Row], total: Total, width: int, height: int) -> None:
    lines = drawn(rows, width, height, total)
    active = sum(row.state in ("running", "busy") for row in rows)
    assert len(lines) == min(active + 1, height)
    assert all(cell_len(line) <= width for line in lines)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("before", "row", "line"),
    [
        (None, Row("a", "running"), "a: begun"),
        ("waiting", Row("a", "running"), "a: begun"),
        ("running", Row("a", "running", TRAINING), None),
        ("running", Row("a", "done", TRAINING, "its worker died"), "a: done"),
        ("running", Row("a", "failed", None, "x.csv: no such\nfile"), "a: failed: x.csv: no such file"),
        ("waiting", Row("a", "failed", None, "it builds on b"), "a: failed: it builds on b"),
        ("waiting", Row("a", "busy", None, "pid 7 is at it"), "a: busy: pid 7 is at it"),
        ("running", Row("a", "waiting", None, "its worker died"), None),
        ("running", Row("a", "stopped"), "a: stopped"),
        ("waiting", Row("a", "stopped"), None),
    ],
)
def test_what_is_said_when_a_cell_changes(before: str | None, row: Row, line: str | None) -> None:
    assert change_line(row, before) == line


def test_lines_of_a_log() -> None:
    assert status_line(Row("a", "running", TRAINING)) == (
        "a: train: step 1,200/3,000, 52.1/s, 0:35 left  train loss 3.12e-04, test accuracy 0.312"
    )
    assert status_line(Row("a", "running")) == "a: starting"
    assert total_line(TOTAL) == (
        "total: 3/40 complete, 1 failed, 34 waiting, 12% of the work, 1:02 elapsed, 8:10 left"
    )
    begun = Total(cells=4, complete=0, failed=0, waiting=0, work_done=0.0, elapsed=0.0)
    assert total_line(begun) == "total: 0/4 complete, 0% of the work, 0:00 elapsed"
    assert printable("a\x1b[31m\tb\ud800\r\nc [bold]é[/bold]") == "a?[31m b?  c [bold]é[/bold]"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time, which passes when it is told to."""
    time = [1000.0]
    monkeypatch.setattr(board_module, "monotonic", lambda: time[0])
    return time


def test_off_a_terminal(now: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Changes at once; how far it is every 15 s, after two minutes every 30 s; nothing moves a cursor."""
    rows, seen = [Row("a", "running", TRAINING), Row("b", "waiting")], []
    with Board() as board:
        for second in range(241):
            now[0] = 1000.0 + second
            if second == 100:
                rows[1] = Row("b", "running")
            if second == 130:
                rows[0] = replace(rows[0], state="failed", note="no\x1b[2J such [file]")
            board.show(rows, replace(TOTAL, elapsed=float(second)))
            seen += [(second, line) for line in capsys.readouterr().out.splitlines()]
        board.say("b: killed; given to another worker\n")
        seen += [(second, line) for line in capsys.readouterr().out.splitlines()]
    looks = [second for second, line in seen if line.startswith("total:")]
    assert looks == [0, 15, 30, 45, 60, 75, 90, 105, 135, 165, 195, 225]
    assert [(second, line) for second, line in seen if re.match(r"\w: (begun|failed|killed)", line)] == [
        (0, "a: begun"),
        (100, "b: begun"),
        (130, "a: failed: no?[2J such [file]"),
        (240, "b: killed; given to another worker"),
    ]
    assert [line for second, line in seen if second == 105] == [
        status_line(Row("a", "running", TRAINING)),
        "b: starting",
        total_line(replace(TOTAL, elapsed=105.0)),
    ]
    assert [line.partition(":")[0] for second, line in seen if second == 225] == ["b", "total"]
    assert capsys.readouterr().out.splitlines() == [total_line(replace(TOTAL, elapsed=240.0))]


def test_cells_elsewhere_are_logged_while_nothing_runs_here(
    now: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    here, elsewhere = Row("a", "running", TRAINING), Row("b", "busy", PROBING, "pid 7 is at it")
    with Board() as board:
        board.show([here, elsewhere], TOTAL)
        now[0] += 15
        capsys.readouterr()
        board.show([replace(here, state="done"), elsewhere], TOTAL)
        assert capsys.readouterr().out.splitlines() == ["a: done", status_line(elsewhere), total_line(TOTAL)]


def test_a_sweep_that_showed_nothing_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Board():
        pass
    assert capsys.readouterr().out == ""


CHILD = """
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
from dataclasses import replace
from mech_grok.progress import Status
from mech_grok.sweep.display.board import Board, Row, Total

names = [f"mlp-pre_lr=0.{i:03d}_weight_decay=0.1" for i in range(30)]
total = Total(cells=30, complete=0, failed=0, waiting=2, work_done=0.5, elapsed=62, seconds_left=62)
with Board() as board:
    for step in range(0, 101, 20):
        status = Status("train", "step", step, 200, 10.0, 5.0, "train loss 1.00e-03")
        rows = [Row(name, "running", status) for name in names]
        board.show(rows, total)
        if step == 40:
            print("a warning from elsewhere")
    rows[1] = Row(names[1], "failed", None, "runs/[bold]x[/bold]: damaged")
    board.show(rows, replace(total, failed=1))
    board.say("mlp-pre: killed; given to another worker " + "and so on " * 9)
    os.write(2, b"shown")
    time.sleep(60)
"""


class Screen:
    """A terminal, as far as rich uses one; anything else it is asked for is an error."""

    def __init__(self, columns: int, rows: int):
        self.columns, self.rows = columns, rows
        self.lines: list[list[str]] = [[]]
        self.row = self.column = 0
        self.cursor = True

    def feed(self, text: str) -> None:
        for control, arguments, kind, character in re.findall(r"(\x1b\[([?\d;]*)([A-Za-z]))|([\s\S])", text):
            if control:
                self._control(arguments, kind)
            elif character == "\r":
                self.column = 0
            elif character == "\n":
                self._down()
            else:
                assert character.isprintable(), repr(character)
                self._put(character)

    def _control(self, arguments: str, kind: str) -> None:
        if kind == "A":
            assert self.row >= int(arguments), "the cursor cannot go above the screen"
            assert self.row - int(arguments) >= len(self.lines) - self.rows, "nor where it has scrolled off"
            self.row -= int(arguments)
        elif (arguments, kind) == ("2", "K"):
            self.lines[self.row] = []
        elif arguments == "?25":
            self.cursor = kind == "h"
        else:
            assert kind == "m", f"{arguments}{kind}"

    def _put(self, character: str) -> None:
        if self.column == self.columns:
            self._down()
            self.column = 0
        line = self.lines[self.row]
        line += " " * (self.column + 1 - len(line))
        line[self.column] = character
        self.column += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append([])

    @property
    def text(self) -> list[str]:
        return ["".join(line).rstrip() for line in self.lines]


def drain(terminal: int, screen: Screen, until: int) -> None:
    """What is written until another file is written to or closed, and a little longer."""
    said, waiting = b"", True
    while True:
        files, seconds = ([terminal, until], 20.0) if waiting else ([terminal], 0.2)
        ready, _, _ = select.select(files, [], [], seconds)
        if not ready:
            break
        if until in ready:
            os.read(until, 1000)
            waiting = False
        if terminal in ready:
            try:
                said += os.read(terminal, 65536)
            except OSError:  # the other end is closed
                break
    screen.feed(said.decode())


@pytest.fixture(params=[(80, 24), (40, 10)], ids=str)
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


@pytest.fixture
def terminal(size: tuple[int, int]) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A terminal, and a process that shows a sweep on it."""
    outside, inside = os.openpty()
    termios.tcsetwinsize(inside, size[::-1])
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=inside,
        stdout=inside,
        stderr=subprocess.PIPE,
        env={**environment, "TERM": "xterm-256color"},
    ) as child:
        os.close(inside)
        yield outside, child
        child.kill()
    os.close(outside)


def test_on_a_real_terminal(terminal: tuple[int, subprocess.Popen[bytes]], size: tuple[int, int]) -> None:
    outside, child = terminal
    assert child.stderr is not None
    columns, rows = size
    screen = Screen(columns, rows)
    drain(outside, screen, until=child.stderr.fileno())

    stays, live = screen.text[: -rows + 1], screen.text[-rows + 1 :]
    assert not screen.cursor
    assert screen.row == len(screen.text) - 1
    assert live[-1].startswith("0/30 complete, 1 failed")
    assert live[-2] == f"... and {29 - (rows - 3)} more running"
    cells = [re.fullmatch(r"\S*?(\d+)_w\S* .*100/200.* 0:20 left", line) for line in live[:-2]]
    assert [found and int(found[1]) for found in cells] == [0, *range(2, rows - 2)]
    said = "".join(line.ljust(columns) for line in stays).split()
    assert said[:4] == ["a", "warning", "from", "elsewhere"]
    assert said[4:7] == ["mlp-pre_lr=0.001_weight_decay=0.1:", "failed:", "runs/[bold]x[/bold]:"]
    assert said[7:] == f"damaged mlp-pre: killed; given to another worker {'and so on ' * 9}".split()

    child.send_signal(signal.SIGINT)
    drain(outside, screen, until=child.stderr.fileno())
    assert screen.cursor
    assert "".join(screen.text[len(stays) :]) == (
        "total: 0/30 complete, 1 failed, 2 waiting, 50% of the work, 1:02 elapsed, 1:02 left"
    )
