"""Reports whose numbers can be counted by hand, and pages that show them and nothing else."""

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from fakes import film, grey_image
from PIL import Image

from unidual_zoo.evaluation import FileResult, Report
from unidual_zoo.report import numbers
from unidual_zoo.report.page import Page, Section, check_page, evaluation_page, next_commands, render, write_page
from unidual_zoo.report.pictures import SIDE, STRIP_SIDE, preview, strip_frames

# Of class a: one right, one taken for b, one failed; of class b: one right; of class c none, and one taken for it.
RESULTS = (
    FileResult(0, 0, (0, 1), 1, 1, confidences=(0.55, 0.3), seconds=0.1),
    FileResult(1, 0, (1, 0), 0, 1, confidences=(0.95, 0.05), seconds=0.1),
    FileResult(2, 0, (), 0, 1, error="it is torn", seconds=0.1),
    FileResult(3, 1, (1, 2), 1, 1, confidences=(0.85, 0.1), warning="it ends early", seconds=0.1),
    FileResult(4, 1, (2, 1), 0, 1, confidences=(0.58, 0.4), seconds=0.9),
)
FILES = tuple(f"folder/{name}.jpg" for name in "pqrst")
REPORT = Report("image", FILES, RESULTS, seconds=1.0, facts={"data": "folder"}, classes=("a", "b", "c"))
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>"
ODD = ("{{ 7 * 7 }}", MARKUP, '" onload="alert(1)', "a\u202eb", "\udcff", "a\x1b[31mb", "猫")


