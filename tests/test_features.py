"""Files to vectors, tables that survive a kill, and the nearest files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from fakes import SIDE, grey_image, grey_video

from unidual.app import main
from unidual_zoo import features
from unidual_zoo.data.transforms import normalize
from unidual_zoo.features import (
    Extractor,
    Features,
    Index,
    find_output,
    load_reproducibly,
    read_table,
    weights_digest,
    write_features,
)
from unidual_zoo.scoring import Protocol, ViewReader
from unidual_zoo.spec import ClipSpec, InputSpec

TASKS = {"things": ("image", 3), "acts": ("video", 2)}
SPEC = InputSpec(resize=SIDE, crop=(SIDE, SIDE), clip=ClipSpec(length=2))
TWO = Protocol(name="two", clips=2)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return timm.create_model("unidual10", tasks=TASKS, spec=SPEC, width=1 / 16, depths=(1, 1, 1, 1)).eval()


@pytest.fixture
def files(tmp_path):
    torn = tmp_path / "torn.mp4"
    torn.write_text("a text file called .mp4")
    image, video = grey_image(tmp_path / "a.png", 3), grey_video(tmp_path / "b.mp4", [0, 1, 2, 3, 4])
    return [str(image), str(torn), str(video)]


@torch.inference_mode()
def test_features_are_what_the_network_gives(network, files):
    image, _, video = files
    for pathway in (None, "video"):
        a, broken, b = Extractor(network, protocol=TWO, pathway=pathway, batch_size=2)(files)
        assert broken.vector is None
        assert "it cannot be opened as a video" in (broken.error or "")
        assert [(row.path, row.modality) for row in (a, b)] == [(image, "image"), (video, "video")]
        for row in (a, b):
            views = ViewReader(row.modality, SPEC, TWO)(row.path)[0]
            way = pathway or row.modality
            maps = network.forward_features(normalize(views, SPEC), modality=way)
            np.testing.assert_allclose(row.vector, maps.flatten(2).mean((0, 2)), rtol=1e-4, atol=1e-5)
            assert row.vector is not None
            assert row.vector.shape == (network.num_features,)


@torch.inference_mode()
def test_a_layer_and_its_maps(network, files):
    image, _, video = files
    name = network.feature_info[1]["module"]
    assert (
        find_output(network, name) == find_output(network, "1") == find_output(network, -len(network.feature_info) + 1)
    )
    for file, modality in ((image, "image"), (video, "video")):
        (pooled,) = Extractor(network, protocol=TWO, layer=name)([file])
        (maps,) = Extractor(network, protocol=TWO, layer=1, pooled=False)([file])
        x = normalize(ViewReader(modality, SPEC, TWO)(file)[0], SPEC)
        (expected,) = network.forward_intermediates(x, [1], intermediates_only=True)
        np.testing.assert_allclose(maps.vector, expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(pooled.vector, expected.flatten(2).mean((0, 2)), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=rf"no layer 'none', allowed: -\d to \d or one of .*{name}"):
        find_output(network, "none")


class Killed(Exception):
    """In place of a signal."""


class FakeExtract:
    """Vectors [number of the name's letters, …]; "bad" fails, and the first call ends behind `most` rows."""

    def __init__(self, most: int) -> None:
        self.most, self.asked = most, []

    def __call__(self, files) -> Any:
        self.asked.append([Path(file).name for file in files])
        for number, file in enumerate(files):
            if len(self.asked) == 1 and number == self.most:
                raise Killed
            bad = Path(file).name == "bad"
            vector = None if bad else np.full(3, len(Path(file).name), np.float32)
            yield Features(file, "image", vector, "it is bad" if bad else None)


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ".parquet"])
def test_a_killed_run_goes_on_and_no_row_is_lost_or_doubled(tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    names = ["a", "bad", "ccc", "dddd", "eeeee"]
    for name in names:
        (tmp_path / name).write_text(name)
    paths = [str(tmp_path / name) for name in names]
    out, facts = tmp_path / f"table{ending}", {"model": "fake", "layer": None}
    with pytest.raises(Killed):
        list(write_features(paths, out, FakeExtract(most=0), facts=facts | {"layer": 1}))
    extract = FakeExtract(most=3)
    with pytest.raises(Killed):  # another run, since the one before made nothing
        list(write_features(paths, out, extract, facts=facts))
    assert not out.exists()
    log = out.with_name(f".{out.name}.rows")
    with log.open("a") as file:
        file.write('{"path": "half a li')
    (tmp_path / "ccc").write_text("it is another file now")
    with pytest.raises(ValueError, match=r"rows made with other settings \(layer\): remove it"):
        list(write_features(paths, out, extract, facts=facts | {"layer": 1}))
    list(write_features([*paths, paths[0]], out, extract, facts=facts))
    assert extract.asked == [names, ["bad", "ccc", "dddd", "eeeee"]]
    rows, read = read_table(out)
    assert read == facts
    assert [row.path for row in rows] == paths
    assert [None if row.vector is None else row.vector.tolist() for row in rows] == [
        [1] * 3, None, [3] * 3, [4] * 3, [5] * 3
    ]  # fmt: skip
    assert [row.error for row in rows] == [None, "it is bad", None, None, None]
    assert not log.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, out.name])


