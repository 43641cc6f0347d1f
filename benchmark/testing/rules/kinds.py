"""Kinds of vectors: tensors, arrays, lists, other precisions and layouts, and what is no matrix."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
import torch

from benchmark.aggregators.contract import Rule
from benchmark.testing.contract import array_of, refused
from benchmark.testing.rule_inputs import D, F, N, Thing, call, draw, knowledge

KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "tensor": lambda x: torch.from_numpy(x.copy()),
    "parameter": lambda x: torch.from_numpy(x.copy()).requires_grad_(),
    "array": lambda x: x.copy(),
    "list of tensors": lambda x: [torch.from_numpy(row.copy()) for row in x],
    "list of arrays": lambda x: [row.copy() for row in x],
    "tuple of lists": lambda x: tuple(row.tolist() for row in x),
}

LAYOUTS: list[Callable[[np.ndarray], Any]] = [
    np.asfortranarray,
    lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    lambda x: x[::-1].copy()[::-1],
    lambda x: torch.from_numpy(np.asfortranarray(x)),
    lambda x: torch.nn.functional.pad(torch.from_numpy(x), (2, 3, 1, 0), value=1e9)[1:, 2:-3],
]


def kind_and_dtype_come_back(thing: Thing) -> None:
    """The result has the kind and the dtype of the vectors, and these are not changed."""
    for dtype in (np.float32, np.float64):
        x = draw(dtype=dtype)
        x[4] = x[7] * 9  # something to clip, drop and sort
        wanted = {x.dtype: call(thing, x, F), np.dtype(float): call(thing, x.astype(float), F)}
        for kind, make in KINDS.items():
            given_data = make(x)
            before = array_of(given_data).copy()
            result = call(thing, given_data, F)
            arrays = kind in ("array", "list of arrays", "tuple of lists")
            assert type(result) is (np.ndarray if arrays else torch.Tensor)
            assert array_of(result).dtype == (np.float64 if kind == "tuple of lists" else dtype)
            assert result.shape == ((D,) if isinstance(thing, Rule) else (len(result), D))
            assert np.array_equal(array_of(given_data), before)
            assert np.array_equal(array_of(result), wanted[array_of(result).dtype])
            if kind != "parameter":
                result[...] = 7  # the result is the caller's own
                assert np.array_equal(array_of(given_data), before)


def read_only_arrays_and_integers_are_welcome(thing: Thing) -> None:
    """Arrays that cannot be written and whole numbers are taken."""
    x = np.random.default_rng(0).integers(-5, 6, (N, D))
    wanted = call(thing, x.astype(float), F)
    x.flags.writeable = False
    result = call(thing, x, F)
    assert result.dtype == np.float64 and np.array_equal(result, wanted)
    assert call(thing, torch.from_numpy(x.copy()), F).dtype == torch.float32


def half_precision_is_computed_in_single(thing: Thing) -> None:
    """Numbers of half precision give what they give in float32, rounded at the end."""
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.from_numpy(draw(dtype=np.float32)).to(dtype)
        x[2] *= 100
        result, wanted = call(thing, x, F), call(thing, x.float(), F)
        assert result.dtype == dtype and result.shape == wanted.shape
        tolerance = 2 * torch.finfo(dtype).eps
        torch.testing.assert_close(result.float(), wanted, rtol=tolerance, atol=tolerance)


def memory_layout_does_not_matter(thing: Thing) -> None:
    """How the vectors lie in memory does not matter."""
    x = draw()
    wanted = call(thing, x, F)
    for layout in LAYOUTS:
        np.testing.assert_allclose(call(thing, layout(x), F), wanted, rtol=1e-8, atol=1e-11)


def same_bits_twice(thing: Thing) -> None:
    """The same vectors give the same bits twice."""
    x = draw(d=3000, dtype=np.float32)
    assert np.array_equal(call(thing, x, F), call(thing, x.copy(), F))


def what_is_no_matrix_is_refused(thing: Thing) -> None:
    """What is no matrix of numbers is an error of one line."""
    for updates in _no_matrices():
        with refused(match="^updates must be |^there are no updates", given=updates):
            thing(updates, f=0)


def _no_matrices() -> list[Any]:
    layouts = torch.strided, torch.jagged
    with warnings.catch_warnings(action="ignore"):  # that they are prototypes, or no longer wanted
        nested = [torch.nested.nested_tensor([torch.zeros(2)] * 4, layout=each) for each in layouts]
        quantized = torch.quantize_per_tensor(torch.zeros(4, 2), 0.1, 0, torch.qint8)
    return [
        quantized,
        *nested,
        [],
        np.zeros(4),
        np.zeros((2, 2, 2)),
        np.zeros((4, 0)),
        torch.zeros(4, 0),
        [[1.0, 2.0], [3.0]],
        [torch.zeros(2), torch.zeros(3)],
        [torch.zeros(2), np.zeros(2)],
        [["a"], ["b"]],
        None,
        3,
        "abc",
        {"w": torch.zeros(4, 2)},
        [{"w": torch.zeros(2)}] * 4,
        [[torch.zeros(2, 2), torch.zeros(3)]] * 4,
        [np.zeros(2), torch.zeros(2)],
        [torch.zeros(2, 2)] * 4,
        (row for row in np.zeros((4, 2))),
        np.zeros((4, 2), object),
        np.zeros((4, 2), bool),
        [[True, False]] * 4,
        np.zeros(4, [("a", float)]),
        np.ma.masked_less(np.arange(8.0).reshape(4, 2), 3),
        [np.ma.masked_less(np.arange(2.0), 1)] * 4,
        pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
        pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}),
        scipy.sparse.csr_array(np.zeros((4, 2))),
        torch.zeros(4, 2).to_sparse(),
        [torch.zeros(2).to_sparse()] * 4,
        torch.zeros(4, 2, dtype=torch.float8_e4m3fn),
        torch.zeros(4, 2, device="meta"),
        torch.zeros(4, 2, dtype=torch.bool),
        np.zeros((4, 2), complex),
        torch.zeros(4, 2, dtype=torch.complex64),
        torch.zeros(0, 3),
    ]


class Marked(torch.Tensor):
    """A tensor of another class."""


def other_kinds_of_matrices_are_welcome(thing: Thing) -> None:
    """Views, subclasses of tensors, data frames and lists of series are taken."""
    x, known = torch.from_numpy(draw()), {"context": knowledge(draw())}
    wanted = thing(x, f=F, **known)
    negated = torch.complex(x, -x).conj().imag
    assert negated.is_neg()
    for given in (negated, torch.complex(x, x).real, x.as_subclass(Marked), x.T.contiguous().T):
        result = thing(given, f=F, **known)
        assert type(result) is torch.Tensor
        torch.testing.assert_close(result, wanted, rtol=1e-8, atol=1e-11)
    rows = x.numpy()
    kinds = pd.DataFrame(rows), np.ma.array(x), np.asmatrix(x), [pd.Series(row) for row in rows]
    for given in kinds:
        result = thing(given, f=F, **known)
        assert type(result) is np.ndarray and np.array_equal(result, wanted)
