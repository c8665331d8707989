"""Videos without labels, of which an image network labels the frames."""

import json
import sys
import time

import pytest
import timm
import torch
import torch.nn.functional as F
from huggingface_hub import constants
from tiny import tiny_recipe

from unidual_zoo.models.saving import save
from unidual_zoo.training.objective import JointObjective
from unidual_zoo.training.recipes import DataSettings
from unidual_zoo.training.rundir import LOG, read_log
from unidual_zoo.training.sources import read_sources
from unidual_zoo.training.teachers import Teacher, find_teacher
from unidual_zoo.training.trainer import train

ONLY = 'tasks={"frames": "video"}'


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A tiny network of three classes of images in a folder, and its name."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("teacher")
    tasks = {"things": ("image", 3), "acts": ("video", 2)}
    network = timm.create_model("unidual10", width=0.0625, tasks=tasks, pretrained=False)
    network.spec = network.spec.__class__(**{**vars(network.spec), "classes": {"things": ("bird", "cup", "key")}})
    save(network, folder)
    return f"local-dir:{folder}"


def settings(teacher, *more):
    return (ONLY, f"teachers={json.dumps({'frames': teacher})}", *more)


def videos(media):
    return f"data={json.dumps({'frames': str(media / 'films')})}"


def test_a_teacher_answers_as_its_network(teacher):
    taught = Teacher(teacher)
    network = timm.create_model(teacher, pretrained=True).eval()
    frames = torch.randint(256, (2, 3, 40, 30), dtype=torch.uint8)
    height, width = network.spec.crop
    x = F.interpolate(frames / 255, (height, width), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.spec.mean, network.spec.std))
    with torch.no_grad():
        expected = network((x - mean) / std, modality="image").softmax(1)
    torch.testing.assert_close(taught.train()(frames), expected)
    assert taught.classes == ("bird", "cup", "key")
    assert not taught.network.training


def test_the_loss_is_cross_entropy_against_the_teachers_probabilities(teacher):
    taught = Teacher(teacher)
    model = timm.create_model("r2plus1d10", width=0.0625, tasks={"frames": ("video", 3)}, num_frames=2).eval()
    frame = torch.randint(256, (4, 3, 1, 28, 28), dtype=torch.uint8)
    clips = frame.expand(-1, -1, 2, -1, -1)  # whichever frame is drawn
    losses = JointObjective(model, teachers={"frames": taught}).eval()({"frames": (clips, torch.zeros(4, dtype=int))})
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (model.spec.mean, model.spec.std))
    wanted = taught(frame[:, :, 0])
    expected = -(wanted * model((clips / 255 - mean) / std).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(losses["frames.video"], expected)


def test_a_run_without_labels(media, tmp_path, teacher):
    """It learns from all files of a folder, has nothing to evaluate, and another run starts from it."""
    out = tmp_path / "taught"
    reports = train(tiny_recipe(media, *settings(teacher, videos(media), "epochs=3", "test_data={}")), out=out)
    assert reports == {}
    steps = [line["loss/frames.video"] for line in read_log(out / LOG) if line["event"] == "train"]
    assert steps[-1] < steps[0]
    published = timm.create_model(f"local-dir:{out / 'export'}", pretrained=True)
    assert published.spec.class_names("frames") == ("bird", "cup", "key")
    train(tiny_recipe(media, f"init={out}", "tasks=films:video", "epochs=1", "lr=0"), out=tmp_path / "tuned")
    tuned = timm.create_model(f"local-dir:{tmp_path / 'tuned/export'}", pretrained=True)
    assert torch.equal(tuned.stem.spatial.weight, published.stem.spatial.weight)


def test_with_labels_of_another_task(media, tmp_path, teacher):
    data = f"data={json.dumps({'frames': str(media / 'films'), 'pictures': str(media / 'pictures')})}"
    both = ('tasks={"frames": "video", "pictures": "image"}', f"teachers={json.dumps({'frames': teacher})}")
    reports = train(tiny_recipe(media, *both, data, "epochs=1", "mixup=0.2"), out=tmp_path)
    assert reports.keys() == {"pictures"}


def test_files_without_labels(media, tmp_path):
    """Of a folder or list with splits the training files, else all there is."""
    found = {}
    for place in (media / "films", media / "films/train/circle", tmp_path / "clips.csv"):
        if place.suffix:
            files = sorted((media / "films/train/circle").iterdir())
            place.write_text("path,label\n" + "".join(f"{file},any\n" for file in files))
        settings = DataSettings(tasks={"frames": "video"}, data={"frames": str(place)}, teachers={"frames": "any"})
        training, test = read_sources(settings, seed=0, taught={"frames": ("bird", "cup")})
        found[place.name] = len(training["frames"])
        assert (test, training["frames"].classes) == ({}, ("bird", "cup"))
    assert found == {"films": 10, "circle": 5, "clips.csv": 5}


def test_contradictions(media, tmp_path, teacher):
    with pytest.raises(ValueError, match="a teacher labels videos, pictures is a task of the modality 'image'"):
        tiny_recipe(media, f"teachers={json.dumps({'pictures': teacher})}")
    with pytest.raises(ValueError, match="no task with a teacher 'film', allowed: pictures, films"):
        tiny_recipe(media, f"teachers={json.dumps({'film': teacher})}")
    with pytest.raises(ValueError, match="publish=best needs test files"):
        tiny_recipe(media, *settings(teacher, "publish=best"))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="no video files"):
        train(tiny_recipe(media, *settings(teacher, f"data={json.dumps({'frames': str(empty)})}")), out=tmp_path / "a")
    with pytest.raises(ValueError, match="has no head for images on an image pathway"):
        Teacher(_video_only(tmp_path))


def test_a_teacher_that_cannot_be_had_is_one_sentence_that_names_the_setting(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(sys.modules["unidual_zoo.weights.fetch"], "getproxies", dict)
    monkeypatch.setattr("unidual_zoo.training.teachers.cached_from_hub", lambda *_: None)
    start = time.monotonic()
    for name, message in (
        ("resnet18", "it cannot be loaded: cannot reach http://127.0.0.1:9: .*refused, and no copy is in the cache$"),
        ("hf-hub:a/b", "it cannot be loaded: cannot reach http://127.0.0.1:9: "),
        ("local-dir:/nowhere", "local-dir:/nowhere: there is no folder /nowhere$"),
        ("unidual10_oux", "no model 'unidual10_oux', nearest: unidual10_aux, "),
    ):
        with pytest.raises((ValueError, RuntimeError), match=f"^teachers=clips:{name}: {message}"):
            find_teacher("clips", name)
    assert time.monotonic() - start < 20, "the Hub's client would try for a minute"


def _video_only(folder):
    network = timm.create_model("r2plus1d10", width=0.0625, tasks={"acts": ("video", 2)}, pretrained=False)
    save(network, folder / "video")
    return f"local-dir:{folder / 'video'}"
