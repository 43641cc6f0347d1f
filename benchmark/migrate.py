"""Give cells of earlier versions the keys of this one: ``python -m benchmark.migrate``."""

from benchmark.commands.start import start

if __name__ == "__main__":
    start("migrate")
