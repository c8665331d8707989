"""Bad input as one clear sentence: what was given, what is allowed, and the nearest of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from numbers import Integral, Real
from reprlib import Repr
from typing import Any

LISTED = 5  # names in a sentence; the rest are counted
_LONGEST = 100  # characters of a value in a sentence
_MANY = 16  # names are not listed, but the nearest of them
_ALIKE = 0.6  # likeness of a name that may be meant

_short = Repr()
_short.maxstring = _short.maxlong = _short.maxother = _LONGEST
short_repr = _short.repr  # a value for a sentence, whatever its size


def check_known(what: str, value: object, allowed: Iterable[str], *, listed: str = "") -> None:
    """Raises a ValueError if `value` is not one of the allowed names: with all of them, or of many with the nearest.

    `listed` says where many are to be found, such as "`unidual models` lists all".
    """
    allowed = list(allowed)
    if value in allowed:
        return
    if len(allowed) > _MANY:
        near = ", ".join(nearest(value, allowed, least=0))
        found = f"; {listed}" if listed else ""
        raise ValueError(f"no {what} {short_repr(value)}, the nearest of {len(allowed)}: {near}{found}")
    near = nearest(value, allowed, count=1, least=_ALIKE)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    names = ", ".join(name or repr(name) for name in allowed) or "none"
    raise ValueError(f"no {what} {short_repr(value)}, allowed: {names}{hint}")


def nearest(value: object, names: Iterable[str], *, count: int = 3, least: float = 0.4) -> list[str]:
    """The names most like a value, whatever their case, the likeliest first; `least` likeness is from 0 to 1.

    One that is a part of the other is like it.
    """
    wanted = str(value).casefold()
    scored = [(_likeness(wanted, name.casefold()), name) for name in names]
    best = sorted((pair for pair in scored if pair[0] >= least), key=lambda pair: -pair[0])
    return [name for _, name in best[:count]]


def _likeness(one: str, other: str) -> float:
    ratio = SequenceMatcher(None, one, other).ratio()
    part = min(len(one), len(other)) > 1 and (one in other or other in one)
    return (1 + ratio) / 2 if part else ratio


def is_number(value: Any, *, least: float, most: float, whole: bool = True) -> bool:
    """Whether a value is a number from `least` to `most`; NaN and booleans are none."""
    kind: Any = Integral if whole else Real
    return not isinstance(value, bool) and isinstance(value, kind) and least <= value <= most


def check_number(what: str, value: Any, *, least: float, most: float, whole: bool = True) -> None:
    """Raises a ValueError if `value` is not a number from `least` to `most`."""
    if not is_number(value, least=least, most=most, whole=whole):
        kind = "whole number" if whole else "number"
        raise ValueError(f"{what} must be a {kind} from {least:,} to {most:,}, got {short_repr(value)}")


def shorten(names: Sequence[str]) -> str:
    """The first names as a list in a sentence, control characters escaped, and how many more there are."""
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(name if name.isprintable() else short_repr(name) for name in names[:LISTED]) + more


def first_line(error: BaseException) -> str:
    """What an error says as the end of a sentence: its first line, or its kind if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
