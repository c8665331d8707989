"""Bad input as one clear sentence: what came, what is allowed, and the nearest of it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def check_known(what: str, value: object, allowed: Iterable[str]) -> None:
    """Raises a ValueError with the nearest allowed name, and all of them, if `value` is not one."""
    allowed = list(allowed)
    if value not in allowed:
        near = get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        names = ", ".join(name or repr(name) for name in allowed) or "none"
        raise ValueError(f"no {what} {value!r}, allowed: {names}{hint}")
