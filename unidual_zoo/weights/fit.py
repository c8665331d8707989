"""Weights read from a file and fitted to a model, strictly: plain tensors alone, finite, the right names and shapes.

Nothing but plain weights is ever read: a pickle that would run code is refused. Whatever goes wrong is a
CheckpointError, one sentence that names the file and the cause.
"""

from __future__ import annotations

import re
import tarfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models import clean_state_dict
from timm.models._hub import load_state_dict_from_path
from timm.models._manipulate import adapt_input_conv
from torch import Tensor, nn

from unidual_zoo.checks import first_line, shorten
from unidual_zoo.files import read_unchanged
from unidual_zoo.names import counted
from unidual_zoo.weights.blobs import is_pickle, read_blobs
from unidual_zoo.weights.files import found_in_place
from unidual_zoo.weights.records import load_pickled
from unidual_zoo.weights.rows import CheckpointError

HEADS = "heads."
_COUNT = ".num_batches_tracked"
_SAFETENSORS = ".safetensors"
_TABLES = (  # where a training keeps the weights to evaluate beside much else; the first counts
    "state_dict_ema", "model_ema", "state_dict", "model",  # as timm looks for them
    "model_state",  # PySlowFast, PyTorchVideo
    "model_state_dict",  # PyTorch's tutorials
    "ema_encoder", "target_encoder", "encoder",  # V-JEPA
)  # fmt: skip
_DEPTH = 2  # tables within each other
_BY_LIGHTNING = "pytorch-lightning_version"  # in its files; the network is an attribute of what it trains
_NOT_WEIGHTS = re.compile(
    r"data_preprocessor\.(mean|std)"  # of mmaction2: constants of the pixels, which are the spec's
    r"|(.*\.)?total_(ops|params)"  # of thop, which counts operations
)
_LARGEST_VIEW = 1 << 28  # bytes that a tensor may claim beyond what is stored of it


def read_weights(path: str | Path, *, what: str | None = None) -> dict[str, Tensor]:
    """The weights in a file or in a folder (its `model.safetensors` before others): safetensors, or a plain pickle.

    Dicts around them are taken off, with all that a training keeps beside them (of V-JEPA's encoders the average or the
    target is taken), and so are the prefixes of DistributedDataParallel, torch.compile and Lightning. A pickle may also
    hold numpy's arrays, as Caffe2's do, within the same dicts, and settings and logs, which are not read.
    `what` names the weights in errors.

    Raises:
        CheckpointError: there is none, it is damaged, it holds more than weights, or it is replaced again and again.
    """
    path, what = Path(path).expanduser(), what or str(path)
    return read_unchanged(path, lambda: _read_weights(path, what), error=CheckpointError)


def _read_weights(path: Path, what: str) -> dict[str, Tensor]:
    if not path.exists():
        raise CheckpointError(f"there is no file of weights {what}")
    if foreign := _foreign_format(path):
        raise CheckpointError(f"{what} {foreign}")
    try:
        weights = unwrap(_load(path))
    except Exception as error:  # torch, pickle and safetensors each raise their own
        raise CheckpointError(f"{what} {_unreadable(error)}") from error
    if not weights:
        raise CheckpointError(f"{what} holds no weights: if it is a pickled network, {_ADVICE}")
    return check_plain(weights, what=what)


