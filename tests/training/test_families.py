"""A family from outside the package is trained, resumed, published, served, shown and listed as those in it are."""

import dataclasses
import json

import pytest
import timm
import torch
import torch.nn.functional as F
from models import tokennet
from tiny import tiny_recipe

from unidual_zoo.explain import explain
from unidual_zoo.training.objective import JointObjective
from unidual_zoo.training.rundir import LAST, LOG, load_checkpoint, read_log
from unidual_zoo.training.trainer import Trainer, train

ARGUMENTS = {"width": 16, "depth": 2, "patch": 8}
NETWORK = ("model=tokennet", f"model_args={json.dumps({**ARGUMENTS, 'auxiliary': True})}")
TASKS = {"pictures": ("image", 2), "films": ("video", 2)}


@pytest.fixture(scope="module")
def trained(media, tmp_path_factory):
    """The directory of a run of TokenNet."""
    out = tmp_path_factory.mktemp("runs") / "tokens"
    train(tiny_recipe(media, *NETWORK, "ema=0.5"), out=out)
    return out


def losses(out):
    return [line["loss/total"] for line in read_log(out / LOG) if line["event"] == "train"]


def test_a_joint_steps_losses_are_those_of_separate_calls():
    model = timm.create_model("tokennet", **ARGUMENTS, tasks=TASKS, auxiliary=True, num_frames=4).double().eval()
    batch = {
        "pictures": (torch.randn(3, 3, 32, 32).double(), torch.tensor([0, 1, 1])),
        "films": (torch.randn(2, 3, 1, 32, 32).double().expand(-1, -1, 4, -1, -1), torch.tensor([1, 0])),
    }
    joint = JointObjective(model)(batch)
    joint["total"].backward()
    gradients = {key: weight.grad.clone() for key, weight in model.named_parameters()}
    model.zero_grad()
    alone = {}
    for task, (x, labels) in batch.items():
        for pathway in model.pathways:  # the one frame of a film is any, as they are equal
            seen = x[:, :, 0] if x.ndim == 5 and pathway == "image" else x
            alone[f"{task}.{pathway}"] = F.cross_entropy(model(seen, modality=pathway, task=task), labels)
    sum(alone.values()).backward()
    assert joint.keys() == {*alone, "total"}
    for name, loss in alone.items():
        torch.testing.assert_close(joint[name], loss)
    for key, weight in model.named_parameters():
        torch.testing.assert_close(gradients[key], weight.grad, msg=key)


def test_what_a_run_leaves(trained):
    log = read_log(trained / LOG)
    first = next(line for line in log if line["event"] == "train")
    assert {name for name in first if name.startswith("loss/")} == {
        "loss/pictures.image", "loss/films.video", "loss/pictures.video", "loss/films.image", "loss/total",
    }  # fmt: skip
    assert set(log[-1]["reports"]) == {"pictures", "films"}
    model = timm.create_model(f"local-dir:{trained / 'export'}", pretrained=True)
    assert (type(model).__name__, model.num_frames) == ("TokenNet", 4)
    assert (model.pathway_tasks("image"), model.pathway_tasks("video")) == (("pictures",), ("films",))
    assert model.spec.class_names("films") == ("circle", "square")


def test_it_learns(media, tmp_path):
    settings = ("model=tokennet_video", f"model_args={json.dumps(ARGUMENTS)}", "tasks=films:video")
    recipe = tiny_recipe(media, *settings, "epochs=12", "optimizer=adamw", "lr=0.01", "log_every=60")
    assert train(recipe, out=tmp_path)["films"].metrics()["video@1"] == 100


def test_a_resumed_run_has_the_same_losses(media, trained, tmp_path, monkeypatch):
    step = Trainer.training_step

    def stop_at_five(self, batch):
        if self.done == 5:
            raise KeyboardInterrupt
        return step(self, batch)

    recipe = tiny_recipe(media, *NETWORK, "ema=0.5")
    monkeypatch.setattr(Trainer, "training_step", stop_at_five)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, out=tmp_path)
    monkeypatch.setattr(Trainer, "training_step", step)
    train(recipe, out=tmp_path, resume=True)
    assert losses(tmp_path) == losses(trained)


