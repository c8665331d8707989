"""Who competes in `speed.py`: ours, the same network by others, other networks, and the machine's matrix product.

Each is a name and a function that makes its row, ready to run: one that cannot be made costs the others nothing.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import peers
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unidual_zoo
from unidual_zoo.data.synthetic import toy
from unidual_zoo.dtypes import INT8
from unidual_zoo.engines import ENGINES
from unidual_zoo.models.pathways import to_channels_last
from unidual_zoo.models.summary import count_multiply_adds
from unidual_zoo.spec import IMAGE, VIDEO

MODELS = ("r2plus1d18", "unidual10", "unidual34", "unidual152")
BATCH = {IMAGE: 4, VIDEO: 1}
INFERENCE, TRAINING = MODES = ("inference", "training")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, INT8: torch.float32}  # what torch computes in
MATRIX, OURS, COMPILED = "matrix product", "unidual-zoo", "torch.compile"
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
QUICK_SIDE = 32
ALL: dict[str, dict[str, Any]] = {  # of every family a network, and what makes it tiny
    "r2plus1d18": dict(width=1 / 16, depths=(1, 1, 1, 1)),
    "unidual34_aux": dict(width=1 / 16, depths=(1, 1, 1, 1)),
    "unidual152": dict(width=1 / 16, depths=(1, 1, 1, 1)),
    "unidual_efficientnet_lite0": dict(trunk="test_efficientnet"),
    "ircsn50": dict(width=1 / 16, depths=(1, 1, 1, 1)),
    "i3d50": dict(width=1 / 16, depths=(1, 1, 1, 1)),
    "corrnet50": dict(width=1 / 16, depths=(2, 1, 1), correlations=((1,), (0,))),
    "timesformer_base": dict(embed_dim=48, depth=1, num_heads=4),
    "uniformerv2_base_patch16_224": dict(trunk_args=dict(embed_dim=48, depth=2, num_heads=4), global_blocks=1),
    "vjepa2_1_vit_base": dict(embed_dim=48, depth=1, num_heads=4),
}
ALL_BATCH = {IMAGE: 64, VIDEO: 16}
CALIBRATION = 8  # files


@dataclass
class Row:
    """A competitor: what it runs, how long each round took (seconds), what it keeps for the backward pass (bytes)."""

    name: str
    run: Callable[[], Any]
    flops: float
    same: bool = False
    memory: int | None = None
    difference: float | None = None
    warm_up: float = 0.0
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """FLOP/s."""
        return self.flops / statistics.median(self.seconds)

    def compare(self, exact: Tensor | None) -> None:
        """Notes how far the logits of a run are from the exact ones, relative to the largest."""
        if exact is not None:
            self.difference = float((self.run().float() - exact).abs().max() / exact.abs().max())


Contestant = tuple[str, Callable[[], Row]]  # its name, and what makes its row


def contestants(
    options: argparse.Namespace, *, model: str, pathway: str, mode: str, dtype: str
) -> Iterator[Contestant]:
    """Ours, the same network by others in two memory layouts, other networks, and the matrix product."""
    options.pool = torch.cuda.graph_pool_handle() if options.device == "cuda" else None
    torch.manual_seed(0)
    made: Any = timm.create_model(model, **(ALL.get(model, {}) if options.tiny else {}))
    ours = peers.Pathway(made, pathway, made.default_task(pathway, pathway))
    is_tiny = options.tiny and model in ALL
    same, theirs_failed = None, None
    try:
        same = None if is_tiny and model in peers.UPSTREAM else peers.same_network(model, ours)
    except Exception as error:  # upstream's library may be of another version
        theirs_failed = error
    ours = ours.to(options.device).eval()
    made = ours.model  # of upstream's form, if there is one
    frames = () if pathway == IMAGE else (made.spec.clip.length,)
    x = batch(options, pathway, (made.in_chans, *frames, *made.spec.crop))
    if mode == INFERENCE:
        with torch.inference_mode():
            exact = ours(x)
        served = unidual_zoo.for_inference(made, dtype=DTYPES[dtype], modality=pathway)
        fast: nn.Module = peers.Pathway(served, pathway, ours.task)
    else:
        exact, fast = None, copy.deepcopy(ours)
        to_channels_last(fast)
    flops = count_multiply_adds(ours, x) * 2
    racing: list[tuple[str, nn.Module, Tensor, argparse.Namespace]] = [(OURS, fast, x, options)]
    if theirs_failed is not None:
        yield peers.UPSTREAM[model][0], partial(_raise, theirs_failed)
    elif same is None:
        is_missing = not (is_tiny and model in peers.UPSTREAM)
        print(f"{model}, {pathway}: no other form of it is {'installed' if is_missing else 'tiny'}")
    else:
        whose, theirs = same[0], same[1].to(options.device).eval()
        racing.append((f"{whose}, as shipped", theirs, x, options))
        if any(weight.ndim == 5 for weight in theirs.parameters()):
            racing.append((f"{whose}, channels_last", with_layout(theirs), to_layout(x), options))
    if mode == TRAINING and options.compiled:
        compiled = argparse.Namespace(**{**vars(options), "compile": True})
        racing.append((COMPILED, copy.deepcopy(fast), x, compiled))
    for name, network, strided, chosen in racing:
        make = partial(row_of, name, network, strided, flops, chosen, mode=mode, dtype=DTYPES[dtype], exact=exact)
        yield name, partial(make, same=name != OURS)
    if mode == INFERENCE:
        yield from engines(options, made, ours, x, flops, exact, dtype=dtype)
    for name, (module, shape, build) in peers.OTHERS[pathway].items() if model in MODELS else ():
        if options.quick or not peers.is_installed(module):
            print(f"{name}: {'left out' if options.quick else 'not installed'}")
            continue
        x = batch(options, pathway, shape)
        yield name, partial(row_of_another, name, build, x, options, mode=mode, dtype=dtype)
    side = MATRIX_SIDE[options.device] // (8 if options.quick else 1)
    a = torch.randn(side, side, device=options.device).to(DTYPES[dtype])
    yield MATRIX, lambda: Row(MATRIX, lambda: a @ a, 2 * side**3)


def _raise(error: Exception) -> Row:
    raise error


def engines(
    options: argparse.Namespace,
    made: Any,
    ours: peers.Pathway,
    x: Tensor,
    flops: float,
    exact: Tensor | None,
    *,
    dtype: str,
) -> Iterator[Contestant]:
    """Our network run by engines, as far as they compute in the type, and by torch.compile.

    int8 is calibrated on few of the packaged examples: weights are random, so that its difference says little.
    """

    def by_engine(name: str) -> Callable[[], Any]:
        files = calibration(ours.pathway) if dtype == INT8 else None
        served = unidual_zoo.for_inference(made, engine=name, dtype=dtype, modality=ours.pathway, calibration=files)
        return lambda: served(x, modality=ours.pathway, task=ours.task)

    def by_compiler() -> Callable[[], Any]:
        network = unidual_zoo.for_inference(made, dtype=dtype, modality=ours.pathway, compile=True)
        cast = x.to(DTYPES[dtype])
        return lambda: network(cast, modality=ours.pathway, task=ours.task)

    runs: list[tuple[str, Callable[[], Callable[[], Any]]]] = []
    for name in options.engines:
        if dtype in ENGINES[name].runs_in:
            runs.append((f"{name}, {dtype}", partial(by_engine, name)))
        else:
            print(f"{name}: it does not compute in {dtype}")
    if options.compiled and dtype != INT8:
        runs.append((COMPILED, by_compiler))
    for name, prepare in runs:
        yield name, partial(row_of_engine, name, prepare, flops, options, exact=exact)


def calibration(modality: str) -> tuple[str, ...]:
    """Some packaged examples."""
    return (toy.images if modality == IMAGE else toy.videos)("train", count=CALIBRATION).files


def batch(options: argparse.Namespace, pathway: str, shape: tuple[int, ...]) -> Tensor:
    """Noise (B, C, [T,] H, W)."""
    if options.quick and not options.engines:
        shape = (*shape[:-2], QUICK_SIDE, QUICK_SIDE)
    usual = ALL_BATCH if options.all and options.device == "cuda" else BATCH
    return torch.randn(options.batch or usual[pathway], *shape, device=options.device)


def to_layout(x: Tensor) -> Tensor:
    """Images, clips or filters with channels last in memory, anything else as it is."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=layouts.get(x.ndim, torch.contiguous_format))


