"""From a command line to cells, and from cells to results: all that knows Hydra."""
