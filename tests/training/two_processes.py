"""Two processes on the loopback, with torchrun's environment, for `test_processes.py`.

    python two_processes.py MEDIA OUT

Losses and weights of the joint step go to OUT/steps-RANK.pt; then a whole run trains in OUT/run.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import timm
import torch
from tiny import tiny_recipe
from torch import nn
from torch.distributed import destroy_process_group, init_process_group

from unidual_zoo.training import objective
from unidual_zoo.training.objective import JointObjective
from unidual_zoo.training.rundir import RunError
from unidual_zoo.training.trainer import Trainer, train

IMAGES, VIDEOS, MORE = {"in1k": ("image", 5)}, {"k400": ("video", 6)}, {"minisports": ("video", 4)}
# The nine systems of Table 1 (a fine-tuned one is its network, trained in two stages), and three tasks.
SYSTEMS = [
    ("r2d10", IMAGES),
    ("r2plus1d10", VIDEOS),
    ("r2d10_multitask", IMAGES | VIDEOS),
    ("r2plus1d10_multitask", IMAGES | VIDEOS),
    ("r2d10_lstm_multitask", IMAGES | VIDEOS),
    ("unidual10", IMAGES | VIDEOS),
    ("unidual10_aux", IMAGES | VIDEOS),
    ("unidual10_aux", IMAGES | VIDEOS | MORE),
]
SHARES = [(2, 1, 1), (1, 2, 1)]  # examples of each task and process in each step, rotating as the sampler's


def first_frame(clips: torch.Tensor, num_frames: int) -> torch.Tensor:
    return clips[:, :, 0]


def batch_of(tasks: dict, step: int, *, ranks: range, world: int) -> dict:
    """The examples that these ranks of `world` see in a step: the same for rank 0 of 1 as for 0 and 1 of 2."""
    batch = {}
    for number, (task, (modality, classes)) in enumerate(tasks.items()):
        share = SHARES[step][number]
        generator = torch.Generator().manual_seed(10 * step + number)
        shape = (share * world, 3, 32, 32) if modality == "image" else (share * world, 3, 4, 32, 32)
        x = torch.randn(shape, generator=generator)
        labels = torch.randint(classes, shape[:1], generator=generator)
        mine = slice(ranks.start * share, ranks.stop * share)
        batch[task] = (x[mine], labels[mine])
    return batch


def train_steps(name: str, tasks: dict, *, ranks: range, world: int, wrap) -> tuple[list[float], dict]:
    """Two SGD steps of the joint objective with BatchNorms in evaluation mode; its losses, and the weights after it."""
    torch.manual_seed(0)
    model = timm.create_model(name, tasks=tasks, width=1 / 16, num_frames=4)
    model = model.to(memory_format=torch.channels_last)
    wrapped = wrap(JointObjective(model, freeze_norms=True).train())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    seen = []
    for step in range(len(SHARES)):
        loss = wrapped(batch_of(tasks, step, ranks=ranks, world=world))["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen, {key: weight.detach().clone() for key, weight in model.named_parameters()}


def work(rank: int, media: Path, out: Path) -> None:
    """What one process does."""
    objective.FRAMES["one"] = first_frame
    init_process_group("gloo")
    wrap = nn.parallel.DistributedDataParallel
    steps = [train_steps(*system, ranks=range(rank, rank + 1), world=2, wrap=wrap) for system in SYSTEMS]
    torch.save(steps, out / f"steps-{rank}.pt")
    destroy_process_group()
    os.environ["MASTER_PORT"] = os.environ["SECOND_PORT"]  # at the first a process might still find what is closing
    train(tiny_recipe(media, "freeze_norms=true", "ema=0.5"), out=out / "run")
    trainer = Trainer(tiny_recipe(media, "fit_heads=true"), out=out / "norms")
    torch.save([module.broadcast_buffers for module in trainer.objective.modules() if isinstance(module, wrap)],
               out / f"broadcast-{rank}.pt")  # fmt: skip
    trainer.fit_heads()
    torch.save(trainer.model.heads.state_dict(), out / f"heads-{rank}.pt")
    trainer.close()
    try:
        Trainer(tiny_recipe(media), out=out / f"disk-{rank}")
    except RunError as error:
        (out / f"refused-{rank}.txt").write_text(str(error))
    destroy_process_group()


def main(media: Path, out: Path) -> int:
    """Forks the processes, so that all is imported only once; 0 if both end well."""
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
        ports = {name: str(free.getsockname()[1]) for name, free in (("MASTER_PORT", first), ("SECOND_PORT", second))}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"} | ports
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            try:
                work(rank, media, out)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    while children:
        child, status = os.wait()
        children.remove(child)
        if status:
            print(f"process {child} ended with the wait status {status}", file=sys.stderr)
            for other in children:  # which would wait for it
                os.kill(other, signal.SIGKILL)
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])) != 0)
