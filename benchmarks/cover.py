"""CoVeR (arXiv 2112.07175) in miniature: what a video network gains by learning other videos and images along with it.

    uv run benchmarks/cover.py
        every row once, on a few of the embedded files: it shows that all of it runs, its figures mean nothing
    uv run benchmarks/cover.py --scale mini --cifar DIR --seeds 3 --jobs 2 --json FILE
        a small TimeSformer on CIFAR-10 and three sets of clips made from it

The sets stand for the authors': CIFAR-10 for ImageNet, `cifar_motion` ("clips") for Kinetics-400, where a frame tells
most, `cifar_motion60` ("third") for Something-Something V2, where time is needed, `cifar_camera` ("fourth") for Moments
in Time. As theirs, every network starts from one without attention over time that was trained on images; sets are
sampled in proportion to their sizes, an image is a single frame, each set has a head of its own, and one network is
tested on all of its sets as it is. An epoch is every example once, so that no row sees one more often than another.

The rows "… to clips" go on with the network of another row on `cifar_motion` alone, as the authors transfer to
Kinetics-400. Training of their size is the recipe `cover`. `docs/results/cover.md` holds the figures.
"""

from scales import TOY, cifar_data
from tables import CLIPS, FOURTH, IMAGES, THIRD, Row, Scale, Table, main

NETWORK = "timesformer_base"
SPACE = 'model_args={"embed_dim": 64, "depth": 4, "num_heads": 4, "patch_size": 4, "attention_type": "space_only"}'
DIVIDED = SPACE.replace("space_only", "divided_space_time")
INPUTS = ("resize=32", "crop=[28,28]", "num_frames=8", "single_frames=true")
TRAINING = ("mix=proportional", "epoch_size=null", "optimizer=adamw", "lr=0.0005", "weight_decay=0.05")
START = "images alone"


def row(name: str, *sources: str, start: str = START, paper: dict[str, float] | None = None) -> Row:
    """A network with attention over time, on these sources, from the network of another row."""
    return Row(name=name, model=NETWORK, sources=sources, init=start, settings=(DIVIDED,), paper=paper or {})


TABLE = Table(
    title="CoVeR",
    paper="Kinetics-400, Something-Something V2 and Moments in Time, from JFT-3B. Of transfers to Kinetics-400 it "
    "tells differences alone: from the third and fourth set together 1.3 more than from Kinetics-400 itself, 1.7 more "
    "than from the third, 0.4 more than from the fourth",
    metrics=("video@1", "third video@1", "fourth video@1", "top-1"),
    reference="CoVeR",
    folder="cover",
    rows=(
        Row(name=START, model=NETWORK, sources=(IMAGES,), settings=(SPACE,)),
        row("clips alone", CLIPS),
        row("third alone", THIRD),
        row("fourth alone", FOURTH),
        row("third and fourth", THIRD, FOURTH),
        row("third and fourth with images", THIRD, FOURTH, IMAGES),
        row("CoVeR", CLIPS, THIRD, FOURTH, IMAGES,
            paper={"video@1": 87.2, "third video@1": 70.9, "fourth video@1": 46.1}),
        row("clips to clips", CLIPS, start="clips alone"),
        row("third to clips", CLIPS, start="third alone"),
        row("fourth to clips", CLIPS, start="fourth alone"),
        row("third and fourth to clips", CLIPS, start="third and fourth"),
        row("third and fourth with images to clips", CLIPS, start="third and fourth with images"),
    ),
    scales={
        "toy": Scale(
            recipe="toy", size="", data=TOY.data, tasks={**TOY.tasks, FOURTH: "toy_actions_once_more"},
            settings=(*INPUTS, *TRAINING, "epoch_size=24", "frame_stride=4", "epochs=1", "batch_size=12", "workers=0",
                      "eval_every=0", "protocol=one_clip", "warmup_epochs=0"),
        ),
        "mini": Scale(
            recipe="cifar", size="", data=cifar_data,
            tasks={IMAGES: "cifar10", CLIPS: "cifar_motion", THIRD: "cifar_motion60", FOURTH: "cifar_camera"},
            # In bf16 a step of matrices so small takes six times as long.
            settings=(*INPUTS, *TRAINING, "frame_stride=3", "protocol=one_clip", "precision=no"),
        ),
    },
)  # fmt: skip

if __name__ == "__main__":
    main(TABLE)
