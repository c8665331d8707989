"""How large a table is run: on a few embedded files, on CIFAR-10 and clips made from it, or as the paper did."""

from collections.abc import Mapping
from pathlib import Path

from tables import CLIPS, IMAGES, MODALITY, THIRD, Options, Scale

from unidual_zoo.data.synthetic import cifar, toy
from unidual_zoo.spec import IMAGE

TOY_FILES = {"train": 96, "test": 24}
PLACES = {
    "in1k": "/data/imagenet",
    "k400": "/data/kinetics400",
    "minisports": "/data/minisports",
}  # if none are given


def toy_data(options: Options, tasks: Mapping[str, str]) -> dict[str, list[str]]:
    """A few of the embedded files; the third source is the same videos again."""
    found = {}
    for role, task in tasks.items():
        source = "toy_objects" if MODALITY[role] == IMAGE else "toy_actions"
        make = toy.images if MODALITY[role] == IMAGE else toy.videos
        for split, count in TOY_FILES.items():
            make(split, count=count)
        train, test = (toy.task_folder(source, split=split, count=count) for split, count in TOY_FILES.items())
        found[role] = ["--data", f"{task}={train}", "--test", f"{task}={test}"]
    return found


def cifar_data(options: Options, tasks: Mapping[str, str]) -> dict[str, list[str]]:
    """CIFAR-10, and the clips of each video task's column."""
    found = {}
    for role, task in tasks.items():
        if role == IMAGES:
            folder = cifar.cifar_images(options.cifar, count=options.images, download=options.download)
        else:
            folder = cifar.cifar_clips(
                options.cifar, task, clips=options.clips, images=options.images, download=options.download
            )
        found[role] = ["--data", f"{task}={folder}"]
    return found


def paper_data(options: Options, tasks: Mapping[str, str]) -> dict[str, list[str]]:
    """The folders or lists that were given; others are printed as places.

    Raises:
        ValueError: a folder that was given is not there.
    """
    if missing := [place for place in options.given.values() if not Path(place).exists()]:
        raise ValueError(f"no such folder or list: {', '.join(missing)}")
    return {role: ["--data", f"{task}={options.given.get(task, PLACES[task])}"] for role, task in tasks.items()}


TOY = Scale(
    recipe="toy", size="10", data=toy_data,
    tasks={IMAGES: "toy_objects", CLIPS: "toy_actions", THIRD: "toy_actions_again"},
    settings=('model_args={"width": 0.125}', "epoch_size=64", "epochs=2", "batch_size=12", "eval_every=0", "workers=0"),
)  # fmt: skip
MINI = Scale(
    recipe="cifar", size="10", data=cifar_data, tasks={IMAGES: "cifar10", CLIPS: "cifar_motion", THIRD: "cifar_camera"}
)
PAPER = Scale(
    recipe="paper-34", size="34", data=paper_data, tasks={IMAGES: "in1k", CLIPS: "k400", THIRD: "minisports"},
    only_prints=True,
)  # fmt: skip
