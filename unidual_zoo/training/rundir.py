"""The run directory: recipe.json, log.jsonl, tensorboard/, curves.png, export/ and the checkpoints `last` and `best`.

A checkpoint is one safetensors file: each tensor under its path in the state ("model.stem.spatial.weight"), all else as
JSON in the file's metadata, and there a hash of both. It is written under another name, synced and renamed, so that a
file of that name is whole; and it holds the recipe, too, so that it can be gone on from alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from unidual_zoo.checks import shorten
from unidual_zoo.files import (
    PARTIAL,
    make_readable,
    partial_name,
    read_unchanged,
    remove_partial,
    sync_file,
    sync_folder,
)
from unidual_zoo.lock import Lock, LockedError
from unidual_zoo.weights import EXPORT

RECIPE, LOG, CURVES, TENSORBOARD, LOCK = "recipe.json", "log.jsonl", "curves.png", "tensorboard", "run.lock"
LAST, BEST = "last.safetensors", "best.safetensors"
FEATURES, ROWS = "features", ".rows"  # the folder of what frozen layers make of the files, until the end, and its logs
BEFORE_CHECKPOINTS = frozenset({RECIPE, LOG, TENSORBOARD, LOCK, FEATURES})  # what a run leaves that ends before them
OF_A_RUN = frozenset({"files", "processes"})  # keys of a run's recipe.json, by which it is known from others
# Of the recipe, when a run is resumed. Data may lie elsewhere: what counts is in `files`.
MAY_CHANGE = frozenset({"data", "test_data", "workers", "file_seconds", "max_failed", "log_every", "publish"})
END = "end"  # the last event of a run that has published its network
ADVICE = "a lower lr or clip_norm may help"  # where numbers are not finite
_STATE, _HASH, _TENSOR = "state", "sha256", "tensor of this file"
_RECIPE_OF_STATE = "recipe"
_LINE = b'{"event": '  # how a line of a log begins


class RunError(RuntimeError):
    """A run cannot start or go on; the message says why in one sentence."""


class RunDirectory:
    """A run's files. On ranks other than the main one `writes` is False and nothing is written."""

    def __init__(self, path: str | Path, *, writes: bool = True) -> None:
        self.path = Path(path)
        self.writes = writes
        self.kept: int | None = None  # the step of the checkpoint `last`
        self._recipe: Mapping[str, Any] = {}
        self._lock = self._log = self._board = None

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return (self.path / LAST).exists()

    def begin(
        self,
        recipe: Mapping[str, Any],
        *,
        resume: bool,
        update: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> dict[str, Any] | None:
        """Opens the directory for a run of this recipe; the state to go on from, None for a start from scratch.

        `update` brings the recipe of a run that an older version began up to date. A recipe.json or a log.jsonl that
        cannot be read is warned of and written anew. What a run left that has no checkpoint yet keeps no other out, but
        kept features let none of another recipe resume it.

        Raises:
            RunError: there is a run already and `resume` is False, its recipe is another one, its checkpoint is
                damaged or gone, or another process is at it.
        """
        try:
            if self.writes:
                self._enter(resume=resume)
            state = load_checkpoint(self.path / LAST) if resume and self.has_checkpoint() else None
            saved = state.pop(_RECIPE_OF_STATE, None) if state else None
            if self.writes:
                saved = self._recipe_begun_with(saved, has_checkpoint=state is not None)
                fresh = self._is_alone() and is_fresh(self.path)
                keeps = not fresh or (resume and self._has_features())
                if saved is not None and keeps:
                    _check_same(self.path, update(saved), recipe, anew=fresh)
                elif fresh and (saved is None or _differing(update(saved), recipe)):
                    self.remove_features()
                if state is None:
                    self._check_nothing_learnt()
                write_whole(self.path / RECIPE, lambda path: path.write_text(json.dumps(recipe, indent=2) + "\n"))
            self._recipe = recipe
            self.kept = state["progress"]["step"] if state else None
            if self.writes:
                self._open_logs(self.kept)
        except BaseException:
            self.close()
            raise
        return state

    def recipe_text(self) -> str | None:
        """What recipe.json holds, None without it: ranks that share the directory read the same."""
        file = self.path / RECIPE
        return file.read_text() if file.is_file() else None

    def log(self, event: str, *, step: int, curves: Mapping[str, float] | None = None, **facts: Any) -> None:
        """One line of log.jsonl, `step` being the number of steps done; `curves` go to TensorBoard, too."""
        if self._log is None or self._board is None:
            return
        try:
            self._log.write(json.dumps({"event": event, "step": step, **(curves or {}), **facts}) + "\n")
            self._log.flush()
            for name, value in (curves or {}).items():
                self._board.add_scalar(name, value, step)
        except OSError as error:
            raise RunError(f"cannot write the logs in {self.path}: {error.strerror}; checkpoints are kept") from error

    def save(self, state: Mapping[str, Any], *, best: bool) -> None:
        """Writes the checkpoint `last`, and lets `best` be the same file.

        Raises:
            RunError: a tensor of the state is not finite, on every rank; or the file cannot be written. What was there
                before is kept.
        """
        self.check_finite(state)
        if self.writes:
            save_checkpoint(self.path / LAST, {**state, _RECIPE_OF_STATE: self._recipe})
            if best:
                write_whole(self.path / BEST, lambda path: _link(self.path / LAST, path))
        self.kept = state["progress"]["step"]

    def check_finite(self, state: Mapping[str, Any]) -> None:
        """Raises a RunError if a tensor of the state is not finite; it names the checkpoint that is kept."""
        if name := not_finite(state):
            raise RunError(
                f"{name} is not finite after step {state['progress']['step']}; {self.what_is_kept()}; {ADVICE}"
            )

    def what_is_kept(self) -> str:
        """The checkpoint from which a resumed run would go on, as part of a sentence."""
        if self.kept is None:
            return "there is no checkpoint yet"
        return f"{self.path / LAST} is kept, from which --resume goes on after step {self.kept}"

    def remove_features(self) -> None:
        """Removes what frozen layers made of the files, and nothing else that lies there."""
        for file in self._feature_logs():
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there is none, or others keep their files in it
            (self.path / FEATURES).rmdir()

    def close(self) -> None:
        """Ends the logs, and lets other processes have the directory.

        What a full disk keeps from being written has been reported by then.
        """
        for log in filter(None, (self._log, self._board)):
            with contextlib.suppress(OSError):
                log.close()
        if self._lock is not None:
            self._lock.release()

    def _enter(self, *, resume: bool) -> None:
        """Makes the directory, keeps other processes out of it, and removes what killed ones left half written."""
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = Lock(self.path / LOCK)
        except LockedError as error:
            raise RunError(
                f"{self.path} is in use by {error}: wait for that run, or choose another directory"
            ) from error
        if not resume:
            check_unused(self.path, alone=self._is_alone())
        if self._is_alone():
            for folder in (self.path, self.path / EXPORT):
                remove_partial(folder)

    def _recipe_begun_with(self, in_checkpoint: Any, *, has_checkpoint: bool) -> dict[str, Any] | None:
        """The recipe of the run that is there, of recipe.json or else of its checkpoint; None if nothing tells it."""
        file = self.path / RECIPE
        try:
            recipe = json.loads(file.read_bytes())
            if isinstance(recipe, dict):
                return recipe
            reason = "it holds no recipe"
        except FileNotFoundError:
            if not has_checkpoint:
                return None
            reason = "there is none"
        except (OSError, ValueError) as error:
            reason = str(error)
        known = (
            "that of the checkpoint is compared" if in_checkpoint else "it is not known whether the run had this one"
        )
        consequence = known if has_checkpoint else "the run starts from scratch"
        warnings.warn(f"{file} cannot be read ({reason}): {consequence}", stacklevel=4)
        return in_checkpoint

    def _is_alone(self) -> bool:
        """Whether other processes are kept out: else a run that has just begun looks like one that ended."""
        return self._lock is not None and self._lock.is_held

    def _check_nothing_learnt(self) -> None:
        """Raises a RunError where a run from scratch would in time write over what another one learnt."""
        if kept := [name for name in (BEST, EXPORT) if _is_something(self.path / name)]:
            raise RunError(
                f"{self.path} holds {' and '.join(kept)}, but no {LAST} to go on from: choose another directory"
            )

    def _feature_logs(self) -> list[Path]:
        return [file for name in ("", "tests-") for file in (self.path / FEATURES).glob(f"{name}[0-9]*{ROWS}")]

    def _has_features(self) -> bool:
        return any(file.stat().st_size for file in self._feature_logs())

    def _open_logs(self, step: int | None) -> None:
        """Logs that go on from `step`: what a killed run wrote after its checkpoint is cut off, without one all."""
        file = self.path / LOG
        kept = [] if step is None else [line for line in read_log(file) if line["step"] <= step]
        write_whole(file, lambda path: path.write_text("".join(json.dumps(line) + "\n" for line in kept)))
        self._log = file.open("a")
        self._board = SummaryWriter(str(self.path / TENSORBOARD), purge_step=step or 0)


def check_unused(path: Path, *, alone: bool = True) -> None:
    """Raises a RunError if the directory holds a run that got as far as a checkpoint, or is a file.

    If other processes cannot be kept out, so that this one is not `alone`, any run is one.
    """
    if path.is_file():
        raise RunError(f"{path} is a file: choose another name for the directory of the run")
    begun = any((path / name).exists() for name in (RECIPE, LOG, LAST, BEST, EXPORT))
    if begun and not (alone and is_fresh(path)):
        raise RunError(f"{path} holds a run already: go on with --resume, or choose another directory")


def is_fresh(path: Path) -> bool:
    """Whether a directory holds nothing, or only what a run left that ended before its first checkpoint.

    A recipe.json or a log.jsonl that no run can have written is somebody's own.
    """
    names = [file.name for file in path.iterdir()] if path.is_dir() else []
    ours = all(name in BEFORE_CHECKPOINTS or (name.startswith(".") and name.endswith(PARTIAL)) for name in names)
    return ours and _is_of_a_run(path / RECIPE) and _is_log(path / LOG)


def _is_of_a_run(recipe: Path) -> bool:
    """Whether a recipe.json is one of a run, or not there."""
    try:
        return json.loads(recipe.read_bytes()).keys() >= OF_A_RUN
    except FileNotFoundError:
        return True
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _is_something(path: Path) -> bool:
    """Whether there is a file or a folder that is not empty."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _is_log(path: Path) -> bool:
    """Whether a log.jsonl begins as one of a run does, or is empty or not there."""
    try:
        with path.open("rb") as file:
            return _LINE.startswith(file.read(len(_LINE)))
    except FileNotFoundError:
        return True
    except OSError:
        return False


def end_of(
    path: Path, recipe: Mapping[str, Any], *, update: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The line of the log with which a run of these settings ended, its network published; None if it has not.

    `update` as of `RunDirectory.begin`. Data may lie elsewhere; which network is published may not have changed.
    """
    lines = read_log(path / LOG)
    if not lines or lines[-1]["event"] != END or "scores" not in lines[-1] or not (path / EXPORT).is_dir():
        return None
    try:
        saved = update(json.loads((path / RECIPE).read_bytes()))
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    others = MAY_CHANGE - {"publish"}
    return lines[-1] if all(saved.get(name) == value for name, value in recipe.items() if name not in others) else None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl; each has an `event` and the `step` after which it happened.

    A last line that a killed run left unfinished is dropped, and so are damaged ones, with a warning.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    read = [_read_line(line) for line in lines if line.endswith(b"\n")]
    if damaged := [number for number, line in enumerate(read, 1) if line is None]:
        warnings.warn(
            f"{path} is damaged: {len(damaged)} of {len(read)} lines are left out, the first is line {damaged[0]}",
            stacklevel=2,
        )
    return [line for line in read if line is not None]


def _read_line(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    sound = isinstance(line, dict) and isinstance(line.get("event"), str) and isinstance(line.get("step"), int)
    return line if sound else None


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes nested dicts (of string keys) and lists of tensors and plain data; see `write_whole` for errors."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_take_tensors(state, "", tensors))
    metadata = {_STATE: text, _HASH: _hash(text, tensors)}
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote, its tensors on the CPU and its tuples as lists.

    Raises:
        RunError: there is no such file, it is not a checkpoint of ours, it is damaged, or not all of it is finite.
    """
    return read_unchanged(path, lambda: _read_checkpoint(path), error=RunError, checked=True)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
            metadata = file.metadata()
        state = _put_tensors(json.loads(metadata[_STATE]), tensors)
    except FileNotFoundError:
        raise RunError(f"there is no checkpoint {path}") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(f"{path} is not a checkpoint of a training run: {error}") from error
    written = metadata.get(_HASH)  # older versions wrote none
    if written is not None and written != _hash(metadata[_STATE], tensors):
        raise RunError(f"{path} is damaged: its contents are not those of the hash that was written with them")
    if name := not_finite(state):
        raise RunError(f"{path} cannot be used: {name} is not finite")
    return state


def not_finite(state: Mapping[str, Any]) -> str | None:
    """The path ("model.stem.spatial.weight") of the first tensor in a state that is not finite, None if all are."""
    return next((name for name, tensor in _tensors(state) if not _is_finite(tensor)), None)


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` make a file under a name that no one else uses, syncs it to the disk and gives it its own.

    Raises:
        RunError: it could not be written. What was at `path` before is untouched.
    """
    temporary = partial_name(path)
    try:
        write(temporary)
        make_readable(temporary)
        sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        before = "the one written before it is kept" if path.exists() else "there is none from before"
        raise RunError(f"cannot write {path}: {reason}; {before}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _take_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The value with its tensors moved to `tensors` and their names in place of them."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {key: _take_tensors(item, f"{name}.{key}".lstrip("."), tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_take_tensors(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
    return value


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in a state by their paths."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{name}.{index}")


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(math.isfinite(extreme.item()) for extreme in tensor.aminmax())  # a NaN is either extreme


def _hash(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state: of its plain part, and of every tensor's name, type, shape and bytes."""
    sha256 = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha256.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def _put_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: _put_tensors(item, tensors) for key, item in value.items()}
    return [_put_tensors(item, tensors) for item in value] if isinstance(value, list) else value


def _differing(saved: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    """The settings that may not change and have."""
    return sorted(key for key in {*saved, *recipe} - MAY_CHANGE if saved.get(key) != recipe.get(key))


def _check_same(path: Path, saved: Mapping[str, Any], recipe: Mapping[str, Any], *, anew: bool) -> None:
    if differing := _differing(saved, recipe):
        changes = [change for key in differing for change in _changes(key, saved.get(key), recipe.get(key))]
        other = ", or begin anew without --resume" if anew else ""
        raise RunError(f"{path} was begun with another recipe ({shorten(changes)}); resume it with the same one{other}")


def _changes(name: str, before: Any, now: Any) -> Iterator[str]:
    """How a setting differs, of pairs each that does, in words."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                yield from _changes(f"{name}[{key}]", before.get(key), now.get(key))
        return
    was, is_now = (_plain(value) for value in (before, now))
    yield f"{name} was {was} and is {is_now}" if was != is_now else f"{name} are {was}, but others"


def _plain(value: Any) -> str:
    """A setting's value as a reader knows it: of files (`MediaSet.fingerprint`) their numbers, without the digest."""
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return " and ".join(part.rpartition(", ")[0] or part for part in value)
    return value if isinstance(value, str) else json.dumps(value)
