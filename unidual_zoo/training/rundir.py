"""The run directory: recipe.json, log.jsonl, tensorboard/, curves.png, export/ and the checkpoints `last` and `best`.

A checkpoint is one safetensors file: each tensor under its path in the state ("model.stem.spatial.weight"), all else as
JSON in the file's metadata. It is written under another name, synced and renamed, so that a file of that name is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from unidual_zoo.weights import make_readable

RECIPE, LOG, CURVES, TENSORBOARD = "recipe.json", "log.jsonl", "curves.png", "tensorboard"
LAST, BEST = "last.safetensors", "best.safetensors"
# Of the recipe, when a run is resumed. Data may lie elsewhere: what counts is in `files`.
MAY_CHANGE = frozenset({"data", "test_data", "workers", "max_failed", "log_every", "publish"})
_STATE, _TENSOR = "state", "tensor of this file"


class RunError(RuntimeError):
    """A run cannot start or go on; the message says why in one sentence."""


class RunDirectory:
    """A run's files. On ranks other than the main one `writes` is False and nothing is written."""

    def __init__(self, path: str | Path, *, writes: bool = True) -> None:
        self.path = Path(path)
        self.writes = writes
        self._log = self._board = None

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return (self.path / LAST).exists()

    def begin(
        self, recipe: Mapping[str, Any], *, resume: bool, defaults: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """Opens the directory for a run of this recipe; the state to go on from, None for a start from scratch.

        `defaults` are the values of fields that the recipe of a run begun by an older version lacks.

        Raises:
            RunError: there is a run already and `resume` is False, or its recipe is another one.
        """
        state = load_checkpoint(self.path / LAST) if resume and self.has_checkpoint() else None
        if self.writes:
            file = self.path / RECIPE
            if file.exists() and not resume:
                raise RunError(f"{self.path} holds a run already: go on with --resume, or choose another directory")
            if file.exists():
                _check_same(self.path, {**(defaults or {}), **json.loads(file.read_text())}, recipe)
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(file, lambda path: path.write_text(json.dumps(recipe, indent=2) + "\n"))
            self._open_logs(state["progress"]["step"] if state else 0)
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
        """Writes the checkpoint `last`, and lets `best` be the same file."""
        if not self.writes:
            return
        save_checkpoint(self.path / LAST, state)
        if best:
            write_whole(self.path / BEST, lambda path: _link(self.path / LAST, path))

    def close(self) -> None:
        """Ends the logs. What a full disk keeps from being written has been reported by then."""
        for log in filter(None, (self._log, self._board)):
            with contextlib.suppress(OSError):
                log.close()

    def _open_logs(self, step: int) -> None:
        """Logs that go on from `step`: what a killed run wrote after its last checkpoint is cut off."""
        file = self.path / LOG
        kept = [line for line in read_log(file) if line["step"] <= step]
        write_whole(file, lambda path: path.write_text("".join(json.dumps(line) + "\n" for line in kept)))
        self._log = file.open("a")
        self._board = SummaryWriter(str(self.path / TENSORBOARD), purge_step=step)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl; a last line that a killed run left unfinished is dropped."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes nested dicts (of string keys) and lists of tensors and plain data; see `write_whole` for errors."""
    tensors: dict[str, Tensor] = {}
    metadata = {_STATE: json.dumps(_take_tensors(state, "", tensors))}
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote, its tensors on the CPU and its tuples as lists.

    Raises:
        RunError: there is no such file, or it is not a checkpoint of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
            return _put_tensors(json.loads(file.metadata()[_STATE]), tensors)
    except FileNotFoundError:
        raise RunError(f"there is no checkpoint {path}") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is not a checkpoint of a training run: {error}") from error


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` make a file under a temporary name, syncs it to the disk and gives it its name.

    Raises:
        RunError: it could not be written. What was at `path` before is untouched.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.unlink(missing_ok=True)
        write(temporary)
        make_readable(temporary)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        before = "the one written before it is kept" if path.exists() else "there is none from before"
        raise RunError(f"cannot write {path}: {reason}; {before}") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _take_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The value with its tensors moved to `tensors` and their names in place of them."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().contiguous()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {key: _take_tensors(item, f"{name}.{key}".lstrip("."), tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_take_tensors(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
    return value


def _put_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: _put_tensors(item, tensors) for key, item in value.items()}
    return [_put_tensors(item, tensors) for item in value] if isinstance(value, list) else value


def _check_same(path: Path, saved: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    differing = sorted(key for key in {*saved, *recipe} - MAY_CHANGE if saved.get(key) != recipe.get(key))
    if differing:
        changes = ", ".join(f"{key} was {saved.get(key)!r} and is {recipe.get(key)!r}" for key in differing)
        raise RunError(f"{path} was begun with another recipe ({changes}); resume it with the same one")
