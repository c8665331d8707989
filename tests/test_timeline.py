"""Labels over time: where windows lie, how they are smoothed, and the files that say so."""

import json

import pytest
import torch
from fakes import SPEC, GreyNet, grey_image, grey_video

from unidual.app import main
from unidual_zoo import inference
from unidual_zoo import timeline as timeline_module
from unidual_zoo.data.datasets import load_clips
from unidual_zoo.data.media import MediaError
from unidual_zoo.data.transforms import eval_transform
from unidual_zoo.scoring import Route
from unidual_zoo.spec import ClipSpec
from unidual_zoo.timeline import (
    PROTOCOL,
    Moment,
    Scored,
    Timeline,
    Windowing,
    _smoothed,
    _stretches,
    moments,
    read_windows,
    window_clip,
)

CLIP = ClipSpec(length=2, stride=1)
LEVELS = [0] * 52 + [5] * 50 + [2] * 28  # 5.2 s at 25 frames/s; no clip of the tests lies across a change


@pytest.mark.parametrize(
    ("cut", "num_frames", "expected"),
    [
        (Windowing(seconds=2, stride=1), 100, [(0, 50), (25, 75), (50, 100)]),
        (Windowing(seconds=2, stride=1), 101, [(0, 50), (25, 75), (50, 100), (75, 101)]),
        (Windowing(), 40, [(0, 25), (12, 37), (25, 40)]),  # a clip is shorter than a second
        (Windowing(seconds=1, stride=4), 230, [(0, 25), (100, 125), (200, 225)]),
        (Windowing(seconds=2), 3, [(0, 3)]),
        (Windowing(seconds=1, stride=1, most=3), 100, [(0, 34), (33, 67), (66, 100)]),  # would be four
        (Windowing(most=3), 200, [(0, 100), (50, 150), (100, 200)]),
        (Windowing(most=3), 40, [(0, 25), (12, 37), (25, 40)]),
        (Windowing(most=1), 101, [(0, 101)]),
    ],
)
def test_windows_lie_over_the_whole_video(cut, num_frames, expected):
    assert cut.ranges(num_frames, CLIP, 25.0) == expected


def test_a_window_is_as_long_as_a_clip_that_is_long():
    assert Windowing(stride=2).ranges(100, ClipSpec(length=16, stride=4), 25.0)[:2] == [(0, 61), (50, 100)]
    assert window_clip(50, 100, CLIP, 25.0) == [74, 75]
    for options in (dict(seconds=0), dict(stride=-1), dict(smooth=-1), dict(most=0)):
        with pytest.raises(ValueError, match="must be"):
            Windowing(**options)


def test_windows_are_the_clips_that_reading_gives(tmp_path):
    path = grey_video(tmp_path / "a.mp4", LEVELS, size=(48, 40))
    cut = Windowing(seconds=1, stride=0.2)
    found = list(read_windows(path, SPEC, cut))
    ranges = cut.ranges(len(LEVELS), SPEC.clip, 25.0)
    expected = load_clips(path, [window_clip(*span, SPEC.clip, 25.0) for span in ranges], eval_transform(SPEC))
    assert torch.equal(torch.stack([window.clip for window in found]), expected)
    assert [(window.start, window.end) for window in found] == [(a / 25, b / 25) for a, b in ranges]


def row(start: float, end: float, *scores: float) -> Scored:
    return Scored(start, end, {"a": torch.tensor(scores, dtype=torch.float32)})


def test_smoothing_and_stretches():
    windows = [row(0, 2, 1, 0), row(1, 3, 1, 0), row(2, 4, 0, 1), row(3, 4, 0, 1)]  # centres 1, 2, 3, 3.5
    smoothed = [scored.scores["a"].tolist() for scored in _smoothed(windows, 2)]
    assert smoothed == [[1, 0], pytest.approx([2 / 3, 1 / 3]), pytest.approx([1 / 3, 2 / 3]), [0, 1]]
    assert [scored.scores["a"].tolist() for scored in _smoothed(windows, 0)] == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert [(s.start, s.end) for s in _stretches(windows)] == [(0, 1.5), (1.5, 2.5), (2.5, 3.25), (3.25, 4)]


