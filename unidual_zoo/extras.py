"""Packages that an extra brings: asked for where they are used, and a missing one is one sentence."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """The module, imported now.

    Raises:
        RuntimeError: it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # it is there, and lacks something itself
        raise RuntimeError(f"this needs {module}, which is not installed: pip install 'unidual-zoo[{extra}]'") from None
