"""The network of a run: built for its tasks, started from other weights, published."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn

from unidual_zoo.checks import check_known
from unidual_zoo.data.datasets import MediaSet
from unidual_zoo.files import PARTIAL
from unidual_zoo.models.create import create_model
from unidual_zoo.models.summary import check_registered
from unidual_zoo.scoring import Network
from unidual_zoo.training.recipes import ModelSettings
from unidual_zoo.training.rundir import BEST, LAST, load_checkpoint, write_whole
from unidual_zoo.weights import fit_to_model

CHECKPOINTS = {"last": LAST, "best": BEST}  # of a run directory


def build_model(settings: ModelSettings, media: Mapping[str, MediaSet]) -> Network:
    """The network with a head for each task, its spec telling the inputs that are set and the class names."""
    check_registered(settings.model)
    name, own = settings.model, settings.model_args
    tasks = {task: (data.modality, len(data.classes)) for task, data in media.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no weights for")  # the heads of new tasks are fresh
        try:
            model: Network = create_model(name, pretrained=settings.pretrained, tasks=tasks, **own)
        except TypeError as error:  # what Python says of an argument that is not there
            raise ValueError(f"model_args {dict(own)} do not fit {name}: {error}") from error
    architecture = model.pretrained_cfg["architecture"]
    told = {"auxiliary", "heads"} & set(own)
    if not told and not model.auxiliary and _has_auxiliary_heads(architecture):
        model.add_auxiliary_heads()  # published weights come without them: only training needs them
    spec = settings.spec(
        dataclasses.replace(model.spec, classes={task: tuple(data.classes) for task, data in media.items()})
    )
    weights = model.state_dict()
    arguments = {**model._model_args, "spec": spec, "num_frames": spec.clip.length}
    model = timm.create_model(architecture, **arguments)  # anew, so that its configuration tells these inputs
    model.load_state_dict(weights)
    if settings.init is not None:
        model.load_state_dict(_fitted(trained_weights(settings.init), model))
    return model


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


def export(model: Network, folder: Path) -> None:
    """Writes what `timm.create_model("local-dir:FOLDER", pretrained=True)` loads, class names included."""
    model.to(memory_format=torch.contiguous_format)  # safetensors takes no other
    with tempfile.TemporaryDirectory(prefix=".export-", suffix=PARTIAL, dir=folder.parent) as written:
        save_for_hf(model, written, safe_serialization=True)
        folder.mkdir(exist_ok=True)
        for file in Path(written).iterdir():
            write_whole(folder / file.name, lambda path, file=file: os.replace(file, path))


def _has_auxiliary_heads(architecture: str) -> bool:
    """Whether a network has auxiliary heads unless it is told otherwise, as a tag's arguments tell it."""
    plain: Network = timm.create_model(architecture, device="meta")
    return plain.auxiliary


def _fitted(weights: Mapping[str, Tensor], model: Network) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no weights for")
        return fit_to_model(model.adopt(weights), model)
