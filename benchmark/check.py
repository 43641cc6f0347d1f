"""Check a component against the suite's contract: ``python -m benchmark.check``."""

from benchmark.commands.start import start

if __name__ == "__main__":
    start("check")
