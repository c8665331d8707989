"""What `unidual explain` shows: the maps, their order and Grad-CAM against plain computations, and the picture."""

import dataclasses
import json
import re

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from fakes import SIDE, film, grey_image
from media import scene
from PIL import Image

from unidual.app import main
from unidual_zoo.data.transforms import normalize
from unidual_zoo.explain import (
    Explanation,
    Response,
    check_picture,
    draw,
    explain,
    find_layer,
    make_figure,
    read_clip,
)
from unidual_zoo.spec import ClipSpec, InputSpec

TASKS = {"things": ("image", 3), "acts": ("video", 2)}
CLASSES = {"things": ("bird", "cup", "key"), "acts": ("falling", "turning")}
SPEC = InputSpec(resize=SIDE, crop=(SIDE, SIDE), clip=ClipSpec(length=8), classes=CLASSES)
UNITS = ["stem", *(f"stages.{stage}.0.conv{unit}" for stage in range(4) for unit in (1, 2))]


def network(name="unidual10_aux", **arguments):
    """A tiny network whose BatchNorms are not the identity."""
    torch.manual_seed(0)
    model = timm.create_model(name, **{"tasks": TASKS, "spec": SPEC, "width": 1 / 8} | arguments).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def clip(num_frames=8):
    frames = torch.from_numpy(scene(num_frames, SIDE, SIDE))
    return frames.permute(3, 0, 1, 2)  # (T, H, W, C) -> (C, T, H, W)


def norm(module, x, pathway):
    own = module["shared" if "shared" in module else pathway]
    return F.batch_norm(x, own.running_mean, own.running_var, own.weight, own.bias, eps=own.eps)


def maps_by_hand(model, x, pathway):
    """(C, H, W) of layer -3, the second unit of the second block, for frames (T, 3, H, W)."""
    x = model.act(model.stem(x, pathway, 1))
    x = model.stages[0][0](x, pathway, 1)
    block = model.stages[1][0]
    unit = block.conv2
    x = block.conv1(x, pathway, 1).relu()
    x = norm(unit.spatial_norm, F.conv2d(x, unit.spatial.weight, padding=1), pathway).relu()
    weight = unit.pointwise[pathway].weight  # (O, I, t, 1)
    if pathway == "video":
        x = F.conv3d(x.transpose(0, 1)[None], weight[..., None], padding=(1, 0, 0))[0].transpose(0, 1)
    else:
        x = F.conv2d(x, weight)
    return norm(unit.norm, x, pathway).relu()


@torch.no_grad()
@pytest.mark.parametrize("norms", ["split", "shared"])
def test_maps_are_those_of_the_layers_called_by_hand(norms):
    model = network(norms=norms)
    x = normalize(clip()[None], SPEC)[0].transpose(0, 1)  # (T, 3, H, W)
    explanation = explain(model, clip(), layer="-3")
    assert explanation.layer == "stages.1.0.conv2"
    video = maps_by_hand(model, x, "video")
    assert len(video) == 4  # time steps, of which the third is shown
    torch.testing.assert_close(explanation.responses["video"].maps, video[2])
    image = maps_by_hand(model, x[4:5], "image")
    torch.testing.assert_close(explanation.responses["image"].maps, image[0])
    assert explanation.frames.equal(clip()[:, [0, 4, 7]].transpose(0, 1))


def test_channels_are_ranked_by_the_largest_value_of_their_maps():
    explanation = explain(network(), clip(), layer="-2", top=4)
    for response in explanation.responses.values():
        largest = [channel.max().item() for channel in response.maps]
        order = sorted(range(len(largest)), key=lambda channel: -largest[channel])
        assert response.top == tuple(order[:4])
        assert response.activations.tolist() == largest


def test_every_map_is_drawn_above_the_other_pathways_map_of_the_same_channel():
    explanation = explain(network(), clip(), layer="-3", top=2)
    frames, by_video, by_image, class_maps = make_figure(explanation).subfigs
    for part, rows in ((by_video, ("video", "image")), (by_image, ("image", "video"))):
        top = explanation.responses[rows[0]].top
        panels = np.array(part.axes).reshape(2, 2)
        for row, pathway in zip(panels, rows, strict=True):
            assert row[0].get_ylabel() == pathway
            for axes, channel in zip(row, top, strict=True):
                assert axes.get_title(loc="left") == str(channel)
                drawn = axes.images[0].get_array()
                assert np.array_equal(drawn, explanation.responses[pathway].maps[channel].numpy())
        for upper, lower in panels.T:  # one scale of colours for a pair
            assert upper.images[0].get_clim() == lower.images[0].get_clim()
    assert [axes.get_ylabel() for axes in frames.axes] == ["first", "middle", "last"]
    titles = [
        f"{response.class_map.label} {response.class_map.probability:.0%}"
        for response in explanation.responses.values()
    ]
    assert [axes.get_title() for axes in class_maps.axes] == titles


