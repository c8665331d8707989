"""Your own images and videos -> one network for both: the recipe of `unidual finetune`."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Sequence
from typing import Any

import timm
import torch

from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.dual_trunk import DualTrunk
from unidual_zoo.models.practice import Practice
from unidual_zoo.models.summary import check_registered
from unidual_zoo.spec import IMAGE, VIDEO
from unidual_zoo.training.network import create_for
from unidual_zoo.training.optimizers import TRUNK
from unidual_zoo.training.plan import told_rates
from unidual_zoo.training.recipes import ModelSettings, Recipe, change_recipe, find_recipe

TASKS = {"images": IMAGE, "videos": VIDEO}


def finetune_recipe(
    model: str,
    *,
    images: str | None = None,
    videos: str | None = None,
    test_images: str | None = None,
    test_videos: str | None = None,
    skip: str | None = None,
    settings: Sequence[str] = (),
) -> Recipe:
    """The recipe `finetune` for a folder or CSV list of labelled images, of labelled videos, or for both.

    Class names come from the folders or the list, head sizes from their number. A part of the files is kept for testing
    where there are no test files. `skip` is a list of files to leave out, of the images and of the videos. Heads start
    as least squares fit them, and on a trunk of images those of the video pathway see the order of frames. Networks
    of some kinds have rates of their own (`practice_line`). A network without weights to start
    from has random ones, heads included; its BatchNorms learn, and all its layers at one rate.

    Raises:
        ValueError: an unknown model, neither images nor videos, test files of what is not learnt, or a setting that the
            recipe refuses.
        CheckpointError: a saved model cannot be had.
    """
    check_registered(model)
    data = {name: source for name, source in (("images", images), ("videos", videos)) if source is not None}
    if not data:
        raise ValueError("nothing to learn from: give --images, --videos or both")
    tests = {name: source for name, source in (("images", test_images), ("videos", test_videos)) if source is not None}
    if strange := sorted(set(tests) - set(data)):
        raise ValueError(f"there are test {strange[0]} and none to learn from: give --{strange[0]}, too")
    tasks = {name: TASKS[name] for name in data}
    pretrained = is_saved(model) or timm.is_model_pretrained(model)
    skipped = dict.fromkeys(tasks, skip) if skip is not None else {}
    recipe = find_recipe("finetune").changed(
        model=model, pretrained=pretrained, tasks=tasks, data=data, test_data=tests, skip=skipped
    )
    chosen = change_recipe(recipe, settings)  # what is set decides of what network the defaults are
    changed = change_recipe(recipe.changed(**_suited(chosen)), settings)
    return changed.changed(model_args={**_order_arguments(changed), **changed.model.model_args})


def practice_line(recipe: Recipe, given: Collection[str]) -> str | None:
    """What rates a recipe has and why, for a reader; None if they are the recipe `finetune`'s own, or all `given`."""
    practice = _practice(recipe)
    own = vars(find_recipe("finetune").optim)
    taken = {name: value for name, value in _suited(recipe).items() if name not in given and value != own.get(name)}
    if practice is None or not taken or not recipe.optim.epochs:
        return None
    told, others = told_rates(taken)
    return f"it learns with {told}: {practice.why} ({others} for others)"


def scalable_network(recipe: Recipe) -> TaskModel | None:
    """The network of a recipe, without weights, if it takes images of any size; None for others and for saved ones,
    which have been fitted to their data."""
    network = None if is_saved(recipe.model.model) else _outline(recipe)
    return network if network is not None and network.fully_convolutional else None


def is_saved(model: str) -> bool:
    """Whether a name stands for a network in a folder or on the Hub."""
    return model.startswith(("local-dir:", "hf-hub:"))


def _suited(recipe: Recipe) -> dict[str, Any]:
    """The settings that the network of a recipe asks for in place of those of the recipe `finetune`."""
    if recipe.model.is_random:  # there are no statistics to keep, nor layers that have learnt more than others
        return {"freeze_norms": False, "layer_decay": None, "fit_heads": False}
    practice = _practice(recipe)
    return {} if practice is None else {"lr": practice.lr, "layer_decay": practice.layer_decay}


def _practice(recipe: Recipe) -> Practice | None:
    """The rates of such a network, if what has learnt goes on learning."""
    if recipe.model.is_random:
        return None
    network = _outline(recipe)
    units = network.units_practice if VIDEO in recipe.data.tasks.values() else None
    return units if recipe.model.freeze == TRUNK else network.practice or units


def _order_arguments(recipe: Recipe) -> dict[str, Any]:
    """Arguments by which the heads of a trunk of images see the order of a clip's frames; none for networks that
    cannot, and for saved ones, which have been made with theirs."""
    if VIDEO not in recipe.data.tasks.values() or is_saved(recipe.model.model):
        return {}
    network = _outline(recipe)
    if not isinstance(network, DualTrunk) or not network.takes_time_terms:
        return {}
    return {"time_terms": recipe.model.num_frames or network.spec.clip.length}


def _outline(recipe: Recipe) -> TaskModel:
    """The network of a recipe without weights."""
    tasks = tuple(recipe.data.tasks.items())
    return _made(recipe.model.model, json.dumps(dict(recipe.model.model_args)), tasks)


@functools.cache
def _made(model: str, arguments: str, tasks: tuple[tuple[str, str], ...]) -> TaskModel:
    settings = ModelSettings(model=model, model_args=json.loads(arguments))
    with torch.device("meta"):
        return create_for({name: (modality, 2) for name, modality in tasks}, settings, pretrained=False)
