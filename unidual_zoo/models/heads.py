"""The classification heads of a model: one linear layer per (pathway, task), and the rules for which there are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from unidual_zoo.checks import check_known
from unidual_zoo.models.pathways import PerPathway
from unidual_zoo.spec import IMAGE, Task
from unidual_zoo.weights import HEADS


def first_task(tasks: Mapping[str, Task], modality: str) -> str | None:
    """The first task of a modality, or None."""
    return next((name for name, task in tasks.items() if task.modality == modality), None)


def primary_task(tasks: Mapping[str, Task]) -> str | None:
    """The task that timm's `num_classes` means: the first image task, or the first task if there is none."""
    return first_task(tasks, IMAGE) or next(iter(tasks), None)


def assign_heads(tasks: Mapping[str, Task], pathways: Iterable[str], *, auxiliary: bool) -> dict[str, list[str]]:
    """The tasks with a head on each pathway: those of its modality and those whose modality has no pathway, or all."""
    pathways = list(pathways)
    return {
        pathway: [
            name
            for name, task in tasks.items()
            if auxiliary or task.modality == pathway or task.modality not in pathways
        ]
        for pathway in pathways
    }


HeadSizes = Mapping[str, Mapping[str, int]]  # pathway -> task -> classes


def head_sizes(weights: Mapping[str, Tensor]) -> HeadSizes:
    """`{pathway: {task: classes}}` of the heads among a network's weights."""
    sizes: dict[str, dict[str, int]] = {}
    for key, weight in weights.items():
        parts = key.removeprefix(HEADS).split(".")
        if key.startswith(HEADS) and len(parts) == 3 and parts[2] == "weight":
            sizes.setdefault(parts[0], {})[parts[1]] = len(weight)
    return sizes


class TaskHeads(PerPathway):
    """`heads[pathway][task]`: linear heads (B, in_features) -> (B, classes); a task of 0 classes has none.

    `multiples` are of pathways whose heads see more than pooled features: (B, multiple·in_features), of which all but
    the first in_features have weights of zero at the start.

    `assignment` says which tasks have a head on which pathway, `{"image": ["in1k"], "video": [...]}`. By default a task
    has one on the pathway of its modality or, where that is missing, on the other; with `auxiliary` on every pathway.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        *,
        pathways: Sequence[str],
        in_features: int,
        multiples: Mapping[str, int] | None = None,
        auxiliary: bool = False,
        assignment: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__({pathway: nn.ModuleDict() for pathway in pathways})
        self.in_features, self.multiples = in_features, dict(multiples or {})
        self.set(tasks, auxiliary=auxiliary, assignment=assignment)

    def __getitem__(self, pathway: str) -> nn.ModuleDict:
        heads = super().__getitem__(pathway)
        assert isinstance(heads, nn.ModuleDict)
        return heads

    def set(
        self, tasks: Mapping[str, Task], *, auxiliary: bool, assignment: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        """Makes the heads what the arguments say; a head whose size stays keeps its weights.

        Raises:
            ValueError: the assignment names a pathway or a task that does not exist; torch takes a task's name itself.
        """
        if taken := [name for name in tasks if hasattr(nn.ModuleDict(), name)]:
            raise ValueError(f"task name {taken[0]!r} is taken: torch's modules have an attribute of that name")
        if assignment is None:
            assignment = assign_heads(tasks, self, auxiliary=auxiliary)
        for pathway, names in assignment.items():
            check_known("pathway in heads", pathway, self)
            for task in names:
                check_known(f"task in heads[{pathway!r}]", task, tasks)
        self.tasks = dict(tasks)
        self.auxiliary = auxiliary
        self.assignment = {pathway: list(assignment.get(pathway, ())) for pathway in self}
        for pathway in self:
            names = [name for name in self.assignment[pathway] if tasks[name].num_classes > 0]
            self[pathway] = nn.ModuleDict({name: self._head(pathway, tasks[name]) for name in names})

    def width(self, pathway: str) -> int:
        """What a pathway's heads see of an example."""
        return self.in_features * self.multiples.get(pathway, 1)

    def resize(self, task: str, num_classes: int) -> None:
        """Fresh heads of `num_classes` for one task."""
        check_known("task", task, self.tasks)
        for pathway in self:
            if task in self[pathway]:
                del self[pathway][task]
        tasks = self.tasks | {task: dataclasses.replace(self.tasks[task], num_classes=num_classes)}
        self.set(tasks, auxiliary=self.auxiliary, assignment=self.assignment)

    def remove_all(self) -> None:
        """Every task has 0 classes from now on."""
        tasks = {name: dataclasses.replace(task, num_classes=0) for name, task in self.tasks.items()}
        self.set(tasks, auxiliary=self.auxiliary, assignment=self.assignment)

    def drop_auxiliary(self) -> None:
        """Removes a task's head on the other modality's pathway if it has one on its own and that one keeps another."""
        kept = {}
        for pathway, names in self.assignment.items():
            own = [name for name in names if not self._is_auxiliary(name, pathway)]
            kept[pathway] = own if any(self.tasks[name].num_classes for name in own) else names
        self.set(self.tasks, auxiliary=False, assignment=kept)

    def add_auxiliary(self) -> None:
        """Gives every task a head on every pathway."""
        self.set(self.tasks, auxiliary=True)

    def keep(self, pathway: str) -> None:
        """Removes the other pathways' heads."""
        super().keep(pathway)
        self.assignment = {pathway: self.assignment[pathway]}

    def on(self, pathway: str) -> tuple[str, ...]:
        """The tasks that have a head on a pathway, in the order of `tasks`."""
        return tuple(task for task in self.tasks if task in self[pathway])

    def default_task(self, modality: str, pathway: str) -> str | None:
        """The pathway's first task of a modality, else its first task, else None."""
        there = self.on(pathway)
        return next((task for task in there if self.tasks[task].modality == modality), next(iter(there), None))

    def classifier(self, task: str | None = None) -> nn.Module:
        """The task's head (default: the primary task's), on its modality's pathway if it has one there."""
        task = task or primary_task(self.tasks)
        if task is not None:
            check_known("task", task, self.tasks)
            home = self.tasks[task].modality
            for pathway in sorted(self, key=lambda name: name != home):
                if task in self[pathway]:
                    return self[pathway][task]
        return nn.Identity()

    def arguments(self) -> dict[str, Any]:
        """The constructor arguments `tasks`, `auxiliary` and, where the rule does not give them, `heads`."""
        tasks = {name: [task.modality, task.num_classes] for name, task in self.tasks.items()}
        own = (
            {}
            if self.assignment == assign_heads(self.tasks, self, auxiliary=self.auxiliary)
            else {"heads": self.assignment}
        )
        return {"tasks": tasks, "auxiliary": self.auxiliary, **own}

    def _is_auxiliary(self, task: str, pathway: str) -> bool:
        home = self.tasks[task].modality
        return pathway != home and task in self.assignment.get(home, ())

    def _head(self, pathway: str, task: Task) -> nn.Module:
        heads = self[pathway]
        if task.name in heads and heads[task.name].out_features == task.num_classes:
            return heads[task.name]
        head = init_head(nn.Linear(self.width(pathway), task.num_classes))
        nn.init.zeros_(head.weight[:, self.in_features :])
        return head


def init_head(head: nn.Linear) -> nn.Linear:
    """Normal weights of deviation 0.01 and no bias, as VMZ."""
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head
