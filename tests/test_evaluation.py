"""Protocols, routes and reports on a network whose answers can be worked out by hand."""

import dataclasses
import gc
import json
import os
import signal
import threading
import warnings

import numpy as np
import pytest
import torch
from fakes import LEVELS, SIDE, SPEC, GreyNet, film, grey_image, grey_video

from unidual_zoo import scoring
from unidual_zoo.data.datasets import MediaSet, load_sized_image
from unidual_zoo.data.loaders import LoaderError
from unidual_zoo.data.media import MediaWarning
from unidual_zoo.evaluation import PROTOCOLS, FileResult, Protocol, Report, evaluate, head_for, map_labels
from unidual_zoo.scoring import ReadFile, Route, ViewReader, distinct, score_files, score_read
from unidual_zoo.spec import ClipSpec, InputSpec

FOUR = Protocol(name="four", clips=4)
CLASSES = tuple(f"grey {level}" for level in range(LEVELS))


def media(modality, files, labels, classes=CLASSES):
    return MediaSet(modality=modality, classes=tuple(classes), files=tuple(map(str, files)), labels=tuple(labels))


@pytest.fixture
def videos(tmp_path):
    """Three videos of 8 frames: clips of 2 frames start at 0, 2, 4, 6 under the protocol FOUR."""
    return [
        grey_video(tmp_path / "all1.mp4", [1] * 8),
        grey_video(tmp_path / "mostly2.mp4", [2] * 6 + [5] * 2),  # clips 2, 2, 2, 5
        grey_video(tmp_path / "torn.mp4", [0, 0, 3, 3, 3, 3, 3, 3]),  # clips 0, 3, 3, 3
    ]


def test_clip_and_video_accuracy_by_hand(videos):
    model = GreyNet()
    report = evaluate(model, media("video", videos, [1, 2, 0]), protocol=FOUR, batch_size=2, progress=False)
    # Right clips: 4 of the first file, 3 of the second, 1 of the third; by the mean of four clips the third is a 3.
    assert report.metrics() == {"clip@1": round(100 * 8 / 12, 3), "video@1": 66.667, "video@5": 100.0}
    assert [result.top[0] for result in report.results] == [1, 2, 3]
    assert [shape[0] for shape in model.calls] == [2, 2, 1]  # of the 5 clips that differ, across files
    assert all(shape[1:] == (3, 2, SIDE, SIDE) for shape in model.calls)


def test_threads_read_files_together_between_batches(videos, monkeypatch):
    read, both = ViewReader.__call__, threading.Barrier(2, timeout=30)  # broken unless two files are read at once

    def meeting(reader, path):
        both.wait()
        return read(reader, path)

    asked = []
    monkeypatch.setattr(ViewReader, "__call__", meeting)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    data = media("video", [*videos, videos[0]], [1, 2, 0, 5])
    report = evaluate(GreyNet(), data, protocol=FOUR, batch_size=5, progress=False)
    assert [result.top[0] for result in report.results] == [1, 2, 3, 1]
    assert asked == [1, 1, 2], "a reader computes with one thread, whoever comes later with as many as before"


def test_a_device_has_the_next_batch_before_scores_are_fetched():
    events = []

    class Scores:
        def cpu(self):
            events.append("fetched")
            return torch.ones(1, 2)

    class Device:
        device, outputs = torch.device("meta"), "scores"

        def score(self, views):
            events.append("begun")
            return Scores()

    files = [ReadFile(number, "image", torch.zeros(1, 3, 4, 4, dtype=torch.uint8)) for number in range(3)]
    scored = list(score_read(files, {"image": Device()}, batch_size=1))
    assert [(each.index, each.scores.tolist()) for each in scored] == [(number, [[1, 1]]) for number in range(3)]
    assert events == ["begun", "begun", "fetched", "begun", "fetched", "fetched"]


def test_any_of_several_labels_is_right(videos):
    files = dataclasses.replace(media("video", videos, [1, 5, 1]), others=((), (4, 2), (0,)), missing=4)
    report = evaluate(GreyNet(), files, protocol=FOUR, progress=False)
    # Right clips: 4, all 4 of 2, 2, 2, 5, and 1 of 0, 3, 3, 3; the third file's labels 1 and 0 are among its best five.
    assert report.metrics() == {"clip@1": 75.0, "video@1": 66.667, "video@5": 100.0}
    assert report.to_dict()["missing"] == 4