@pytest.mark.parametrize("label", [None, "turning", "cup"])
def test_grad_cam_is_that_of_the_gradient_by_hand(label):
    """The head is linear on a mean: a logit's gradient is its row of weights over the number of positions."""
    model = network()
    for pathway, response in explain(model, clip(), label=label).responses.items():
        task = {"turning": "acts", "cup": "things", None: {"video": "acts", "image": "things"}[pathway]}[label]
        x = normalize((clip() if pathway == "video" else clip()[:, 4])[None], SPEC)
        with torch.no_grad():
            features = model.forward_features(x, modality=pathway)[0]
            probabilities = model(x, modality=pathway, task=task)[0].softmax(0)
        number = CLASSES[task].index(label) if label else int(probabilities.argmax())
        weights = model.heads[pathway][task].weight[number].detach() / features[0].numel()
        cam = torch.einsum("c,c...->...", weights, features).relu()
        shown = response.class_map
        torch.testing.assert_close(shown.cam, cam[len(cam) // 2] if pathway == "video" else cam)
        assert (shown.task, shown.label) == (task, CLASSES[task][number])
        assert shown.probability == pytest.approx(probabilities[number].item())


def test_a_pathway_that_does_not_know_the_class_shows_its_own_best():
    model = network("unidual10")  # without auxiliary heads
    free, asked = (explain(model, clip(), label=label) for label in (None, "cup"))
    assert asked.responses["image"].class_map.label == "cup"
    assert asked.responses["video"].class_map.label == free.responses["video"].class_map.label


def test_classes_without_names_go_by_their_numbers():
    model = network(spec=InputSpec(resize=SIDE, crop=(SIDE, SIDE)))
    classes = [response.class_map.label for response in explain(model, clip(), label="2").responses.values()]
    assert classes == ["2", "2"]


def test_a_still_image_is_repeated_for_the_video_pathway():
    model = network()
    still, film = clip()[:, 3], clip()[:, 3:4].expand(-1, 8, -1, -1)
    of_still, of_film = explain(model, still), explain(model, film)
    for pathway in ("video", "image"):
        torch.testing.assert_close(of_still.responses[pathway].maps, of_film.responses[pathway].maps)
    assert of_still.frames.equal(still[None])
    assert [axes.get_ylabel() for axes in make_figure(of_still).subfigs[0].axes] == ["image"]


@pytest.mark.parametrize(
    ("name", "pathway"), [("r2d10", "image"), ("r2plus1d10", "video"), ("r2d10_lstm_multitask", "image")]
)
def test_one_pathway_has_its_own_half(name, pathway):
    explanation = explain(network(name), clip())
    assert list(explanation.responses) == [pathway]
    assert explanation.responses[pathway].class_map.cam.max() > 0
    _, maps, class_maps = make_figure(explanation).subfigs
    assert len(maps.axes) == 3
    assert len(class_maps.axes) == 1


def test_a_network_without_heads_has_maps_alone():
    explanation = explain(network(num_classes=0), clip())
    assert [response.class_map for response in explanation.responses.values()] == [None, None]
    assert explanation.to_dict()["pathways"]["image"]["class"] is None
    assert [axes.get_title() for axes in make_figure(explanation).subfigs[-1].axes] == ["no head"] * 2


@pytest.mark.parametrize("name", ["$_$", "\udcff", "a\n\x1b[2Jb"])
def test_class_names_are_drawn_as_text(tmp_path, name):
    classes = {"things": (name, f"{name} 2", f"{name} 3"), "acts": (f"{name} 4", f"{name} 5")}
    draw(explain(network(spec=dataclasses.replace(SPEC, classes=classes)), clip()), tmp_path / "explain.png")
    assert (tmp_path / "explain.png").read_bytes().startswith(b"\x89PNG")


def test_the_network_stays_as_it_was():
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    explain(model, clip())
    with pytest.raises(ValueError, match="top must be"):
        explain(model, clip(), top=0)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


def test_pathways_that_give_the_same_maps_are_told():
    same, other = (
        Response(maps=torch.full((2, 3, 3), value), activations=torch.ones(2), top=(0,), class_map=None)
        for value in (1.0, 2.0)
    )
    frames = torch.zeros(1, 3, 8, 8)
    for responses, agree in (({"video": same, "image": same}, True), ({"video": same, "image": other}, False)):
        assert Explanation(layer="a", frames=frames, responses=responses).pathways_agree is agree
    assert not Explanation(layer="a", frames=frames, responses={"video": same}).pathways_agree


def test_layers_go_by_index_over_the_blocks_or_by_name():
    model = network()
    assert [find_layer(model, name) for name in UNITS] == UNITS
    assert [find_layer(model, index) for index in ("-1", -4, "0", "3")] == [UNITS[8], UNITS[2], UNITS[2], UNITS[8]]
    bottlenecks = network(depths=(1, 2, 1, 1), block="bottleneck")
    assert find_layer(bottlenecks, "-3") == "stages.1.1.conv2"
    listed = f"no layer '4', allowed: -4 to 3 (residual blocks) or one of {', '.join(UNITS)}"
    with pytest.raises(ValueError, match=f"^{re.escape(listed)}$"):
        find_layer(model, "4")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "stages.3.0"}, "no layer 'stages.3.0', allowed: -4 to 3"),
        ({"top": 65}, "top must be from 1 to the 64 channels of stages.3.0.conv2, got 65"),
        ({"label": "cub"}, r"no class 'cub' in things, acts; the nearest: cup"),
        ({"clip": clip().float()}, r"needs a uint8 clip \(3, T, H, W\) or image \(3, H, W\), got torch.float32"),
        ({"clip": clip()[None]}, r"got torch.uint8 of shape \(1, 3, 8, 32, 32\)"),
        ({"clip": clip()[:, :0]}, r"got torch.uint8 of shape \(3, 0, 32, 32\)"),
    ],
)
def test_what_cannot_be_is_a_value_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        explain(network(), **{"clip": clip()} | arguments)


