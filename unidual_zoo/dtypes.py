"""What a network computes in, by torch's own types or by their names, as the command line takes them."""

from __future__ import annotations

import torch

from unidual_zoo.checks import check_known

FLOATS = ("float32", "bfloat16", "float16")
INT8 = "int8"  # of engines


def dtype_name(dtype: str | torch.dtype) -> str:
    """torch.bfloat16 or "bfloat16" -> "bfloat16", whether or not anything computes in it."""
    return str(dtype).removeprefix("torch.")


def as_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A floating-point type of torch, or its name in `FLOATS`; None stays None.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(dtype, str):
        check_known("dtype", dtype, FLOATS)
        return getattr(torch, dtype)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        hint = "; int8 is for engines, see engine=" if dtype == torch.int8 else ""
        raise ValueError(
            f"dtype must be a floating-point type such as torch.bfloat16, its name, or None, got {dtype!r}{hint}"
        )
    return dtype
