"""A minimal stand-in for torchvision: only what ByzFL's benchmark runner uses.

The torchvision to be had does not import beside this project's torch build
("operator torchvision::nms does not exist"), and ByzFL's runner needs it for
the data set and its transforms alone. Put the folder that holds this package
on PYTHONPATH (byzfl_grid.py puts it on sys.path itself).

What is timed follows torchvision's own path: raw IDX files read from
ROOT/FashionMNIST/raw, and one sample at a time through tensor -> PIL image ->
transforms -> tensor. Left out are torchvision's per-call API-usage logging and
its argument checks, so that it can be only a little faster than the real one.
"""

from . import datasets, transforms

__all__ = ["datasets", "transforms"]
