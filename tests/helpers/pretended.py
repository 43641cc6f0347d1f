"""A GPU that only pretends: its tensors say that they are on a device of their own, and compute on
the CPU.

It refuses what CUDA refuses: operands on two devices, but for single numbers of the CPU and its
indices, and NumPy's arrays of what it holds. So whole cells can be trained "on a GPU" anywhere.
"""

from contextlib import contextmanager

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretended"
_setup_privateuseone_for_python_backend(NAME)
_backend = getattr(torch, NAME)
_backend.get_rng_state = lambda device=None: torch.get_rng_state()
_backend.set_rng_state = lambda state, device=None: torch.set_rng_state(state)
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class Pretended(torch.Tensor):
    """A tensor on the device, around one of the CPU."""

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, layout=held.layout, device=torch.device(NAME, 0),
        )  # fmt: skip
        made.held = held
        return made

    def tolist(self):
        return self.held.tolist()

    def __repr__(self):
        return f"Pretended({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _computed(operation, args, kwargs or {})


class _Device(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _computed(operation, args, kwargs or {})


@contextmanager
def device():
    """The device is there, under `NAME`."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with _Device():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def _tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _held(value):
    return value.held if isinstance(value, Pretended) else value


def _computed(operation, args, kwargs):
    """What an operation returns; by its name and the devices of its operands, on which device."""
    name = operation._schema.name.split("::")[1]
    wanted = kwargs.get("device")
    tensors = _tensors((args, kwargs))
    ours = [tensor for tensor in tensors if isinstance(tensor, Pretended)]
    here = torch.device(wanted).type == NAME if wanted is not None else bool(ours)
    if name == "copy_":
        operation(*map(_held, args), **kwargs)
        return args[0]
    if name == "_to_copy":
        kept = {k: v for k, v in kwargs.items() if k not in ("device", "non_blocking")}
        copy = operation(_held(args[0]), **kept)
        return Pretended(copy) if here else copy
    if not (here or ours):
        return operation(*args, **kwargs)
    together = _tensors((args[0], args[2:3])) if name in _INDEXING else tensors
    strangers = [t for t in together if not isinstance(t, Pretended) and t.dim()]
    if ours and strangers:
        raise RuntimeError(
            f"Expected all tensors to be on the same device: {name} got {strangers[0].shape} of "
            "the CPU"
        )
    if wanted is not None:
        kwargs = {**kwargs, "device": "cpu"}
    out = operation(*tree_map(_held, args), **tree_map(_held, kwargs))
    if torch.Tag.inplace_view in operation.tags:  # ours changes its shape with what it holds
        with no_dispatch():
            operation(*args, **kwargs)
        return args[0]
    known = {id(tensor.held): tensor for tensor in ours}  # what is changed in place is returned
    wrap = lambda t: known[id(t)] if id(t) in known else Pretended(t)  # noqa: E731
    return tree_map(lambda t: wrap(t) if isinstance(t, torch.Tensor) else t, out)
