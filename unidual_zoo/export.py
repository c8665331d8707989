"""A model as a graph that an engine runs, in a folder of its own, and such a folder as a model again.

The folder holds the graph and `export.json`: what the graph answers (modality, pathway, task, class names), what it
eats (the spec, whether normalised), what it was made of, and how far its outputs are from that.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import shutil
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from unidual_zoo.calibration import (
    Calibration,
    compare,
    embedded_calibration,
    examples,
    given_calibration,
    read_views,
)
from unidual_zoo.checks import check_known, first_line
from unidual_zoo.data.transforms import normalize as normalized
from unidual_zoo.dtypes import INT8, dtype_name
from unidual_zoo.engines import ENGINES, FLOAT32, Call, Graph, GraphModel
from unidual_zoo.evaluation import evaluation_mode, model_name
from unidual_zoo.files import PARTIAL, sync_file
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.folding import for_inference
from unidual_zoo.names import counted
from unidual_zoo.spec import MODALITIES, InputSpec, Task, parse_tasks

RECORD = "export.json"
MAX_DIFFERENCE = 1e-3  # of float32, relative to the largest logit
_CHECKED = 3  # examples
_VERSIONS = ("unidual-zoo", "torch", "onnx", "onnxruntime", "openvino", "nncf")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What `export.json` says of a graph.

    `difference` is the largest one between the logits of graph and model, relative to the model's largest logit.
    `accuracy`, of int8, is what `calibration.compare` found before and after.
    """

    format: str
    dtype: str
    model: str
    call: Call
    tasks: Mapping[str, Task]
    spec: InputSpec
    in_chans: int
    normalizes: bool
    difference: float
    calibration: str | None = None
    accuracy: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "call"}
        frames = [] if self.call.modality == "image" else [self.spec.clip.length]
        names = self.spec.class_names(self.call.task)
        return plain | {
            **self.call._asdict(),
            "tasks": {task.name: [task.modality, task.num_classes] for task in self.tasks.values()},
            "spec": self.spec.to_dict(),
            "classes": names and list(names),
            "input": {
                "name": "input",
                "shape": ["batch", self.in_chans, *frames, *self.spec.crop],
                "type": "uint8" if self.normalizes else FLOAT32,
            },
            "output": {"name": "logits", "shape": ["batch", self.tasks[self.call.task].num_classes]},
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Exported:
        """What `to_dict` wrote.

        Raises:
            ValueError: something is missing, or is not what it should be.
        """
        try:
            given = {f.name: plain[f.name] for f in dataclasses.fields(cls) if f.name != "call"}
            call = Call(*(plain[name] for name in Call._fields))
        except KeyError as error:
            raise ValueError(f"it has no {error}") from None
        tasks = parse_tasks(given["tasks"])
        check_known("format", given["format"], ENGINES)
        check_known("dtype", given["dtype"], (FLOAT32, INT8))
        check_known("modality", call.modality, MODALITIES)
        check_known("pathway", call.pathway, MODALITIES)
        check_known("task", call.task, tasks)
        if not isinstance(given["model"], str) or not isinstance(given["in_chans"], int):
            raise ValueError("model must be a name and in_chans a number")
        return cls(**{**given, "tasks": tasks, "spec": InputSpec.from_dict(given["spec"])}, call=call)


@torch.inference_mode(False)  # in which a graph may be called for the first time, and nothing can be traced
def export(
    model: TaskModel,
    folder: str | os.PathLike[str],
    *,
    format: str = "onnx",
    modality: str,
    pathway: str | None = None,
    task: str | None = None,
    normalize: bool = False,
    dtype: str | torch.dtype = FLOAT32,
    calibration: Calibration | Sequence[str | os.PathLike[str]] | None = None,
) -> Exported:
    """Writes one way through a model as a graph of any batch size: inputs of `modality`, the head of `task`.

    Args:
        folder: made if it is not there; the graph and `export.json` in it are replaced.
        format: "onnx", "openvino", or "torch" (a program of torch.export).
        pathway: by default the modality's own, or the only one there is; the task's default is the model's, too.
        normalize: the graph takes uint8, and normalises it itself.
        dtype: float32, or int8 (not of "torch").
        calibration: files to calibrate int8 on (default: the packaged examples); a `Calibration` of
            `calibration.folder_calibration` also says on which files accuracy is measured before and after.

    Raises:
        ValueError: there is no such format, pathway or head, or the format has no int8.
        RuntimeError: the network cannot be exported, the graph's float32 logits differ from the model's by more than
            `MAX_DIFFERENCE` of the largest, or what the format needs is not installed.
    """
    engine, kind = _check_format(format, dtype)
    call = Call.of(model, modality, pathway=pathway, task=task)
    calibrated = _calibration(calibration, modality) if kind == INT8 else None
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    views = examples(model.spec, modality, count=_CHECKED)
    inputs = views if normalize else normalized(views, model.spec)
    with TemporaryDirectory(prefix=".exporting-", suffix=PARTIAL, dir=folder) as temporary:
        file = Path(temporary, FLOAT32, engine.file)
        file.parent.mkdir()
        program = _program(model, call, inputs, normalize=normalize)
        try:
            engine.write(program, file)
        except Exception as error:  # each converter raises its own
            raise RuntimeError(f"{model_name(model)} cannot be written as {format}: {first_line(error)}") from error
        made = Exported(
            format=format, dtype=FLOAT32, model=model_name(model), call=call, tasks=dict(model.tasks),
            spec=model.spec, in_chans=model.in_chans, normalizes=normalize,
            difference=0.0, versions=_versions(),
        )  # fmt: skip
        with evaluation_mode(model), torch.inference_mode():
            expected = model(_like(model, normalized(views, model.spec)), modality=call.pathway, task=call.task)
        expected = expected.float().cpu()
        made = dataclasses.replace(made, difference=_difference(_opened(made, file), inputs, expected))
        if not made.difference <= MAX_DIFFERENCE:
            raise RuntimeError(
                f"the {format} graph of {made.model} is not the model: logits differ by {made.difference:.1e} of the "
                f"largest, allowed is {MAX_DIFFERENCE:.0e}"
            )
        if calibrated:
            file, made = _quantize(made, file, inputs, expected, calibrated)
        record = file.with_name(RECORD)
        record.write_text(json.dumps(made.to_dict(), indent=2) + "\n", encoding="utf-8")
        for written in sorted(file.parent.iterdir(), key=lambda path: path.name == RECORD):  # the record last
            sync_file(written)
            written.replace(folder / written.name)
    return made


def is_exported(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is one that `export` wrote."""
    return Path(folder, RECORD).is_file()


def load_exported(folder: str | os.PathLike[str], *, threads: int | None = None) -> GraphModel:
    """The model in a folder that `export` wrote; it runs on the CPU with `threads` threads (default: torch's).

    A graph of the format "torch" may hold code: read only those that you trust.

    Raises:
        ValueError: the folder's `export.json` is missing or says what cannot be.
        RuntimeError: the extra that runs the graph is not installed.
    """
    path = Path(folder, RECORD)
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(plain, dict):
            raise ValueError("it is no object")
        made = Exported.from_dict(plain)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return _opened(made, Path(folder, ENGINES[made.format].file), threads=threads)


def serve_with_engine(
    model: TaskModel,
    engine: str,
    *,
    dtype: str | torch.dtype | None = None,
    modality: str | None = None,
    calibration: Mapping[str, Sequence[str]] | None = None,
) -> GraphModel:
    """A copy of the model as graphs of an engine, each made when it is first called (see `inference.for_inference`).

    `calibration` are the files of each modality.
    """
    check_known("engine", engine, ENGINES)
    kind = FLOAT32 if dtype is None else dtype_name(dtype)
    if kind not in ENGINES[engine].runs_in:
        raise ValueError(f"engine {engine!r} does not compute in {kind}, allowed: {', '.join(ENGINES[engine].runs_in)}")
    if modality is not None and modality not in model.pathways:
        raise ValueError(f"the model has no {modality!r} pathway, allowed: {', '.join(model.pathways)}")
    served = for_inference(model, modality=modality)
    calls = _calls(served)
    if not calls:
        raise ValueError("the model has no heads, and an engine gives logits")
    written = Path(mkdtemp(prefix="unidual-"))

    def open_graph(call: Call) -> Any:
        folder = written / str(calls.index(call))
        given = None
        if kind == INT8:
            files = None if calibration is None else calibration[call.modality]
            if files is None:
                given = embedded_calibration(call.modality, measured=False)
            else:
                given = given_calibration(files, call.modality)
        made = export(
            served, folder, format=engine, modality=call.modality, pathway=call.pathway, task=call.task,
            dtype=INT8 if given else FLOAT32, calibration=given,
        )  # fmt: skip
        return ENGINES[made.format].open_graph(folder / ENGINES[engine].file, kind, torch.get_num_threads())

    graphs = GraphModel(
        spec=served.spec, tasks=served.tasks, in_chans=served.in_chans, calls=calls, open_graph=open_graph,
        normalizes=False, name=model_name(model), about=f"{kind} by {engine}",
    )  # fmt: skip
    weakref.finalize(graphs, shutil.rmtree, written, ignore_errors=True)
    return graphs


def _calls(model: TaskModel) -> list[Call]:
    """All that a model answers, the default of each modality first."""
    calls = []
    for modality in MODALITIES:
        own = model.default_pathway(modality)
        for pathway in sorted(model.pathways, key=lambda name: name != own):
            default = model.default_task(modality, pathway)
            tasks = sorted(model.pathway_tasks(pathway), key=lambda name: name != default)
            calls += [Call(modality, pathway, task) for task in tasks]
    return calls


def _check_format(format: str, dtype: str | torch.dtype) -> tuple[Any, str]:
    check_known("format", format, ENGINES)
    kind = dtype_name(dtype)
    check_known("dtype of an export", kind, (FLOAT32, INT8))
    if kind == INT8 and ENGINES[format].quantize is None:
        others = ", ".join(name for name, engine in ENGINES.items() if engine.quantize)
        raise ValueError(f"format {format!r} has no int8, allowed: {others}")
    ENGINES[format].check(int8=kind == INT8)
    return ENGINES[format], kind


def _calibration(given: Calibration | Sequence[str | os.PathLike[str]] | None, modality: str) -> Calibration:
    if given is None:
        return embedded_calibration(modality)
    return given if isinstance(given, Calibration) else given_calibration(given, modality)


def _program(model: TaskModel, call: Call, inputs: Tensor, *, normalize: bool) -> ExportedProgram:
    """The graph of torch's operators, of any batch size."""
    served = for_inference(model, dtype=torch.float32, modality=call.pathway).cpu()
    served.unfold()
    for weight in served.parameters():  # whose memory need not be as torch likes it best
        weight.data = weight.data.contiguous()
    graph = Graph(served, call, model.spec if normalize else None).eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own use of what it deprecates
            return torch.export.export(graph, (inputs,), dynamic_shapes=({0: Dim("batch", min=1)},))
    except Exception as error:  # the tracer has many kinds of them
        raise RuntimeError(f"{model_name(model)} cannot be exported for {call}: {first_line(error)}") from error


def _opened(made: Exported, file: Path, *, threads: int | None = None) -> GraphModel:
    """A graph in a file as a model."""
    count = threads or torch.get_num_threads()
    return GraphModel(
        spec=made.spec, tasks=made.tasks, in_chans=made.in_chans, calls=[made.call], normalizes=made.normalizes,
        open_graph=lambda call: ENGINES[made.format].open_graph(file, made.dtype, count), name=made.model,
        about=f"{made.dtype} by {made.format}",
    )  # fmt: skip


def _difference(graph: GraphModel, inputs: Tensor, expected: Tensor) -> float:
    """The largest one of logits, of a batch and of an example alone, relative to the largest logit."""
    call = graph.calls[0]
    got = [
        graph(inputs, modality=call.pathway, task=call.task),
        graph(inputs[:1], modality=call.pathway, task=call.task),
    ]
    furthest = max(float((logits.float() - expected[: len(logits)]).abs().max()) for logits in got)
    return furthest / max(float(expected.abs().max()), 1e-12)


def _quantize(
    made: Exported, file: Path, inputs: Tensor, expected: Tensor, calibration: Calibration
) -> tuple[Path, Exported]:
    engine, target = ENGINES[made.format], file.parent.with_name(INT8) / file.name
    assert engine.quantize is not None
    target.parent.mkdir()
    views = read_views(calibration.files, made.spec, made.call.modality)
    samples: list[np.ndarray] = [(view if made.normalizes else normalized(view, made.spec)).numpy() for view in views]
    engine.quantize(file, target, [np.ascontiguousarray(sample) for sample in samples])
    smaller = dataclasses.replace(
        made, dtype=INT8, calibration=f"{calibration.source}: {counted(len(samples), 'view')}"
    )
    graphs = {FLOAT32: _opened(made, file), INT8: _opened(smaller, target)}
    smaller = dataclasses.replace(smaller, difference=_difference(graphs[INT8], inputs, expected))
    if calibration.measured:
        smaller = dataclasses.replace(smaller, accuracy=compare(graphs, calibration, made.call))
    return target, smaller


def _like(model: TaskModel, x: Tensor) -> Tensor:
    return x.to(next(model.parameters()))


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
