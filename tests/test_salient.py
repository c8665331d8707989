"""The clips of a long video that are worth looking at, and what the full network then sees."""

import json

import pytest
from fakes import GreyNet, grey_image, grey_video

from unidual.app import main
from unidual_zoo import inference
from unidual_zoo.data.datasets import MediaSet
from unidual_zoo.evaluation import evaluate
from unidual_zoo.inference import Predictor
from unidual_zoo.salient import SalientClips, parse_clips, sampler_route, windows
from unidual_zoo.scoring import Protocol, Route
from unidual_zoo.spec import ClipSpec

# GreyNet is surest of a grey that it knows, so seconds of a grey between two are not salient.
SECONDS = [2.5, 4, 2.5, 2.5, 4, 1.5]
LEVELS = [level for level in SECONDS for _ in range(25)]


class Rated(GreyNet):
    """GreyNet whose image pathway may be removed, and that can be looked up there."""

    def keep_pathway(self, pathway: str) -> None:
        self.pathways = (pathway,)


@pytest.fixture
def video(tmp_path):
    return str(grey_video(tmp_path / "long.mp4", LEVELS))  # type: ignore[arg-type]


def salient(model, count: int) -> SalientClips:
    return SalientClips(sampler_route(model), count)


def test_the_surest_windows_are_chosen(video, tmp_path):
    assert windows(len(LEVELS), ClipSpec(length=2), 25.0) == [(25 * i, 25 * i + 25) for i in range(6)]
    (tmp_path / "torn.mp4").write_text("a text file called .mp4")
    chosen = salient(Rated(), 2).choose([video, str(tmp_path / "torn.mp4")], ClipSpec(length=2))
    assert chosen == {video: [1, 4], str(tmp_path / "torn.mp4"): []}
    assert salient(Rated(), 100).choose([video], ClipSpec(length=2)) == {video: list(range(6))}


def test_the_full_network_sees_them_alone(video, tmp_path):
    image = str(grey_image(tmp_path / "a.png", 1))
    (tmp_path / "torn.mp4").write_text("a text file called .mp4")
    files = [image, video, str(tmp_path / "torn.mp4"), video]
    model = Rated()
    chooser = salient(model, 2)
    predictor = Predictor(model, protocol=chooser.protocol("unidual34"), score=chooser, top=1)
    a, b, torn, again = predictor(files)
    assert a["top"][0]["label"] == "grey 1"
    assert b["top"][0]["label"] == again["top"][0]["label"] == "grey 4"
    assert "cannot be opened as a video" in torn["error"]
    assert sum(shape[0] for shape in predictor.model.calls if len(shape) == 5) == 2  # two equal clips of each
    (plain,) = Predictor(model, protocol=Protocol(name="six", clips=6), top=1)([video])
    assert plain["top"][0]["score"] < b["top"][0]["score"]


def test_accuracy_by_salient_clips(video):
    model = Rated()
    media = MediaSet("video", tuple(f"grey {i}" for i in range(6)), (video,), (4,))
    chooser = salient(model, 2)
    report = evaluate(model, media, protocol=chooser.protocol("unidual34"), score=chooser, progress=False)
    assert report.metrics() == {"clip@1": 100, "video@1": 100, "video@5": 100}
    assert (report.facts["protocol"], report.facts["clips"]) == ("salient:2", 2)


def test_another_network_may_have_the_cheap_look(video, tmp_path, monkeypatch, capsys):
    full, cheap = Rated(), Rated()
    full.pathways = ("video",)
    with pytest.raises(ValueError, match="no image pathway to choose clips by: name another network as sampler"):
        sampler_route(full)
    assert isinstance(sampler_route(full, sampler=cheap), Route)
    loaded = []
    for load in ("load_model", "load_network"):
        monkeypatch.setattr(
            inference, load, lambda name, checkpoint=None: loaded.append(name) or (cheap if name == "cheap" else full)
        )
    with pytest.raises(SystemExit):
        main(["predict", video, "--model", "full", "--clips", "salient:1", "--sampler", "cheap", "--json",
              str(tmp_path / "out.json")])  # fmt: skip
    assert loaded == ["full", "cheap"]
    assert json.loads((tmp_path / "out.json").read_text())["top"][0]["label"] == "grey 4"
    for wrong in ("best:3", "salient:0", "salient"):
        with pytest.raises(ValueError, match=f"clips must be salient:K .*, got '{wrong}'"):
            parse_clips(wrong)
    with pytest.raises(SystemExit):
        main(["predict", video, "--model", "full", "--sampler", "cheap"])
    assert "--sampler is of --clips" in capsys.readouterr().err
