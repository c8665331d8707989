"""Recipes: everything that a training run depends on, as data. Every setting can be set from the command line.

A recipe has four groups of settings, each of which goes to those who need it: the network (`ModelSettings`), the
examples (`DataSettings`), the objective and its optimisation (`OptimSettings`), the engine and the run
(`RunSettings`). A setting has one name, in its group, on the command line and in recipe.json, where they are not
grouped.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from unidual_zoo.checks import check_known
from unidual_zoo.cores import usable_cores
from unidual_zoo.spec import IMAGE, MODALITIES, VIDEO, InputSpec
from unidual_zoo.training.settings import STRICT, Setting, described, in_words, parse_settings, replace_settings

RENAMED = {"rate": "lr", "warmup_rate": "warmup_lr"}  # names of settings in older versions -> theirs now
NOT_MEASURED = "not measured"
SCHEDULES = ("constant", "multistep", "cosine", "tanh", "wsd", "rsqrt")  # timm's that a recipe can describe

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Factor = Annotated[float, Field(gt=0)]
ShortSide = Annotated[Count, in_words("a short side from 1")]
Size = Annotated[tuple[Count, Count], Field(strict=False), in_words("[height, width]")]
Sides = Annotated[tuple[Count, ...], Field(strict=False, min_length=1), in_words("a list of sides such as [256,320]")]
Epochs = Annotated[tuple[Number, ...], Field(strict=False), in_words("a list of epochs such as [20,30]")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelSettings:
    """The network, the weights that it starts from, what it sees, and what of it learns."""

    model: str = Field(default="unidual34_aux", description="A name of `unidual models`, hf-hub:… or local-dir:….")
    model_args: Mapping[str, Any] = Field(
        default_factory=dict,
        description="Arguments of the network's class, which its docstring explains: width, depths, norms and so on.",
        examples=['\'{"norms": "shared"}\''],
    )
    pretrained: bool = Field(default=False, description="Start from the published weights of the name.")
    init: str | None = Field(
        default=None,
        description="Start from this run directory (its last checkpoint) or file, inflated or deflated as the pathways "
        "ask; heads of other classes are fresh.",
        examples=["runs/paper-34"],
    )
    resize: ShortSide | Size | None = Field(
        default=None, description="Of an input, before it is cropped; null: the model's own, as below."
    )
    crop: Size | None = Field(default=None, description="What the network sees of it.", examples=["[224,224]"])
    num_frames: Count | None = Field(default=None, description="Frames of a clip.")
    frame_stride: Count | None = Field(default=None, description="From one frame of a clip to the next.")
    single_frames: bool = Field(
        default=False, description="An image on the video pathway is a clip of one frame, whatever the model's own is."
    )
    freeze: Whole | Literal["trunk"] = Field(
        default=0,
        description="The first so many of stem, stage 1, … stay as they are, or all that is not to learn in any case.",
    )
    fit_heads: bool = Field(
        default=False,
        description="Before the first step heads are fitted, by least squares, to what the network tells of at most "
        "2,048 training files of a task, if that is better than what they are.",
    )
    sync_norms: bool = Field(default=False, description="BatchNorm statistics over all processes, on GPUs.")
    grad_checkpointing: bool = Field(
        default=False, description="Less memory: activations are computed again in the backward pass."
    )

    @property
    def is_random(self) -> bool:
        """Whether there are no weights to start from."""
        return not self.pretrained and self.init is None

    def spec(self, spec: InputSpec) -> InputSpec:
        """The model's own spec with the inputs that are set."""
        inputs = {"resize": self.resize, "crop": self.crop, "image_frames": 1 if self.single_frames else None}
        clip = {"length": self.num_frames, "stride": self.frame_stride}
        return dataclasses.replace(spec, clip=dataclasses.replace(spec.clip, **_given(clip)), **_given(inputs))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataSettings:
    """The tasks, their files, and how examples are drawn from them."""

    tasks: Mapping[str, str] = Field(
        default_factory=lambda: {"in1k": IMAGE, "k400": VIDEO},
        description="Names of your own, each with the modality of its files. The first of a modality is the default.",
        examples=["photos:image,clips:video"],
    )
    data: Mapping[str, str] = Field(
        default_factory=dict,
        description="Of each task a folder, class/file or train/class/file, or a list path,label[,split,group]; as "
        "--data; LAYOUT:FOLDER for a data set as its makers hand it out.",
        examples=["photos:photos/,clips:clips.csv"],
    )
    subsample: Mapping[str, Count] = Field(
        default_factory=dict,
        description="Of a task at most so many training files, drawn by the seed.",
        examples=["minisports:240000"],
    )
    teachers: Mapping[str, str] = Field(
        default_factory=dict,
        description="Of a task of videos the network for images (any of timm's) that labels their frames: labels of "
        "their own are not used.",
        examples=["clips:unidual_efficientnet_lite0.in1k"],
    )
    test_data: Mapping[str, str] = Field(
        default_factory=dict, description="Test files, if not in the same folder; as --test."
    )
    hold_out: Share = Field(
        default=0.0,
        description="Part of each class's training files, at least one where one can be spared, that is kept for "
        "testing where there are no test files.",
    )
    validation: Share = Field(
        default=0.0,
        description="Part of each class's training files, at least one where one can be spared, that is evaluated "
        "between epochs, in place of the test files.",
    )
    monitor: Share = Field(
        default=0.0,
        description="Part of the training files that is kept to measure after each epoch how the losses overfit.",
        examples=["0.1"],
    )
    mix: Literal["equal", "proportional"] | Mapping[str, Number] = Field(
        default="equal", description="How many examples the tasks have: as many, by their files, or by these weights."
    )
    epoch_size: Count | None = Field(
        default=None,
        description="Examples of one task per epoch on average; null: the files of the task with most, or with a "
        "proportional mix all.",
    )
    batch_size: Count = Field(default=16, description="Examples in a batch of one process, over all tasks.")
    short_sides: Sides | None = Field(
        default=None, description="Training draws the short side from these, instead of resize."
    )
    flip: bool = Field(default=False, description="Training mirrors every other example.")
    rand_augment: str | None = Field(
        default=None, description="timm's configuration of RandAugment.", examples=["rand-m9-mstd0.5"]
    )
    feature_views: Whole = Field(
        default=0,
        description="Where all before the heads, or before a probe, is frozen: of each training file so many views, "
        "whose features are computed once and learnt from by turns; 0: every look at a file is a new view.",
    )
    feature_gigabytes: Number = Field(
        default=20,
        description="That these features may take in the run directory; fewer views where they are too many.",
    )
    skip: Mapping[str, str] = Field(
        default_factory=dict,
        description="Of a task a list of files to leave out of its data, such as check-data writes; as --skip.",
        examples=["photos:skip.txt"],
    )
    file_seconds: Number = Field(
        default=0, description="That reading one file may take; 0: what UNIDUAL_FILE_SECONDS says, else any."
    )
    max_failed: Whole = Field(default=100, description="Unreadable files that training does without.")
    workers: Whole = Field(default=min(4, usable_cores()), description="Loader processes of each process.")

    def __post_init__(self) -> None:
        for task, modality in self.tasks.items():
            check_known(f"modality of {task}", modality, MODALITIES)
        for task in self.subsample:
            check_known("task to subsample", task, self.tasks)
        for task in self.skip:
            check_known("task with a skip list", task, self.tasks)
        for task in self.teachers:
            check_known("task with a teacher", task, self.tasks)
            if self.tasks[task] != VIDEO:
                raise ValueError(f"a teacher labels videos, {task} is a task of the modality {self.tasks[task]!r}")

    def examples_per_epoch(self, sizes: Mapping[str, int]) -> int:
        """Examples of all tasks, whose numbers of files are given, in an epoch."""
        if self.epoch_size is None and self.mix == "proportional":
            return sum(sizes.values())  # all files of every task once
        return (self.epoch_size or max(sizes.values())) * len(sizes)

    @property
    def labelled_tasks(self) -> list[str]:
        """The tasks that are learnt from labels; the others have teachers."""
        return [task for task in self.tasks if task not in self.teachers]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimSettings:
    """The objective and how it is minimised. `lr` is for updates of one batch and grows with the batches per update."""

    epochs: Whole = Field(default=45, description="See epoch_size; 0: no step is made, only heads are fitted.")
    accumulate: Count = Field(default=1, description="Batches per update of the weights.")
    optimizer: str = Field(
        default="sgd", description="Any of timm's but those that need second derivatives.", examples=["adamw"]
    )
    lr: Number = Field(
        default=0.01,
        description="Learning rate for updates of one batch; it grows with the batches per update, over all processes.",
    )
    momentum: Number = Field(default=0.9, description="Of sgd, above 0; of others what timm makes of it.")
    weight_decay: Number = Field(
        default=1e-4, description="Of all weights but biases and those that the network exempts."
    )
    decay_norms: bool = Field(default=True, description="The scales of norms decay, too.")
    layer_decay: Factor | None = Field(
        default=None, description="Factor of the learning rate from each layer to the one before it."
    )
    schedule: str = Field(
        default="multistep", description=f"Of the learning rate: {', '.join(SCHEDULES)}.", examples=["cosine"]
    )
    warmup_epochs: Number = Field(default=0, description="In which the learning rate grows from warmup_lr to lr.")
    warmup_lr: Number = Field(default=0.0, description="At the first update.")
    milestones: Epochs = Field(default=(), description="Epochs at which multistep multiplies lr with decay_rate.")
    decay_rate: Number = Field(default=0.1, description="See milestones.")
    head_lr: Factor = Field(default=1.0, description="Of heads, as a part of lr: fitted ones have little to learn.")
    clip_norm: Factor | None = Field(default=None, description="Largest norm of an update's gradient.")
    ema: Share = Field(
        default=0.0,
        description="Decay of the averaged weights, which are then the ones evaluated and published; 0: off.",
    )
    loss_weights: Mapping[str, Number] = Field(
        default_factory=dict,
        description="Of losses, each named task.pathway; the others weigh 1.",
        examples=["clips.image:0.5"],
    )
    blend: Literal["no", "offline", "online"] = Field(
        default="no",
        description="Gradient Blending: weights of losses by how they overfit when each is trained alone, found at the "
        "start, or again and again. Needs monitor.",
        examples=["offline"],
    )
    blend_epochs: Count = Field(
        default=1, description="For which each loss is trained alone; online, also until weights are found anew."
    )
    auxiliary_frames: Literal["one", "all"] = Field(
        default="one", description="Frames of a clip that its auxiliary loss sees: a random one, or all."
    )
    class_weights: Literal["no", "balanced"] = Field(
        default="no", description="balanced: every class weighs alike in the losses of its task."
    )
    label_smoothing: Share = Field(default=0.0, description="Of every loss.")
    mixup: Number = Field(default=0.0, description="Alpha of the distribution by which examples are mixed; 0: off.")
    freeze_norms: bool = Field(default=False, description="BatchNorms use and keep their running statistics.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunSettings:
    """The engine, and what a run keeps, measures and publishes."""

    seed: Whole = Field(default=0, description="Of all that is random.")
    precision: Literal["no", "bf16"] = Field(default="no", description="What it computes in; no: the weights' type.")
    compile: str = Field(default="no", description="A backend of torch.compile.", examples=["inductor"])
    protocol: str = Field(default="unidual34", description="How videos are evaluated, see unidual_zoo.scoring.")
    eval_every: Whole = Field(default=1, description="Epochs; 0: only the published weights are evaluated.")
    patience: Whole = Field(
        default=0,
        description="Evaluations without a better score after which training ends; 0: it goes on to the last epoch.",
    )
    baselines: bool = Field(default=False, description="Also evaluate what frames of the videos tell alone.")
    eval_clips: Count | None = Field(
        default=None, description="Clips per video in the evaluation between epochs; null: the protocol's."
    )
    log_every: Count = Field(default=10, description="Steps from one line of the log to the next.")
    save_every: Count = Field(
        default=500, description="Steps between checkpoints; the end of an epoch is always saved."
    )
    publish: Literal["last", "best"] = Field(
        default="last", description='Checkpoint; "best" flatters its figures, unless `validation` chose it.'
    )
    recompute_norms: Whole = Field(
        default=0, description="Training batches over which the published BatchNorm statistics are computed anew."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run.

    Raises:
        ValueError: training is to end early or the best checkpoint to be published, and none is evaluated or can be; or
            losses are to be blended, and no files are kept to measure them, or they have weights; or there is no step,
            and heads are not fitted either, or norms are to be computed anew for those that are.
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
        if self.run.publish == "best" and not self.data.labelled_tasks:
            raise ValueError("publish=best needs test files, and every task has a teacher in place of labels")
        if not 0 < every <= self.optim.epochs:
            have = f"needs evaluations between epochs, eval_every is {every} and epochs {self.optim.epochs}"
            if self.run.patience:
                raise ValueError(f"patience={self.run.patience} {have}")
            if self.run.publish == "best":
                raise ValueError(f"publish=best {have}")
        if not self.optim.epochs and not (self.model.fit_heads and self.data.labelled_tasks):
            why = "every task has a teacher" if self.model.fit_heads else "fit_heads=false, as of random weights"
            raise ValueError(f"epochs=0 makes no step, and heads are not fitted ({why}): nothing would be learnt")
        if self.run.recompute_norms and not self.optim.epochs:
            raise ValueError(
                f"recompute_norms={self.run.recompute_norms} changes what heads are fitted to, and with epochs=0 "
                "they do not learn from what it becomes: set recompute_norms=0"
            )

    def changed(self, **settings: Any) -> Recipe:
        """The recipe with other values of some settings, whichever group they are in.

        Raises:
            ValueError: an unknown setting (it names the nearest), or a value that is not allowed (it says what is).
        """
        for name in settings:
            check_known("setting", name, _OWNERS, listed=_LISTED)
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
_LISTED = "--settings explains all"
_OWNERS = {field.name: owner for owner, group in _GROUPS.items() for field in dataclasses.fields(group)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A recipe, and what to know before it is started: the command, what it costs, and the figures to expect."""

    about: str
    recipe: Recipe
    command: str
    cost: str = NOT_MEASURED
    figures: str = NOT_MEASURED


KINETICS_VIDEOS = 240_000  # for training (§3.1): of Sports-1M as many make MiniSports (§3.2)
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
        recipe=_PAPER_34.changed(
            tasks={"in1k": IMAGE, "k400": VIDEO, "minisports": VIDEO}, subsample={"minisports": KINETICS_VIDEOS}
        ),
        command=(
            "unidual train paper-34-three --data in1k=/data/imagenet --data k400=/data/kinetics400 "
            "--data minisports=sports1m:/data/sports1m"
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
            model=ModelSettings(model="unidual_efficientnet_lite0", pretrained=True, fit_heads=True),
            data=DataSettings(tasks={"images": IMAGE, "videos": VIDEO}, hold_out=0.2, flip=True, feature_views=4),
            optim=OptimSettings(
                optimizer="adamw", lr=0.001, weight_decay=0.05, epochs=20, schedule="cosine", warmup_epochs=0.5,
                layer_decay=0.8, label_smoothing=0.1, freeze_norms=True,
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
    return recipe.changed(**parse_settings(settings, tuple(_GROUPS.values()), renamed=RENAMED, listed=_LISTED))


def explained_settings(recipe: Recipe) -> dict[str, list[Setting]]:
    """What a recipe has in each group, by what the group is: all settings, their meaning, what they may be, the values.

    The one source for the command line's list and for documentation.
    """
    groups = (getattr(recipe, owner) for owner in _GROUPS)
    return {" ".join((type(group).__doc__ or "").split()): described(group) for group in groups}


def current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recipe.json that an older version may have written, under the names that they have now."""
    return {RENAMED.get(name, name): value for name, value in settings.items()}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