def test_top_5_leaves_one_class_out(tmp_path):
    files = [grey_image(tmp_path / f"{level}.png", level) for level in (0, 0, 5)]
    report = evaluate(GreyNet(), media("image", files, [0, 5, 5]), progress=False)
    assert report.metrics() == {"top-1": 66.667, "top-5": 66.667}


def test_a_file_keeps_its_confidences_and_the_time_that_reading_took(tmp_path):
    path = grey_image(tmp_path / "0.png", 0)
    report = evaluate(GreyNet(), media("image", [path], [1]), progress=False)
    shares = torch.tensor([-200.0 * (level / 5) ** 2 for level in range(LEVELS)]).softmax(0)
    (result,) = report.results
    assert result.confidences == pytest.approx(shares[list(result.top)].tolist(), abs=1e-6)
    assert result.seconds > 0
    assert report.classes == CLASSES
    # Of six classes the best five tell something, of five they do not.
    assert set(report.metrics()) == {"top-1", "top-5"}
    assert set(dataclasses.replace(report, classes=CLASSES[:5]).to_dict()) & {"top-1", "top-5"} == {"top-1"}


def test_equal_clips_go_through_the_network_once_and_count_as_often_as_they_are(tmp_path, monkeypatch):
    grey = [torch.full((3, 2, SIDE, SIDE), level, dtype=torch.uint8) for level in (7, 9)]
    grey.append(grey[0].clone())
    grey[2][2, 1, SIDE - 1, SIDE - 1] = 8  # of the pixels that are looked at first, none differs
    told = distinct(torch.stack([grey[0], grey[1], grey[0], grey[2], grey[1]]))
    assert told["places"] == (0, 1, 0, 2, 1)
    assert told["views"].equal(torch.stack(grey))
    assert distinct(told["views"]) == {"views": told["views"]}

    seen = []
    score = Route.score
    monkeypatch.setattr(Route, "score", lambda self, views: seen.append(len(views)) or score(self, views))
    path = grey_video(tmp_path / "short.mp4", [0, 0, 4])  # four clips of two frames: 0 0, 0 0, 0 0, 0 4
    report = evaluate(GreyNet(), media("video", [path], [0]), protocol=FOUR, progress=False)
    assert seen == [2]
    assert (report.results[0].views, report.results[0].views_right) == (4, 3)


def test_a_still_clip_is_its_middle_frame(tmp_path):
    path = grey_video(tmp_path / "steps.mp4", [0, 1, 2, 3, 4, 5])
    spec = dataclasses.replace(SPEC, clip=ClipSpec(length=4, stride=1))
    views, _ = ViewReader("video", spec, Protocol(name="still", clips=2, still=True))(str(path))
    assert views.shape[:3] == (2, 3, 4)
    for clip, level in zip(views.float(), (2, 4), strict=True):  # of the clips 0 to 3 and 2 to 5
        torch.testing.assert_close(clip, torch.full_like(clip, 51.0 * level), rtol=0, atol=3)


def test_probabilities_and_logits_are_averaged_differently(tmp_path):
    model = GreyNet()
    path = grey_video(tmp_path / "a.mp4", [0, 0, 0, 0, 0, 0, 5, 5])
    clips = torch.stack([torch.full((3, 2, SIDE, SIDE), value) for value in (0.0, 0.0, 0.0, 1.0)])
    logits = model(clips)
    for average, expected in (("probabilities", logits.softmax(1).mean(0)), ("logits", logits.mean(0))):
        route = Route(model, "video", protocol=dataclasses.replace(FOUR, average=average))
        scored = next(score_files([(str(path), "video")], {"video": route}))
        assert scored.scores is not None
        scores = scored.scores.mean(0)
        torch.testing.assert_close(scores, expected, rtol=0.02, atol=0.02)  # the file holds 0 and 255 nearly
        assert scores.argmax() == (0 if average == "probabilities" else 1)  # the mean grey is 64, the nearest is 51


