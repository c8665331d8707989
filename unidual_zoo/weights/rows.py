"""What is known of a checkpoint: one row of facts each, and the percentages that were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from unidual_zoo.spec import InputSpec


class CheckpointError(RuntimeError):
    """Weights cannot be had, or do not fit; the message says which, from where and why, in one sentence."""


def is_noncommercial(license: str | None) -> bool:
    """Whether a licence, by the Hub's id of it, forbids commercial use: "cc-by-nc-4.0"."""
    return "nc" in (license or "").lower().split("-")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A measured percentage of a task by an evaluation protocol, and the `source` that says so: a command or document.

    Raises:
        ValueError: no source.
    """

    task: str
    metric: str
    value: float
    protocol: str
    source: str

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError(f"{self.metric} {self.value} of {self.task} has no source")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A row of the table of checkpoints: where the weights are, what they were trained for, what was measured.

    `file` is a name in `unidual_zoo/checkpoints`; `sha256` the file's hash or the beginning of it; `arguments` what
    the tag changes of the architecture (its tasks, above all); `about` says what the weights were trained on;
    `metrics` what this project measured; `upstream` what the weights' authors report. A row without weights has only
    the `recipe` that makes them.
    """

    spec: InputSpec
    arguments: Mapping[str, Any] = field(default_factory=dict)
    file: str | None = None
    url: str | None = None
    hf_hub_id: str | None = None
    sha256: str | None = None
    license: str | None = None
    source: str | None = None
    about: str = ""
    metrics: Sequence[Metric] = ()
    upstream: Sequence[Metric] = ()
    recipe: str | None = None

    @property
    def path(self) -> Path | None:
        """Where packaged weights lie, or None for weights that are downloaded or do not exist."""
        return Path(str(resources.files("unidual_zoo") / "checkpoints" / self.file)) if self.file else None

    @property
    def has_weights(self) -> bool:
        return any((self.file, self.url, self.hf_hub_id))

    def sources(self) -> dict[str, str]:
        """The fields of timm's PretrainedCfg that say where the weights are."""
        sources = {"file": self.path and str(self.path), "url": self.url, "hf_hub_id": self.hf_hub_id}
        return {key: value for key, value in sources.items() if value}
