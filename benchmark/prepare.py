"""Fetch a data set: ``python -m benchmark.prepare``."""

from benchmark.commands.start import start

if __name__ == "__main__":
    start("prepare")
