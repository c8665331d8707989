"""What is left of a network's answers after fine-tuning: the benchmark, on networks of which that is known."""

import json

import forgetting
import pytest
import torch
from media import scene
from models.small import small
from PIL import Image
from timm.models import save_for_hf


@pytest.fixture
def saved(tmp_path):
    """Saves a network under a name -> the name by which it is loaded."""

    def save(model, name):
        save_for_hf(model, str(tmp_path / name), safe_serialization=True)
        return f"local-dir:{tmp_path / name}"

    return save


def test_a_trunk_answers_under_the_heads_that_it_had(saved, tmp_path, capsys):
    torch.manual_seed(0)
    start = small("unidual10", tasks={"pictures": ("image", 5), "clips": ("video", 3)})
    first = saved(start, "start")
    start.heads.image.pictures.weight.data.neg_()  # of the fine-tuned network: nobody asks for its head
    same = saved(start, "same")
    start.heads.image.pictures.weight.data.neg_()
    start.stem.spatial.weight.data.neg_()
    other = saved(start, "other")
    (tmp_path / "photos").mkdir()
    for number in range(6):
        Image.fromarray(scene(1, seed=number)[0]).save(tmp_path / f"photos/{number}.png")
    forgetting.main([same, other, "--start", first, "--images", str(tmp_path / "photos")])
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [row["network"] for row in rows] == [first, same, other]
    assert rows[0] == {**rows[1], "network": first}
    assert rows[0]["same answer"] == 100
    assert rows[2]["sure of it"] != rows[0]["sure of it"]


def test_another_trunk_is_named(saved, tmp_path):
    start = {"stem.weight": torch.ones(1, 2), "norm.bias": torch.ones(3), "heads.a.weight": torch.ones(1, 1)}
    for tuned, told in (
        ({}, r"stem\.weight is not there, in the start \(1, 2\)"),
        ({**start, "norm.bias": torch.ones(4)}, r"norm\.bias is \(4,\), in the start \(3,\)"),
    ):
        with pytest.raises(ValueError, match=f"^other has another trunk than its start: {told}$"):
            forgetting.under_own_heads(tuned, start, "other")
    one_pathway = {"stem.weight": 2 * start["stem.weight"], "heads.a.weight": torch.ones(5)}
    assert forgetting.under_own_heads(one_pathway, start, "other") == {
        **start, "stem.weight": one_pathway["stem.weight"],
    }  # fmt: skip