def with_layout(network: nn.Module) -> nn.Module:
    """A copy with channels last in memory; torch's own `to` takes no network that has filters of both ranks."""
    network = copy.deepcopy(network)
    for weight in network.parameters():
        weight.data = to_layout(weight.data)
    return network


def row_of(
    name: str,
    network: nn.Module,
    x: Tensor,
    flops: float,
    options: argparse.Namespace,
    *,
    mode: str,
    dtype: torch.dtype,
    exact: Tensor | None = None,
    same: bool = False,
) -> Row:
    """A row that runs the network once a call: its forward pass, or a whole training step."""
    if mode == INFERENCE:
        network = network.to(dtype)
        x = x.to(dtype)
    call = torch.compile(network) if options.compile else network
    if mode == INFERENCE:
        network.eval()
        row = Row(name, torch.inference_mode()(lambda: call(x)), flops, same)
    else:
        network.train()
        row = Row(name, training_step(network, call, x, dtype), 3 * flops, same)
    return warmed_up(row, options, exact=exact, trained=network if mode == TRAINING else None)


def row_of_another(
    name: str, build: Callable[[], nn.Module], x: Tensor, options: argparse.Namespace, *, mode: str, dtype: str
) -> Row:
    """The row of a network that is not ours."""
    network = build().to(options.device)
    return row_of(name, network, x, count_multiply_adds(network, x) * 2, options, mode=mode, dtype=DTYPES[dtype])