def test_dense_scores_equal_a_plain_loop_over_windows(tmp_path):
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (6, 3, 6, 1), dtype=np.uint8)  # 48×96: features of 8×8 pixels, windows of 4×4 cells
    frames = blocks.repeat(16, 1).repeat(16, 2).repeat(3, 3)
    path = film(tmp_path / "wide.mp4", frames)
    model = GreyNet(dataclasses.replace(SPEC, resize=48))
    protocol = Protocol(name="dense", clips=2, crops=3, dense=True)
    route = Route(model, "video", protocol=protocol)
    views, size = route.reader(str(path))
    assert views.shape == (2 * 3, 3, 2, 48, 48)
    assert size == (96, 48)

    scores = route.score(views)
    x = views.float() / 255
    window, stride = SIDE, 8  # the training crop, moved by the network's reduction
    starts = range(0, 48 - window + 1, stride)
    corners = [(top, left) for top in starts for left in starts]
    assert len(corners) == 9
    plain = [model(x[..., top : top + window, left : left + window]).softmax(1) for top, left in corners]
    torch.testing.assert_close(scores, torch.stack(plain).mean(0))
    for dtype in (torch.bfloat16, torch.float16):
        near = Route(model, "video", protocol=protocol, dtype=dtype).score(views)
        torch.testing.assert_close(near, scores, rtol=0, atol=0.2)
    once = Route(model, "video", protocol=dataclasses.replace(protocol, dense=False)).score(views)
    assert (once - scores).abs().max() > 1e-3  # pooling the whole square is something else


def test_three_crops_lie_along_the_long_side(tmp_path):
    columns = np.linspace(0, 250, 96, dtype=np.uint8)
    frames = np.broadcast_to(columns[None, None, :, None], (2, 32, 96, 3)).copy()
    path = film(tmp_path / "ramp.mp4", frames)
    protocol = Protocol(name="crops", clips=1, crops=3)
    views, _ = ViewReader("video", protocol.spec(SPEC, "video"), protocol)(str(path))
    assert views.shape == (3, 3, 2, SIDE, SIDE)
    means = views.float().mean((1, 2, 3, 4))
    expected = torch.tensor([columns[start : start + 32].mean() for start in (0, 32, 64)])
    torch.testing.assert_close(means.sort().values, expected.float(), rtol=0, atol=3)


def test_clips_lie_where_the_protocol_says(tmp_path):
    path = grey_video(tmp_path / "steps.mp4", [0, 0, 0, 1, 1, 1, 2, 2])
    for starts, expected in (
        ("ends", [0.0, 51.0, 102.0]),
        ("intervals", [0.0, 25.5, 76.5]),
    ):  # from 0, 3, 6 and 0, 2, 5
        protocol = Protocol(name="three", clips=3, starts=starts)
        views, _ = ViewReader("video", SPEC, protocol)(str(path))
        torch.testing.assert_close(views.float().mean((1, 2, 3, 4)), torch.tensor(expected), rtol=0, atol=3)


def test_protocols_keep_the_models_own_sizes():
    spec = InputSpec(resize=(128, 171), crop=(112, 112), clip=ClipSpec(length=8, stride=2))
    assert PROTOCOLS["unidual34"].spec(spec, "video") == spec
    wide = PROTOCOLS["unidual152"].spec(spec, "video")
    assert (wide.resize, wide.crop, wide.clip) == (128, (128, 128), spec.clip)
    assert PROTOCOLS["unidual152"].spec(spec, "image") == spec
    assert PROTOCOLS["torchvision"].spec(spec, "video").clip == ClipSpec(length=8, stride=2, rate=15)
    views = {name: protocol.num_views("video") for name, protocol in PROTOCOLS.items()}
    assert PROTOCOLS["unidual34"].in_words("image") == "one view of an image, centre crop"
    assert [PROTOCOLS[name].in_words("video") for name in ("unidual34", "one_clip", "vmz", "nonlocal")] == [
        "10 clips a video, centre crop", "1 clip a video, centre crop",
        "10 clips a video, centre crop, read at 15 frames a second, logits averaged",
        "10 clips a video, at the beginnings of equal parts, 3 crops of each, fully convolutional",
    ]  # fmt: skip
    assert views == {
        "unidual34": 10, "one_clip": 1, "unidual152": 30, "torchvision": 5, "vmz": 10, "nonlocal": 30, "timesformer": 3,
        "csn": 30, "uniformerv2_4x3": 12, "uniformerv2_2x3": 6, "uniformerv2_1x3": 3, "uniformerv2_10x3": 30,
        "uniformerv2_3x1": 3, "st_adapter_3x1": 3,
    }  # fmt: skip


