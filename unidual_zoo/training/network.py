"""The network of a run: built for its tasks, started from other weights, published."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from unidual_zoo.checks import check_known
from unidual_zoo.data.datasets import MediaSet
from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.create import create_model
from unidual_zoo.models.family import find_family
from unidual_zoo.models.saving import save
from unidual_zoo.models.summary import check_registered
from unidual_zoo.training.recipes import ModelSettings
from unidual_zoo.training.rundir import BEST, LAST, load_checkpoint
from unidual_zoo.weights import fit_to_model

CHECKPOINTS = {"last": LAST, "best": BEST}  # of a run directory


def build_model(settings: ModelSettings, media: Mapping[str, MediaSet]) -> TaskModel:
    """The network with a head for each task, its spec telling the inputs that are set and the class names."""
    tasks = {task: (data.modality, len(data.classes)) for task, data in media.items()}
    model, own = create_for(tasks, settings, pretrained=settings.pretrained), settings.model_args
    architecture = model.pretrained_cfg["architecture"]
    declared = find_family(architecture).architectures[architecture]
    if declared.get("auxiliary") and not {"auxiliary", "heads"} & set(own):
        model.add_auxiliary_heads()  # published weights come without the heads that only training needs
    spec = settings.spec(
        dataclasses.replace(model.spec, classes={task: tuple(data.classes) for task, data in media.items()})
    )
    weights = model.state_dict()
    arguments = {**model._model_args, "spec": spec, "num_frames": spec.clip.length}
    licensed = {"license": model.pretrained_cfg.get("license") if settings.pretrained else None}  # what it comes from
    # Anew, so that its configuration tells these inputs.
    model = create_model(architecture, pretrained_cfg_overlay=licensed, **arguments)
    model.load_state_dict(model.adopt(weights))
    if settings.init is not None:
        model.load_state_dict(_fitted(trained_weights(settings.init), model))
    return model


def create_for(tasks: Mapping[str, tuple[str, int]], settings: ModelSettings, *, pretrained: bool) -> TaskModel:
    """The network that settings name, with heads for tasks, name -> (modality, classes).

    Raises:
        ValueError: there is none of that name, or none that takes these arguments.
    """
    check_registered(settings.model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no weights for")  # the heads of new tasks are fresh
        try:
            return create_model(settings.model, pretrained=pretrained, tasks=tasks, **settings.model_args)
        except TypeError as error:  # what Python says of an argument that is not there
            given = dict(settings.model_args)
            raise ValueError(f"model_args {given} do not fit {settings.model}: {error}") from error


def trained_weights(source: str | Path, *, checkpoint: str = "last") -> dict[str, Tensor]:
    """The weights to publish of a run directory, of its "last" or "best" checkpoint, or of a checkpoint's file.

    The best is the best on the test files: its figures on the same files flatter it.
    """
    check_known("checkpoint", checkpoint, CHECKPOINTS)
    path = Path(source)
    if path.is_dir():
        path = path / CHECKPOINTS[checkpoint]
    state = load_checkpoint(path)
    return state["ema"] or state["model"]


def recompute_norms(objective: nn.Module, batches: Iterable) -> None:
    """Replaces the BatchNorms' running statistics by the plain average over these batches; frozen ones stay."""
    was_training = objective.training
    objective.train()
    norms = [m for m in objective.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: a cumulative average
    with torch.no_grad():
        for batch in batches:
            objective(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    objective.train(was_training)


def export(model: TaskModel, folder: Path) -> None:
    """Writes what `timm.create_model("local-dir:FOLDER", pretrained=True)` loads, class names included."""
    save(model, folder)


def _fitted(weights: Mapping[str, Tensor], model: TaskModel) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no weights for")
        return fit_to_model(model.adopt(weights), model)
