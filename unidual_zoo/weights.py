"""Checkpoints: one row of facts each; fetching their files, reading them, and fitting them to a model strictly.

Whatever goes wrong is a CheckpointError, one sentence that names the file, where it comes from and the cause. A
download gets its name when it is whole and right, and nothing but plain weights is ever read: a pickle that would run
code is refused.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from importlib import resources
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from timm.models import load_state_dict
from timm.models._hub import get_cache_dir, load_state_dict_from_path
from timm.models._manipulate import adapt_input_conv
from torch import Tensor, nn
from tqdm import tqdm

from unidual_zoo.spec import InputSpec

HEADS = "heads."
WEIGHTS_FILE, CONFIG = "model.safetensors", "config.json"  # as timm names them; no other weights are read from the Hub
EXPORT = "export"  # the folder of a run directory that holds the two
_LISTED = 5  # keys named in an error; the rest are counted
_TIMEOUT = 30  # seconds without an answer
_CHUNK = 1 << 20


def make_readable(path: Path) -> None:
    """Gives a file the permissions of any new one: safetensors keeps what it writes to its owner."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


class CheckpointError(RuntimeError):
    """Weights cannot be had, or do not fit; the message says which, from where and why, in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Figure:
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
    `figures` what this project measured; `upstream` what the weights' authors report. A row without weights has only
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
    figures: Sequence[Figure] = ()
    upstream: Sequence[Figure] = ()
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


# ---- fetching -------------------------------------------------------------------------------------------------------


def fetch(name: str, row: Checkpoint | None, *, cache_dir: str | None = None) -> Path:
    """A local file with the checkpoint's weights, its hash checked.

    Raises:
        CheckpointError: there are no weights (it names the recipe), they cannot be had, or are not those of the row.
    """
    if row is None or not row.has_weights:
        how = f"`unidual train {row.recipe}` makes them" if row and row.recipe else "use pretrained=False"
        raise CheckpointError(f"{name} has no published weights: {how}")
    if row.url:
        return fetch_url(row.url, sha256=row.sha256, cache_dir=cache_dir)
    path = row.path or fetch_from_hub(str(row.hf_hub_id), cache_dir=cache_dir)
    return check_hash(path, row.sha256, what=f"{path} of {name}")


def fetch_url(url: str, *, sha256: str | None = None, cache_dir: str | None = None) -> Path:
    """The file at a URL from torch's cache (or `cache_dir`), downloaded if it is not there.

    Raises:
        CheckpointError: the server does not give the whole file, or another one than that of the hash.
    """
    path = Path(cache_dir or get_cache_dir()) / PurePosixPath(urlparse(url).path).name
    if path.exists():
        return check_hash(path, sha256, what=f"{path} in the cache")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        request = Request(url, headers={"User-Agent": "unidual-zoo"})
        with urlopen(request, timeout=_TIMEOUT) as answer, partial.open("wb") as file:
            size = int(answer.headers.get("Content-Length") or 0)
            with tqdm(total=size or None, desc=path.name, unit="B", unit_scale=True, disable=None) as bar:
                while chunk := answer.read(_CHUNK):
                    bar.update(file.write(chunk))
        if size and partial.stat().st_size != size:
            raise OSError(f"the download broke off after {partial.stat().st_size} of {size} bytes")
        if sha256 and not sha256_of(partial).startswith(sha256):
            raise OSError(f"the server gives another file: its sha256 is {sha256_of(partial)}, expected {sha256}")
        os.replace(partial, path)
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise CheckpointError(f"cannot get {url}: {_first_line(error)}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def fetch_from_hub(repository: str, filename: str = WEIGHTS_FILE, *, cache_dir: str | None = None) -> Path:
    """A file of the Hub's `organisation/name` or `organisation/name@revision`, in the Hub client's cache.

    Raises:
        CheckpointError: it can neither be had nor is it in the cache, or it is not the file that the Hub announced.
    """
    name, _, revision = repository.partition("@")
    try:
        path = Path(hf_hub_download(name, filename, revision=revision or None, cache_dir=cache_dir))
    except Exception as error:  # the client raises its own errors and those of whichever HTTP library it is built on
        cause = _hub_cause(error)
        raise CheckpointError(f"cannot get {filename} of {repository} from {constants.ENDPOINT}: {cause}") from error
    announced = os.path.basename(os.readlink(path)) if path.is_symlink() else ""  # the cache names a file by its ETag
    if re.fullmatch("[0-9a-f]{64}", announced) and sha256_of(path) != announced:
        with suppress(OSError):  # a cache that cannot be written
            path.resolve().unlink()
            path.unlink()
        raise CheckpointError(
            f"{filename} of {repository} from {constants.ENDPOINT} is not the file that was announced (sha256 "
            f"{announced[:8]}…), its copy {path} is deleted: try again"
        )
    return path


_LOG_IN = "(`hf auth login` or HF_TOKEN)"
_HUB_CAUSES = [  # the first that fits
    (OfflineModeIsEnabled, "the network is switched off (HF_HUB_OFFLINE)"),
    (GatedRepoError, f"access is restricted: accept its terms on the Hub and log in {_LOG_IN}"),
    (RepositoryNotFoundError, f"there is no such repository, or it is private and needs a token of a reader {_LOG_IN}"),
    (RevisionNotFoundError, "there is no such revision"),
    (EntryNotFoundError, "there is no such file in it"),
]


def _hub_cause(error: BaseException) -> str:
    """The cause of a failed download as the end of a sentence."""
    if isinstance(error, LocalEntryNotFoundError):
        return f"{_hub_cause(error.__cause__ or OfflineModeIsEnabled())}, and no copy is in the cache"
    for kind, cause in _HUB_CAUSES:
        if isinstance(error, kind):
            return cause
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code}"
    return _first_line(error)


def check_hash(path: Path, sha256: str | None, *, what: str) -> Path:
    """The path of a file whose SHA-256 begins with `sha256` (None: anything will do), else a CheckpointError."""
    if sha256 and not (found := sha256_of(path)).startswith(sha256):
        raise CheckpointError(f"{what} is the wrong file, delete it: its sha256 is {found}, expected {sha256}")
    return path


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- reading and fitting --------------------------------------------------------------------------------------------


def read_weights(path: str | Path, *, what: str | None = None) -> dict[str, Tensor]:
    """The weights in a file or in a folder (its `model.safetensors` before others): safetensors, or a plain pickle.

    A dict around them and DistributedDataParallel's prefix are taken off, as timm does. `what` names them in errors.

    Raises:
        CheckpointError: there is none, it is damaged, or it holds more than weights.
    """
    path, what = Path(path), what or str(path)
    if not path.exists():
        raise CheckpointError(f"there is no file of weights {what}")
    try:
        load = load_state_dict_from_path if path.is_dir() else load_state_dict
        weights = load(path, weights_only=True)  # type: ignore[arg-type]  # any path will do
    except Exception as error:  # torch, pickle and safetensors each raise their own
        raise CheckpointError(f"{what} {_unreadable(error)}") from error
    return check_plain(weights, what=what)


def _unreadable(error: BaseException) -> str:
    """Why a file cannot be read, as the end of a sentence; torch's own words would advise to run a pickle's code."""
    for cause in (error, error.__cause__):
        if isinstance(cause, UnpicklingError):
            code = re.search(r"GLOBAL (\S+)", str(cause))
            return (
                f"would run code when it is read ({code[1]}): refused" if code else "is not a pickle of plain weights"
            )
    return f"is damaged or not a file of weights: {_first_line(error)}"


def check_plain(weights: Mapping[str, Any], *, what: str) -> dict[str, Tensor]:
    """The weights, if they are tensors and nothing else, else a CheckpointError."""
    if others := [f"{key} ({type(value).__name__})" for key, value in weights.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{what} holds more than weights: {_shorten(others)}")
    return dict(weights)


def fit_to_model(
    state_dict: Mapping[str, Tensor],
    model: nn.Module,
    *,
    adaptable: Sequence[str] = (),
    fresh_heads: bool = True,
) -> dict[str, Tensor]:
    """The checkpoint's weights as exactly the model's, in names and shapes.

    Heads that the model lacks are left out. With `fresh_heads`, heads that are missing or of another size keep the
    model's values, and one warning names them. Filters of the `adaptable` weights are fitted to the model's number of
    input channels as timm does: summed for one channel, else repeated or cut off and scaled.

    Raises:
        CheckpointError: other weights are missing, unknown or of another shape; it names some of each.
    """
    own = model.state_dict()
    fitted = {key: value for key, value in state_dict.items() if key in own or not key.startswith(HEADS)}
    for key in {*adaptable} & {*fitted} & {*own}:
        if _differs_in_channels(fitted[key], own[key]):
            fitted[key] = _fit_channels(fitted[key], own[key].shape[1])
    differing = {key for key in fitted if key in own and fitted[key].shape != own[key].shape}
    fresh = [key for key in own if key.startswith(HEADS) and (key not in fitted or key in differing)]
    excused = set(fresh) if fresh_heads else set()
    problems = {
        "missing": [key for key in own if key not in fitted and key not in excused],
        "unknown": [key for key in fitted if key not in own],
        "of another shape": [
            f"{key} {tuple(value.shape)} for {tuple(own[key].shape)}"
            for key, value in fitted.items()
            if key in differing - excused
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {_shorten(keys)}" for what, keys in problems.items() if keys)
        raise CheckpointError(f"the checkpoint does not fit {type(model).__name__}: {listed}")
    if fresh:
        heads = sorted({key.rsplit(".", 1)[0] for key in fresh})
        others = [f"{key.rsplit('.', 1)[0]} has {len(fitted[key])} classes" for key in fresh if key in differing]
        what = f" ({_shorten(list(dict.fromkeys(others)))} there)" if others else ""
        message = f"no weights for {', '.join(heads)} in the checkpoint{what}: freshly initialised"
        warnings.warn(message, stacklevel=2)
    return {**fitted, **{key: own[key] for key in fresh}}


def _differs_in_channels(theirs: Tensor, own: Tensor) -> bool:
    """Whether filters (O, I, ...) differ from the model's in nothing but the number of input channels."""
    sizes = [(weight.ndim, weight.shape[:1], weight.shape[2:]) for weight in (theirs, own)]
    return sizes[0] == sizes[1] and theirs.ndim > 2 and 0 < theirs.shape[1] != own.shape[1]


def _fit_channels(weight: Tensor, chans: int) -> Tensor:
    """Filters (O, I, ...) of any kernel for inputs of `chans` channels."""
    flat = weight.flatten(2).unsqueeze(-1)  # timm takes 2-D kernels alone
    return adapt_input_conv(chans, flat, base_chans=weight.shape[1]).reshape(len(weight), chans, *weight.shape[2:])


def _shorten(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