def test_a_file_that_fails_counts_as_wrong_and_is_named(tmp_path, videos):
    broken = tmp_path / "broken.mp4"
    broken.write_text("not a video")
    files = [videos[0], broken, videos[1], tmp_path / "missing.mp4"]
    report = evaluate(GreyNet(), media("video", files, [1, 1, 2, 2]), protocol=FOUR, batch_size=3, progress=False)
    assert report.metrics() == {"clip@1": round(100 * 7 / 16, 3), "video@1": 50.0, "video@5": 50.0}
    row = report.to_dict()
    assert (row["listed"], row["decoded"], row["failed"]) == (4, 2, 2)
    assert [failure["file"] for failure in row["failures"]] == [str(broken), str(tmp_path / "missing.mp4")]
    assert str(broken) in report.table()


class OneOdd(GreyNet):
    """Its second logit is `odd` where the input is black."""

    def __init__(self, odd):
        super().__init__()
        self.odd = odd

    def forward(self, x, modality=None, task=None):
        logits = super().forward(x, modality=modality, task=task)
        black = x.flatten(1).mean(1) < 0.1
        return torch.cat([logits[:, :1], logits[:, 1:2].where(~black[:, None], self.odd), logits[:, 2:]], 1)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_scores_that_are_not_finite_are_a_failure(videos, odd, average):
    """One logit in one of the views is enough; softmax would make 0 of minus infinity."""
    protocol = dataclasses.replace(FOUR, average=average)
    report = evaluate(OneOdd(odd), media("video", videos, [1, 2, 3]), protocol=protocol, progress=False)
    assert report.failures == [{"file": str(videos[2]), "error": "the network's scores are not finite"}]
    assert [len(result.top) for result in report.results] == [5, 5, 0]
    assert report.results[2].views_right == 0


@pytest.fixture
def pictures(tmp_path):
    """Six pictures of the six greys."""
    return [grey_image(tmp_path / f"{level}.png", level) for level in range(LEVELS)]


def load_and_warn(path, transform):
    for reason in ("it ends early", "2 frames are damaged", "it ends early"):
        if path.endswith(("2.png", "4.png")):
            warnings.warn(MediaWarning(path, reason), stacklevel=1)
    if path.endswith("4.png"):
        raise KeyError("a strange one")
    return load_sized_image(path, transform)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_warnings_of_files_are_in_the_report_and_given_once(pictures, workers, monkeypatch):
    monkeypatch.setattr(scoring, "load_sized_image", load_and_warn)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always", MediaWarning)
        report = evaluate(GreyNet(), media("image", pictures, range(LEVELS)), workers=workers, progress=False)
    row = report.to_dict()
    reason = "it ends early; 2 frames are damaged"
    assert row["warnings"] == [{"file": str(pictures[number]), "warning": reason} for number in (2, 4)]
    assert (row["warned"], row["failed"], row["top-1"]) == (2, 1, 83.333)
    assert row["failures"] == [{"file": str(pictures[4]), "error": "it cannot be read (KeyError: 'a strange one')"}]
    given = [warning.message for warning in shown if warning.category is MediaWarning]
    assert [(warning.path, warning.reason) for warning in given] == [(str(pictures[n]), reason) for n in (2, 4)]
    assert f"warned: {pictures[2]}: {reason}" in report.table().splitlines()
    assert Report.merge([report]).warnings == row["warnings"]


def load_and_die(path, transform):
    if path.endswith("3.png"):
        os.kill(os.getpid(), signal.SIGKILL)
    return load_sized_image(path, transform)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the dead process's socket
def test_a_loader_process_that_dies_is_reported_with_its_file(pictures, monkeypatch):
    monkeypatch.setattr(scoring, "load_sized_image", load_and_die)
    with pytest.raises(LoaderError, match=r"process died \(.*\); it was reading .*/3\.png$"):
        evaluate(GreyNet(), media("image", pictures, range(LEVELS)), workers=1, progress=False)
    gc.collect()


