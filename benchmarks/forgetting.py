"""What is left of ImageNet in a network that was fine-tuned from it: its trunk under ImageNet's own head again.

    uv run benchmarks/forgetting.py local-dir:runs/finetune/export --images PHOTOS
        the share of the photos in a folder to which ImageNet's head gives the answer that it gave before, and how sure
        it was of that answer, before and now
    uv run benchmarks/forgetting.py local-dir:A/export local-dir:B/export --images PHOTOS --labelled /data/imagenet
        also top-1 on labelled pictures (class folders by name or WordNet id, the flat validation folder, a list)

A network with a frozen trunk answers as before by construction. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from unidual_zoo.checks import shorten
from unidual_zoo.data.datasets import read_media
from unidual_zoo.data.listing import files_below
from unidual_zoo.data.media import is_image
from unidual_zoo.evaluation import evaluate
from unidual_zoo.inference import Predictor, load_network
from unidual_zoo.spec import IMAGE
from unidual_zoo.tabular import markdown_table
from unidual_zoo.weights import HEADS

START = "unidual_efficientnet_lite0.in1k"


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    files = [str(options.images / name) for name in files_below(options.images).files if is_image(name)]
    if not files:
        raise SystemExit(f"{options.images}: no pictures")
    network = load_network(options.start)
    own = {key: weight.clone() for key, weight in network.state_dict().items()}
    labelled = read_media(options.labelled, modality=IMAGE, split="val") if options.labelled else None
    before = answers(network, files)
    found = []
    for name in (options.start, *options.networks):
        network.load_state_dict(under_own_heads(load_network(name).state_dict(), own, name))
        row: dict[str, Any] = {"network": name, **compare(before, answers(network, files))}
        if labelled is not None:
            row["top-1"] = evaluate(network, labelled, progress=False).metrics()["top-1"]
        found.append(row)
    columns = [column for column in found[0] if column != "network"]
    cells = [(row["network"], *(f"{row[column]:.1f}" for column in columns)) for row in found]
    print(markdown_table(("network", *columns), cells), end="")
    print(json.dumps({"benchmark": "forgetting", "start": options.start, "images": len(files), "rows": found}))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", help="fine-tuned networks, as `unidual finetune` exports them")
    parser.add_argument("--start", default=START, help="what they were fine-tuned from")
    parser.add_argument("--images", type=Path, required=True, help="a folder of any photos")
    parser.add_argument("--labelled", help="pictures of ImageNet with their labels")
    return parser.parse_args(argv)


def under_own_heads(tuned: Mapping[str, Tensor], start: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of a fine-tuned network, the heads and what it has not those of its start.

    Raises:
        ValueError: the tuned network has another trunk: a weight of another shape, or none where there is a matrix.
            Vectors may be missing, as the norms of a pathway that it does not have.
    """
    trunk = {key: weight for key, weight in start.items() if not key.startswith(HEADS)}
    misfits = [
        f"{key} is {tuple(tuned[key].shape) if key in tuned else 'not there'}, in the start {tuple(weight.shape)}"
        for key, weight in sorted(trunk.items())
        if (tuned[key].shape != weight.shape if key in tuned else weight.ndim > 1)
    ]
    if misfits:
        raise ValueError(f"{name} has another trunk than its start: {shorten(misfits)}")
    return {key: tuned[key] if key in trunk and key in tuned else weight for key, weight in start.items()}


def answers(model: Any, files: Sequence[str]) -> list[dict[str, float]]:
    """The probability of each label that is given to a file, the best first; {} of one that cannot be read."""
    return [
        {entry["label"]: entry["score"] for entry in result.get("top", ())}
        for result in Predictor(model, top=model.tasks[model.default_task(IMAGE, IMAGE)].num_classes)(files)
    ]


def compare(before: Sequence[Mapping[str, float]], now: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Percent of files with the same answer as before; and the mean probability in % of the answer before, now."""
    pairs = [(next(iter(old)), new) for old, new in zip(before, now, strict=True) if old]
    same = [next(iter(new)) == answer for answer, new in pairs]
    sure = [new[answer] for answer, new in pairs]
    return {"same answer": 100 * sum(same) / len(same), "sure of it": 100 * sum(sure) / len(sure)}


if __name__ == "__main__":
    main()
