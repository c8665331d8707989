"""Recipes: everything that a training run depends on, as data. Every setting can be set from the command line.

A recipe has four groups of settings, each of which goes to those who need it: the network (`ModelSettings`), the
examples (`DataSettings`), the objective and its optimisation (`OptimSettings`), the engine and the run
(`RunSettings`). A setting has one name, in its group, on the command line and in recipe.json, where they are not
grouped.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from unidual_zoo.checks import check_known
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO, InputSpec
from unidual_zoo.training.settings import STRICT, parse_settings, replace_settings

RENAMED = {"rate": "lr", "warmup_rate": "warmup_lr"}  # names of settings in older versions -> theirs now
NOT_MEASURED = "not measured"

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Factor = Annotated[float, Field(gt=0)]
Size = Annotated[tuple[Count, Count], Field(strict=False, description="[height, width]")]
Sides = Annotated[tuple[Count, ...], Field(strict=False, min_length=1, description="a list of sides such as [256,320]")]
Epochs = Annotated[tuple[Number, ...], Field(strict=False, description="a list of epochs such as [20,30]")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelSettings:
    """The network, the weights that it starts from, what it sees, and what of it learns."""

    model: str = "unidual34_aux"
    model_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of its constructor: {"norms": "shared"}
    pretrained: bool = False  # start from the published weights of the name
    init: str | None = None  # start from this run (its last checkpoint), inflated or deflated as the pathways ask
    # Inputs; None leaves it as the model's own spec has it.
    resize: Annotated[Count, Field(description="a short side from 1")] | Size | None = None
    crop: Size | None = None
    num_frames: Count | None = None
    frame_stride: Count | None = None
    single_frames: bool = False  # an image on the video pathway is a clip of one frame, whatever the model's own spec
    # The first so many of stem, stage 1, ... stay as they are, or "trunk": all that is not to learn in any case.
    freeze: Whole | Literal["trunk"] = 0
    sync_norms: bool = False  # BatchNorm statistics over all processes
    grad_checkpointing: bool = False

    def spec(self, spec: InputSpec) -> InputSpec:
        """The model's own spec with the inputs that are set."""
        inputs = {"resize": self.resize, "crop": self.crop, "image_frames": 1 if self.single_frames else None}
        clip = {"length": self.num_frames, "stride": self.frame_stride}
        return dataclasses.replace(spec, clip=dataclasses.replace(spec.clip, **_given(clip)), **_given(inputs))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataSettings:
    """The tasks, their files, and how examples are drawn from them."""

    tasks: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"in1k": IMAGE, "k400": VIDEO})  # modalities
    data: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of each task a folder or a CSV list
    teachers: Mapping[str, str] = dataclasses.field(
        default_factory=dict
    )  # task without labels -> network that gives them
    test_data: Mapping[str, str] = dataclasses.field(default_factory=dict)  # if not in the same folder
    hold_out: Share = 0.0  # part of the training files that is kept for testing where there are no test files
    validation: Share = 0.0  # part of the training files that is evaluated between epochs, in place of the test files
    monitor: Share = 0.0  # part of the training files that is kept to measure how the losses overfit
    mix: Literal["equal", "proportional"] | Mapping[str, Number] = "equal"  # proportional to files, or weights by task
    # Examples of one task per epoch on average; None: the files of the task with most, or with a proportional mix all.
    epoch_size: Count | None = None
    batch_size: Count = 16  # of one process, over all tasks
    short_sides: Sides | None = None  # training draws the short side from these, instead of `resize`
    flip: bool = False
    rand_augment: str | None = None  # timm's configuration, such as "rand-m9-mstd0.5"
    max_failed: Whole = 100  # unreadable files that training does without
    workers: Whole = min(4, os.cpu_count() or 1)  # loader processes of each process

    def __post_init__(self) -> None:
        for task, modality in self.tasks.items():
            check_known(f"modality of {task}", modality, MODALITIES)
        for task in self.teachers:
            check_known("task with a teacher", task, self.tasks)
            if self.tasks[task] != VIDEO:
                raise ValueError(f"a teacher labels videos, {task} is a task of the modality {self.tasks[task]!r}")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimSettings:
    """The objective and how it is minimised. `lr` is for updates of one batch and grows with the batches per update."""

    epochs: Count = 45
    accumulate: Count = 1  # batches per update
    optimizer: str = "sgd"  # any of timm's but `optimizers.UNFIT`
    lr: Number = 0.01
    momentum: Number = 0.9
    weight_decay: Number = 1e-4  # of all weights but biases and those of the model's `no_weight_decay`
    decay_norms: bool = True  # the scales of BatchNorms are among them (VMZ)
    layer_decay: Factor | None = None  # of the learning rate, from each layer to the one before it
    schedule: str = "multistep"  # any of timm's that need no metric
    warmup_epochs: Number = 0
    warmup_lr: Number = 0.0  # at the first update
    milestones: Epochs = ()  # at which `multistep` multiplies the learning rate with `decay_rate`
    decay_rate: Number = 0.1
    clip_norm: Factor | None = None
    ema: Share = 0.0  # decay of the averaged weights, which are then the ones evaluated and published; 0: off
    loss_weights: Mapping[str, Number] = dataclasses.field(default_factory=dict)  # {"k400.image": 0.5}; the others: 1
    blend: Literal["no", "offline", "online"] = (
        "no"  # Gradient Blending: weights found at the start, or again and again
    )
    blend_epochs: Count = 1  # for which each loss is trained alone; online, also those until weights are found anew
    auxiliary_frames: Literal["one", "all"] = "one"  # of a clip for the auxiliary video loss: a random one, or all
    class_weights: Literal["no", "balanced"] = "no"  # balanced: every class weighs alike in its task's losses
    label_smoothing: Share = 0.0
    mixup: Number = 0.0  # alpha
    freeze_norms: bool = False  # BatchNorms use and keep their running statistics


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunSettings:
    """The engine, and what a run keeps, measures and publishes."""

    seed: Whole = 0
    precision: Literal["no", "bf16"] = "no"
    compile: str = "no"  # a torch.compile backend, such as "inductor"
    protocol: str = "unidual34"
    eval_every: Whole = 1  # epochs; 0: only the published weights are evaluated
    patience: Whole = 0  # evaluations without a better score after which training ends; 0: it goes on to the last epoch
    baselines: bool = False  # also evaluate what videos' frames alone tell
    eval_clips: Count | None = None  # clips per video in the evaluation between epochs; None: the protocol's
    log_every: Count = 10  # steps
    save_every: Count = 500  # steps; the end of an epoch is always saved
    publish: Literal["last", "best"] = "last"  # checkpoint; "best" flatters its figures, unless `validation` chose it
    recompute_norms: Whole = 0  # training batches over which the published BatchNorm statistics are computed anew


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run.

    Raises:
        ValueError: training is to end early or the best checkpoint to be published, and none is evaluated or can be; or
            losses are to be blended, and no files are kept to measure them, or they have weights.
    """

    model: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    data: DataSettings = dataclasses.field(default_factory=DataSettings)
    optim: OptimSettings = dataclasses.field(default_factory=OptimSettings)
    run: RunSettings = dataclasses.field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        if self.optim.blend != "no" and not self.data.monitor:
            raise ValueError(f"blend={self.optim.blend} needs files to measure losses on: set monitor, such as 0.1")
        if self.optim.blend != "no" and self.optim.loss_weights:
            raise ValueError(f"blend={self.optim.blend} finds the weights of losses, loss_weights gives some: set one")
        every = self.run.eval_every
        if self.run.publish == "best" and not set(self.data.tasks) - set(self.data.teachers):
            raise ValueError("publish=best needs test files, and every task has a teacher in place of labels")
        if self.run.patience and not 0 < every <= self.optim.epochs:
            raise ValueError(f"patience={self.run.patience} needs evaluations between epochs, eval_every is {every}")
        if self.run.publish == "best" and not 0 < every <= self.optim.epochs:
            raise ValueError(f"publish=best needs evaluations between epochs, eval_every is {every}")

    def changed(self, **settings: Any) -> Recipe:
        """The recipe with other values of some settings, whichever group they are in.

        Raises:
            ValueError: an unknown setting (it names the nearest), or a value that is not allowed (it says what is).
        """
        for name in settings:
            check_known("setting", name, _OWNERS)
        changed = {}
        for owner in _GROUPS:
            values = {name: value for name, value in settings.items() if _OWNERS[name] == owner}
            changed[owner] = replace_settings(getattr(self, owner), values)
        return Recipe(**changed)

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain data, equal to what comes back from JSON."""
        flat = {
            name: value for owner in _GROUPS for name, value in vars(getattr(self, owner)).items() if name in _OWNERS
        }
        return json.loads(json.dumps(flat))


