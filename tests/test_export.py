"""A model becomes a graph of each engine and answers as before; a folder of one is a model that files are given to."""

import json
from pathlib import Path

import pytest
import torch
from fakes import grey_image, grey_video
from models.small import close, small

from unidual.app import DTYPES, _origin, main
from unidual.export import FORMATS, _accuracy, _caution
from unidual_zoo import calibration, export, for_inference
from unidual_zoo.calibration import Calibration
from unidual_zoo.data import normalize
from unidual_zoo.dtypes import FLOATS
from unidual_zoo.engines import ENGINES, Call
from unidual_zoo.export import RECORD, load_exported
from unidual_zoo.extras import require
from unidual_zoo.inference import Predictor, load_model, load_network
from unidual_zoo.spec import ClipSpec, InputSpec

SPEC = InputSpec(
    resize=(36, 36), crop=(32, 32), clip=ClipSpec(length=4), classes={"in1k": tuple("abcdefg"), "k400": tuple("uvwxyz")}
)
TASKS = {"in1k": ("image", 7), "k400": ("video", 6)}


def network(name="unidual10", **kwargs):
    torch.manual_seed(0)
    return small(name, spec=SPEC, tasks=TASKS, depths=(1,), **kwargs)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The same video pathway by each engine."""
    model, folder = network(), tmp_path_factory.mktemp("exported")
    for name in ENGINES:
        export.export(model, folder / name, format=name, modality="video", normalize=name == "onnx")
    return model, folder


@pytest.mark.parametrize("name", ENGINES)
def test_a_graph_answers_as_the_model_does_for_any_batch(exported, name):
    model, folder = exported
    graph = load_exported(folder / name)
    plain = json.loads((folder / name / RECORD).read_text())
    assert plain["classes"] == list("uvwxyz")
    assert plain["input"]["shape"] == ["batch", 3, 4, 32, 32]
    assert 0 < plain["difference"] < 1e-5
    for batch in (1, 5):
        frames = torch.randint(256, (batch, 3, 4, 32, 32), dtype=torch.uint8)
        mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (SPEC.mean, SPEC.std))
        x = (frames / 255 - mean) / std
        with torch.inference_mode():
            close(graph(frames if name == "onnx" else x), model(x), 1e-4)


def test_a_graph_says_what_it_takes(exported):
    graph, x = load_exported(exported[1] / "openvino"), torch.zeros(1, 3, 4, 32, 32)
    assert graph(x, modality="video", task="k400").shape == (1, 6)
    for call, message in (
        (
            lambda: graph(x[:, :, 0]),
            r"normalised float32 input \(B, 3, 4, 32, 32\), got torch.float32 \(1, 3, 32, 32\)",
        ),
        (lambda: graph(x.to(torch.uint8)), r"got torch.uint8"),
        (lambda: graph(x, modality="image"), r"no graph for videos on the image pathway here, allowed: videos on"),
        (lambda: graph(x, task="in1k"), r"no graph for videos on the video pathway, task 'in1k' here"),
        (lambda: graph.default_pathway("image"), r"no graph for images here"),
        (lambda: for_inference(graph, dtype="bfloat16"), r"stays what it was exported as \(float32 by openvino\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_files_are_predicted_by_an_exported_folder(exported, tmp_path):
    model, folder = exported
    files = [grey_video(tmp_path / "a.mp4", [1] * 6), grey_image(tmp_path / "b.png", 2)]
    (expected, _) = Predictor(model, protocol="one_clip")(files)
    for name in ENGINES:
        video, image = Predictor(load_model(str(folder / name)), protocol="one_clip")(files)
        assert [entry["label"] for entry in video["top"]] == [entry["label"] for entry in expected["top"]]
        assert "no graph for images here, allowed: videos on the video pathway" in image["error"]
    with pytest.raises(ValueError, match="is an exported graph; this needs the model"):
        load_network(str(folder / "onnx"))


def test_what_cannot_be_exported_is_refused(tmp_path, monkeypatch):
    model = network()
    for arguments, message in (
        (dict(format="tflite", modality="image"), "no format 'tflite', allowed: onnx, openvino, torch"),
        (dict(format="torch", modality="image", dtype="int8"), "format 'torch' has no int8, allowed: onnx, openvino"),
        (dict(modality="image", task="k400"), "task 'k400' has no head on the image pathway, allowed: in1k"),
        (dict(modality="image", dtype=torch.bfloat16), "no dtype of an export 'bfloat16'"),
    ):
        with pytest.raises(ValueError, match=message):
            export.export(model, tmp_path / "never", **arguments)
    monkeypatch.setattr(export, "MAX_DIFFERENCE", 0.0)
    with pytest.raises(RuntimeError, match=r"the torch graph of unidual10 .*: logits differ by \S+ of the largest,"):
        export.export(model, tmp_path / "far", format="torch", modality="image")
    assert not list((tmp_path / "far").iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(format="tflite"), "no format 'tflite'"),
        (dict(task="cats"), "no task 'cats'"),
        (dict(spec={"crop": 3}), "crop"),
        (dict(tasks=None), "tasks must be"),
    ],
)
def test_a_damaged_record_is_one_sentence(exported, tmp_path, change, message):
    plain = json.loads((exported[1] / "onnx" / RECORD).read_text()) | change
    (tmp_path / RECORD).write_text(json.dumps(plain))
    with pytest.raises(ValueError, match=f"{RECORD} cannot be read: .*{message}"):
        load_exported(tmp_path)


def test_an_engine_in_place_of_the_modules_compiles_what_is_called():
    model = network("unidual10_aux")
    served = for_inference(model, engine="torch")
    assert not served._opened
    image = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        close(served(image, modality="video", task="in1k"), model(image, modality="video", task="in1k"), 1e-4)
    assert [*served._opened] == [Call("image", "video", "in1k")]
    with pytest.raises(ValueError, match="engine 'onnx' does not compute in bfloat16, allowed: float32, int8"):
        for_inference(model, "bfloat16", engine="onnx")


def test_int8_is_near_and_says_what_it_costs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(calibration, "CALIBRATED", {"image": 2, "video": 2})
    monkeypatch.setattr(calibration, "MEASURED", {"image": 3, "video": 3})
    for split in ("train", "test"):
        for level, name in enumerate("uvw"):
            (tmp_path / "clips" / split / name).mkdir(parents=True)
            grey_video(tmp_path / "clips" / split / name / "a.mp4", [level, level + 1, level, 5])
    model, found = network(), calibration.folder_calibration(tmp_path / "clips", "video")
    assert {Path(file).parts[-3] for file in found.files} == {"train"}
    assert [Path(file).parts[-3] for file in found.measured] == ["test"] * 3
    made = export.export(
        model, tmp_path / "int8", format="openvino", modality="video", dtype=torch.int8, calibration=found
    )
    out, err = capsys.readouterr()
    assert out == ""
    assert "collection" not in err  # the name of nncf's own bar
    assert made.accuracy is not None
    assert (made.accuracy["files"], made.accuracy["metric"]) == (3, "video@1")
    with torch.inference_mode():
        labels = [int(model(view).argmax()) for view in (_normalised(found, file) for file in found.measured)]
    right = sum(label == number for number, label in enumerate(labels))
    assert made.accuracy["float32"] == round(100 * right / 3, 2)
    assert 0 < made.difference < 0.2
    graph = load_exported(tmp_path / "int8")
    assert for_inference(graph) is graph


def test_accuracies_of_files_that_are_known_are_said_to_be_so():
    apart, same = Calibration("x", ["a"], ["b", "c"]), Calibration("x", ["a", "b"], ["a", "b"])
    assert _caution(apart, 0) is None
    assert "was trained on 1 of these 2 files" in (_caution(apart, 1) or "")
    assert "int8 was calibrated on the files" in (_caution(same, 0) or "")


def test_int8_says_how_many_files_got_another_answer(monkeypatch):
    answers = {"float32": [0, 1, None, 2], "int8": [0, 2, None, 2]}  # the third file cannot be read
    monkeypatch.setattr(calibration, "_answers", lambda model, *_: answers[model])
    files = calibration.Calibration("clips", (), measured=tuple("abcd"))
    found = calibration.compare({name: name for name in answers}, files, Call("video", "video", "acts"))
    assert found == {
        "files": 3, "metric": "video@1", "float32": None, "int8": None, "changed": 1, "agreement": 66.67
    }  # fmt: skip
    told = "int8 has another answer to 1 of 3 files, the same to 66.7%"
    assert _accuracy(found) == f"no labels that the task knows; {told}"
    assert _accuracy(found | {"float32": 100.0, "int8": 66.67}) == (
        f"video@1 100.00% in float32, 66.67% in int8; {told}"
    )


def _normalised(found, file):
    (view,) = calibration.read_views([file], SPEC, "video")
    return normalize(view, SPEC)


def test_a_missing_extra_is_named():
    with pytest.raises(RuntimeError, match=r"needs no_such_engine, .* pip install 'unidual-zoo\[onnx\]'"):
        require("no_such_engine", "onnx")
    assert require("json", "onnx") is json


def test_the_command_line_knows_the_formats_and_types():
    """It lists them itself, since what declares the commands must not import torch."""
    assert tuple(ENGINES) == FORMATS
    assert FLOATS == DTYPES


def test_the_command_line_exports_what_it_predicts_with(tmp_path, capsys):
    out, image = tmp_path / "graph", grey_image(tmp_path / "a.png", 2)
    for arguments in (
        ["export", "unidual10_aux.toy", "--format", "torch", "--normalize", "--out", str(out)],
        ["predict", str(image), "--model", str(out), "--json", str(tmp_path / "labels.json")],
    ):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith(" of the model's, relative to the largest")
    row = json.loads(next(line for line in printed if line.startswith("{")))
    assert (row["task"], row["normalizes"], row["out"]) == ("toy_objects", True, str(out))
    assert _origin(str(out), None) == {"saved_as": str(out)}  # what evaluate's report adds to the model's own name
    (expected,) = Predictor(load_network("unidual10_aux.toy"))(str(image))
    assert json.loads((tmp_path / "labels.json").read_text())["top"][0] == pytest.approx(expected["top"][0], abs=1e-4)
