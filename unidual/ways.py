"""How files get through a network: all on this machine, on Ray, or by the clips that are worth it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

    from unidual_zoo.engines import GraphModel
    from unidual_zoo.models.base import TaskModel
    from unidual_zoo.salient import SalientClips
    from unidual_zoo.scoring import ScoreFiles

LOCAL, RAY = "local", "ray"

Engine = Annotated[str, typer.Option(help="local, or ray: Ray Data (extra scale).")]
Address = Annotated[
    str | None, typer.Option(help="Of a Ray cluster, such as auto or ray://host:10001 [default: this machine alone].")
]
Actors = Annotated[int, typer.Option(help="Processes that hold the network, with --engine ray.")]
Clips = Annotated[
    str | None,
    typer.Option(
        help="salient:K, the K clips of a video that a cheap look finds worth it [default: those of the protocol]."
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(help="The model that has the cheap look of --clips [default: the model's own image pathway]."),
]


def engine_of(name: str, *, address: str | None, actors: int, device: torch.device) -> ScoreFiles:
    """What takes files through a network.

    Raises:
        ValueError: there is no such engine, or an address is given to the one that needs none.
    """
    from unidual_zoo.checks import check_known
    from unidual_zoo.scoring import score_files

    check_known("engine", name, (LOCAL, RAY))
    if name == RAY:
        from unidual_zoo.cluster import OnRay

        return OnRay(address=address, actors=actors, device=str(device))
    if address is not None or actors != 1:
        raise ValueError("--address and --actors are of --engine ray")
    return score_files


def salient_of(
    clips: str | None, sampler: str | None, *, model: TaskModel | GraphModel, device: torch.device
) -> SalientClips | None:
    """The choice of clips that is asked for, if any.

    Raises:
        ValueError: it is none, or a sampler is given without it, or the model is an exported graph.
    """
    from unidual_zoo.engines import GraphModel
    from unidual_zoo.inference import load_network
    from unidual_zoo.salient import SalientClips, parse_clips, sampler_route

    if clips is None:
        if sampler is not None:
            raise ValueError("--sampler is of --clips salient:K")
        return None
    if isinstance(model, GraphModel):
        raise ValueError("--clips chooses by a network, and --model is an exported graph")
    count = parse_clips(clips)
    route = sampler_route(model, sampler=load_network(sampler) if sampler else None, device=device)
    return SalientClips(route, count)
