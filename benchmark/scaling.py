"""Measure how time and memory grow: ``python -m benchmark.scaling``."""

from benchmark.commands.start import start

if __name__ == "__main__":
    start("scaling")
