"""The network of a run: built, started from another run, published; and its files."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from tiny import tiny_recipe

from unidual_zoo.data.datasets import MediaSet
from unidual_zoo.spec import ClipSpec
from unidual_zoo.training.network import build_model, export, recompute_norms, trained_weights
from unidual_zoo.training.objective import JointObjective
from unidual_zoo.training.rundir import BEST, LAST, RunError, save_checkpoint
from unidual_zoo.training.sources import hold_out, read_sources


def build(media, name, *settings):
    recipe = tiny_recipe(media, f"model={name}", *settings)
    return build_model(recipe.model, sources(recipe)[0])


def sources(recipe):
    return read_sources(recipe.data, seed=recipe.run.seed)


def test_the_network_of_a_recipe(media):
    model = build(media, "unidual10_aux")
    assert {name: (task.modality, task.num_classes) for name, task in model.tasks.items()} == {
        "pictures": ("image", 2),
        "films": ("video", 2),
    }
    assert model.pathway_tasks("image") == model.pathway_tasks("video") == ("pictures", "films")
    assert (model.spec.resize, model.spec.crop) == ((36, 40), (32, 32))
    assert model.spec.clip == ClipSpec(length=4, stride=2)
    assert model.spec.class_names("films") == ("circle", "square")
    assert model.pretrained_cfg["input_size"] == (3, 32, 32)


def test_an_exported_network_comes_back(media, tmp_path):
    model = build(media, "unidual10_aux").eval()
    model.drop_auxiliary_heads()
    export(model, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images, clips = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 4, 32, 32)
    assert torch.equal(again(images), model(images))
    assert torch.equal(again(clips), model(clips))
    assert again.spec == model.spec


@pytest.mark.parametrize(("name", "auxiliary"), [("unidual10_aux", True), ("unidual10", False)])
def test_a_network_has_the_auxiliary_heads_of_its_architecture_whatever_its_tag_has(media, name, auxiliary):
    """Published weights come without them."""
    tagged = build(media, f"{name}.toy" if auxiliary else name, "model_args={}", f"pretrained={str(auxiliary).lower()}")
    assert tagged.auxiliary == auxiliary
    both = ("pictures", "films")
    assert tagged.pathway_tasks("video") == (both if auxiliary else ("films",))


def save_run(model, path, *, ema=None):
    path.mkdir(exist_ok=True)
    save_checkpoint(path / LAST, {"model": model.state_dict(), "ema": ema})
    return path


def test_a_run_starts_from_anothers_weights(media, tmp_path):
    first = build(media, "unidual10_aux")
    second = build(media, "unidual10_aux", f"init={save_run(first, tmp_path)}", "seed=1")
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())
    with pytest.raises(RuntimeError, match="does not fit"):
        build(media, "unidual10_aux", f"init={tmp_path}", 'model_args={"width": 0.125}')
    with pytest.raises(RunError, match="there is no checkpoint"):
        build(media, "unidual10_aux", f"init={tmp_path / 'other'}")


def test_the_weights_of_a_run_are_the_last_or_the_best_and_the_averaged_ones(tmp_path):
    for file, value in ((LAST, 1.0), (BEST, 2.0)):
        save_checkpoint(tmp_path / file, {"model": {"a": torch.tensor(value)}, "ema": None})
    assert trained_weights(tmp_path)["a"] == 1
    assert trained_weights(tmp_path, checkpoint="best")["a"] == 2
    assert trained_weights(tmp_path / LAST)["a"] == 1
    save_checkpoint(tmp_path / BEST, {"model": {"a": torch.tensor(2.0)}, "ema": {"a": torch.tensor(3.0)}})
    assert trained_weights(tmp_path, checkpoint="best")["a"] == 3
    with pytest.raises(ValueError, match="no checkpoint 'first'"):
        trained_weights(tmp_path, checkpoint="first")


def test_an_r2d_is_inflated_into_an_r2plus1d(media, tmp_path):
    images = build(media, "r2d10", "tasks=pictures:image")
    video = build(media, "r2plus1d10", "tasks=films:video", f"init={save_run(images, tmp_path)}")
    torch.testing.assert_close(
        video.stem.pointwise["video"].weight.sum(2), images.stem.pointwise["image"].weight[:, :, 0]
    )
    assert torch.equal(video.stem.spatial.weight, images.stem.spatial.weight)


def test_an_r2plus1d_is_deflated_into_an_r2d(media, tmp_path):
    video = build(media, "r2plus1d10", "tasks=films:video")
    images = build(media, "r2d10", "tasks=pictures:image", f"init={save_run(video, tmp_path)}")
    torch.testing.assert_close(
        images.stem.pointwise["image"].weight[:, :, 0], video.stem.pointwise["video"].weight.sum(2)
    )


def test_both_pathways_start_from_one(media, tmp_path):
    images = build(media, "r2d10", "tasks=pictures:image")
    dual = build(media, "unidual10_aux", f"init={save_run(images, tmp_path)}")
    assert all(torch.equal(dual.state_dict()[key], value) for key, value in images.state_dict().items())
    torch.testing.assert_close(
        dual.stem.pointwise["video"].weight.sum(2), images.stem.pointwise["image"].weight[:, :, 0]
    )
    assert set(images.adopt(dual.state_dict())) == set(images.state_dict()) | {
        "heads.image.films.weight",
        "heads.image.films.bias",
    }


def test_recomputed_norms_hold_the_average_over_the_batches(media):
    model = build(media, "r2d10", "tasks=pictures:image")
    batches = [{"pictures": (torch.randn(4, 3, 32, 32), torch.zeros(4, dtype=torch.long))} for _ in range(3)]
    momentum = model.stem.norm["image"].momentum
    seen = []
    hook = model.stem.spatial.register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    recompute_norms(JointObjective(model).eval(), batches)
    hook.remove()
    means = torch.stack([out.mean((0, 2, 3)) for out in seen]).mean(0)
    torch.testing.assert_close(model.stem.spatial_norm["image"].running_mean, means)
    assert model.stem.norm["image"].momentum == momentum
    assert not model.training

    frozen = JointObjective(model, freeze_norms=True)
    before = model.stem.norm["image"].running_mean.clone()
    recompute_norms(frozen, batches)
    assert torch.equal(model.stem.norm["image"].running_mean, before)


# ---- files ----------------------------------------------------------------------------------------------------------


def test_the_files_of_a_recipe(media):
    train, test = sources(tiny_recipe(media))
    assert {task: (len(train[task]), len(test[task])) for task in train} == {"pictures": (10, 4), "films": (10, 4)}
    assert train["films"].classes == test["films"].classes == ("circle", "square")
    assert not set(train["films"].files) & set(test["films"].files)


def test_lists_and_folders_without_a_split(media, tmp_path):
    folder = media / "pictures" / "train"
    recipe = tiny_recipe(media, "tasks=pictures:image", f"data=pictures:{folder}")
    with pytest.raises(ValueError, match="no test files for pictures"):
        sources(recipe)
    train, test = sources(recipe.changed(hold_out=0.2))
    assert (len(train["pictures"]), len(test["pictures"])) == (8, 2)

    rows = [
        f"{file},{file.parent.name},{'train' if file.stem < '3' else 'val'}" for file in sorted(folder.rglob("*.png"))
    ]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    train, test = sources(recipe.changed(data={"pictures": str(tmp_path / "list.csv")}))
    assert (len(train["pictures"]), len(test["pictures"])) == (6, 4)

    elsewhere = recipe.changed(test_data={"pictures": str(media / "pictures")})
    assert len(sources(elsewhere)[1]["pictures"]) == 4


@pytest.mark.filterwarnings("ignore:films. 1 of 2 classes without a test file")
@pytest.mark.parametrize("header", ["path,label,split", "path,label,Split"])
def test_the_rows_of_a_list_that_are_for_testing_are_not_trained_on(media, tmp_path, header):
    files = sorted((media / "films" / "train").rglob("*.avi"))[:8]
    for training, fails in (("training", True), ("train", False)):
        rows = [f"{file},{file.parent.name},{training if i < 6 else 'val'}" for i, file in enumerate(files)]
        (tmp_path / "list.csv").write_text("\n".join([header, *rows]))
        recipe = tiny_recipe(media, "tasks=films:video", f"data=films:{tmp_path / 'list.csv'}", "hold_out=0.5")
        if fails:
            with pytest.raises(ValueError, match="has no split train, there is: training, val"):
                sources(recipe)
        else:
            train, test = sources(recipe)
            assert (len(train["films"]), len(test["films"])) == (6, 2)


def test_a_class_of_one_file_leaves_nothing_to_test(media, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.mp4").touch()
    with pytest.raises(ValueError, match="has two files, of which"):
        sources(tiny_recipe(media, "tasks=films:video", f"data=films:{tmp_path}", "hold_out=0.2"))


def test_classes_that_say_little_are_noticed(media, tmp_path):
    for name, count in (("often", 5), ("once", 1)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.mp4").touch()
    with pytest.warns(UserWarning, match="films: 1 of 2 classes without a test file: once"):
        sources(tiny_recipe(media, "tasks=films:video", f"data=films:{tmp_path}", "hold_out=0.2"))
    (tmp_path / "once/0.mp4").unlink()
    (tmp_path / "once").rmdir()
    with pytest.warns(UserWarning, match="films: 'often' is the only class"):
        sources(tiny_recipe(media, "tasks=films:video", f"data=films:{tmp_path}", "hold_out=0.2"))


def test_test_files_that_are_trained_on_are_noticed(media):
    place = media / "films" / "train"
    recipe = tiny_recipe(media, "tasks=films:video", f"data=films:{place}", f"test_data=films:{place}")
    with pytest.warns(UserWarning, match="films: the training files hold 10 test files, which"):
        sources(recipe)


def test_the_embedded_data_has_its_own_test_files(media):
    with pytest.raises(ValueError, match="leave out --test"):
        sources(tiny_recipe(media, "tasks=films:video", "data=films:toy", "test_data=films:x"))


def test_arguments_of_the_network_go_before_its_name(media):
    plain = build(media, "unidual10_aux", 'model_args={"width": 0.0625, "auxiliary": false}')
    assert (plain.pathway_tasks("image"), plain.pathway_tasks("video")) == (("pictures",), ("films",))
    with pytest.raises(ValueError, match=r"model_args \{'foo': 1\} do not fit unidual10_aux"):
        build(media, "unidual10_aux", 'model_args={"foo": 1}')
    with pytest.raises(ValueError, match="no model 'unidual11', nearest"):
        build(media, "unidual11")


def test_a_task_without_data_is_named(media):
    recipe = tiny_recipe(media, "tasks=pictures:image,films:video,k400:video")
    with pytest.raises(ValueError, match=r"no data for k400: .*--data k400=.*--set tasks=pictures:image,films:video"):
        sources(recipe)


def test_holding_out_parts_every_class():
    labels = tuple(np.repeat([0, 1, 2], [10, 5, 1]).tolist())
    media = MediaSet("image", ("a", "b", "c"), tuple(map(str, range(16))), labels)
    train, test = hold_out(media, 0.2)
    assert [train.labels.count(label) for label in range(3)] == [8, 4, 1]
    assert [test.labels.count(label) for label in range(3)] == [2, 1, 0]
    assert sorted(map(int, train.files + test.files)) == list(range(16))
    assert all(labels[int(file)] == label for file, label in zip(train.files, train.labels, strict=True))
    assert hold_out(media, 0.2) == (train, test)
    assert hold_out(media, 0.2, seed=1) != (train, test)


def plain_hold_out(media, share, seed):
    """The files held out where each is alone: of each class the first of a random order."""
    rng, held = np.random.default_rng(seed), []
    for label in range(len(media.classes)):
        indices = rng.permutation([i for i, other in enumerate(media.labels) if other == label])
        held += indices[: min(max(1, round(share * len(indices))), len(indices) - 1)].tolist()
    return tuple(media.files[int(i)] for i in sorted(held))


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_files_that_are_alone_are_held_out_as_if_there_were_no_groups(share):
    rng = np.random.default_rng(0)
    labels = tuple(rng.integers(0, 9, 200).tolist())
    files = tuple(f"{i}.jpg" for i in range(200))
    for seed in range(3):
        media = MediaSet("image", tuple("abcdefghi"), files, labels)
        expected = plain_hold_out(media, share, seed)
        for groups in ((), ("",) * 200, tuple(f"{i}" for i in range(200))):
            train, test = hold_out(dataclasses.replace(media, groups=groups), share, seed=seed)
            assert test.files == expected
            assert sorted(train.files + test.files) == sorted(files)
            assert test.groups == tuple(groups[files.index(file)] for file in test.files if groups)


def grouped(sizes, *, classes=2):
    """A set of groups "0", "1" …, the first of `sizes[0]` files, whose classes take turns from group to group."""
    rows = [(group % classes, f"{group}") for group, size in enumerate(sizes) for _ in range(size)]
    labels, groups = zip(*rows, strict=True)
    return MediaSet("video", tuple("abcd"[:classes]), tuple(map(str, range(len(rows)))), labels, groups)


@pytest.mark.parametrize("seed", range(5))
def test_holding_out_never_parts_a_group(seed):
    sizes = np.random.default_rng(seed).integers(1, 9, 60).tolist()
    media = grouped(sizes)
    train, test = hold_out(media, 0.2, seed=seed)
    assert not set(train.groups) & set(test.groups)
    assert len(train) + len(test) == len(media)
    for label in (0, 1):
        wanted = 0.2 * media.labels.count(label)
        assert abs(test.labels.count(label) - wanted) <= 4  # half of the largest group


def test_a_group_too_large_for_the_share_is_not_held_out_where_others_are():
    train, test = hold_out(grouped([50, 50, 5, 5, 5, 5, 5, 5]), 0.2)  # of each class 50 + 3 × 5, 13 wanted
    assert not set(test.groups) & {"0", "1", *train.groups}
    assert [test.labels.count(label) for label in (0, 1)] == [15, 15]
    assert [hold_out(grouped([30, 20], classes=1), 0.1, seed=seed)[1].groups for seed in range(3)] == [("1",) * 20] * 3


def test_a_class_of_one_group_stays_whole_for_training():
    media = MediaSet("image", ("a", "b"), tuple("123456"), (0, 0, 0, 1, 1, 1), ("p", "p", "p", "q", "q", "r"))
    train, test = hold_out(media, 0.2)
    assert (train.labels.count(0), test.labels.count(0), test.labels.count(1)) == (3, 0, 1)
    both = MediaSet("image", ("a", "b"), tuple("1234"), (0, 0, 0, 1), ("p", "", "", "p"))  # p is all of class b
    train, test = hold_out(both, 0.5)
    assert set(train.files) >= {"1", "4"}
    assert test.files == ("2", "3")


def test_rows_of_one_file_stay_on_one_side(media, tmp_path):
    rows = [f"{i}.png,{'dog' if i % 2 else 'cat'}" for i in range(1, 9) for _ in range(3)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    settings = ("tasks=pictures:image", f"data=pictures:{tmp_path / 'list.csv'}", "hold_out=0.2")
    for seed in range(3):
        train, test = (part["pictures"] for part in sources(tiny_recipe(media, *settings, f"seed={seed}")))
        assert not set(train.files) & set(test.files)
        assert [(len(part), len(set(part.files))) for part in (train, test)] == [(18, 6), (6, 2)]


def test_links_to_one_file_stay_on_one_side(media, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(5):
            (tmp_path / f"{name}/{number}.png").touch()
            (tmp_path / f"{name}/{number} soft.png").symlink_to(f"{number}.png")
            (tmp_path / f"{name}/{number} hard.png").hardlink_to(tmp_path / f"{name}/{number}.png")
    recipe = tiny_recipe(media, "tasks=pictures:image", f"data=pictures:{tmp_path}", "hold_out=0.4")
    train, test = (part["pictures"] for part in sources(recipe))
    assert (len(train), len(test)) == (18, 12)
    sides = [{(Path(file).parent.name, Path(file).name[0]) for file in part.files} for part in (train, test)]
    assert not sides[0] & sides[1]


def test_groups_on_both_sides_are_noticed(media, tmp_path):
    rows = ["a.png,cat,p,train", "b.png,dog,q,train", "c.png,cat,p,val", "d.png,dog,r,val", "e.png,dog,,train"]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,group,split", *rows, "f.png,dog,,val"]))
    recipe = tiny_recipe(media, "tasks=pictures:image", f"data=pictures:{tmp_path / 'list.csv'}")
    with pytest.warns(
        UserWarning, match=r"pictures: training and test files are in 1 group \(p\), which flatters figures"
    ):
        sources(recipe)


@pytest.mark.parametrize("link", [None, "symlink_to", "hardlink_to"])
def test_test_files_under_another_path_are_noticed(media, tmp_path, link):
    for name in ("train/cat/a.png", "train/dog/b.png", "val/cat/c.png", "val/dog/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    if link:
        getattr(tmp_path / "val/cat/e.png", link)(tmp_path / "train/cat/a.png")
    else:
        (tmp_path / "val/cat/more").symlink_to(tmp_path / "train/cat")
    recipe = tiny_recipe(media, "tasks=pictures:image", f"data=pictures:{tmp_path}")
    with pytest.warns(UserWarning, match="pictures: the training files hold 1 test file, which flatters figures"):
        sources(recipe)


def test_a_file_with_one_label_for_training_and_another_for_testing_is_refused(media, tmp_path):
    for name in ("train/cat/a.png", "train/dog/b.png", "val/cat/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "val/dog").symlink_to(tmp_path / "train/cat")
    recipe = tiny_recipe(media, "tasks=pictures:image", f"data=pictures:{tmp_path}")
    with pytest.raises(
        ValueError, match=r"train/cat/a\.png and .*val/dog/a\.png are one file with the labels 'cat' and"
    ):
        sources(recipe)


def test_test_files_of_one_task_that_another_trains_on_are_noticed(media, tmp_path):
    for kind, labels in (("shape", ("round", "square")), ("colour", ("red", "blue"))):
        rows = [f"{i}.png,{labels[i % 2]},{'train' if (i < 3) == (kind == 'shape') else 'val'}" for i in range(5)]
        (tmp_path / f"{kind}.csv").write_text("\n".join(["path,label,split", *rows]))
    data = ",".join(f"{kind}:{tmp_path / f'{kind}.csv'}" for kind in ("shape", "colour"))
    with pytest.warns(UserWarning, match="flatters") as told:
        sources(tiny_recipe(media, "tasks=shape:image,colour:image", f"data={data}"))
    texts = [str(warning.message) for warning in told]
    assert "shape: the training files of colour hold 2 test files, which flatters figures" in texts
    assert "colour: the training files of shape hold 3 test files, which flatters figures" in texts


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a\x1bb", "x" * 101])
def test_a_task_whose_files_could_not_be_written_is_refused(media, name):
    recipe = tiny_recipe(media).changed(tasks={name: "image"}, data={name: str(media / "pictures")})
    with pytest.raises(ValueError, match="cannot be part of file names"):
        sources(recipe)
