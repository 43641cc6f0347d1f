"""Compare rules on synthetic vectors, without training: ``python -m benchmark.vectors``."""

from benchmark.commands.start import start

if __name__ == "__main__":
    start("vectors")
