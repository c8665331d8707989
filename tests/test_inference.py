"""Folded copies give the same outputs; mixed files give one result each, in their order."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from fakes import LEVELS, SPEC, GreyNet, grey_image, grey_video
from pictures import png
from torch import nn

from unidual_zoo import scoring
from unidual_zoo.data.datasets import load_sized_image
from unidual_zoo.data.media import MediaWarning
from unidual_zoo.inference import Predictor, find_files, for_inference, load_model, modality_of, of_modality, to_rows
from unidual_zoo.scoring import Protocol
from unidual_zoo.spec import IMAGE, VIDEO, InputSpec

TASKS = {"in1k": ("image", 7), "k400": ("video", 6)}
TWO = Protocol(name="two", clips=2)
SIZE, FRAMES = 32, 4


def network(name: str, **options) -> Any:
    """A registered network made small, whose BatchNorms do not look like fresh ones."""
    torch.manual_seed(0)
    options = {"width": 1 / 16, "depths": (1, 1, 1, 1), "num_frames": FRAMES, "tasks": TASKS} | options
    model = timm.create_model(name, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            state = module.state_dict()
            for name in ("running_mean", "bias"):
                state[name].normal_(std=0.1)
            for name in ("running_var", "weight"):
                state[name].uniform_(0.5, 2)
    return model.eval()


def small_spec() -> InputSpec:
    return InputSpec(resize=(SIZE, SIZE), crop=(SIZE, SIZE))


def inputs() -> list[torch.Tensor]:
    return [torch.randn(2, 3, SIZE, SIZE), torch.randn(2, 3, FRAMES, SIZE, SIZE)]


def same(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert (a - b).abs().max() <= tolerance * b.abs().max()


CASES = [
    ("unidual10_aux", {}),
    ("unidual10", {"norms": "shared"}),
    ("unidual152_aux", {}),
    ("unidual152", {"norms": "shared"}),
    ("r2d10_lstm_multitask", {}),
    ("r2plus1d18", {"tasks": {"k400": ("video", 6)}}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
@torch.inference_mode()
def test_a_folded_copy_gives_the_same_outputs(name, options):
    model = network(name, **options)
    folded = for_inference(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    for pathway in model.pathways:
        alone = for_inference(model, modality=pathway)
        assert alone.pathways == (pathway,)
        for x in inputs():
            expected = model(x, modality=pathway)
            same(folded(x, modality=pathway), expected)
            same(alone(x), expected)
            features = model.forward_features(x, modality=pathway)
            same(folded.forward_features(x, modality=pathway), features)


def test_folding_leaves_the_callers_model_alone():
    model = network("unidual10_aux").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = for_inference(model, modality="video")
    assert model.training
    assert not folded.training
    assert model.pathways == ("image", "video")
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    shared = {value.data_ptr() for value in model.parameters()} & {value.data_ptr() for value in folded.parameters()}
    assert not shared


@torch.inference_mode()
def test_one_pathway_is_a_smaller_network():
    model = network("unidual10_aux")
    sizes = {
        name: sum(value.numel() for value in for_inference(model, modality=name).parameters())
        for name in (None, "image", "video")
    }
    assert max(sizes["image"], sizes["video"]) < sizes[None]
    image = for_inference(model, modality="image")
    with pytest.raises(ValueError, match=r"'video'.*allowed: image"):
        image(inputs()[1], modality="video")
    with pytest.raises(ValueError, match="no 'audio' pathway, allowed: image, video"):
        for_inference(model, modality="audio")
    for dtype, message in (
        (torch.int8, "dtype must be .*, got torch.int8; int8 is for engines"),
        ("bf16", "no dtype 'bf16', allowed: float32, bfloat16, float16; did you mean 'bfloat16'"),
    ):
        with pytest.raises(ValueError, match=message):
            for_inference(model, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_a_cast_copy_is_near(dtype):
    model = network("unidual10_aux")
    cast = for_inference(model, dtype=str(dtype).removeprefix("torch."))
    for x in inputs():
        logits = cast(x.to(dtype))
        assert logits.dtype == dtype
        same(logits.float(), model(x), tolerance=0.05)


@torch.inference_mode()
def test_a_compiled_copy_gives_the_same(monkeypatch):
    calls = []

    def compile(function, **_):  # the compiler itself is torch's to test, and takes a minute
        return lambda *args, **kwargs: calls.append(function) or function(*args, **kwargs)

    monkeypatch.setattr(torch, "compile", compile)
    model = network("unidual10_aux")
    compiled = for_inference(model, compile=True)
    for x in inputs():
        same(compiled(x, modality="video"), model(x, modality="video"))
    assert len(calls) == 2


@pytest.fixture
def mixed(tmp_path):
    """Files of both modalities, two of them broken, as (path, class or None)."""
    torn = tmp_path / "torn.mp4"
    torn.write_text("a text file called .mp4")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    return [
        (grey_video(tmp_path / "b.mp4", [1] * 4), 1),
        (grey_image(tmp_path / "a.png", 3), 3),
        (torn, None),
        (grey_image(tmp_path / "c.png", 0), 0),
        (empty, None),
        (grey_video(tmp_path / "d.mp4", [4] * 9), 4),
        (grey_image(tmp_path / "e.dat.png", 5).rename(tmp_path / "e.dat"), 5),
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_one_result_a_file_in_order(mixed, batch_size):
    predictor = Predictor(GreyNet(), top=3, protocol=TWO, batch_size=batch_size)
    results = list(predictor([path for path, _ in mixed]))
    assert [result["file"] for result in results] == [str(path) for path, _ in mixed]
    for result, (path, level) in zip(results, mixed, strict=True):
        if level is None:
            assert result.keys() == {"file", "error"}
            continue
        assert result["modality"] == ("video" if path.suffix == ".mp4" else "image")
        assert result["task"] == "greys"
        assert result["top"][0]["label"] == f"grey {level}"
        scores = [entry["score"] for entry in result["top"]]
        assert len(scores) == 3
        assert scores == sorted(scores, reverse=True)
        assert 0.5 < scores[0] <= 1
    assert json.loads(json.dumps(results)) == results


def test_scores_are_probabilities_of_all_classes(mixed):
    for protocol in (TWO, Protocol(name="logits", clips=2, average="logits")):
        (result,) = Predictor(GreyNet(), task="codes", top=100, protocol=protocol)([mixed[0][0]])
        assert {entry["label"] for entry in result["top"]} == {str(number) for number in range(LEVELS)}  # no names
        assert sum(entry["score"] for entry in result["top"]) == pytest.approx(1, abs=1e-4)


def load_and_warn(path, transform):
    if path.endswith(("a.png", "empty.jpg")):
        warnings.warn(MediaWarning(path, "it is odd"), stacklevel=1)
    return load_sized_image(path, transform)


def test_a_warning_is_in_the_answer(mixed, monkeypatch):
    monkeypatch.setattr(scoring, "load_sized_image", load_and_warn)
    with pytest.warns(MediaWarning, match="it is odd") as given:
        video, image, _, _, empty, *_ = Predictor(GreyNet(), protocol=TWO)([path for path, _ in mixed])
    assert [*image] == ["file", "modality", "task", "top", "warning"]
    assert image["warning"] == "it is odd"
    assert "warning" not in video
    assert [*empty] == ["file", "error", "warning"]
    assert [warning.message.path for warning in given] == [image["file"], empty["file"]]


def test_no_label_is_given_for_scores_that_are_not_finite(mixed):
    predictor = Predictor(GreyNet(), protocol=TWO)
    predictor.model.scale.data.fill_(float("-inf"))  # a network with such a weight would not have been served
    results = list(predictor([path for path, _ in mixed]))
    assert all([*result] == ["file", "error"] for result in results)
    assert {result["error"] for result, (_, level) in zip(results, mixed, strict=True) if level is not None} == {
        "the network's scores are not finite"
    }


def test_one_file_does_not_end_a_batch_of_others(tmp_path, mixed, monkeypatch):
    """What would have to be enlarged to gigabytes, a stack that is none, and errors that nobody foresaw."""
    (tmp_path / "thin.png").write_bytes(png(1, 400_000, b"\0\x66\x66\x66" * 400_000))
    (tmp_path / "empty.npy").touch()

    def load(path, transform):
        if path.endswith("a.png"):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return load_sized_image(path, transform)

    monkeypatch.setattr(scoring, "load_sized_image", load)
    files = [tmp_path / "thin.png", tmp_path / "empty.npy/0", *[path for path, _ in mixed]]
    spec = InputSpec(
        resize=SIZE, crop=(SIZE, SIZE), mean=(0, 0, 0), std=(1, 1, 1), clip=SPEC.clip, classes=SPEC.classes
    )
    thin, stack, *others = Predictor(GreyNet(spec), protocol=TWO)(files)
    assert thin["top"][0]["label"] == "grey 2"
    assert "it is no stack" in stack["error"]
    errors = {Path(result["file"]).name: result["error"] for result in others if "error" in result}
    assert errors.keys() == {"torn.mp4", "empty.jpg", "a.png"}
    assert errors["a.png"] == "it cannot be read (RuntimeError: DefaultCPUAllocator: can't allocate memory)"


def test_a_rare_modality_does_not_hold_up_the_others(mixed, monkeypatch):
    files = [mixed[1][0], *[mixed[0][0]] * 20]  # an image that never fills its batch, then videos
    predictor = Predictor(GreyNet(), protocol=TWO, batch_size=2)
    calls = predictor.model.calls
    assert next(iter(predictor(files)))["top"][0]["label"] == "grey 3"
    assert len(calls) < 20


def test_a_dual_network_predicts_both_modalities(mixed):
    model = network("unidual10", spec=small_spec())
    files = [path for path, _ in mixed]
    results = list(Predictor(model, protocol=TWO, batch_size=4)(files))
    tasks = [result.get("task") for result in results]
    assert tasks == ["k400", "in1k", None, "in1k", None, "k400", "in1k"]
    predictor = Predictor(model, task="k400", protocol=TWO)
    assert list(predictor(files[0])) == list(predictor(files[:1]))
    with pytest.raises(TypeError, match="needs a model of this package, as load_model makes it, got str"):
        Predictor("unidual10_aux")
    results = list(predictor(files[:2]))
    assert results[0]["task"] == "k400"
    assert "task 'k400' has no head on the image pathway, allowed: in1k" in results[1]["error"]


def test_a_model_of_one_pathway_predicts_both_modalities(mixed):
    model = network("r2d10_multitask", spec=small_spec())
    results = list(Predictor(model, protocol=TWO)([mixed[0][0], mixed[1][0]]))
    assert [(result["modality"], result["task"]) for result in results] == [("video", "k400"), ("image", "in1k")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(task="cats"), "task 'cats' has no head on the image pathway, allowed: in1k"),
        (dict(protocol="none"), "no protocol 'none'"),
        (dict(top=0), "top must be 1 or more, got 0"),
    ],
)
def test_a_predictor_that_could_serve_nothing(options, message):
    with pytest.raises(ValueError, match=message):
        Predictor(network("unidual10"), **options)


def test_the_modality_of_a_file(tmp_path):
    image = grey_image(tmp_path / "a.png", 1)
    assert modality_of("no/such/file.JPG") == "image"
    assert modality_of("no/such/file.mkv") == "video"
    assert modality_of(str(image.rename(tmp_path / "photo"))) == "image"
    assert modality_of(str(grey_video(tmp_path / "a.mp4", [1]).rename(tmp_path / "clip"))) == "video"


def test_find_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("d/b.mp4", "d/a.jpg", "d/e/c.PNG", "d/notes.txt", "d/.hidden.jpg", "d/.git/x.jpg", "odd[1].jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("empty").mkdir()
    assert find_files(["d/**/*.PNG"]) == ["d/e/c.PNG"]
    assert find_files(["**/*.jpg"]) == ["d/a.jpg", "odd[1].jpg"]
    assert find_files(["**/e"]) == find_files(["?/**/e/"]) == find_files(["**/e/**/*.PNG"]) == ["d/e/c.PNG"]
    assert find_files([f"{tmp_path}/**/b.mp4"]) == [f"{tmp_path}/d/b.mp4"]
    assert find_files(["d/b**"]) == ["d/b.mp4"]
    for argument in ("d", "./d/", "d/*", "d/**"):
        with pytest.warns(
            UserWarning, match=r"^\S+: left out files that are neither images nor videos by extension: 1 \.txt$"
        ):
            found = find_files([argument])
        start = "./d" if argument == "./d/" else "d"
        assert found == [f"{start}/a.jpg", f"{start}/b.mp4", f"{start}/e/c.PNG"]
    named = ["d/notes.txt", "odd[1].jpg", "missing.mp4", "d/notes.txt"]
    assert find_files(named) == named
    for argument in ("empty", "d/*.gif", "nothing*"):
        with pytest.raises(ValueError, match=r"has no image or video in it$"):
            find_files([argument, argument])
        with pytest.warns(UserWarning, match=r"has no image or video in it$"):  # and reading it will say so again
            found = find_files(["d/a.jpg", "d/b.mp4", argument])
        assert found == ["d/a.jpg", "d/b.mp4", argument]
        assert of_modality(found, VIDEO) == ["d/b.mp4", argument]  # what found nothing is not passed over in silence
        assert of_modality(found, IMAGE) == ["d/a.jpg", argument]
    for name in ("shards.json", "val-000000.tar"):
        Path("empty", name).touch()
        with pytest.raises(
            ValueError, match="folder empty holds shards: of `unidual pack` evaluate, finetune, train and check-data"
        ):
            find_files(["empty"])
        Path("empty", name).unlink()
    with pytest.raises(ValueError, match="no file"):
        find_files([])


def test_find_files_skips_what_cannot_be_looked_at_and_what_systems_leave_behind(tmp_path):
    for name in ("d/a.jpg", "d/@eaDir/a.jpg", "d/e/b.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "d/loop").symlink_to(tmp_path / "d/loop")
    (tmp_path / "d/e/up").symlink_to(tmp_path)
    for argument in (tmp_path / "d", tmp_path / "d/**"):
        with pytest.warns(UserWarning, match="left out") as told:
            assert find_files([str(argument)]) == [str(tmp_path / "d/a.jpg"), str(tmp_path / "d/e/b.mp4")]
        texts = [str(warning.message) for warning in told]
        assert any("loop: left out, it cannot be looked at" in text for text in texts)
        assert f"{argument}: left out what systems leave behind: 1 @eaDir" in texts
    assert find_files([str(tmp_path / "d/loop")]) == [str(tmp_path / "d/loop")]  # reading it will say why


def test_load_model_names_what_is_near(tmp_path):
    with pytest.raises(ValueError, match="no model 'unidaul34', nearest: unidual34"):
        load_model("unidaul34")
    with pytest.raises(ValueError, match=r"r2plus1d18\.tv_k400"):
        load_model("r2plus1d18.tv_k4000")
    with pytest.raises(ValueError, match="no file of weights"):
        load_model("unidual10", checkpoint=tmp_path / "none.safetensors")
    with pytest.raises(RuntimeError, match="weights"):
        load_model("r2d10_multitask")


def test_load_model_from_a_file(tmp_path):
    model = timm.create_model("r2d10_multitask")
    good, bad = tmp_path / "good.pth", tmp_path / "bad.safetensors"
    torch.save(model.state_dict(), good)
    bad.write_bytes(b"no weights at all")
    loaded = load_model("r2d10_multitask", checkpoint=good)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    with pytest.raises(RuntimeError, match=r"bad.safetensors cannot be loaded into r2d10_multitask"):
        load_model("r2d10_multitask", checkpoint=bad)
    with pytest.raises(RuntimeError, match=r"cannot be loaded into r2plus1d10_multitask"):
        load_model("r2plus1d10_multitask", checkpoint=good)


def test_results_make_a_table():
    results = [
        {"file": "a.jpg", "modality": "image", "task": "in1k", "top": [{"label": "cat", "score": 0.75},
                                                                       {"label": "dog", "score": 0.25}]},
        {"file": "b.mp4", "error": "it is empty (0 bytes)", "warning": "w"},
    ]  # fmt: skip
    rows = [tuple(row.values()) for row in to_rows(iter(results))]
    assert [*to_rows(results)[0]] == ["file", "modality", "task", "rank", "label", "score", "error", "warning"]
    assert rows == [
        ("a.jpg", "image", "in1k", 1, "cat", 0.75, None, None),
        ("a.jpg", "image", "in1k", 2, "dog", 0.25, None, None),
        ("b.mp4", None, None, None, None, None, "it is empty (0 bytes)", "w"),
    ]
