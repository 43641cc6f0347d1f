"""How much memory torch operations take, measured by doing them."""

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def memory_of(work: Callable[[int], object], trial: int) -> Callable[[int], int]:
    """Return the bytes that work on some examples takes at its peak, as a function of their number.

    What there is after each operation is a constant and a multiple of the number of examples.

    Args:
        work: is done on so many examples.
        trial: on how many it is tried; on half of them, too.
    """
    half, whole = (_Meter.trace(partial(work, count)) for count in (trial // 2, trial))
    if len(half) != len(whole):  # which operations are done depends on the data
        return lambda examples: int(whole.max() / trial * examples)
    slope = (whole - half) / (trial - trial // 2)
    return lambda examples: int((whole + slope * (examples - trial)).max())


class _Meter(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it is on, and still there."""

    def __init__(self) -> None:
        super().__init__()
        self._live, self._trace, self._known = 0, [0], {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch's compiler would be imported, which takes seconds

    @classmethod
    def trace(cls, work: Callable[[], object]) -> np.ndarray:
        """The bytes after each operation of the work."""
        with cls() as meter:
            work()
        return np.array(meter._trace, float)

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Do an operation, and count what it made."""
        for tensor in tree_leaves((args, kwargs)):
            self._count(tensor, there=True)
        results = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            self._count(tensor, there=False)
        self._trace.append(self._live)
        return results

    def _count(self, tensor: object, there: bool) -> None:
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            return
        storage = tensor.untyped_storage()
        name = storage._cdata
        if name in self._known:
            return
        size = 0 if there else storage.nbytes()
        self._live += size

        def gone(_: object) -> None:
            self._live -= size
            del self._known[name]

        self._known[name] = weakref.ref(storage, gone)
