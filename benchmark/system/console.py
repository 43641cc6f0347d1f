"""Where tables are printed."""

from rich.console import Console


def console_of(width: int) -> Console:
    """Return the terminal, or, where there is none to measure, lines of this width."""
    console = Console()
    return console if console.is_terminal else Console(width=width)
