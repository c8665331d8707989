"""Recipes: everything that a training run depends on, as rows of data. Every field can be set from the command line."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unidual_zoo.checks import check_known
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO, InputSpec
from unidual_zoo.training.settings import check_types, parse_settings

LEAST = {  # of the settings that count something
    "batch_size": 1, "accumulate": 1, "epochs": 1, "epoch_size": 1, "log_every": 1, "save_every": 1, "eval_every": 0,
    "eval_clips": 1, "workers": 0, "max_failed": 0, "recompute_norms": 0, "freeze": 0,
}  # fmt: skip
SIDES = {"crop": "[height, width]", "resize": "[height, width] or a short side"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run. Its rates are for updates of one batch and grow with the number of batches per update."""

    # The network, and the weights that it starts from.
    model: str = "unidual34_aux"
    model_args: Mapping[str, Any] = field(default_factory=dict)  # of the constructor, such as {"norms": "shared"}
    pretrained: bool = False  # start from the published weights of the name
    init: str | None = None  # start from this run (its last checkpoint), inflated or deflated as the pathways ask
    # The data: each task's modality, its files (a folder or a CSV list) and, if not in the same folder, its test files.
    tasks: Mapping[str, str] = field(default_factory=lambda: {"in1k": IMAGE, "k400": VIDEO})
    data: Mapping[str, str] = field(default_factory=dict)
    test_data: Mapping[str, str] = field(default_factory=dict)
    hold_out: float = 0.0  # part of the training files that is kept for testing where there are no test files
    mix: str | Mapping[str, float] = "equal"  # or "proportional" to the numbers of files, or weights by task
    epoch_size: int | None = None  # examples of one task per epoch on average; None: of the task with most files
    max_failed: int = 100  # unreadable files that training does without
    workers: int = min(4, os.cpu_count() or 1)  # loader processes of each process
    # What the network sees; None leaves it as the model's own spec has it.
    resize: int | Sequence[int] | None = None
    crop: Sequence[int] | None = None
    short_sides: Sequence[int] | None = None  # training draws the short side from these, instead of `resize`
    num_frames: int | None = None
    frame_stride: int | None = None
    flip: bool = False
    rand_augment: str | None = None  # timm's configuration, such as "rand-m9-mstd0.5"
    mixup: float = 0.0  # alpha
    label_smoothing: float = 0.0
    # The optimisation.
    batch_size: int = 16  # of one process, over all tasks
    accumulate: int = 1  # batches per update
    epochs: int = 45
    optimizer: str = "sgd"  # any of timm's but `optimizers.UNFIT`
    rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4  # of all weights but biases
    decay_norms: bool = True  # the scales of BatchNorms are among them (VMZ)
    layer_decay: float | None = None  # the rate's factor from each layer to the one before it
    schedule: str = "multistep"  # any of timm's that need no metric
    warmup_epochs: float = 0
    warmup_rate: float = 0.0  # at the first update
    milestones: Sequence[float] = ()  # epochs at which `multistep` multiplies the rate with `decay_rate`
    decay_rate: float = 0.1
    clip_norm: float | None = None
    loss_weights: Mapping[str, float] = field(default_factory=dict)  # such as {"k400.image": 0.5}; the others weigh 1
    auxiliary_frames: str = "one"  # random frame of a clip for the auxiliary video loss, or "all"
    ema: float = 0.0  # decay of the averaged weights, which are then the ones evaluated and published; 0: off
    freeze: int = 0  # the first so many of stem, stage 1, ... stay as they are
    freeze_norms: bool = False  # BatchNorms use and keep their running statistics
    sync_norms: bool = False  # BatchNorm statistics over all processes
    recompute_norms: int = 0  # training batches over which the published BatchNorm statistics are computed anew
    # The engine.
    precision: str = "no"  # or "bf16"
    compile: str = "no"  # a torch.compile backend, such as "inductor"
    grad_checkpointing: bool = False
    seed: int = 0
    # The run.
    publish: str = "last"  # the checkpoint to publish, or "best" on the test files, which flatters its figures
    protocol: str = "unidual34"
    eval_every: int = 1  # epochs; 0: only the published weights are evaluated
    eval_clips: int | None = None  # clips per video in the evaluation between epochs; None: the protocol's
    log_every: int = 10  # steps
    save_every: int = 500  # steps; the end of an epoch is always saved

    def __post_init__(self) -> None:
        check_types(self)
        for task, modality in self.tasks.items():
            check_known(f"modality of {task}", modality, MODALITIES)
        for name, least in LEAST.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name} must be {least} or more, got {value}")
        for name, form in SIDES.items():
            if isinstance(value := getattr(self, name), Sequence) and (len(value) != 2 or min(value) < 1):
                raise ValueError(f"{name} must be {form}, got {list(value)}")
        check_known("publish", self.publish, ("last", "best"))
        if self.publish == "best" and not 0 < self.eval_every <= self.epochs:
            raise ValueError(f"publish=best needs evaluations between epochs, eval_every is {self.eval_every}")

    def spec(self, spec: InputSpec) -> InputSpec:
        """The model's own spec with what the recipe sets."""
        given = {"length": self.num_frames, "stride": self.frame_stride}
        clip = dataclasses.replace(spec.clip, **{name: value for name, value in given.items() if value is not None})
        resize = self.resize if isinstance(self.resize, int | None) else tuple(self.resize)
        return dataclasses.replace(
            spec,
            clip=clip,
            resize=spec.resize if resize is None else resize,
            crop=spec.crop if self.crop is None else tuple(self.crop),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, equal to what comes back from JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


_PAPER_34 = Recipe(
    resize=(128, 171), crop=(112, 112), num_frames=8, frame_stride=1,
    epoch_size=1_000_000, batch_size=16, rate=0.01, epochs=45,
    warmup_epochs=10, milestones=(20, 30, 40), protocol="unidual34",
)  # fmt: skip

RECIPES: Mapping[str, Recipe] = {
    # Paper §3.1 for any row of Table 1. The optimizer is VMZ's; that the rate falls at 20, 30 and 40 is our reading.
    "paper-34": _PAPER_34,
    # Paper §3.2, Table 3.
    "paper-34-three": dataclasses.replace(_PAPER_34, tasks={"in1k": IMAGE, "k400": VIDEO, "minisports": VIDEO}),
    # Paper §3.3, Table 4.
    "paper-152": Recipe(
        model="unidual152_aux", resize=256, crop=(224, 224), short_sides=(256, 320), num_frames=16, frame_stride=4,
        epoch_size=1_000_000, batch_size=8, rate=0.005, epochs=45,
        schedule="cosine", warmup_epochs=10, protocol="unidual152",
    ),
    # CoVeR (Zhang et al. 2021): from a network trained on images (--set init=RUN), several data sets in proportion.
    "cover": dataclasses.replace(
        _PAPER_34, tasks={"in1k": IMAGE, "k400": VIDEO, "ssv2": VIDEO, "mit": VIDEO}, mix="proportional",
        rate=0.005, epochs=20, schedule="cosine", warmup_epochs=2, milestones=(),
    ),
    # The paper's training in miniature, for your own data on one machine.
    "mini": Recipe(
        model="unidual10_aux", resize=(64, 86), crop=(56, 56), num_frames=8, frame_stride=2, flip=True,
        epoch_size=20_000, batch_size=32, rate=0.02, epochs=20, schedule="cosine", warmup_epochs=2,
    ),
    # The embedded data on a laptop; makes the weights that ship.
    "toy": Recipe(
        model="unidual10_aux", tasks={"toy_objects": IMAGE, "toy_actions": VIDEO}, workers=2,
        data={"toy_objects": "toy", "toy_actions": "toy"},
        resize=(72, 96), crop=(64, 64), num_frames=8, frame_stride=4,
        batch_size=32, rate=0.05, weight_decay=5e-4, epochs=8, schedule="cosine", warmup_epochs=1, eval_clips=2,
    ),
    # The paper's tables in miniature, on CIFAR-10 and clips made from it (`benchmarks/table2.py`).
    "cifar": Recipe(
        tasks={"cifar10": IMAGE, "cifar_motion": VIDEO}, model="unidual10_aux", workers=0,
        resize=32, crop=(28, 28), num_frames=8, frame_stride=1, epoch_size=3_000, batch_size=16, rate=0.05,
        weight_decay=5e-4, epochs=10, schedule="cosine", warmup_epochs=1, precision="bf16", eval_every=0,
    ),
    # Your images and videos, from published weights (`unidual finetune`).
    "finetune": Recipe(
        pretrained=True, tasks={"images": IMAGE, "videos": VIDEO}, hold_out=0.2, flip=True,
        rate=0.005, epochs=20, schedule="cosine", warmup_epochs=0.5, layer_decay=0.8, label_smoothing=0.1,
    ),
}  # fmt: skip


def find_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """The recipe of that name, changed by settings `["rate=0.1", "tasks=in1k:image", ...]`.

    Raises:
        ValueError: an unknown recipe or field (it names the nearest), or a value of another type.
    """
    check_known("recipe", name, RECIPES)
    return dataclasses.replace(RECIPES[name], **parse_settings(settings, Recipe))
