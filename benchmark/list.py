"""Print the catalogue of what there is to choose from: ``python -m benchmark.list``."""

from benchmark.commands.start import start

if __name__ == "__main__":
    start("list")
