"""The compiled library: types, arguments, and a check that it computes what it should."""

from __future__ import annotations

import ctypes
import math
from ctypes import POINTER, c_double, c_int, c_int64, c_void_p

import torch
from torch import Tensor

from plugin_hasac.native.build import BuildError, library

ACTIVATIONS = {"relu": 1, "tanh": 2, "silu": 3}


class Layer(ctypes.Structure):
    """``struct Layer`` of ``kernels.cpp``."""

    _fields_ = (
        ("size_in", c_int64),
        ("size_out", c_int64),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("weight_grad", c_void_p),
        ("bias_grad", c_void_p),
        ("post", c_void_p),
        ("pre", c_void_p),
    )


class Network(ctypes.Structure):
    """``struct Network`` of ``kernels.cpp``."""

    _fields_ = (
        ("count", c_int64),
        ("layers", POINTER(Layer)),
        ("scale", c_void_p),
        ("shift", c_void_p),
        ("scale_grad", c_void_p),
        ("shift_grad", c_void_p),
        ("normalized", c_void_p),
        ("activation", c_int),
    )


class Change(ctypes.Structure):
    """``struct Change`` of ``kernels.cpp``."""

    _fields_ = (("x", c_void_p), ("weights", c_void_p * 2), ("size", c_int64), ("weight_ld", c_int64))


class Choices(ctypes.Structure):
    """``struct Choices`` of ``kernels.cpp``."""

    _fields_ = (("count", c_int64), ("sizes", POINTER(c_int64)))


class Library:
    """``kernels.cpp``, compiled for numbers of one type.

    Args:
        dtype: float32 or float64.

    Attributes:
        bfloat16: whether ``matmul_precision: medium`` has an effect here.

    Raises:
        BuildError: if it cannot be compiled here, or does not compute a product.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise BuildError(f"no kernels for {dtype}")
        lib = library(*(["DOUBLE"] if dtype == torch.float64 else []))
        pointer, size, network, choices = c_void_p, c_int64, POINTER(Network), POINTER(Choices)
        arguments = {
            "forward": [network, pointer, size, pointer, size, pointer, size, c_int, c_int, c_int],
            "backward": [network, pointer, size, pointer, size, size, c_int, c_int],
            "packed_size": [network, network],
            "smaller": [
                *[network, network, pointer, pointer, POINTER(Change), pointer, size, pointer, c_int],
                *[pointer, pointer, pointer, c_int, c_int],
            ],
            "slope_in": [*[pointer] * 4, size, pointer, size, size, size, c_int],
            "product": [pointer, size, pointer, size, pointer, pointer, size, pointer, size, size, size, c_int, c_int],
            "gaussian_draw": [*[pointer] * 2, size, size, *[c_double] * 3, *[pointer] * 2, c_int],
            "gaussian_slope": [
                *[*[pointer] * 3, size, pointer, size, size, c_double, c_double],
                *[*[pointer] * 4, c_int],
            ],
            "categorical_draw": [choices, *[pointer] * 3, size, *[pointer] * 3, c_int],
            "categorical_slope": [choices, *[pointer] * 4, size, pointer, size, *[pointer] * 4, c_int],
            "categorical_exact": [choices, *[pointer] * 3, size, *[pointer] * 5, c_int],
            "adam": [*[pointer] * 4, size, *[c_double] * 6, c_int],
        }
        for name, types in arguments.items():
            function = getattr(lib, f"hasac_{name}")
            function.argtypes, function.restype = types, None
        lib.hasac_adam.restype, lib.hasac_packed_size.restype = c_double, c_int64
        self.forward, self.backward, self._product = lib.hasac_forward, lib.hasac_backward, lib.hasac_product
        self.smaller, self.packed_size, self.slope_in = lib.hasac_smaller, lib.hasac_packed_size, lib.hasac_slope_in
        self.gaussian_draw, self.gaussian_slope = lib.hasac_gaussian_draw, lib.hasac_gaussian_slope
        self.categorical_draw, self.categorical_slope = lib.hasac_categorical_draw, lib.hasac_categorical_slope
        self.categorical_exact, self._adam = lib.hasac_categorical_exact, lib.hasac_adam
        self.bfloat16 = bool(lib.hasac_bfloat16())
        self._check(dtype)

    @property
    def half(self) -> bool:
        """Whether products are to be made in bfloat16 now."""
        return self.bfloat16 and torch.get_float32_matmul_precision() == "medium"

    def product(
        self, x: Tensor, weight: Tensor, out: Tensor, bias: Tensor | None = None, rows: Tensor | None = None
    ) -> None:
        """``out[rows] = x @ weight + bias``, or without a bias, added to what is there; all rows by default.

        Args:
            x: ``(count, in)``.
            weight: ``(in, out)``.
            out: ``(…, out)``.
            bias: ``(out,)``.
            rows: int64, ``(count,)``.
        """
        self._product(
            x.data_ptr(),
            x.stride(0),
            weight.data_ptr(),
            weight.stride(0),
            address(bias),
            out.data_ptr(),
            out.stride(0),
            address(rows),
            *x.shape,
            weight.shape[1],
            self.half,
            torch.get_num_threads(),
        )

    def adam(
        self,
        weights: Tensor,
        grads: Tensor,
        firsts: Tensor,
        seconds: Tensor,
        most: float | None,
        lr: float,
        beta1: float,
        beta2: float,
        epsilon: float,
        step: float,
    ) -> float:
        """Scale gradients to a norm of at most ``most``, then one step of Adam, in place.

        Args:
            weights: ``(n,)``.
            grads: ``(n,)``.
            firsts: first moments, ``(n,)``.
            seconds: second moments, ``(n,)``.
            most: no limit if ``None``.
            lr: learning rate.
            beta1: decay of the first moments.
            beta2: decay of the second moments.
            epsilon: added to the root of the second moments.
            step: its number, from 1.

        Returns:
            What the norm was before.
        """
        vectors = (vector.data_ptr() for vector in (weights, grads, firsts, seconds))
        limit = math.inf if most is None else most
        settings = lr, beta1, beta2, epsilon, step
        return self._adam(*vectors, weights.numel(), limit, *settings, torch.get_num_threads())

    def _check(self, dtype: torch.dtype) -> None:
        """A broken compiler, or a wrong one for this processor, is noticed here."""
        generator = torch.Generator().manual_seed(0)
        shapes = (33, 37), (37, 41), (41,)
        x, weight, bias = (torch.randn(*shape, generator=generator, dtype=dtype) for shape in shapes)
        out = torch.empty(33, 41, dtype=dtype)
        self.product(x, weight, out, bias)
        if not torch.allclose(out, x @ weight + bias, rtol=0.1, atol=0.1):
            raise BuildError("what was compiled does not compute a product")


def address(tensor: Tensor | None) -> int | None:
    """For an argument; ``None`` is a null pointer."""
    return None if tensor is None else tensor.data_ptr()