_GROUPS: Mapping[str, type] = {
    "model": ModelSettings, "data": DataSettings, "optim": OptimSettings, "run": RunSettings
}  # fmt: skip
_OWNERS = {field.name: owner for owner, group in _GROUPS.items() for field in dataclasses.fields(group)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A recipe, and what to know before it is started: the command, what it costs, and the figures to expect."""

    about: str
    recipe: Recipe
    command: str
    cost: str = NOT_MEASURED
    figures: str = NOT_MEASURED


_PAPER_34 = Recipe(
    model=ModelSettings(resize=(128, 171), crop=(112, 112), num_frames=8, frame_stride=1),
    data=DataSettings(epoch_size=1_000_000, batch_size=16),
    optim=OptimSettings(lr=0.01, epochs=45, warmup_epochs=10, milestones=(20, 30, 40)),
    run=RunSettings(protocol="unidual34"),
)

_VIT_LARGE = "timm/vit_large_patch16_224.augreg_in21k"

RECIPES: Mapping[str, Experiment] = {
    # Any row of Table 1. The optimizer is VMZ's; that the learning rate falls at 20, 30 and 40 is our reading.
    "paper-34": Experiment(
        about="the paper's Table 2 (§3.1); --set model=r2plus1d34 --set tasks=k400:video and so on for its other rows",
        recipe=_PAPER_34,
        command="unidual train paper-34 --data in1k=/data/imagenet --data k400=/data/kinetics400",
        figures=f"{NOT_MEASURED}; the paper: top-1 70.9, video@1 70.5",
    ),
    "paper-34-three": Experiment(
        about="the paper's Table 3 (§3.2): a third source",
        recipe=_PAPER_34.changed(tasks={"in1k": IMAGE, "k400": VIDEO, "minisports": VIDEO}),
        command=(
            "unidual train paper-34-three --data in1k=/data/imagenet --data k400=/data/kinetics400 "
            "--data minisports=/data/minisports"
        ),
        figures=f"{NOT_MEASURED}; the paper: top-1 69.9, video@1 71.7 and 61.9",
    ),
    "paper-152": Experiment(
        about="the paper's Table 4 (§3.3): 152 layers, longer clips, larger frames",
        recipe=Recipe(
            model=ModelSettings(
                model="unidual152_aux", resize=256, crop=(224, 224), num_frames=16, frame_stride=4
            ),
            data=DataSettings(short_sides=(256, 320), epoch_size=1_000_000, batch_size=8),
            optim=OptimSettings(lr=0.005, epochs=45, schedule="cosine", warmup_epochs=10),
            run=RunSettings(protocol="unidual152"),
        ),
        command="unidual train paper-152 --data in1k=/data/imagenet --data k400=/data/kinetics400",
        figures=f"{NOT_MEASURED}; the paper: top-1 75.4, video@1 77.5",
    ),
    # The authors': network, data sets, a head for each, sampling in proportion, images as single frames, and all but
    # time from a ViT trained on images (theirs: JFT-3B). They do not tell the rest: optimizer and learning rate are
    # TimeSformer's, 0.005 for 64 examples, and so is the evaluation; the others are ours. No clip is mirrored, since
    # Something-Something tells left from right. With fewer than 15 examples in a batch SSv2 would be seen too often.
    "cover": Experiment(
        about="CoVeR (Zhang et al. 2021): videos and images of four data sets, in proportion to their sizes",
        recipe=Recipe(
            model=ModelSettings(
                model="cover_large", pretrained=True, model_args={"pretrained_cfg_overlay": {"hf_hub_id": _VIT_LARGE}},
                single_frames=True, grad_checkpointing=True,
            ),
            data=DataSettings(
                tasks={"in1k": IMAGE, "k400": VIDEO, "ssv2": VIDEO, "mit": VIDEO}, mix="proportional", batch_size=16,
                short_sides=(448, 512),
            ),
            optim=OptimSettings(lr=0.00125, epochs=15, milestones=(11, 14)),
            run=RunSettings(precision="bf16", protocol="timesformer"),
        ),
        command=(
            "accelerate launch --num_processes 4 -m unidual train cover --data in1k=/data/imagenet "
            "--data k400=/data/kinetics400 --data ssv2=/data/ssv2 --data mit=/data/moments"
        ),
        figures=f"{NOT_MEASURED}; the paper, from JFT-3B: k400 87.2, ssv2 70.9, mit 46.1",
    ),
    "mini": Experiment(
        about="the paper's training in miniature, for your own data on one machine",
        recipe=Recipe(
            model=ModelSettings(
                model="unidual10_aux", resize=(64, 86), crop=(56, 56), num_frames=8, frame_stride=2
            ),
            data=DataSettings(flip=True, epoch_size=20_000, batch_size=32),
            optim=OptimSettings(lr=0.02, epochs=20, schedule="cosine", warmup_epochs=2),
        ),
        command="unidual train mini --set tasks=photos:image,clips:video --data photos=photos/ --data clips=clips/",
    ),
    "toy": Experiment(
        about="the embedded data on a laptop; makes the weights that ship",
        recipe=Recipe(
            model=ModelSettings(
                model="unidual10_aux", resize=(72, 96), crop=(64, 64), num_frames=8, frame_stride=4
            ),
            data=DataSettings(
                tasks={"toy_objects": IMAGE, "toy_actions": VIDEO},
                data={"toy_objects": "toy", "toy_actions": "toy"},
                batch_size=32,
                workers=2,
            ),
            optim=OptimSettings(lr=0.05, weight_decay=5e-4, epochs=8, schedule="cosine", warmup_epochs=1),
            run=RunSettings(eval_clips=2),
        ),
        command="unidual train toy",
        cost="36 minutes on 2 cores",
        figures="top-1 83.3, video@1 95.6",
    ),
    "cifar": Experiment(
        about="the paper's tables in miniature, on CIFAR-10 and clips made from it (benchmarks/table2.py)",
        recipe=Recipe(
            model=ModelSettings(
                model="unidual10_aux", resize=32, crop=(28, 28), num_frames=8, frame_stride=1
            ),
            data=DataSettings(
                tasks={"cifar10": IMAGE, "cifar_motion": VIDEO}, epoch_size=3_000, batch_size=16, workers=0
            ),
            optim=OptimSettings(lr=0.05, weight_decay=5e-4, epochs=10, schedule="cosine", warmup_epochs=1),
            run=RunSettings(precision="bf16", eval_every=0),
        ),
        command="benchmarks/table2.py --scale mini --cifar cifar10 --download --rows UniDual-Aux",
        cost="6 CPU minutes",
        figures="top-1 53.4 ± 0.4, video@1 48.4 ± 0.8 (5 seeds)",
    ),
    "finetune": Experiment(
        about="your images and videos, from published weights",
        recipe=Recipe(
            model=ModelSettings(pretrained=True),
            data=DataSettings(tasks={"images": IMAGE, "videos": VIDEO}, hold_out=0.2, flip=True),
            optim=OptimSettings(
                lr=0.005, epochs=20, schedule="cosine", warmup_epochs=0.5, layer_decay=0.8, label_smoothing=0.1
            ),
            run=RunSettings(baselines=True),
        ),
        command="unidual finetune --images photos/ --videos clips/",
    ),
}  # fmt: skip


def find_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """The recipe of that name, changed by settings `["lr=0.1", "tasks=in1k:image", ...]`.

    Raises:
        ValueError: an unknown recipe or setting (it names the nearest), or a value that is not allowed.
    """
    check_known("recipe", name, RECIPES)
    return change_recipe(RECIPES[name].recipe, settings)


def change_recipe(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe changed by settings `["lr=0.1", ...]`; see `find_recipe` for errors."""
    return recipe.changed(**parse_settings(settings, tuple(_GROUPS.values()), renamed=RENAMED))


def current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recipe.json that an older version may have written, under the names that they have now."""
    return {RENAMED.get(name, name): value for name, value in settings.items()}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
