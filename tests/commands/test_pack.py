"""`unidual pack` as a user meets it."""

import json

from fakes import grey_image
from said import lines


def test_packed_files_are_evaluated_as_they_were(run, model, data):
    (data / "acts/val/falling/torn.mp4").write_text("")
    status, text, err = run("pack", data / "acts", data / "shards", "--per-shard", 2, "--json", data / "packed.json")
    assert status == 1  # torn.mp4 is empty
    assert "left out" in err
    assert text.splitlines()[:-1] == [
        "val: 4 files in 3 shards (4 copied unchanged, not decoded), 0.0 MB before, 0.0 MB packed",
        "left out: 1 file that cannot be read",
        f"shards: {data / 'shards'}",
    ]
    (row,) = lines(data / "packed.json")
    assert json.loads(text.splitlines()[-1]) == row
    assert row["splits"]["val"]["files"] == 4
    assert (row["failed"], row["failures"][0]["error"]) == (1, "it is empty (0 bytes)")
    (data / "acts/val/falling/torn.mp4").unlink()
    for source in (data / "acts", data / "shards"):
        run("evaluate", "kinetics", "--data", source, "--model", model, "--json", data / f"{source.name}.json")
    plain, packed = (lines(data / f"{name}.json")[0] for name in ("acts", "shards"))
    assert {name for name in plain if plain[name] != packed[name]} <= {"data", "seconds", "views_per_second"}


def test_what_was_encoded_anew_is_told_and_what_was_there(run, data):
    for number in range(3):
        grey_image(data / f"things/test/bird/{number + 1}.png", 1, size=(80, 64))
    (data / "things/test/cup/1.png").write_bytes(bytes(1_460_000))
    packed = ("pack", data / "things", data / "shards", "--per-shard", 7)
    first, again, smaller = run(*packed), run(*packed), run("pack", data / "things", data / "small", "--short-side", 48)
    told = "test: 7 files in 1 shard (7 copied unchanged, not decoded), 1.5 MB before, 1.5 MB packed"
    assert first[1].splitlines()[:-1] == [told, f"shards: {data / 'shards'}"], "zeros are no image: nobody looks"
    assert again[1].splitlines()[:-1] == [told, f"shards: {data / 'shards'} (1 of them there before)"]
    assert smaller[1].splitlines()[:-1] == [
        "test: 6 files in 1 shard (3 encoded anew, 3 copied unchanged), 0.0 MB before, 0.0 MB packed",
        "left out: 1 file that cannot be read",
        f"shards: {data / 'small'}",
    ]
    assert (first[0], again[0], smaller[0]) == (0, 0, 1)
