"""What is said before a training, and what the number of files asks for."""

import pytest
from tiny import tiny_recipe

from unidual_zoo.data import identity
from unidual_zoo.data.identity import copies, with_two_labels
from unidual_zoo.training.finetune import finetune_recipe, scalable_network
from unidual_zoo.training.meter import in_words
from unidual_zoo.training.plan import (
    TaskPlan,
    make_plan,
    settings_by_size,
    settings_for_cpu,
    settings_for_few_steps,
)
from unidual_zoo.training.recipes import DataSettings, find_recipe


def plan(training, tests, task="t"):
    return TaskPlan(task=task, counts=training, num_tests=tests, split="split 'val'")


def test_copies_are_equal_bytes(tmp_path):
    contents = {"a": b"same", "b": b"sane", "c": b"", "d": b"same", "e": b"", "f": b"longer", "g": b"same"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    files = {name: str(tmp_path / name) for name in contents}
    found = copies([files[name] for name in "abc"], [*(files[name] for name in "defg"), str(tmp_path / "absent")])
    assert found == [(files["d"], files["a"]), (files["g"], files["a"])]


def test_files_in_two_classes_are_equal_bytes(tmp_path):
    contents = {"a": b"same", "b": b"same", "c": b"", "d": b"same", "e": b"", "f": b"sane", "g": b"once", "h": b"once"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    files = {name: str(tmp_path / name) for name in (*contents, "absent")}
    found = with_two_labels([*files.values()], [0, 0, 0, 1, 1, 1, 2, 2, 0])
    assert found == [(files[one], files[other]) for one, other in ("ad", "bd", "da")]


def test_only_files_that_begin_alike_are_read_whole(tmp_path):
    begun = b"x" * identity.BEGINNING
    contents = {"a": begun + b"1", "b": begun + b"2", "c": begun + b"1", "d": b"y" + begun, "e": b"x" + begun + b"3"}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    files, seen = [str(tmp_path / name) for name in contents], identity.Contents()
    assert with_two_labels(files, [0, 1, 2, 3, 4], contents=seen) == [(files[0], files[2]), (files[2], files[0])]
    assert seen._digests.keys() == {*files[:3]}


def test_one_picture_in_many_classes_takes_no_longer_for_it(tmp_path):
    class Label(int):
        compared = 0
        __hash__ = int.__hash__

        def __eq__(self, other):
            Label.compared += 1
            return int(self) == int(other)

        def __ne__(self, other):
            return not self == other

    (tmp_path / "placeholder").write_bytes(b"none")
    found = with_two_labels([str(tmp_path / "placeholder")] * 300, [Label(number) for number in range(300)])
    assert len(found) == 300
    assert Label.compared < 10 * 300


def test_a_plan_of_files(media):
    made = make_plan(tiny_recipe(media).data, seed=0)
    assert [task.lines() for task in made.tasks] == [
        [f"{name}: 10 training files of 2 classes (5 of each); 4 test files (split 'val')"]
        for name in ("pictures", "films")
    ]
    kept = DataSettings(tasks={"t": "image"}, data={"t": str(media / "pictures/val")}, hold_out=0.2)
    assert [task.line() for task in make_plan(kept, seed=0).tasks] == [
        "2 training files of 2 classes (1 of each); 2 test files (kept back: 20% of each class, at least one file "
        "where one can be spared)"
    ]
    assert plan({"a": 0, "b": 0}, 2).lines() == ["t: no training files of 2 classes; 2 test files (split 'val')"]
    copied = TaskPlan(task="t", counts={"b": 6, "a": 2}, num_tests=2, split="from x", copies=[("p", "q")])
    assert copied.lines() == [
        "t: 8 training files of 2 classes (from 'b' with 6 to 'a' with 2: 3.0 to 1); 2 test files (from x)",
        "t: a test file is a copy of training files, which flatters figures: p = q",
    ]


def test_what_a_reader_of_the_figures_has_to_know(tmp_path):
    for name in ("often/0.png", "often/1.png", "often/2.png", "once/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"same")
    data = DataSettings(tasks={"t": "image"}, data={"t": str(tmp_path)}, hold_out=0.2)
    with pytest.warns(UserWarning, match="t: 1 of 2 classes without a test file: once"):
        (task,) = make_plan(data, seed=0).tasks
    untested, copied, ambiguous = task.notes()
    assert untested == "1 of 2 classes without a test file: once"
    assert copied.startswith("a test file is a copy of training files")
    told = "3 training files stand in two classes, byte by byte the same: "
    assert ambiguous.startswith(told + str(tmp_path / "often"))
    assert f" = {tmp_path / 'once/0.png'}; check-data names all" in ambiguous
    assert len(task.lines()) == 3  # the first has been said as a warning


@pytest.mark.parametrize(
    ("plans", "given", "settings"),
    [
        ([plan({"a": 20, "b": 10}, 9)], [], {"eval_every": 0}),
        ([plan({"a": 20, "b": 10}, 9)], ["publish"], {}),
        ([plan({"a": 30, "b": 10}, 9)], [], {"eval_every": 0, "class_weights": "balanced"}),
        ([plan({"a": 30, "b": 10}, 9)], ["class_weights"], {"eval_every": 0}),
        ([plan({"a": 600, "b": 400}, 9)], [], {"validation": 0.1, "patience": 5, "publish": "best"}),
        ([plan({"a": 600, "b": 400}, 9), plan({"a": 999}, 900)], [], {"eval_every": 0}),
        ([plan({"a": 600, "b": 400}, 200)], ["validation"], {}),
        ([plan({"a": 0}, 100), plan({}, 100)], [], {"eval_every": 0}),
        ([], [], {}),
    ],
)
def test_the_size_of_the_data_decides_what_nobody_chose(plans, given, settings):
    changes, reasons = settings_by_size(plans, find_recipe("finetune"), given)
    assert changes == settings
    assert len(reasons) == bool({"eval_every", "validation"} & set(settings)) + ("class_weights" in settings)
    find_recipe("finetune").changed(**changes)


@pytest.fixture(scope="module")
def network():
    """EfficientNet-Lite0 with both pathways: 0.384 G multiply-adds of an image, 3.34 G of a clip, at 224 pixels."""
    return scalable_network(finetune_recipe("unidual_efficientnet_lite0", images="a", videos="b"))


def learns(*settings, **tasks):
    """The recipe `finetune` of tasks, as `images="image"`."""
    return find_recipe("finetune", settings).changed(tasks=tasks, data={name: name for name in tasks})


def test_a_cpu_learns_from_smaller_pictures_for_fewer_epochs_unless_somebody_chose(network):
    recipe = learns(images="image", videos="video")
    files = [plan({"a": 600, "b": 400}, 9, task="images"), plan({"a": 300}, 9, task="videos")]
    cheaper, reasons = settings_for_cpu(files, recipe, [], network)
    shorter = {"mix": {"images": 1000, "videos": 300}, "epoch_size": 650, "batch_size": 35}
    assert cheaper == {"resize": 146, "crop": (128, 128), "epochs": 10} | shorter
    assert reasons == [
        "on a CPU it makes 10 epochs, not 20, to be done sooner; more may be better (--set epochs=…)",
        "on a CPU an epoch has 1,000 of 1,000 images and 300 of 300 videos, in batches of 35: a clip takes as long as "
        "8 images (--set mix=… --set epoch_size=… --set batch_size=…)",
        "on a CPU it learns from pictures of 128 pixels: with 224, as the network's own are, two cores would take more "
        "than a quarter of an hour; larger ones may be better (--set resize=… --set crop=…)",
    ]
    assert recipe.changed(**cheaper).model.crop == (128, 128)
    assert settings_for_cpu(files, recipe, ["crop", "epochs", "mix"], network) == ({}, [])
    assert settings_for_cpu(files[:1], recipe, ["epochs"], None) == ({}, [])
    assert settings_for_cpu([*files, plan({}, 0)], recipe, ["epochs"], None) == ({}, [])
    assert settings_for_cpu([], recipe, ["epochs"], network) == ({}, [])


@pytest.mark.parametrize(
    ("images", "videos", "given", "settings"),
    [
        (50, 50, [], {}),
        (50, 300, [], {"epoch_size": 50}),  # each clip every sixth epoch
        (100, 50, [], {"mix": {"images": 100, "videos": 50}, "epoch_size": 75, "batch_size": 24}),
        (9000, 50, [], {"mix": {"images": 400, "videos": 50}, "epoch_size": 225, "batch_size": 72}),
        (100, 50, ["batch_size"], {"mix": {"images": 100, "videos": 50}, "epoch_size": 75}),
        (100, 50, ["mix"], {}),
    ],
)
def test_images_beside_fewer_clips_make_batches_larger(images, videos, given, settings):
    plans = [plan({"a": images}, 9, task="images"), plan({"a": videos}, 9, task="videos")]
    cheaper, _ = settings_for_cpu(plans, learns(images="image", videos="video"), ["epochs", *given], None)
    assert cheaper == settings


def test_clips_beside_fewer_clips_are_as_many():
    plans = [plan({"a": count}, 9, task=task) for task, count in (("few", 20), ("many", 90))]
    cheaper, reasons = settings_for_cpu(plans, learns(few="video", many="video"), ["epochs"], None)
    assert cheaper == {"epoch_size": 20}
    assert reasons == [
        "on a CPU an epoch has 20 of 20 few and 20 of 90 many: as many of each as the smallest has (--set epoch_size=…)"
    ]


@pytest.mark.parametrize(
    ("files", "tests", "settings", "side"),
    [
        # (min(n, 2048) looks + 5 passes x 10 epochs x n + tests) x 0.384 G beside 18 T
        (800, 100, (), None),  # 15.7 T
        (1000, 250, (), 208),  # 19.7 T: 224 x sqrt(18 / 19.7) = 214
        (3000, 300, (), 128),  # 58.5 T: 124
        (9000, 300, ("epochs=0",), None),
        (9000, 300_000, ("epochs=0",), 128),  # the files to test it on take long, too,
        (1000, 3000, ("eval_every=0",), 208),  # once, 20.7 T: 209,
        (1000, 3000, ("eval_every=5",), 192),  # twice more, 23.0 T: 198,
        (1000, 3000, ("eval_every=1",), 160),  # or ten times more, 32.3 T: 167;
        (1000, 3000, ("eval_every=1", "validation=0.1"), 192),  # but of 100 that were kept back, 21.1 T: 207
    ],
)
def test_pictures_are_as_large_as_a_quarter_of_an_hour_allows(network, files, tests, settings, side):
    plans = [plan({"a": files}, tests, task="images")]
    cheaper, _ = settings_for_cpu(plans, learns(*settings, images="image"), [], network)
    assert cheaper.get("crop") == (side and (side, side))


def test_images_that_a_network_of_videos_inflates_cost_as_much_as_clips():
    inflating = scalable_network(finetune_recipe("ircsn50", images="a", settings=["pretrained=false"]))
    (size,) = {
        settings_for_cpu([plan({"a": 300}, 9, task=task)], learns(**{task: task}), ["epochs"], inflating)[0]["crop"]
        for task in ("image", "video")
    }
    assert size == (128, 128)


@pytest.mark.parametrize(
    ("files", "settings", "given", "steadier"),
    [
        (160, ["epochs=9"], (), {"lr": 0.0009, "head_lr": 0.01}),  # 10 steps an epoch
        (160, ["epochs=10"], (), {}),
        (160, ["epochs=0"], (), {}),
        (9, ["epochs=5"], (), {"lr": 0.00005, "head_lr": 0.01}),  # a step each
        (160, ["epochs=9", "fit_heads=false"], (), {}),
        (160, ["epochs=9"], ("head_lr",), {"lr": 0.0009}),
        (160, ["epochs=9"], ("lr", "head_lr"), {}),
    ],
)
def test_few_steps_do_not_undo_what_the_fit_gives(files, settings, given, steadier):
    recipe = learns(*settings, images="image")
    found, reasons = settings_for_few_steps([plan({"a": files}, 9, task="images")], recipe, given)
    assert found == steadier
    assert len(reasons) == bool(steadier)
    recipe.changed(**found)


def test_the_reason_for_a_lower_rate():
    recipe = learns("epochs=5", images="image")
    _, (reason,) = settings_for_few_steps([plan({"a": 9}, 9, task="images")], recipe, ())
    assert reason == (
        "with so few files and epochs it makes only 5 steps: it learns slowly, with lr=0.00005, head_lr=0.01, not to "
        "undo what the fit of the heads gives (--set lr=… --set head_lr=…)"
    )


def test_nothing_is_decided_for_epochs_where_there_are_none():
    recipe, files = find_recipe("finetune", ["epochs=0"]), [plan({"a": 60, "b": 40}, 9), plan({"a": 30}, 9)]
    assert settings_by_size(files, recipe, ["epochs"]) == ({}, [])
    assert settings_for_cpu(files, recipe, ["epochs"], None) == ({}, [])


@pytest.mark.parametrize(("seconds", "words"), [(41.4, "41 s"), (725, "12 min"), (12_000, "3 h 20 min")])
def test_times_are_told_in_words(seconds, words):
    assert in_words(seconds) == words