def test_a_network_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="evaluation mode"):
        explain(network().train(), clip())


def test_a_video_gives_the_clip_in_its_centre(tmp_path):
    frames = np.stack([np.full((SIDE, SIDE, 3), 12 * t, np.uint8) for t in range(20)])
    seen = read_clip(str(film(tmp_path / "a.mp4", frames)), network(), modality="video")
    assert seen.shape == (3, 8, SIDE, SIDE)
    assert [round(level / 12) for level in seen.float().mean((0, 2, 3)).tolist()] == list(range(6, 14))
    seen = read_clip(str(grey_image(tmp_path / "b.png", 2, size=(40, 50))), network(), modality="image")
    assert seen.shape == (3, SIDE, SIDE)


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny network in a folder, as `--model` takes it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    timm.models.save_for_hf(network(), folder, safe_serialization=True)
    return f"local-dir:{folder}"


@pytest.fixture
def run(capsys):
    """Runs `unidual explain` -> (exit status, standard output, standard error)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["explain", *(str(argument) for argument in arguments)])
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return run


@pytest.mark.parametrize("name", ["a.mp4", "b.png"])
def test_the_command_writes_a_picture_and_a_line_of_json(run, model, tmp_path, name):
    film(tmp_path / "a.mp4", scene(12))
    Image.fromarray(scene(1)[0]).save(tmp_path / "b.png")
    out, kept = tmp_path / "out.png", tmp_path / "out.json"
    status, line, _ = run(
        tmp_path / name, "--model", model, "--layer", "-2", "--top", 2, "--class", "cup", "--out", out, "--json", kept
    )
    assert status == 0
    result = json.loads(line)
    assert result == json.loads(kept.read_text())
    assert [*result] == ["file", "model", "out", "layer", "pathways"]
    assert (result["file"], result["layer"]) == (str(tmp_path / name), "stages.2.0.conv2")
    assert [*result["pathways"]] == ["video", "image"]
    for row in result["pathways"].values():
        assert len(row["channels"]) == len(row["activations"]) == 2
        assert (row["task"], row["class"]) == ("things", "cup")
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}/none.mp4", "--out", "{folder}/out.png"], "none.mp4"),
        (["{folder}/b.png", "--out", "{folder}/out.png", "--layer", "nine"], "no layer 'nine', allowed: -4 to 3"),
        (["{folder}/b.png", "--out", "{folder}/out.png", "--top", "0"], "top must be from 1 to the 64 channels"),
        (["{folder}/b.png", "--out", "{folder}/out.png", "--class", "dog"], "no class 'dog' in things, acts"),
        (["{folder}/b.png", "--out", "{folder}/out.mp4"], "must end in .png, .pdf, .svg, got {folder}/out.mp4"),
        (["{folder}/b.png", "--out", "{folder}/no/out.png"], "no folder {folder}/no for the picture"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_no_picture(run, model, tmp_path, arguments, message):
    grey_image(tmp_path / "b.png", 2)
    status, out, err = run(*(argument.format(folder=tmp_path) for argument in arguments), "--model", model)
    assert status == 2
    assert out == ""
    (line,) = err.splitlines()
    assert message.format(folder=tmp_path) in line
    assert [path.name for path in tmp_path.iterdir()] == ["b.png"]


def test_the_pictures_name_is_checked_before_the_work(run, tmp_path, monkeypatch):
    monkeypatch.setattr("unidual_zoo.inference.load_model", lambda *_, **__: pytest.fail("the work began"))
    status, _, err = run(tmp_path / "a.mp4", "--out", tmp_path / "out.txt")
    assert status == 2
    assert "must end in" in err


@pytest.mark.parametrize("name", ["a.PNG", "a.pdf", "a.svg"])
def test_pictures_of_three_formats_are_allowed(tmp_path, name):
    check_picture(tmp_path / name)
