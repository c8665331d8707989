"""Files of torch in which a training pickled more than weights: its settings, curves and counts are read as nothing.

Such a pickle names the classes of its objects, which torch refuses to read as weights: of a configuration (yacs,
OmegaConf), of a log (mmengine), of a script's own. Here torch gets stand-ins by their names, so that nothing of theirs
is imported or called, and what they would make is left out with the rest that is no weight. Functions, and what of
Python's own library does more than hold values, are refused as before.
"""

from __future__ import annotations

import re
import sys
from collections import OrderedDict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

_VALUES = {  # what of Python's own library only holds values, or names what is not called
    "argparse.Namespace", "types.SimpleNamespace", "collections.defaultdict", "collections.deque",
    "builtins.getattr",  # how a class's method is named
    *(f"builtins.{kind}" for kind in ("bool", "dict", "float", "frozenset", "int", "list", "str", "tuple")),
    *(f"datetime.{kind}" for kind in ("date", "datetime", "timedelta", "timezone")),
    *(f"pathlib.{kind}Path" for kind in ("Posix", "PurePosix", "Windows", "PureWindows")),
    *(f"pathlib._local.{kind}Path" for kind in ("Posix", "PurePosix", "Windows", "PureWindows")),
    *(f"typing.{kind}" for kind in ("Any", "Dict", "List", "Optional", "Tuple", "Union")),
}  # fmt: skip
_OF_NUMPY = re.compile(
    r"numpy\.(dtype|ndarray|dtypes\.\w+|_?core\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer))"
)
_CLASS = re.compile(r"[\w.]+\._*[A-Z]\w*", re.ASCII)  # functions have small letters
_REFUSED = re.compile(r"\bGLOBAL ([\w.]+)")  # in what torch says; it leaves out "builtins."
_MOST = 50  # classes in a file


def load_pickled(path: Path) -> Any:
    """What torch.save wrote, tensors on the CPU; an empty OrderedDict, or one of no meaning, for objects of others.

    Raises:
        UnpicklingError: it names ("GLOBAL module.name") what is more than a class that holds values.
        Other errors are those of torch on damaged files.
    """
    classes: dict[str, type] = {}
    while True:
        try:
            with torch.serialization.safe_globals([*classes.values()]):
                return torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            lacking = [name for name in _lacking(path, error) if name not in classes]
            if not lacking or len(classes) > _MOST:
                raise
        except (TypeError, ValueError, AttributeError) as error:  # an object is told to hold what a stand-in does not
            if not classes:
                raise
            raise UnpicklingError(f"GLOBAL {min(classes, key=_is_common)}") from error
        if others := [name for name in lacking if not _holds_values(name)]:
            raise UnpicklingError(f"GLOBAL {others[0]}")
        classes |= {name: _stand_in(name) for name in lacking}


def _lacking(path: Path, error: UnpicklingError) -> list[str]:
    """The names that torch does not know: of an archive all, of an older file the one at which it stopped."""
    found = _REFUSED.search(str(error))
    if found is None:
        return []
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except ValueError:
        return [found[1] if "." in found[1] else f"builtins.{found[1]}"]


def _holds_values(name: str) -> bool:
    if name.partition(".")[0] in sys.stdlib_module_names:
        return name in _VALUES
    return bool(_CLASS.fullmatch(name) or _OF_NUMPY.fullmatch(name))


def _is_common(name: str) -> bool:
    """Whether many files name it, so that it says little of this one."""
    return name in _VALUES or bool(_OF_NUMPY.fullmatch(name))


class _Nothing:
    """Takes whatever its class is told to make and to hold, and keeps none of it."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Table:
    """The same for classes that may be dicts: torch lets an OrderedDict alone hold both items and attributes."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


def _stand_in(name: str) -> type:
    module, _, last = name.rpartition(".")
    kind = _Nothing if _OF_NUMPY.fullmatch(name) else _Table
    return type(last, (kind,), {"__module__": module, "__qualname__": last})
