"""A page to try a model: drop a photo or a video, see the labels of both pathways, over time, and what they look at.

`look` answers for a file, without a page; `build_page` puts it into one (extra `demo`). Uploads are limited in size and
length, lie in a folder that is removed with the page, and are deleted once they are answered. What files and classes
are called is shown as text: components that take markup are not given any of it unescaped.
"""

from __future__ import annotations

import contextlib
import html
import io
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unidual_zoo.data.datasets import load_image
from unidual_zoo.data.decode import probe
from unidual_zoo.data.media import MediaError, file_boundary
from unidual_zoo.data.synthetic import toy
from unidual_zoo.data.transforms import eval_transform
from unidual_zoo.data.warned import collected
from unidual_zoo.evaluation import evaluation_mode, model_name
from unidual_zoo.explain import explain
from unidual_zoo.extras import require
from unidual_zoo.inference import modality_of
from unidual_zoo.models.base import TaskModel
from unidual_zoo.names import counted, printable
from unidual_zoo.ports import listen
from unidual_zoo.scoring import Route
from unidual_zoo.spec import IMAGE, VIDEO
from unidual_zoo.timeline import (
    PROTOCOL,
    Scored,
    Timeline,
    Window,
    Windowing,
    moments_of,
    read_windows,
    score_windows,
)

LOOPBACK, PORT = "127.0.0.1", 7860
TOP = 5
WINDOWING = Windowing(most=12)  # which two cores are through with while one waits
MOST_PICTURES = 3  # windows whose frame is shown
CAM_SHARE = 0.6  # of the colours of a Grad-CAM in a picture, where it is largest
BATCH = 4  # windows that go through the network together
KEPT_SECONDS = 600  # how long what a page was sent or made may lie in its folder
WAITING = 16  # visitors in the queue
BUTTONS = ["download", "fullscreen"]  # of pictures: none that sends them away
# No frame and no caption is cut, and the box is no higher than the frames.
CSS = """
#frames, #frames .grid-wrap { height: auto !important; min-height: 0 !important; max-height: none !important; }
#frames .caption-label { white-space: normal; max-width: 100%; left: 0; font-size: 0.75rem; }
"""
EXAMPLES = 2  # photos and videos each


@dataclass(frozen=True)
class Limits:
    """What may be dropped onto the page."""

    megabytes: float = 50.0
    seconds: float = 120.0


@dataclass(frozen=True)
class Sight:
    """What a model sees in a file: the best labels of each pathway, of a video over time, and pictures of where it
    looks."""

    modality: str
    top: Mapping[str, Mapping[str, float]]
    tasks: Mapping[str, str]
    seconds: Mapping[str, float]  # reading, and each pathway
    timeline: Timeline | None = None
    pictures: Sequence[tuple[Image.Image, str]] = ()


