"""Train one cell or, with -m, a grid: ``python -m benchmark.run``."""

from benchmark.commands.start import start

if __name__ == "__main__":
    start("run")