def test_shards_count_every_file_once(videos):
    data = media("video", [*videos, videos[0]], [1, 2, 0, 1])
    whole = evaluate(GreyNet(), data, protocol=FOUR, progress=False)
    shards = [evaluate(GreyNet(), data, protocol=FOUR, shard=(rank, 3), progress=False) for rank in range(3)]
    assert [len(shard.results) for shard in shards] == [2, 1, 1]
    merged = Report.merge(shards[::-1])
    assert merged.results == whole.results
    assert merged.metrics() == whole.metrics()
    with pytest.raises(ValueError, match="merge all shards"):
        shards[0].metrics()
    with pytest.raises(ValueError, match="counted once"):
        Report.merge([*shards, shards[1]])
    with pytest.raises(ValueError, match="counted once"):
        Report.merge(shards[:2])


def test_decoding_in_processes_gives_the_same(videos):
    data = media("video", videos, [1, 2, 0])
    one, two = (evaluate(GreyNet(), data, protocol=FOUR, workers=n, batch_size=7, progress=False) for n in (0, 2))
    assert one.results == two.results


def test_the_report_says_how_it_came_about(videos):
    report = evaluate(
        GreyNet(), media("video", videos, [1, 2, 0]), protocol=FOUR, progress=False, facts={"data": "three"}
    )
    lines, row = report.table().splitlines(), report.to_dict()
    assert "protocol" + 10 * " " + "four (4 clips a video, centre crop)" in lines
    meaning = "clip@1: single clips answered rightly; video@1: videos, by the mean of their clips; "
    assert lines[-1] == f"{meaning}video@5: videos whose class is among the best five"
    assert json.loads(json.dumps(row)) is not None
    expected = dict(
        model="GreyNet", modality="video", pathway="video", task="greys", protocol="four", clips=4, crops=1, frames=2,
        stride=1, rate=None, views="4 clips a video, centre crop", sampling="dense",
        resize=(SIDE, SIDE), crop=(SIDE, SIDE), device="cpu", dtype="float32", labels="by name",
        batch_size=16, workers=0, listed=3, decoded=3, failed=0, data="three",
        stored_size={"min": "32x32", "median": "32x32", "max": "32x32"},
    )  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert row["decoder"].startswith("PyAV")
    assert "FFmpeg" in row["decoder"]
    assert row["seconds"] >= 0
    assert row["views_per_second"] > 0


def test_the_models_modes_are_left_alone(videos):
    model = GreyNet()
    model.frozen, model.other = torch.nn.BatchNorm1d(1).eval(), torch.nn.BatchNorm1d(1)
    evaluate(model, media("video", videos[:1], [1]), protocol=FOUR, progress=False)
    assert (model.training, model.frozen.training, model.other.training) == (True, False, True)


@pytest.mark.parametrize(
    ("classes", "task", "labels", "rule"),
    [
        (["grey 3", "grey 0"], "greys", [3, 0], "by name"),
        (["Grey_5"], "greys", [5], "by name"),
        (["0", "1", "10", "2"][:2] + ["5"], "greys", [0, 1, 5], "by number"),
        ([f"n0000000{i}" for i in range(LEVELS)], "greys", list(range(LEVELS)), "by order"),
        ([f"class {i}" for i in range(LEVELS)], "codes", list(range(LEVELS)), "by order"),
    ],
)
def test_labels_are_mapped(classes, task, labels, rule):
    assert map_labels(classes, GreyNet(), task) == (labels, rule)


def test_names_that_differ_in_capitals_alone_are_not_mixed_up():
    names = ("Cardigan", "cardigan", "Crane bird")  # as in ImageNet: a dog and a garment
    model = GreyNet(dataclasses.replace(SPEC, classes={"greys": names}))
    assert map_labels(["Cardigan", "cardigan", "crane_bird"], model, "greys") == ([0, 1, 2], "by name")
    with pytest.raises(ValueError, match="'CARDIGAN'"):
        map_labels(["CARDIGAN"], model, "greys")


def test_names_that_look_the_same_are_the_same():
    model = GreyNet(dataclasses.replace(SPEC, classes={"greys": ("cafe\u0301", "big\u00a0cat", "x")}))
    assert map_labels(["big cat", "caf\u00e9"], model, "greys") == ([1, 0], "by name")