def test_two_runs_do_not_write_one_table(tmp_path):
    """Before its first row, too, when a run may otherwise be begun with other settings."""
    (tmp_path / "a").write_text("a")
    paths, out = [str(tmp_path / "a")], tmp_path / "table.npz"

    def extract(files):
        with pytest.raises(ValueError, match=r"table.npz is being made by process \d+ on .*: wait for it, or choose"):
            list(write_features(paths, out, FakeExtract(most=9), facts={"layer": 1}))
        yield from FakeExtract(most=9)(files)

    list(write_features(paths, out, extract, facts={"layer": 0}))
    assert read_table(out)[1] == {"layer": 0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "table.npz"]


def test_vectors_of_two_shapes_need_parquet(tmp_path):
    rows = [Features(name, "image", np.zeros(size, np.float32), None) for name, size in (("a", 2), ("b", 3))]
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\) \(b\) go into .parquet alone"):
        list(write_features(["a", "b"], tmp_path / "t.npz", lambda files: iter(rows), facts={}))
    with pytest.raises(ValueError, match=r"must end in .parquet, .npz, .safetensors, got .*t.csv"):
        list(write_features(["a"], tmp_path / "t.csv", lambda files: iter(rows), facts={}))
    (tmp_path / "bad.npz").write_text("nothing")
    with pytest.raises(ValueError, match=r"bad.npz is no table that `unidual features` wrote"):
        read_table(tmp_path / "bad.npz")


def test_weights_that_no_file_holds_are_the_same_in_every_call(monkeypatch):
    monkeypatch.setattr(features, "load_network", lambda name, checkpoint: torch.nn.Linear(3, 2))
    state = torch.get_rng_state()
    first, second = (weights_digest(load_reproducibly("any")) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == second != weights_digest(torch.nn.Linear(3, 2))  # type: ignore[arg-type]


def test_the_nearest_by_cosine():
    vectors = [[1, 0], [0, 2], [3, 3], [-1, 0], [0, 0], [1, 1, 1]]
    rows = [Features(str(i), "image", np.array(vector, np.float32), None) for i, vector in enumerate(vectors)]
    index = Index([*rows, Features("failed", "image", None, "why")])
    found = index.nearest(np.array([5, 0], np.float32), top=4)
    assert [near.file for near in found] == ["0", "2", "1", "4"]  # equal ones in the table's order
    assert [near.score for near in found] == pytest.approx([1, 0.5**0.5, 0, 0])
    assert [near.file for near in index.nearest(np.array([2, 2, 2], np.float32))] == ["5"]
    with pytest.raises(ValueError, match="no vectors of 4 numbers, it has: 2, 3"):
        index.nearest(np.zeros(4, np.float32))


def test_the_commands(network, files, tmp_path, capsys):
    timm.models.save_for_hf(network, tmp_path / "tiny", safe_serialization=True)
    printed: list[str] = []

    def run(*arguments) -> tuple[int, dict]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        printed[:] = capsys.readouterr().out.splitlines()
        return end.value.code, json.loads(printed[-1])

    out, model = tmp_path / "table.safetensors", f"local-dir:{tmp_path / 'tiny'}"
    status, made = run(
        "features", *files, "--out", out, "--model", model, "--pathway", "video", "--protocol", "one_clip"
    )
    assert status == 1
    assert made == {"out": str(out), "files": 3, "made": 3, "failed": 1}
    assert printed[:-1] == [f"{out}: 3 files, 3 read now, of which 1 failed"]
    status, answer = run("search", out, files[2], "--top", 1)
    assert status == 0
    (query,) = answer["queries"]
    assert query["query"] == query["nearest"][0]["file"] == files[2]
    assert query["nearest"][0]["score"] == pytest.approx(1)
    status, made = run("features", *files, "absent.mp4", "--out", out, "--model", model, "--modality", "image")
    assert (status, made["files"], made["failed"]) == (1, 2, 1)
