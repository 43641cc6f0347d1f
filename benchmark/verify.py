"""Check stored cells against their checksums: ``python -m benchmark.verify``."""

from benchmark.commands.start import start

if __name__ == "__main__":
    start("verify")
