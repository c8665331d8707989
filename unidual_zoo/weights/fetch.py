"""The files of checkpoints: from the package, a URL or the Hub, each under its own name and checked by its hash.

A download gets its name when it is whole and right. Whatever goes wrong is a CheckpointError, one sentence that names
the file, where it comes from and the cause.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import Request, getproxies, urlopen

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from timm.models._hub import get_cache_dir

from unidual_zoo.checks import first_line
from unidual_zoo.progress import Progress
from unidual_zoo.weights.files import WEIGHTS_FILE, found_in_place, sha256_of
from unidual_zoo.weights.rows import Checkpoint, CheckpointError

_TIMEOUT = 30  # seconds of silence
_PATIENCE, _LEAST = 60.0, 64 << 10  # a server has to give so many bytes in so many seconds
_CHUNK = 1 << 20
_LONGEST_NAME = 100


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


def fetch_url(
    url: str, *, sha256: str | None = None, cache_dir: str | None = None, patience: float = _PATIENCE
) -> Path:
    """The file at a URL from torch's cache (or `cache_dir`), downloaded if it is not there.

    A copy belongs to its whole URL: a file of the same name from elsewhere, such as torch's own, is taken only if it
    has the hash. A server that gives next to nothing in `patience` seconds is given up.

    Raises:
        CheckpointError: the server does not give the whole file in time, or a web page, or another file than that of
            the hash.
    """
    folder, name = Path(cache_dir or get_cache_dir()), PurePosixPath(urlparse(url).path).name
    by_torch = folder / name
    if sha256 and by_torch.is_file() and sha256_of(by_torch).startswith(sha256):
        return by_torch
    path = folder / _keyed(name, url)
    if path.exists():
        return check_hash(path, sha256, what=f"{path} in the cache")
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        _Download(url, partial).wait(patience)
        if found := found_in_place(partial):
            raise OSError(f"the server gives {found}")
        if sha256 and not (found := sha256_of(partial)).startswith(sha256):
            raise OSError(f"the server gives another file: its sha256 is {found}, expected {sha256}")
        os.replace(partial, path)
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise CheckpointError(f"cannot get {url}: {_url_cause(error)}") from error
    finally:
        with suppress(PermissionError):  # Windows, while a download that was given up still holds the file
            partial.unlink(missing_ok=True)
    return path


def _keyed(name: str, url: str) -> str:
    """`model.pth` -> `model-<beginning of the URL's hash>.pth`, so that no two URLs share a file."""
    path = PurePosixPath(re.sub(r"[^\w.+-]", "_", name)[-_LONGEST_NAME:] or "weights")
    return f"{path.stem}-{hashlib.sha256(url.encode()).hexdigest()[:16]}{path.suffix}"


def _url_cause(error: BaseException) -> str:
    if isinstance(getattr(error, "reason", error), TimeoutError):
        return f"the server has been silent for {_TIMEOUT} seconds"
    return first_line(error)


class _Download:
    """A download to a file by a thread of its own, which `wait` watches: no server can hold the caller.

    A time limit of the socket alone would not do: a server that sends a byte now and then never exceeds it.
    """

    def __init__(self, url: str, path: Path) -> None:
        self.url, self.path = url, path
        self.received = 0
        self.error: BaseException | None = None
        self.given_up = False
        self.thread = threading.Thread(target=self._run, daemon=True)

    def wait(self, patience: float) -> None:
        """Starts and waits. Raises what the download raised, an OSError if too little comes in `patience` seconds."""
        self.thread.start()
        try:
            while self.thread.is_alive():
                before = self.received
                self.thread.join(patience)
                if self.thread.is_alive() and self.received - before < _LEAST:
                    received = f"{self.received - before:,} bytes in {patience:g} seconds"
                    raise OSError(f"the server is too slow: {received}, {self.received:,} altogether")
        finally:
            self.given_up = self.thread.is_alive()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            self._read()
        except BaseException as error:  # raised where it is waited for
            self.error = error
        if self.given_up:
            self.path.unlink(missing_ok=True)

    def _read(self) -> None:
        request = Request(self.url, headers={"User-Agent": "unidual-zoo"})
        with urlopen(request, timeout=_TIMEOUT) as answer, self.path.open("wb") as file:
            size = int(answer.headers.get("Content-Length") or 0)
            name = PurePosixPath(urlparse(self.url).path).name
            with Progress(total=size or None, desc=name, unit="B", unit_scale=True) as bar:
                while not self.given_up and (chunk := answer.read1(_CHUNK)):
                    self.received += file.write(chunk)
                    bar.update(len(chunk))
        if size and self.received != size:
            raise OSError(f"the download broke off after {self.received} of {size} bytes")


def check_hub() -> None:
    """Raises a CheckpointError if the Hub's server cannot be reached, which its client would try for half a minute."""
    try:
        _reach_hub()
    except LocalEntryNotFoundError as error:
        raise CheckpointError(f"cannot reach {constants.ENDPOINT}: {_hub_cause(error)}") from error


def _reach_hub() -> None:
    """Raises what the Hub's client would raise after many tries, if nobody answers at its server's address."""
    url = urlparse(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE or getproxies().keys() & {url.scheme, "all"}:
        return  # the client knows
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), timeout=constants.HF_HUB_ETAG_TIMEOUT).close()
    except OSError as error:
        raise LocalEntryNotFoundError(f"{constants.ENDPOINT} does not answer") from error


def fetch_from_hub(repository: str, filename: str = WEIGHTS_FILE, *, cache_dir: str | None = None) -> Path:
    """A file of the Hub's `organisation/name` or `organisation/name@revision`, in the Hub client's cache.

    Raises:
        CheckpointError: it can neither be had nor is it in the cache, or it is not the file that the Hub announced.
    """
    name, _, revision = repository.partition("@")
    try:
        if not cached_from_hub(repository, filename, cache_dir=cache_dir):
            _reach_hub()
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


def cached_from_hub(repository: str, filename: str = WEIGHTS_FILE, *, cache_dir: str | None = None) -> Path | None:
    """A file of the Hub that is in its client's cache, or None; nothing is downloaded."""
    name, _, revision = repository.partition("@")
    found = try_to_load_from_cache(name, filename, cache_dir=cache_dir, revision=revision or None)
    return Path(found) if isinstance(found, str) else None


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
    return first_line(error)


def check_hash(path: Path, sha256: str | None, *, what: str) -> Path:
    """The path of a file whose SHA-256 begins with `sha256` (None: anything will do), else a CheckpointError."""
    if sha256 and not (found := sha256_of(path)).startswith(sha256):
        raise CheckpointError(f"{what} is the wrong file, delete it: its sha256 is {found}, expected {sha256}")
    return path
