"""Tiny media files, recipes and networks for the tests of training. Run as a script, it trains and is killed again.

python tiny.py MEDIA    reads lines of JSON, the arguments of `train_and_die`, and answers each with its result
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

import av
import numpy as np
from PIL import Image

SIDE = (36, 40)  # height and width of the files
CLASSES = ("circle", "square")
SETTINGS = (
    'model_args={"width": 0.0625}', "tasks=pictures:image,films:video", "resize=[36,40]", "crop=[32,32]",
    "num_frames=4", "frame_stride=2", "batch_size=4", "epoch_size=8", "epochs=2", "warmup_epochs=0", "lr=0.02",
    "flip=true", "log_every=1", "save_every=3", "eval_clips=1", "workers=0",
)  # fmt: skip


def write_video(path: Path, frames: np.ndarray) -> None:
    """Frames (T, H, W, 3) uint8 -> a file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_media(root: Path, *, train: int = 5, test: int = 2) -> Path:
    """`pictures` and `films` of two classes, in folders split/class/file."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", test)):
        for number, name in enumerate(CLASSES):
            folders = [root / kind / split / name for kind in ("pictures", "films")]
            for folder in folders:
                folder.mkdir(parents=True)
            for i in range(count):
                shade = 60 + 120 * number
                frames = rng.integers(shade, shade + 60, (8, *SIDE, 3), dtype=np.uint8)
                Image.fromarray(frames[0]).save(folders[0] / f"{i}.png")
                write_video(folders[1] / f"{i}.avi", frames)
    return root


def tiny_recipe(media: Path, *settings: str, base: str = "mini"):
    """A recipe of a few steps on these files."""
    from unidual_zoo.training.recipes import find_recipe

    return find_recipe(base, [*SETTINGS, f"data=pictures:{media / 'pictures'},films:{media / 'films'}", *settings])


def train_and_die(media: Path, *, out: str, settings: list[str], kill: list[float] | None) -> int:
    """Trains in a child process; the signal that ended it, 0 for a good end.

    With `kill` (steps, seconds) the child is killed so many seconds after so many of its steps.
    """
    from unidual_zoo.training import trainer
    from unidual_zoo.training.trainer import Trainer, train

    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    step, made = Trainer.training_step, []

    def counted(self, batch):
        made.append(self.done)
        if kill is not None and len(made) == kill[0]:
            threading.Timer(kill[1], os.kill, (os.getpid(), signal.SIGKILL)).start()
        return step(self, batch)

    Trainer.training_step = counted
    trainer.plot_curves = trainer.plot_confusion = trainer.write_page = lambda *args, **kwargs: args[-1].touch()
    train(tiny_recipe(media, *settings), out=out, resume=True)
    os._exit(0)


if __name__ == "__main__":
    import unidual_zoo.training.trainer  # noqa: F401  (once for all children)

    for line in sys.stdin:
        print(json.dumps(train_and_die(Path(sys.argv[1]), **json.loads(line))), flush=True)
