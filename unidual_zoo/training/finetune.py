"""Your own images and videos -> one network for both: the recipe of `unidual finetune`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch

from unidual_zoo.models.summary import check_registered
from unidual_zoo.spec import IMAGE, VIDEO, InputSpec
from unidual_zoo.training.recipes import Recipe, change_recipe, find_recipe

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
    where there are no test files. `skip` is a list of files to leave out, of the images and of the videos. A network
    without published weights starts from random ones; its BatchNorms learn, and all its layers at one rate.

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
        recipe = recipe.changed(freeze_norms=False, layer_decay=None)
    skipped = dict.fromkeys(tasks, skip) if skip is not None else {}
    return change_recipe(recipe.changed(tasks=tasks, data=data, test_data=tests, skip=skipped), settings)


def scalable_spec(model: str) -> InputSpec | None:
    """What a registered network sees, if it takes images of any size as well; None for others and for saved ones."""
    if ":" in model:
        return None  # it was fitted to its size
    with torch.device("meta"):
        network: Any = timm.create_model(model)
    return network.spec if network.fully_convolutional else None