def _load(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return load_state_dict_from_path(path, weights_only=True)
    if path.suffix == _SAFETENSORS or _is_safetensors(path):
        return load_file(path)
    if is_pickle(path):
        return read_blobs(path, tables=_TABLES)
    return load_pickled(path)


def unwrap(content: Mapping[str, Any]) -> dict[str, Any]:
    """The weights in what a training keeps, by the names that they have in the network (see `read_weights`)."""
    weights = _without_attribute(_table(content), content)
    return clean_state_dict(clean_state_dict(weights))  # of networks that were wrapped twice


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do, whatever it is called: with the length of a JSON object, and that."""
    with path.open("rb") as file:
        length, brace = int.from_bytes(file.read(8), "little"), file.read(1)
    return brace == b"{" and length < path.stat().st_size


def _table(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The weights within what a file holds: in a dict of a known name, or in the only one that holds tensors alone."""
    for _ in range(_DEPTH):
        tables = {name: value for name, value in content.items() if isinstance(value, Mapping)}
        known = [tables[name] for name in _TABLES if tables.get(name)]
        plain = [table for table in tables.values() if table and not any(map(_oddity, table.values()))]
        if not known and (len(plain) != 1 or any(isinstance(value, Tensor) for value in content.values())):
            break
        content = (known or plain)[0]
    return content


def _without_attribute(weights: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """The weights in a file of Lightning without the name of the attribute that all of them begin with."""
    prefixes = {key.partition(".")[0] for key in weights}
    if _BY_LIGHTNING not in content or len(prefixes) != 1:
        return dict(weights)
    return {key.partition(".")[2]: value for key, value in weights.items()}


_ZIP = b"PK\3\4"  # how a file begins that torch takes for one of its own
_ADVICE = "save its state_dict() with safetensors or torch.save"


def _foreign_format(path: Path) -> str | None:
    """What a file is instead of weights, as the end of a sentence; of some, torch would advise to run their code."""
    if not path.is_file():
        return None
    if found := found_in_place(path):
        return f"is {found}"
    if path.suffix == _SAFETENSORS:
        return None
    with path.open("rb") as file:
        zipped = file.read(len(_ZIP)) == _ZIP
    try:
        if zipped:
            with zipfile.ZipFile(path) as archive:
                return _foreign_archive(archive, size=path.stat().st_size)
        if tarfile.is_tarfile(path):
            return f"is a tar archive: unpack it, or if it is a file of torch before 1.0, load it there and {_ADVICE}"
    except (zipfile.BadZipFile, tarfile.TarError, NotImplementedError, ValueError):
        return None  # torch says what is wrong with it
    return None


def _foreign_archive(archive: zipfile.ZipFile, *, size: int) -> str | None:
    parts = {entry.filename.partition("/")[2] for entry in archive.infolist()}
    if "constants.pkl" in parts:
        return f"is a TorchScript archive, which holds code: {_ADVICE}"
    if "data.pkl" not in parts:
        return "is an archive that torch.save did not write"
    unpacked = sum(entry.file_size for entry in archive.infolist())
    return f"unpacks {size:,} bytes to {unpacked:,}, which torch.save never does" if unpacked > size else None


def _unreadable(error: BaseException) -> str:
    """Why a file cannot be read, as the end of a sentence; torch's own words would advise to run a pickle's code."""
    for cause in (error, error.__cause__):
        if isinstance(cause, UnpicklingError):
            code = re.search(r"GLOBAL ([\w.]+)", str(cause))
            return (
                f"would run code when it is read ({code[1]}): refused" if code else "is not a pickle of plain weights"
            )
    if isinstance(error, AttributeError) or "weights_only" in str(error):  # timm took it for a dict; torch's advice
        return "is not a file of weights: it holds no table of names and tensors"
    said = type(error).__name__ if isinstance(error, KeyError) else first_line(error)  # a key alone says nothing
    return f"is damaged or not a file of weights: {said}"


def check_plain(weights: Mapping[str, Any], *, what: str) -> dict[str, Tensor]:
    """The weights, if they are plain tensors and nothing else, else a CheckpointError.

    Left out are tensors that some code base keeps among them and that are none: counts, and constants of the input.
    """
    weights = {key: value for key, value in weights.items() if not _NOT_WEIGHTS.fullmatch(str(key))}
    if others := [f"{key} ({odd})" for key, value in weights.items() if (odd := _oddity(value))]:
        raise CheckpointError(f"{what} holds more than weights: {shorten(others)}")
    return weights


def _oddity(value: Any) -> str | None:
    """What a value is that is no plain tensor, in a word."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.layout != torch.strided or value.is_quantized:
        return "quantized" if value.is_quantized else str(value.layout).removeprefix("torch.")
    if not value.is_meta and value.nbytes > value.untyped_storage().nbytes() + _LARGEST_VIEW:
        return f"{value.nbytes:,} bytes, of which {value.untyped_storage().nbytes():,} are stored"
    return None


def check_finite(weights: Mapping[str, Tensor], *, what: str) -> None:
    """Raises a CheckpointError that names the tensors with NaN or infinity in them; whole numbers have none.

    A network with such a weight may still give finite answers: oneDNN's fused ReLU turns NaN into 0.
    """
    if bad := [name for name, tensor in weights.items() if not is_finite(tensor)]:
        raise CheckpointError(f"{what} holds NaN or infinity: {shorten(bad)}")


def is_finite(tensor: Tensor) -> bool:
    """Whether every value of a tensor of any type is a finite number.

    One without values is, such as on "meta"; into those of other classes (fake, distributed, packed) nobody looks.
    """
    if tensor.is_meta or tensor.numel() == 0 or type(tensor) not in (Tensor, nn.Parameter):
        return True
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    elif not tensor.is_floating_point():
        return True
    if tensor.itemsize == 1:  # float8 has no comparisons
        tensor = tensor.float()
    if tensor.device.type == "cpu":  # much faster, and nothing of the tensor's size is made; NaN wins in both
        tensor = torch.stack(tensor.detach().aminmax())
    return bool(tensor.isfinite().all())


def fit_to_model(
    state_dict: Mapping[str, Tensor],
    model: nn.Module,
    *,
    adaptable: Sequence[str] = (),
    fresh_heads: bool = True,
) -> dict[str, Tensor]:
    """The checkpoint's weights as exactly the model's, in names and shapes.

    Heads that the model lacks are left out. BatchNorms that count no batches, as in files of old, keep the model's
    counts, which change no output. With `fresh_heads`, heads that are missing or of another size keep the
    model's values, and one warning names them. Filters of the `adaptable` weights are fitted to the model's number of
    input channels as timm does: summed for one channel, else repeated or cut off and scaled.

    Raises:
        CheckpointError: other weights are missing, unknown or of another shape, or weights that are used are not
            finite; it names some of each.
    """
    own = model.state_dict()
    fitted = {key: value for key, value in state_dict.items() if key in own or not key.startswith(HEADS)}
    for key in {*adaptable} & {*fitted} & {*own}:
        if _differs_in_channels(fitted[key], own[key]):
            fitted[key] = _fit_channels(fitted[key], own[key].shape[1])
    fitted |= {key: value for key, value in own.items() if key.endswith(_COUNT) and key not in fitted}
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
        listed = "; ".join(f"{what}: {shorten(keys)}" for what, keys in problems.items() if keys)
        sizes = _other_classes({key: (fitted[key], own[key]) for key in differing - excused})
        raise CheckpointError(f"the checkpoint does not fit {type(model).__name__}: {listed}{sizes}")
    check_finite({key: value for key, value in fitted.items() if key not in differing}, what="the checkpoint")
    if fresh:
        heads = sorted({key.rsplit(".", 1)[0] for key in fresh})
        sized = [key for key in fresh if key in differing and fitted[key].ndim]
        others = [f"{key.rsplit('.', 1)[0]} has {counted(len(fitted[key]), 'class')}" for key in sized]
        what = f" ({shorten(list(dict.fromkeys(others)))} there)" if others else ""
        message = f"no weights for {', '.join(heads)} in the checkpoint{what}: freshly initialised"
        warnings.warn(message, stacklevel=2)
    return {**fitted, **{key: own[key] for key in fresh}}


def _other_classes(differing: Mapping[str, tuple[Tensor, Tensor]]) -> str:
    """How many classes heads have (there, here), as the end of a sentence; nothing where they have as many."""
    counts = {
        key.split(".")[-2]: (len(theirs), len(own))
        for key, (theirs, own) in differing.items()
        if key.startswith(HEADS) and theirs.ndim and len(theirs) != len(own)
    }
    return "".join(
        f"; {task} has {counted(there, 'class')} there, {here} here" for task, (there, here) in sorted(counts.items())
    )


def _differs_in_channels(theirs: Tensor, own: Tensor) -> bool:
    """Whether filters (O, I, ...) differ from the model's in nothing but the number of input channels."""
    sizes = [(weight.ndim, weight.shape[:1], weight.shape[2:]) for weight in (theirs, own)]
    return sizes[0] == sizes[1] and theirs.ndim > 2 and 0 < theirs.shape[1] != own.shape[1]


def _fit_channels(weight: Tensor, chans: int) -> Tensor:
    """Filters (O, I, ...) of any kernel for inputs of `chans` channels."""
    flat = weight.flatten(2).unsqueeze(-1)  # timm takes 2-D kernels alone
    return adapt_input_conv(chans, flat, base_chans=weight.shape[1]).reshape(len(weight), chans, *weight.shape[2:])
