"""Names of weights in another code base and in ours: one table, read in both directions.

    RESNET = KeyMap(
        [
            ("layer{s+1}.{b}.conv{i}", "stages.{s}.{b}.conv{i}"),  # theirs, ours
            ("fc", "heads.image.{task}"),
        ],
        task="in1k",
    )
    RESNET.forward({"layer1.0.conv2.weight": w})   # {"stages.0.0.conv2.weight": w}
    RESNET.back(RESNET.forward(weights)) == weights

A row names a module, whose weights keep the last part of their names, or a single weight. In braces stands a whole
number from 0, `{s}`, on one side perhaps with an offset, `{s+1}`, or a word given with the table, `{task}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from unidual_zoo.checks import shorten
from unidual_zoo.weights.rows import CheckpointError

_FIELD = re.compile(r"\{(.*?)\}")
_NUMBER = "(0|[1-9][0-9]*)"  # "01" would not come back
_LAST = r"(\.[A-Za-z_]\w*)?"  # weight, bias, running_mean, …


class KeyMap:
    """A table of (theirs, ours) templates. The first row that fits a name counts.

    Raises:
        ValueError: a template cannot be read, or the two of a row have other fields.
    """

    def __init__(self, rows: Sequence[tuple[str, str]], **words: str) -> None:
        self._rows = [(_Template.parse(theirs, words), _Template.parse(ours, words)) for theirs, ours in rows]
        for (theirs, ours), row in zip(self._rows, rows, strict=True):
            if {name for name, _ in theirs.fields} != {name for name, _ in ours.fields}:
                raise ValueError(f"the names in {row[0]!r} and {row[1]!r} must have the same fields")

    def forward(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their weights by our names; one that the table does not know keeps its name, for the fit to complain of.

        Raises:
            CheckpointError: two weights get one name. ValueError: the table does not lead back to where it came from.
        """
        return self._rename(weights, self._rows)

    def back(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our weights by their names: `back(forward(weights)) == weights`. Otherwise as `forward`."""
        return self._rename(weights, [(ours, theirs) for theirs, ours in self._rows])

    @staticmethod
    def _rename(weights: Mapping[str, Tensor], rows: Sequence[tuple[_Template, _Template]]) -> dict[str, Tensor]:
        renamed: dict[str, Tensor] = {}
        inverse = [(target, source) for source, target in rows]
        for name, value in weights.items():
            new = _first(name, rows)
            if new is not None and (again := _first(new, inverse)) != name:
                raise ValueError(f"the key map is no way back: {name} becomes {new}, and that {again}")
            new = name if new is None else new
            if new in renamed:
                raise CheckpointError(f"weights of the checkpoint get the same name: {shorten([new, name])}")
            renamed[new] = value
        return renamed


@dataclass(frozen=True)
class _Template:
    """A name with fields: `texts` around and between its `fields`, each a name and an offset."""

    texts: tuple[str, ...]
    fields: tuple[tuple[str, int], ...]
    pattern: re.Pattern[str]

    @classmethod
    def parse(cls, template: str, words: Mapping[str, str]) -> _Template:
        texts, fields = [""], []
        for index, part in enumerate(_FIELD.split(template)):
            if index % 2 == 0 or part in words:
                texts[-1] += words[part] if index % 2 else part
            elif found := re.fullmatch(r"([A-Za-z_]\w*)([+-][0-9]+)?", part):
                fields.append((found[1], int(found[2] or 0)))
                texts.append("")
            else:
                raise ValueError(f"{{{part}}} in {template!r} is no field such as {{s}} or {{s+1}}")
        pattern = _NUMBER.join(map(re.escape, texts))
        return cls(tuple(texts), tuple(fields), re.compile(pattern + _LAST, re.ASCII))

    def read(self, name: str) -> tuple[dict[str, int], str] | None:
        """The fields of a name and its last part, or None if the template does not fit."""
        found = self.pattern.fullmatch(name)
        if found is None:
            return None
        values: dict[str, int] = {}
        for (field, offset), text in zip(self.fields, found.groups(), strict=False):
            value = int(text) - offset
            if value < 0 or values.setdefault(field, value) != value:
                return None
        return values, found[len(self.fields) + 1] or ""

    def write(self, values: Mapping[str, int], last: str) -> str | None:
        """The name with these fields, or None if one of its numbers would be negative."""
        numbers = [values[field] + offset for field, offset in self.fields]
        if any(number < 0 for number in numbers):
            return None
        parts = [text + number for text, number in zip(self.texts, [*map(str, numbers), ""], strict=True)]
        return "".join(parts) + last


def _first(name: str, rows: Sequence[tuple[_Template, _Template]]) -> str | None:
    """What the first fitting row makes of a name, or None."""
    for source, target in rows:
        if (found := source.read(name)) is not None and (new := target.write(*found)) is not None:
            return new
    return None