class Tags(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_classes_by_hand():
    rows = {
        row.name: (row.files, row.predicted, row.right, row.precision, row.recall) for row in numbers.class_rows(REPORT)
    }
    assert rows == {"a": (3, 1, 1, 1, 1 / 3), "b": (2, 2, 1, 0.5, 0.5), "c": (0, 1, 0, 0, None)}
    assert numbers.confusions(REPORT) == {(0, 0): 1, (0, 1): 1, (1, 1): 1, (1, 2): 1}
    assert numbers.majority_baseline([1, 1, 0], REPORT) == {"always 'b'": 40.0}


def test_what_few_files_tell():
    def line(right, files, share):
        results = tuple(FileResult(i, 0, (int(i >= right),), 0, 1) for i in range(files))
        report = Report("video", ("f",) * files, results, 1.0, classes=("a", "b"))
        return numbers.guessing_line(report, {"frames alone": 100.0, "always 'a'": share})

    assert line(74, 100, 65.0) == (
        "video@1 74.0% is no better than always 'a' (65.0%), as far as 100 files can tell: two standard errors are 9.5 "
        "points"
    )
    assert line(75, 100, 65.0) is None
    assert line(2, 2, 50.0) is not None  # where its own standard error is 0
    assert line(1, 1, 100.0) == "video@1 100.0% is no better than always 'a' (100.0%)"


def test_calibration_by_hand():
    error, bins = numbers.calibration(REPORT)
    assert [(row.low, row.files, row.accuracy) for row in bins] == [(0.5, 2, 0.5), (0.8, 1, 1), (0.9, 1, 0)]
    assert error == pytest.approx((2 * abs(0.5 - 0.565) + 0.15 + 0.95) / 4)
    assert numbers.calibration(Report("image", ("x",), (RESULTS[2],), 1.0)) == (None, [])


def test_files_worth_a_look():
    assert [result.index for result in numbers.confident_mistakes(REPORT, 9)] == [1, 4]
    assert [result.index for result in numbers.doubtful_hits(REPORT, 1)] == [0]
    usual, slow = numbers.slow_files(REPORT, 9)
    assert (usual, [result.index for result in slow]) == (0.1, [4])


def test_a_page_says_what_was_counted():
    text = " ".join(
        re.sub("<[^>]+>", " ", render(evaluation_page("net.tag", {"things": REPORT})).partition("</style>")[2]).split()
    )
    for told in (
        "40.0% top-1 ± 21.9", "60.0% always &#39;a&#39;",
        "no better than always &#39;a&#39; (60.0%)", "Of 5 files, 1 of which failed; ± is the standard error",
        "a 3 1 1 100.0% 33.3%", "c 0 1 0 0.0% –", "error 30.8%",
        "folder/r.jpg it is torn", "folder/s.jpg it ends early", "folder/t.jpg 0.90 s",
        "unidual serve --model net.tag",
    ):  # fmt: skip
        assert told in text, told
    assert "top-5" not in text  # of three classes
    assert "clip@1:" not in text
    videos = dataclasses.replace(REPORT, modality="video")
    assert ". clip@1: single clips answered rightly; video@1: videos, by the mean of their clips.</p>" in render(
        evaluation_page("net.tag", {"acts": videos})
    )
    learnt = Report("image", FILES, RESULTS, seconds=1.0, facts={"in_training": 3}, classes=("a", "b", "c"))
    assert "this network was trained on 3 of these 5 files: the figures do not show" in render(
        evaluation_page("net.tag", {"t": learnt})
    )


def test_a_page_needs_nothing_and_runs_nothing(tmp_path):
    """Whatever classes, files and reasons are called."""
    picture = grey_image(tmp_path / "a.png", 2)
    files = (str(picture), *ODD[1:])
    results = [FileResult(i, i, ((i + 1) % 7,), 0, 1, confidences=(0.9,), error=None) for i in range(7)]
    results[3] = FileResult(3, 3, (), 0, 1, error=MARKUP)
    report = Report("image", files, tuple(results), 1.0, facts={MARKUP: MARKUP}, classes=ODD)
    curves = {MARKUP: b"<svg xmlns='http://www.w3.org/2000/svg'/>"}
    section = Section(title=MARKUP, report=report, notes=[MARKUP], baselines={MARKUP: 1.0})
    page = Page(
        title=MARKUP, sections=[section], facts={MARKUP: {MARKUP: MARKUP}}, settings={MARKUP: MARKUP}, curves=curves,
        unreadable={MARKUP: MARKUP}, commands={MARKUP: MARKUP},
    )  # fmt: skip
    write_page(page, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    tags = Tags(text).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "a", "form", "base"}
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    sources = [attributes["src"] for tag, attributes in tags if tag == "img"]
    assert len(sources) == 2  # the curves and the one file that can be read
    assert all(source.startswith("data:image/") for source in sources)
    assert "{{ 7 * 7 }}" in text  # names are no templates
    assert not any(letter in text for letter in ("\u202e", "\x1b"))
    assert "default-src 'none'" in text


def test_many_classes_are_the_worst_and_the_most_confused():
    results = tuple(FileResult(i, i % 70, ((i + i // 70) % 70,), 0, 1, confidences=(0.5,)) for i in range(140))
    report = Report("image", ("none.jpg",) * 140, results, 1.0, classes=tuple(f"class {i}" for i in range(70)))
    text = render(evaluation_page("net", {"many": report}))
    assert "The 60 of 70 classes with the lowest recall" in text
    assert "The most frequent of 70 classes" in text
    assert "no picture" in text


def test_pictures_are_small(tmp_path):
    def decoded(address):
        return Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/jpeg;base64,"))))

    photo = grey_image(tmp_path / "a.png", 1, size=(2 * SIDE, SIDE))
    assert decoded(preview(str(photo), "image")).size == (SIDE, SIDE // 2)
    frames = np.repeat(np.arange(8, dtype=np.uint8) * 30, 220 * 240 * 3).reshape(8, 220, 240, 3)
    strip = decoded(preview(str(film(tmp_path / "a.mp4", frames)), "video"))
    assert strip.size == (4 * 120, STRIP_SIDE)
    shades = [strip.convert("L").getpixel((60 + 120 * part, 50)) for part in range(4)]
    assert shades == pytest.approx([30, 90, 150, 210], abs=6)  # the frames 1, 3, 5 and 7
    assert strip_frames(1) == [0]
    assert strip_frames(3) == [0, 1, 2]
    assert preview(str(tmp_path / "absent.mp4"), "video") is None


def test_commands_take_names_as_they_are():
    commands = next_commands("local-dir:my run/export", modalities=["video"], run="my run; rm")
    assert commands["Predict"] == "unidual predict FILES --model 'local-dir:my run/export'"
    assert any("'my run; rm'" in command for command in commands.values())


def test_the_name_of_a_page_is_checked_before_the_work(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.html, \.htm, got .*a\.pdf"):
        check_page(tmp_path / "a.pdf")
    with pytest.raises(ValueError, match=r"no folder .*absent"):
        check_page(tmp_path / "absent" / "a.html")
