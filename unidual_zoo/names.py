"""Names of classes, tasks and files: which are the same, and how each is written so that its reader takes it for text.

Terminals act on control characters, spreadsheets on cells that begin with `=`, file systems on a `/`. Each place that
writes a name calls the function for its reader; inside the program names stay what they are.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence

LISTED = 5  # names in a message
LONGEST = 100  # bytes of a name that becomes part of a file's, which most file systems limit to 255
RESERVED = '/\\:*?"<>|'  # in names of files, on one system or another
# Characters that nobody sees: soft hyphen, zero-width space and joiner, marks of direction, byte order mark. Those that
# change how their neighbours look (U+200C, U+200D) are none of them.
_UNSEEN = dict.fromkeys(
    (0x00AD, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), 0x2060, *range(0x2066, 0x206A), 0xFEFF)
)
_JOINERS = "\u200c\u200d"
_ACTIVE = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode categories: control, format, surrogate, line, paragraph
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def tidy(name: str) -> str:
    """The name as it looks: accents composed (NFC), any run of white space one blank, none at the ends.

    Two names that look the same are then equal. Capitals stay.
    """
    return " ".join(unicodedata.normalize("NFC", name.translate(_UNSEEN)).split())


def tidy_all(names: Iterable[str], *, where: object, what: str) -> dict[str, str]:
    """Each of the names -> its tidy form. Warns where several become one, which were meant as one or are a mistake."""
    tidied = {name: tidy(name) for name in names}
    spellings: dict[str, list[str]] = {}
    for name in sorted(tidied):
        spellings.setdefault(tidied[name], []).append(name)
    if several := [group for group in spellings.values() if len(group) > 1]:
        listed = "; ".join(", ".join(map(ascii, group)) for group in several[:LISTED])
        more = f" (and {len(several) - LISTED} more)" if len(several) > LISTED else ""
        warnings.warn(f"{where}: {what} that look the same are taken as one: {listed}{more}", stacklevel=2)
    return tidied


def counted(number: float, noun: str) -> str:
    """So many of what the noun names: "1 file", "2,000 files", "0 classes"."""
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def named(names: Sequence[str]) -> str:
    """The first of some names for a message: "a, b, …"."""
    return ", ".join(names[:LISTED]) + (", …" if len(names) > LISTED else "")


def printable(text: str) -> str:
    """The text for a terminal, on one line: what would move the cursor, change colours or turn the line is escaped."""
    if text.isprintable():
        return text
    return "".join(_escaped(letter) for letter in text)


def csv_cell(text: str) -> str:
    """The text for a cell: behind an apostrophe, which spreadsheets do not show, where they would take a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def from_csv_cell(cell: str) -> str:
    """The text that `csv_cell` wrote."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def check_fits_file_names(what: str, name: str) -> None:
    """Raises a ValueError unless the name can be part of a file's name on every system."""
    plain = name.isprintable() and name == tidy(name) and not set(name) & set(RESERVED)
    if not plain or not 0 < len(name.encode()) <= LONGEST:
        raise ValueError(
            f"{what} {name!r} cannot be part of file names: allowed are 1 to {LONGEST} bytes of printable characters "
            f"other than {' '.join(RESERVED)}, without blanks at the ends"
        )


def _escaped(letter: str) -> str:
    active = unicodedata.category(letter) in _ACTIVE and letter not in _JOINERS
    return letter.encode("unicode_escape").decode() if active else letter
