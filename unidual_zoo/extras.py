"""Packages that only parts of this one need, and the extra that installs each."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """The module, imported; where it is not installed a RuntimeError that names the extra which brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = error.name or module
        raise RuntimeError(f"{missing} is not installed: pip install 'unidual-zoo[{extra}]' brings it") from error