@pytest.mark.parametrize(
    ("classes", "task", "message"),
    [
        (["grey 1", "gray 2"], "greys", r"1 of the data's 2 classes .* 'gray 2', nearest: 'grey 2'"),
        ([f"class {i}" for i in range(LEVELS)], "greys", "the first is 'class 0'"),
        (["a", "b"], "codes", "the data has 2 classes, task 'codes' has 6"),
    ],
)
def test_classes_that_are_not_the_tasks(classes, task, message):
    with pytest.raises(ValueError, match=message):
        map_labels(classes, GreyNet(), task)


def test_classes_of_another_task_name_it():
    others = ("red", "green", "blue hour", "d", "e", "f")
    model = GreyNet(dataclasses.replace(SPEC, classes={"greys": tuple("uvwxyz"), "codes": others}))
    with pytest.raises(ValueError, match="those of task 'codes', not of 'greys': name the task"):
        map_labels(["blue_hour", "red"], model, "greys")
    with pytest.raises(ValueError, match="not among"):
        map_labels(["blue_hour", "pink"], model, "greys")


@pytest.mark.parametrize(
    ("classes", "task"),
    [
        (["u", "v"], "greys"),
        (["blue_hour", "Red"], "codes"),
        (["d", "e"], "greys"),  # both have them: the first
        (["u", "red"], "greys"),  # neither has both
    ],
)
def test_the_head_is_that_of_the_datas_classes(videos, classes, task):
    own = {"greys": ("u", "v", "d", "e", "y", "z"), "codes": ("red", "green", "blue hour", "d", "e", "f")}
    model, found = GreyNet(dataclasses.replace(SPEC, classes=own)), media("video", videos[:2], [0, 1], classes)
    assert head_for(model, found) == head_for(model, found, pathway="video") == task
    assert head_for(model, found, task="codes") == "codes"
    if classes != ["u", "red"]:
        report = evaluate(model, found, progress=False)
        assert report.facts["task"] == task
        assert [own[task][result.label].replace(" ", "_").casefold() for result in report.results] == [
            name.casefold() for name in classes
        ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(protocol="unidual43"), "no protocol 'unidual43', allowed: unidual34"),
        (dict(task="in1k"), "task 'in1k' has no head on the video pathway, allowed: greys, codes"),
        (dict(pathway="audio"), "no 'audio' pathway, allowed: image, video"),
        (dict(batch_size=0), "batch_size"),
    ],
)
def test_wrong_arguments(videos, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(GreyNet(), media("video", videos, [1, 2, 0]), progress=False, **options)


@pytest.mark.parametrize("options", [dict(clips=0), dict(starts="middle")])
def test_a_protocol_that_cannot_be(options):
    with pytest.raises(ValueError, match=r"clips must be 1 or more, got 0|no starts 'middle', allowed: ends"):
        Protocol(name="odd", **options)


def test_a_report_of_no_files_has_no_metrics():
    with pytest.raises(ValueError, match="of no files"):
        Report("video", (), (), 1.0).metrics()


def test_few_files_are_told_with_a_standard_error():
    def report(right, files):
        results = tuple(FileResult(i, 0, (int(i >= right),), int(i < right), 1) for i in range(files))
        return Report("video", ("f",) * files, results, 1.0)

    tenth = report(90, 100)  # the root of 0.9 x 0.1 / 100
    assert (tenth.spread(), tenth.to_dict()["standard_error"]) == (pytest.approx(3), 3)
    assert tenth.scores() == {"clip@1": "90.00%", "video@1": "90.00% ± 3.00", "video@5": "90.00%"}
    lines = tenth.table().splitlines()
    assert [line.split(maxsplit=1) for line in lines[:2]] == [
        ["clip@1", "90.00%"], ["video@1", "90.00% ± 3.00 of 100 files"],
    ]  # fmt: skip
    assert "standard_error" not in tenth.table()
    for right, files in ((900, 1000), (7, 7), (0, 7)):  # many, or all alike
        assert report(right, files).spread() is None
        assert "standard_error" not in report(right, files).to_dict()
    assert f"{report(1, 1).scores()['video@1']} of 1 file" in report(1, 1).table()


def test_results_without_a_report_merge_to_metrics():
    results = (FileResult(0, 3, (3, 1), 2, 2), FileResult(1, 3, (1, 3), 1, 2))
    assert Report("video", ("a", "b"), results, 1.0).metrics() == {"clip@1": 75.0, "video@1": 50.0, "video@5": 100.0}
