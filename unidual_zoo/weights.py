"""Checkpoints: one row of facts each, fetched, verified and loaded strictly."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from timm.models._hub import download_cached_file
from torch import Tensor, nn

from unidual_zoo.spec import InputSpec

HEADS = "heads."
_LISTED = 5  # keys named in an error; the rest are counted


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A row of the table of checkpoints: where the weights are, what they were trained for, what was measured.

    `file` is a name in `unidual_zoo/checkpoints`; `sha256` the file's hash or the beginning of it; `arguments` what
    the tag changes of the architecture (its tasks, above all); `figures` what this project measured; `upstream` what
    the weights' authors report. A row without weights has only the `recipe` that makes them.
    """

    spec: InputSpec
    arguments: Mapping[str, Any] = field(default_factory=dict)
    file: str | None = None
    url: str | None = None
    hf_hub_id: str | None = None
    sha256: str | None = None
    license: str | None = None
    source: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    upstream: str | None = None
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


def fetch(name: str, row: Checkpoint, *, cache_dir: str | None = None) -> Path | None:
    """A local file with the checkpoint's weights, its hash checked; None if they come from the Hub, by timm.

    Raises:
        RuntimeError: the checkpoint has no weights, or the file is not the one the row describes.
    """
    if not row.has_weights:
        how = f"`unidual train {row.recipe}` makes them" if row.recipe else "and no recipe for them"
        raise RuntimeError(f"{name} has no published weights; {how}")
    if row.hf_hub_id:
        return None
    path = row.path
    if path is None:
        assert row.url
        path = Path(download_cached_file(row.url, check_hash=False, progress=True, cache_dir=cache_dir))
    if row.sha256 and not sha256_of(path).startswith(row.sha256):
        raise RuntimeError(f"{path} is not {name}: its sha256 is {sha256_of(path)}, expected {row.sha256}; delete it")
    return path


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fit_to_model(
    state_dict: Mapping[str, Tensor], model: nn.Module, *, adaptable: Sequence[str] = ()
) -> dict[str, Tensor]:
    """The checkpoint's weights where they fit the model exactly, with the model's own fresh heads where it has none.

    timm loads loosely as soon as the number of classes differs, so that a missing stem would pass: strictness is here.
    Heads that are missing or of another size keep the model's values, and one warning names them; heads that the model
    lacks are left out. The input channels of `adaptable` weights are timm's to adapt.

    Raises:
        RuntimeError: weights other than heads are missing, unknown or of another shape; it names some of each.
    """
    own = model.state_dict()
    problems = {
        "missing": [key for key in own if not key.startswith(HEADS) and key not in state_dict],
        "unknown": [key for key in state_dict if not key.startswith(HEADS) and key not in own],
        "of another shape": [
            f"{key} {tuple(value.shape)} for {tuple(own[key].shape)}"
            for key, value in state_dict.items()
            if key in own
            and not key.startswith(HEADS)
            and value.shape != own[key].shape
            and not (key in adaptable and _differs_in_channels_alone(value, own[key]))
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {_shorten(keys)}" for what, keys in problems.items() if keys)
        raise RuntimeError(f"the checkpoint does not fit {type(model).__name__}: {listed}")
    fitted = {key: value for key, value in state_dict.items() if key in own}
    fresh = [key for key in own if key.startswith(HEADS) and (key not in fitted or fitted[key].shape != own[key].shape)]
    if fresh:
        names = sorted({re.sub(r"\.(weight|bias)$", "", key) for key in fresh})
        warnings.warn(f"no weights for {', '.join(names)} in the checkpoint: freshly initialised", stacklevel=2)
    return {**fitted, **{key: own[key] for key in fresh}}


def _differs_in_channels_alone(value: Tensor, own: Tensor) -> bool:
    return value.ndim == own.ndim and value.shape[0] == own.shape[0] and value.shape[2:] == own.shape[2:]


def _shorten(keys: list[str]) -> str:
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more