def test_a_run_starts_from_another_with_other_pathways_and_clips(media, trained, tmp_path):
    before = load_checkpoint(trained / LAST)["ema"]
    settings = (
        "model=tokennet_video", f"model_args={json.dumps(ARGUMENTS)}", "tasks=films:video", "num_frames=7",
        f"init={trained}",
    )  # fmt: skip
    trainer = Trainer(tiny_recipe(media, *settings), out=tmp_path)
    weights = trainer.model.state_dict()
    trainer.close()
    assert trainer.model.pathways == ("video",)
    assert torch.equal(weights["norm.video.weight"], before["norm.video.weight"])
    assert torch.equal(weights["heads.video.films.weight"], before["heads.video.films.weight"])
    assert weights["time.video.weight"].shape == (7, 16)
    torch.testing.assert_close(weights["time.video.weight"][3], before["time.video.weight"][1:3].mean(0))


def test_position_embeddings_do_not_decay(media, tmp_path):
    trainer = Trainer(tiny_recipe(media, *NETWORK, "weight_decay=0.1"), out=tmp_path)
    names = {id(weight): name for name, weight in trainer.model.named_parameters()}
    decay = {
        names[id(weight)]: group["weight_decay"]
        for group in trainer.optimizer.param_groups
        for weight in group["params"]
    }
    trainer.close()
    assert (decay["position"], decay["time.video.weight"], decay["embed.weight"]) == (0, 0, 0.1)


def test_it_predicts(run, media, trained, tmp_path):
    files = [media / "pictures/val/circle/0.png", media / "films/val/square/1.avi"]
    out = tmp_path / "answers.jsonl"
    status, _, err = run("predict", *files, "--model", f"local-dir:{trained / 'export'}", "--json", out)
    assert status == 0, err
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["modality"], row["task"]) for row in answers] == [("image", "pictures"), ("video", "films")]
    assert {entry["label"] for row in answers for entry in row["top"]} == {"circle", "square"}


def test_it_explains(run, media, trained, tmp_path):
    clip, out = media / "films/val/square/1.avi", tmp_path / "seen.png"
    status, line, err = run("explain", clip, "--model", f"local-dir:{trained / 'export'}", "--out", out)
    assert status == 0, err
    result = json.loads(line)
    assert (result["layer"], [*result["pathways"]]) == ("blocks.1", ["video", "image"])
    assert all(len(row["channels"]) == 3 for row in result["pathways"].values())
    assert out.stat().st_size > 1000


def test_a_protocol_that_needs_maps_is_refused_in_one_sentence(run, media, trained):
    model = f"local-dir:{trained / 'export'}"
    data = ("--data", media / "films")
    status, _, err = run("evaluate", "kinetics", "--model", model, *data, "--protocol", "unidual152")
    assert status == 2
    assert "protocol 'unidual152' runs a network fully convolutionally, which TokenNet cannot" in err
    status, out, err = run("evaluate", "kinetics", "--model", model, *data)
    assert status == 0, err
    assert json.loads(out.splitlines()[-1])["decoded"] == 4


def test_it_is_listed(run):
    status, text, _ = run("models", "tokennet")
    assert status == 0
    rows = [row.split() for row in text.splitlines()[1:]]
    assert [row[0] for row in rows] == ["tokennet", "tokennet.in1k_k400", "tokennet.theirs_in1k", "tokennet_video"]
    assert rows[2][-2:] == ["fetched", "mit"]


def test_a_family_that_says_no_more_than_it_must():
    """What it does not say is refused in one sentence; all else works."""

    class Silent(tokennet.TokenNet):
        explained_layers, _prune = tokennet.TaskModel.explained_layers, tokennet.TaskModel._prune

    model = Silent(**ARGUMENTS, tasks=TASKS, spec=dataclasses.replace(tokennet.SPEC, crop=(32, 32))).eval()
    with pytest.raises(ValueError, match="Silent cannot be explained: it does not say which layers have feature maps"):
        explain(model, torch.zeros(3, 4, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="Silent cannot be pruned: it does not say what lies behind an output"):
        model.prune_intermediate_layers([0])
    assert model(torch.randn(1, 3, 4, 32, 32)).shape == (1, 2)
