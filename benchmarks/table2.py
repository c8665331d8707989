"""Table 2 of the paper: nine systems, trained separately, one after the other, or jointly, on images and videos.

    uv run benchmarks/table2.py
        every row once, on a few of the embedded files: it shows that all of it runs, its figures mean nothing
    uv run benchmarks/table2.py --scale mini --cifar DIR --seeds 3 --jobs 2 --json FILE --plot FILE
        CIFAR-10 and clips made from it (`unidual_zoo/data/synthetic/cifar.py`); DIR holds CIFAR-10, `--download`
        fetches it there
    uv run benchmarks/table2.py --scale mini --column cifar_motion60 …
        the same with classes that need time
    uv run benchmarks/table2.py --scale paper --data in1k=/data/imagenet --data k400=/data/k400 [--run]
        the commands of the paper's training, which `--run` runs

Matched budgets, as in the paper: an epoch is as many examples of each task for every row, so that a joint row makes
twice the steps. A fine-tuned row begins where the other modality's row of the same seed ended. A run can be stopped at
any time and goes on with the same command. `docs/results.md` holds the measured figures.
"""

from scales import MINI, PAPER, TOY
from tables import CLIPS, IMAGES, Row, Table, main

BOTH = (IMAGES, CLIPS)


def video(clip: float, whole: float) -> dict[str, float]:
    """The paper's figures of a video task."""
    return {"clip@1": clip, "video@1": whole}


def image(top1: float, top5: float) -> dict[str, float]:
    """The paper's figures of the image task."""
    return {"top-1": top1, "top-5": top5}


TABLE = Table(
    title="Table 2",
    paper="Kinetics-400 and ImageNet-1k, median of 3 runs",
    metrics=("clip@1", "video@1", "top-1", "top-5"),
    reference="UniDual-Aux",
    rows=(
        Row(name="R2D", model="r2d{}", sources=(IMAGES,), paper=image(69.2, 89.2)),
        Row(name="R(2+1)D", model="r2plus1d{}", sources=(CLIPS,), paper=video(54.7, 67.3)),
        Row(name="R2D-finetuned", model="r2d{}", sources=(IMAGES,), init="R(2+1)D", paper=image(69.6, 89.2)),
        Row(name="R(2+1)D-finetuned", model="r2plus1d{}", sources=(CLIPS,), init="R2D", paper=video(55.4, 67.3)),
        Row(name="R2D-multitask", model="r2d{}_multitask", sources=BOTH, paper=video(56.0, 67.9) | image(70.5, 90.1)),
        Row(name="R(2+1)D-multitask", model="r2plus1d{}_multitask", sources=BOTH, paper=video(57.1, 69.7)),
        Row(name="R2D-LSTM-multitask", model="r2d{}_lstm_multitask", sources=BOTH,
            paper=video(54.5, 67.3) | image(69.2, 89.1)),
        Row(name="UniDual", model="unidual{}", sources=BOTH, paper=video(54.6, 67.0) | image(70.0, 89.7)),
        Row(name="UniDual-Aux", model="unidual{}_aux", sources=BOTH, paper=video(57.8, 70.5) | image(70.9, 90.3)),
    ),
    scales={"toy": TOY, "mini": MINI, "paper": PAPER},
)  # fmt: skip

if __name__ == "__main__":
    main(TABLE)
