"""Delete stored cells by a condition: ``python -m benchmark.remove``."""

from benchmark.commands.start import start

if __name__ == "__main__":
    start("remove")
