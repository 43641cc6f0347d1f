"""How far a grid has come, on a terminal and elsewhere."""

import io
from types import SimpleNamespace

from benchmark.grid.progress import Progress


class Screen(io.StringIO):
    """Standard error, perhaps a terminal."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def advanced(monkeypatch, terminal):
    screen, clock = Screen(terminal), [0.0]
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("benchmark.grid.progress.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    with Progress(4) as progress:
        for status in ("done", "failed", "done", "done"):
            clock[0] += 6.0
            progress.on_end(SimpleNamespace(status=status))
    return screen.getvalue()


def test_plain_lines_are_few_and_tell_the_rest_of_the_time(monkeypatch):
    assert advanced(monkeypatch, terminal=False).splitlines() == [
        "training 4 cells",
        "2/4 cells, 10.0 a minute, 12 s left, 1 failed",
        "4/4 cells, 10.0 a minute, 0 s left, 1 failed",
    ]


def test_a_live_line_on_a_terminal(monkeypatch):
    shown = advanced(monkeypatch, terminal=True)
    assert "\x1b[" in shown and "4/4" in shown and "1 failed" in shown
