"""``python -m benchmark COMMAND ...``, see `benchmark.commands.script`."""

from benchmark.commands.script import main

if __name__ == "__main__":
    main()
