"""One way through a network as a graph, and graphs behind a model's call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unidual_zoo.checks import check_known
from unidual_zoo.models.base import TaskModel
from unidual_zoo.spec import IMAGE, VIDEO, InputSpec, Task


class Call(NamedTuple):
    """What a graph answers: inputs of this modality, on this pathway, with the head of this task."""

    modality: str
    pathway: str
    task: str

    @classmethod
    def of(cls, model: TaskModel | GraphModel, modality: str, *, pathway: str | None, task: str | None) -> Call:
        """The call with what is not named as the model has it by default.

        Raises:
            ValueError: the model has no such pathway, or no such head on it.
        """
        check_known("modality", modality, (IMAGE, VIDEO))
        pathway = pathway or model.default_pathway(modality)
        if pathway not in model.pathways:
            raise ValueError(f"the model has no {pathway!r} pathway, allowed: {', '.join(model.pathways)}")
        allowed = model.pathway_tasks(pathway)
        chosen = task or model.default_task(modality, pathway)
        if chosen is None or chosen not in allowed:
            named = f"task {task!r} has no head" if task else "there is no head"
            raise ValueError(f"{named} on the {pathway} pathway, allowed: {', '.join(allowed) or 'none'}")
        return cls(modality, pathway, chosen)

    def __str__(self) -> str:
        return f"{self.modality}s on the {self.pathway} pathway, task {self.task!r}"


class Graph(nn.Module):
    """A network's call as a function of the input alone: (B, C, [T,] H, W) -> logits (B, classes).

    With a `spec` the input is uint8, and normalised first. The network is one that serves; what it has of another form
    for engines (`TaskModel.unfold`) is used.
    """

    def __init__(self, model: TaskModel, call: Call, spec: InputSpec | None = None) -> None:
        super().__init__()
        self.model, self.call = model, call
        self.normalizes = spec is not None
        if spec is not None:
            shape = (1, -1, *(1,) * (2 if call.modality == IMAGE else 3))
            mean, std = (torch.tensor(values).view(shape) for values in (spec.mean, spec.std))
            self.register_buffer("scale", 1 / (255 * std))
            self.register_buffer("shift", -mean / std)

    def forward(self, x: Tensor) -> Tensor:
        if self.normalizes:
            x = x.to(torch.float32) * self.scale + self.shift  # pyright: ignore[reportOperatorIssue]
        return self.model(x, modality=self.call.pathway, task=self.call.task)


class GraphModel(nn.Module):
    """Graphs with a model's call: images and clips in, logits of a task out, `modality` and `task` as of `TaskModel`.

    It takes the sizes of its spec alone, and only what there is a graph for; it has no weights that torch knows of, so
    that it cannot be trained, moved or cast. A graph is opened when it is first called.

    Args:
        spec: the preprocessing, clips and class names; `tasks` and `in_chans` as of a TaskModel.
        calls: what there are graphs for, the default of each modality first.
        open_graph: makes the function of a call: (B, C, [T,] H, W) -> (B, classes), both on the CPU.
        normalizes: whether inputs are uint8, normalised inside the graph, or float32 and normalised.
        name: the model that the graphs were made of.
        about: what the graphs compute in, and by which engine.
    """

    fully_convolutional = False
    dtype = torch.float32

    def __init__(
        self,
        *,
        spec: InputSpec,
        tasks: Mapping[str, Task],
        in_chans: int,
        calls: Sequence[Call],
        open_graph: Callable[[Call], Callable[[Tensor], Tensor]],
        normalizes: bool,
        name: str,
        about: str,
    ) -> None:
        super().__init__()
        self.spec, self.tasks, self.in_chans, self.calls = spec, dict(tasks), in_chans, tuple(calls)
        self.pathways = tuple(dict.fromkeys(call.pathway for call in calls))
        self.normalizes, self.about = normalizes, about
        architecture, _, tag = name.partition(".")
        self.pretrained_cfg: dict[str, Any] = {"architecture": architecture, "tag": tag}  # as reports name models
        self._open_graph = open_graph
        self._opened: dict[Call, Callable[[Tensor], Tensor]] = {}

    def forward(self, x: Tensor, modality: str | None = None, task: str | None = None) -> Tensor:
        """Logits (B, classes) float32.

        Raises:
            ValueError: there is no graph for this pathway and task, or the input is of another shape or type.
        """
        call = self._find(self._check_input(x), modality, task)
        if call not in self._opened:
            self._opened[call] = self._open_graph(call)
        return self._opened[call](x)

    def default_pathway(self, modality: str) -> str:
        """The pathway that an input of this modality takes by default.

        Raises:
            ValueError: there is no graph for this modality.
        """
        return self._first(modality, None).pathway

    def default_task(self, modality: str, pathway: str) -> str | None:
        """The task that an input of this modality has by default on a pathway, None if there is no graph."""
        return next((call.task for call in self.calls if call[:2] == (modality, pathway)), None)

    def pathway_tasks(self, pathway: str) -> tuple[str, ...]:
        """The tasks for which there is a graph on a pathway."""
        return tuple(dict.fromkeys(call.task for call in self.calls if call.pathway == pathway))

    def _check_input(self, x: Tensor) -> str:
        wanted = torch.uint8 if self.normalizes else torch.float32
        shapes = {
            IMAGE: (self.in_chans, *self.spec.crop),
            VIDEO: (self.in_chans, self.spec.clip.length, *self.spec.crop),
        }
        for modality in dict.fromkeys(call.modality for call in self.calls):
            if x.shape[1:] == shapes[modality] and len(x) and x.dtype == wanted:
                return modality
        allowed = " or ".join(
            f"(B, {', '.join(map(str, shapes[m]))})" for m in dict.fromkeys(c.modality for c in self.calls)
        )
        kind = "uint8" if self.normalizes else "normalised float32"
        raise ValueError(f"needs {kind} input {allowed}, got {x.dtype} {tuple(x.shape)}")

    def _first(self, modality: str, pathway: str | None) -> Call:
        for call in self.calls:
            if call.modality == modality and pathway in (None, call.pathway):
                return call
        raise ValueError(f"there is no graph for {modality}s{_on(pathway)} here, allowed: {self._allowed()}")

    def _find(self, modality: str, pathway: str | None, task: str | None) -> Call:
        first = self._first(modality, pathway)
        call = first._replace(task=task or first.task)
        if call not in self.calls:
            raise ValueError(f"there is no graph for {call} here, allowed: {self._allowed()}")
        return call

    def _allowed(self) -> str:
        return "; ".join(map(str, self.calls))


def _on(pathway: str | None) -> str:
    return f" on the {pathway} pathway" if pathway else ""