def row_of_engine(
    name: str,
    prepare: Callable[[], Callable[[], Tensor]],
    flops: float,
    options: argparse.Namespace,
    *,
    exact: Tensor | None,
) -> Row:
    """The row of our network in the form that `prepare` gives it."""
    return warmed_up(Row(name, torch.inference_mode()(prepare()), flops, same=True), options, exact=exact)


def warmed_up(
    row: Row, options: argparse.Namespace, *, exact: Tensor | None = None, trained: nn.Module | None = None
) -> Row:
    """The row after its first run, which is timed; what it keeps in memory, and how far it is from the exact logits."""
    begin = time.perf_counter()
    if options.device == "cuda":
        row.memory, row.run = on_cuda(row.run, options)
    elif trained is not None:
        row.memory = saved_bytes(trained, row.run)
    else:
        row.run()
    row.warm_up = time.perf_counter() - begin
    row.compare(exact)
    return row


def training_step(
    network: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype
) -> Callable[[], Tensor]:
    """Forward, cross entropy, backward, SGD; by autocast if the type is not the weights' own."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)
    labels = torch.arange(len(x), device=x.device)

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False):
            logits = call(x)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def saved_bytes(network: nn.Module, run: Callable[[], Any]) -> int:
    """What a step keeps for its backward pass, without weights: bytes of the storages that autograd saves."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(saved.values())


def on_cuda(run: Callable[[], Any], options: argparse.Namespace) -> tuple[int, Callable[[], Any]]:
    """The peak of memory (bytes) of what is run, and the same as a CUDA graph.

    The graphs of a table lie in the same memory, which is enough for the largest of them: no run reads what another
    left there.
    """
    held = torch.cuda.memory_allocated()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is captured must have run before, on another stream
        for _ in range(2):  # which compile, choose kernels and make the optimizer's state
            run()
        torch.cuda.reset_peak_memory_stats()
        run()
    torch.cuda.current_stream().wait_stream(side)
    peak = torch.cuda.max_memory_allocated() - held
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=options.pool):
        out = run()

    def replay(_kept: Callable[[], Any] = run) -> Any:  # the graph reads its weights and input where they lie
        graph.replay()
        return out

    return peak, replay