class Looker:
    """Looks at one file at a time, with one model; threads wait for each other."""

    def __init__(self, model: TaskModel, *, limits: Limits | None = None, device: str | None = None) -> None:
        self.model = model if device is None else model.to(device)
        self.limits = limits or Limits()
        self._lock, self._closed = threading.Lock(), False
        self.routes: dict[tuple[str, str], Route] = {}
        for modality in (IMAGE, VIDEO):
            for pathway in model.pathways:
                with contextlib.suppress(ValueError):  # it has no head there
                    self.routes[modality, pathway] = Route(model, modality, protocol=PROTOCOL, pathway=pathway)
        if not self.routes:
            raise ValueError("the model has no heads, and so no labels to show")

    def __call__(self, path: str) -> Sight:
        """What the model sees in a file.

        Raises:
            ValueError: the file is larger or longer than allowed, or of no use to the model.
            MediaError: it is neither an image nor a video.
        """
        modality = check_file(path, self.limits)
        routes = {pathway: route for (kind, pathway), route in self.routes.items() if kind == modality}
        if not routes:
            raise ValueError(f"the model has no labels for a file of the modality {modality}")
        with self._lock, evaluation_mode(self.model):
            if self._closed:
                raise ValueError("the page is being closed")
            return self._look(path, modality, routes)

    def close(self) -> None:
        """Waits for the file in hand; those after it are refused."""
        with self._lock:
            self._closed = True

    def _look(self, path: str, modality: str, routes: Mapping[str, Route]) -> Sight:
        start = time.perf_counter()
        windows = self._windows(path, modality)
        seconds, columns = {"reading": time.perf_counter() - start}, []
        for pathway, route in routes.items():
            start = time.perf_counter()
            columns.append(list(score_windows(path, windows, {pathway: route}, batch_size=BATCH)))
            seconds[f"{pathway} pathway"] = time.perf_counter() - start
        scored = [_joined(row) for row in zip(*columns, strict=True)]
        moments = list(moments_of(scored, routes, smooth=WINDOWING.smooth, top=TOP))
        tasks = {pathway: route.task for pathway, route in routes.items()}
        means = {pathway: torch.stack([row.scores[pathway] for row in scored]).mean(0) for pathway in routes}
        telling = self.model.default_pathway(modality)
        telling = telling if telling in routes else next(iter(routes))
        surest = sorted(range(len(scored)), key=lambda number: -scored[number].scores[telling].max().item())
        shown = [windows[number] for number in sorted(surest[:MOST_PICTURES])]
        return Sight(
            modality=modality,
            top={pathway: best_labels(route, means[pathway], TOP) for pathway, route in routes.items()},
            tasks=tasks,
            seconds=seconds,
            timeline=Timeline(path, tasks, moments) if modality == VIDEO else None,
            pictures=[picture for window in shown for picture in self._pictures(window)],
        )

    def _windows(self, path: str, modality: str) -> list[Window]:
        """Those of a video, the whole of a photo."""
        spec = self.model.spec
        with collected():
            if modality == VIDEO:
                return list(read_windows(path, spec, WINDOWING))
            with file_boundary(path):
                return [Window(0.0, 0.0, load_image(path, eval_transform(spec)))]

    def _pictures(self, window: Window) -> Iterator[tuple[Image.Image, str]]:
        """The middle frame of a window under the Grad-CAM of each pathway, with a caption."""
        explanation = explain(self.model, window.clip, top=1)
        frame = explanation.frames[len(explanation.frames) // 2]
        when = f", {(window.start + window.end) / 2:.1f} s" if window.end else ""
        for pathway, response in sorted(explanation.responses.items()):  # as the labels stand
            if (named := response.class_map) is not None:
                caption = f"{pathway}{when}: {named.label} {named.probability:.0%}"
                yield overlaid(frame, named.cam), printable(caption)


def check_file(path: str, limits: Limits) -> str:
    """The modality of a file that may be looked at.

    Raises:
        ValueError: it is too large or too long; it says what is allowed.
        MediaError: it has the name of a video, or no name that is known, and cannot be read.
    """
    megabytes = os.path.getsize(path) / 1e6
    if megabytes > limits.megabytes:
        raise ValueError(f"the file has {megabytes:.1f} MB, allowed are {limits.megabytes:g} MB")
    modality = modality_of(path)
    if modality == VIDEO:
        with collected():
            seconds = probe(path).duration
        if seconds > limits.seconds:
            raise ValueError(f"the video has {seconds:.0f} s, allowed are {limits.seconds:g} s")
    return modality


def _joined(row: Sequence[Scored]) -> Scored:
    """One window's scores by several routes."""
    return row[0]._replace(scores={name: scores for scored in row for name, scores in scored.scores.items()})


def best_labels(route: Route, scores: Tensor, count: int) -> dict[str, float]:
    """The best labels of scores (classes,), by falling probability, as a page may show them."""
    return {printable(label): share for label, share in route.best(scores, count)}


def overlaid(frame: Tensor, cam: Tensor) -> Image.Image:
    """A frame (3, H, W) uint8 with a Grad-CAM (h, w) in colours over it."""
    share = F.interpolate((cam / (cam.max() or 1))[None, None], size=frame.shape[1:], mode="bilinear")[0, 0].numpy()
    colours = matplotlib.colormaps["inferno"](share)[..., :3]
    opacity = CAM_SHARE * share[..., None]
    picture = frame.permute(1, 2, 0).numpy() / 255 * (1 - opacity) + colours * opacity
    return Image.fromarray((255 * picture.clip(0, 1)).astype(np.uint8))


def told(sight: Sight, name: str, device: str) -> str:
    """What model it is and how long it took, as text."""
    parts = ", ".join(f"{what} {1000 * seconds:.0f} ms" for what, seconds in sight.seconds.items())
    of_what = f"{counted(len(sight.timeline.moments), 'clip')} over the whole video" if sight.timeline else "one photo"
    tasks = ", ".join(f"{task} on the {pathway} pathway" for pathway, task in sight.tasks.items())
    return printable(f"{name} on {device}: {of_what}; {parts}; labels of {tasks}")


# ---- the page -------------------------------------------------------------------------------------------------------


def example_files(folder: Path) -> list[str]:
    """A few drawn photos and videos, copied to the folder."""
    media = (toy.images("test", count=EXAMPLES), toy.videos("test", count=EXAMPLES))
    named = [(file, part.classes[label]) for part in media for file, label in zip(part.files, part.labels, strict=True)]
    return [str(shutil.copy(file, folder / f"{name}{Path(file).suffix}")) for file, name in named]


def build_page(looker: Looker, *, name: str | None = None, examples: Sequence[str] = ()) -> Any:
    """The page as gradio's Blocks, not launched yet; `name` is what the model was loaded by.

    The page calls a saved model by that, a registered one by its name and tag.

    Raises:
        RuntimeError: gradio is not installed.
    """
    gradio = require("gradio", "demo")
    name, limits = name if name and ":" in name else model_name(looker.model), looker.limits
    device = str(next(looker.model.parameters()).device)

    def show(path: str | None, *, remove: bool) -> list[Any]:
        if path is None:
            return [None, None, gradio.update(visible=False), None, ""]
        try:
            sight = looker(path)
        except (MediaError, ValueError, OSError) as error:
            reason = error.reason if isinstance(error, MediaError) else str(error)
            # Its messages are rendered as HTML.
            raise gradio.Error(html.escape(printable(reason)), print_exception=False) from None
        finally:
            if remove:
                with contextlib.suppress(OSError):
                    os.unlink(path)
        drawn = Image.open(io.BytesIO(sight.timeline.png())) if sight.timeline else None
        return [
            *(dict(sight.top[pathway]) if pathway in sight.top else None for pathway in (IMAGE, VIDEO)),
            gradio.update(value=drawn, visible=drawn is not None),
            list(sight.pictures),
            told(sight, name, device),
        ]

    def shown(*, remove: bool) -> Callable[[str | None], list[Any]]:
        return lambda path: show(path, remove=remove)

    with gradio.Blocks(title="UniDual", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as page:
        gradio.Markdown(
            "# One network for photos and videos\n"
            f"Drop a file of up to {limits.megabytes:g} MB, a video of up to {limits.seconds:g} s, or use the webcam. "
            "Each file is deleted as soon as it has its answer."
        )
        with gradio.Row():
            with gradio.Column():
                dropped = gradio.File(
                    label="Photo or video",
                    file_types=["image", "video"],
                    type="filepath",
                    elem_id="dropped",
                    height=140,
                )
                with gradio.Tab("Photo by webcam"):
                    camera = gradio.Image(
                        show_label=False, sources=["webcam"], type="filepath", height=240, elem_id="camera", buttons=[]
                    )
                with gradio.Tab("Video by webcam"):
                    recorder = gradio.Video(
                        show_label=False,
                        sources=["webcam"],
                        include_audio=False,
                        height=240,
                        elem_id="recorder",
                        buttons=[],
                    )
                    # As it was recorded: gradio would have it flipped and muted by ffmpeg, which need not be there.
                    recorder.preprocess = lambda payload: payload.path if payload else None
            with gradio.Column():
                with gradio.Row():
                    labels = [
                        gradio.Label(label=f"{pathway} pathway", num_top_classes=TOP, elem_id=f"{pathway}-labels",
                                     show_heading=False, visible=pathway in looker.model.pathways)
                        for pathway in (IMAGE, VIDEO)
                    ]  # fmt: skip
                facts = gradio.Textbox(label="Model and time", interactive=False, elem_id="facts", lines=6, max_lines=8)
        timeline = gradio.Image(
            show_label=False,
            interactive=False,
            visible=False,
            elem_id="timeline",
            type="pil",
            format="png",
            buttons=BUTTONS,
        )
        gradio.Markdown("### Frames that mattered (Grad-CAM)")
        gallery = gradio.Gallery(show_label=False, columns=2, elem_id="frames", height="auto", buttons=BUTTONS)
        outputs = [*labels, timeline, gallery, facts]
        dropped.upload(shown(remove=True), dropped, outputs, api_name="look")
        camera.input(shown(remove=True), camera, outputs)
        recorder.stop_recording(shown(remove=True), recorder, outputs)
        if examples:
            gradio.Examples(
                [[path] for path in examples], inputs=[dropped], outputs=outputs, fn=shown(remove=False),
                run_on_click=True, cache_examples=False,
            )  # fmt: skip
    page.queue(max_size=WAITING, default_concurrency_limit=1)
    return page


@contextlib.contextmanager
def served(
    model: TaskModel,
    *,
    name: str | None = None,
    limits: Limits | None = None,
    device: str | None = None,
    host: str = LOOPBACK,
    port: int | None = PORT,
    examples: bool = True,
) -> Iterator[Any]:
    """The page at work, as gradio's Blocks with a `local_url`; all that it was sent is removed in the end.

    It answers this machine alone unless `host` says otherwise; `port` None takes a free one. `name` is what the model
    was loaded by, see `build_page`.

    Raises:
        RuntimeError: gradio is not installed.
        OSError: the port is in use.
    """
    if port is not None:
        listen(host, port).close()  # gradio's own words for a port in use are for programmers
    looker = Looker(model, limits=limits, device=device)
    with (
        tempfile.TemporaryDirectory(prefix="unidual-demo-", ignore_cleanup_errors=True) as folder,
        _environment(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED="False"),
    ):
        gradio = require("gradio", "demo")
        (Path(folder) / "examples").mkdir()
        files = example_files(Path(folder) / "examples") if examples else ()
        page = build_page(looker, name=name, examples=files)
        fonts = ["system-ui", "sans-serif"]  # gradio's own are fetched from elsewhere
        page.launch(
            server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, ssr_mode=False,
            max_file_size=int(looker.limits.megabytes * 1e6), footer_links=[],
            theme=gradio.themes.Default(font=fonts, font_mono=["monospace"]), css=CSS,
        )  # fmt: skip
        try:
            yield page
        finally:
            page.close(verbose=False)
            looker.close()  # a process that ends while a thread of it is within torch is aborted


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Environment variables that hold in the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