def test_the_labels_of_a_video(tmp_path, monkeypatch):
    path = grey_video(tmp_path / "a.mp4", LEVELS)
    model = GreyNet()
    routes = {pathway: Route(model, "video", protocol=PROTOCOL, pathway=pathway) for pathway in ("video", "image")}
    seen = list(moments(path, routes, Windowing(seconds=0.4, stride=0.2, smooth=0), top=2, batch_size=4))
    assert {call[0] for call in model.calls} == {1, 4}
    timeline = Timeline("a.mp4", {name: route.task for name, route in routes.items()}, seen)
    for name in routes:
        segments = timeline.segments(name)
        assert [segment.label for segment in segments] == ["grey 0", "grey 5", "grey 2"]
        assert [segment.start for segment in segments] == pytest.approx([0, 2, 4], abs=0.21)
        assert segments[-1].end == pytest.approx(5.2)
    assert len(seen[0].best["video"]) == 2
    (tmp_path / "torn.mp4").write_text("a text file called .mp4")
    with pytest.raises(MediaError, match="cannot be opened as a video"):
        list(moments(tmp_path / "torn.mp4", routes))
    monkeypatch.setattr(timeline_module, "stream_clips", lambda path, clips, transform: iter(clips(10, 25.0)[:0]))
    with pytest.raises(MediaError, match=r"not even the frames of its first 0\.40 seconds"):
        list(moments(path, routes, Windowing(seconds=0.4)))
    monkeypatch.undo()
    model.scale.data.fill_(float("nan"))
    with pytest.raises(MediaError, match="scores are not finite"):
        list(moments(path, routes))


def test_the_forms_of_a_timeline():
    best = [("<b>", 0.5), ("<b>", 0.9), ("=x", 0.25)]
    spans = [(0, 1), (1, 4), (4, 3725.5)]
    timeline = Timeline(
        "a.mp4", {"v": "t"}, [Moment(*span, {"v": [top]}) for span, top in zip(spans, best, strict=True)]
    )
    assert timeline.vtt("v") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:04.000\n&lt;b&gt; (80%)\n\n00:00:04.000 --> 01:02:05.500\n=x (25%)\n"
    )
    assert timeline.csv("v") == "start,end,label,score\n0.000,4.000,<b>,0.800000\n4.000,3725.500,'=x,0.250000\n"
    assert timeline.to_dict(with_moments=False)["routes"]["v"] == {
        "task": "t",
        "segments": [
            {"start": 0, "end": 4, "label": "<b>", "score": 0.8},
            {"start": 4, "end": 3725.5, "label": "=x", "score": 0.25},
        ],
    }
    assert timeline.png().startswith(b"\x89PNG")


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inference, "load_model", lambda name, checkpoint: GreyNet())
    grey_video(tmp_path / "in/a.mp4", LEVELS)
    grey_video(tmp_path / "in/deep/a.mp4", [3] * 30)
    (tmp_path / "in/torn.mp4").write_text("a text file called .mp4")
    grey_image(tmp_path / "in/a.png", 1)
    files = [str(tmp_path / name) for name in ("in", "absent.gif")]
    with pytest.raises(SystemExit) as end:
        main(["predict", *files, "--timeline", str(tmp_path / "out"), "--window", "0.4", "--smooth", "0"])
    assert end.value.code == 1
    a, deep, torn, absent = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert absent == {"file": files[1], "error": "there is no such file"}  # it might have been a video
    assert [segment["label"] for segment in a["routes"]["video"]["segments"]] == ["grey 0", "grey 5", "grey 2"]
    assert [segment["label"] for segment in deep["routes"]["video"]["segments"]] == ["grey 3"]
    assert torn.keys() == {"file", "error"}
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == sorted(f"{name}{ending}" for name in ("a", "a-2") for ending in (".json", ".vtt", ".csv", ".png"))
    assert json.loads((tmp_path / "out/a.json").read_text())["routes"]["video"]["moments"][0]["start"] == 0
    with pytest.raises(SystemExit) as end:
        main(["predict", str(tmp_path / "in/a.png"), "--timeline", str(tmp_path / "out")])
    assert end.value.code == 2
    assert "none of 1 file is one" in capsys.readouterr().err
    for options, message in (
        (("--window", "2"), "are of --timeline FOLDER"),
        (("--timeline", str(tmp_path), "--clips", "salient:2"), "--timeline sees every window"),
        (("--clips", "salient:2", "--engine", "ray"), "one of them"),
    ):
        with pytest.raises(SystemExit):
            main(["predict", str(tmp_path / "in/a.mp4"), *options])
        assert message in capsys.readouterr().err
