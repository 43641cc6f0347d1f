"""Draw what is stored, and write its tables: ``python -m benchmark.plots``."""

from benchmark.commands.start import start

if __name__ == "__main__":
    start("plots")
