"""Your own images and videos -> one network for both: the recipe of `unidual finetune`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import timm
import torch

from unidual_zoo.models.base import TaskModel
from unidual_zoo.models.create import create_model
from unidual_zoo.models.dual_trunk import DualTrunk
from unidual_zoo.models.summary import check_registered
from unidual_zoo.spec import IMAGE, VIDEO, InputSpec
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
    as least squares fit them, and on a trunk of images those of the video pathway see the order of frames. A network
    without published weights starts from random ones, heads included; its BatchNorms learn, and all its layers at one
    rate.

    Raises:
        ValueError: an unknown model, neither images nor videos, test files of what is not learnt, or a setting that the
            recipe refuses.
    """
    check_registered(model)
    data = {name: source for name, source in (("images", images), ("videos", videos)) if source is not None}
    if not data:
        raise ValueError("nothing to learn from: give --images, --videos or both")
    tests = {name: source for name, source in (("images", test_images), ("videos", test_videos)) if source is not None}
    if strange := sorted(set(tests) - set(data)):
        raise ValueError(f"there are test {strange[0]} and none to learn from: give --{strange[0]}, too")
    tasks = {name: TASKS[name] for name in data}
    pretrained = model.startswith(("local-dir:", "hf-hub:")) or timm.is_model_pretrained(model)
    recipe = find_recipe("finetune").changed(model=model, pretrained=pretrained)
    if not pretrained:  # there are no statistics to keep, nor layers that have learnt more than others
        recipe = recipe.changed(freeze_norms=False, layer_decay=None, fit_heads=False)
    skipped = dict.fromkeys(tasks, skip) if skip is not None else {}
    changed = change_recipe(recipe.changed(tasks=tasks, data=data, test_data=tests, skip=skipped), settings)
    ordered = _order_arguments(changed.model) if "videos" in data else {}
    return changed.changed(model_args={**ordered, **changed.model.model_args})


def scalable_spec(model: str) -> InputSpec | None:
    """What a registered network sees, if it takes images of any size as well; None for others and for saved ones."""
    network = _outline(model)
    return network.spec if network is not None and network.fully_convolutional else None


def _order_arguments(settings: ModelSettings) -> dict[str, Any]:
    """Arguments by which the heads of a trunk of images see the order of a clip's frames; none for networks that
    cannot, or may be made so that they cannot."""
    network = _outline(settings.model)
    if not isinstance(network, DualTrunk) or not network.takes_time_terms:
        return {}
    if {"frame_mean", "global_blocks"} & set(settings.model_args):
        return {}
    return {"time_terms": settings.num_frames or network.spec.clip.length}


@functools.cache
def _outline(model: str) -> TaskModel | None:
    """A registered network without weights; None for a saved one, which has been fitted to its data."""
    if ":" in model:
        return None
    with torch.device("meta"):
        return create_model(model)
