"""Count done, failed, infeasible and missing cells: ``python -m benchmark.status``."""

from benchmark.commands.start import start

if __name__ == "__main__":
    start("status")
