"""The losses of a joint step, against each computed alone."""

import pytest
import timm
import torch
import torch.nn.functional as F

import unidual_zoo  # noqa: F401  (registers the models)
from unidual_zoo.spec import InputSpec
from unidual_zoo.training import objective as objective_module
from unidual_zoo.training.objective import JointObjective, balanced_weights

TASKS = {"in1k": ("image", 7), "k400": ("video", 6)}
THREE = TASKS | {"minisports": ("video", 5)}
# The nine systems of Table 1: the two fine-tuned ones are R2D and R(2+1)D again.
SYSTEMS = {
    "r2d10": {"in1k": ("image", 7)},
    "r2plus1d10": {"k400": ("video", 6)},
    "r2d10_multitask": TASKS,
    "r2plus1d10_multitask": TASKS,
    "r2d10_lstm_multitask": TASKS,
    "unidual10": TASKS,
    "unidual10_aux": TASKS,
}
CASES = [*SYSTEMS.items(), ("unidual10_aux", THREE), ("r2plus1d10_multitask", THREE)]
SHARES = {"in1k": 3, "k400": 2, "minisports": 2}


def network(name, tasks, **kwargs):
    return timm.create_model(name, tasks=tasks, width=1 / 16, num_frames=4, **kwargs)


def joint_batch(tasks, *, size=32, dtype=torch.float32):
    batch = {}
    for task, (modality, classes) in tasks.items():
        shape = (SHARES[task], 3, size, size) if modality == "image" else (SHARES[task], 3, 4, size, size)
        batch[task] = (torch.randn(shape, dtype=dtype), torch.randint(classes, (SHARES[task],)))
    return batch


@pytest.fixture
def first_frames(monkeypatch):
    """The frame that the image pathway sees of a clip is the first."""
    first = lambda clips, num_frames: clips[:, :, 0]  # noqa: E731
    monkeypatch.setitem(objective_module.FRAMES, "one", first)


def losses_alone(model, batch):
    """Every loss by a forward of its own, written out for each system."""
    alone = {}
    for task, (x, labels) in batch.items():
        for pathway in model.pathways:
            if task not in model.pathway_tasks(pathway):
                continue
            if model.pathways == ("image", "video") and pathway == "image" and x.ndim == 5:
                x_in = x[:, :, 0]
            elif "multitask" in model.pretrained_cfg["architecture"] and x.ndim == 4:
                x_in = torch.stack([x] * 4, dim=2)
            else:
                x_in = x
            alone[f"{task}.{pathway}"] = F.cross_entropy(model(x_in, modality=pathway, task=task), labels)
    return alone


@pytest.mark.parametrize(("name", "tasks"), CASES)
def test_gradients_are_the_sum_of_separate_losses_gradients(name, tasks, first_frames):
    model = network(name, tasks).double().eval()
    batch = joint_batch(tasks, dtype=torch.float64)
    losses = JointObjective(model)(batch)
    losses["total"].backward()
    joint = {key: weight.grad.clone() for key, weight in model.named_parameters()}

    model.zero_grad()
    alone = losses_alone(model, batch)
    for loss in alone.values():
        loss.backward()
    assert set(losses) == {*alone, "total"}
    for loss_name, loss in alone.items():
        torch.testing.assert_close(losses[loss_name], loss)
    torch.testing.assert_close(losses["total"], sum(alone.values()))
    for key, weight in model.named_parameters():
        torch.testing.assert_close(joint[key], weight.grad, msg=lambda text, key=key: f"{key}: {text}")


def test_all_frames_of_a_clip_may_go_down_the_image_pathway():
    model = network("unidual10_aux", TASKS).eval()
    batch = joint_batch(TASKS)
    clips, labels = batch["k400"]
    losses = JointObjective(model, auxiliary_frames="all")(batch)
    each = [
        F.cross_entropy(model(clips[:, :, t], modality="image", task="k400"), labels) for t in range(clips.shape[2])
    ]
    torch.testing.assert_close(losses["k400.image"], torch.stack(each).mean())
    alone = JointObjective(model)(batch)
    assert all(torch.equal(losses[name], alone[name]) for name in ("in1k.image", "k400.video"))
    with pytest.raises(ValueError, match="no auxiliary_frames 'few', allowed: one, all"):
        JointObjective(model, auxiliary_frames="few")


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("unidual10", {"in1k.image", "k400.video"}),
        ("unidual10_aux", {"in1k.image", "k400.video", "in1k.video", "k400.image"}),
        ("r2d10_multitask", {"in1k.image", "k400.image"}),
        ("r2plus1d10_multitask", {"in1k.video", "k400.video"}),
    ],
)
def test_the_losses_are_those_of_the_heads(name, names):
    model = network(name, TASKS)
    assert set(JointObjective(model)(joint_batch(TASKS))) == {*names, "total"}


@pytest.mark.parametrize(
    ("name", "shapes"),
    [  # 3 images and 2 clips of 4 frames
        ("unidual10", {"image": (3, 3, 32, 32), "video": (2, 3, 4, 32, 32)}),
        ("unidual10_aux", {"image": (5, 3, 32, 32), "video": (5, 3, 4, 32, 32)}),
        ("r2d10_multitask", {"image": (5, 3, 4, 32, 32)}),
        ("r2d10_lstm_multitask", {"image": (5, 3, 4, 32, 32)}),
        ("r2plus1d10_multitask", {"video": (5, 3, 4, 32, 32)}),
    ],
)
def test_all_data_of_a_pathway_go_through_it_together(name, shapes, monkeypatch):
    model, seen = network(name, TASKS), {}
    forward = model.forward_features

    def spy(x, modality):
        assert modality not in seen
        seen[modality] = tuple(x.shape)
        return forward(x, modality=modality)

    monkeypatch.setattr(model, "forward_features", spy)
    JointObjective(model)(joint_batch(TASKS))
    assert seen == shapes


def test_the_frame_of_a_clip_is_random_and_every_frame_comes():
    clips = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(200, 1, 4, 1, 1)
    frames = objective_module.one_frame(clips, 4)
    assert frames.shape == (200, 1, 1, 1)
    assert sorted(frames.unique().tolist()) == [0, 1, 2, 3]


def test_an_inflated_image_is_the_same_in_every_frame():
    images = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(objective_module.inflated(images, 4), torch.stack([images] * 4, dim=2))


def test_loss_weights():
    model, batch = network("unidual10", TASKS).eval(), joint_batch(TASKS)
    losses = JointObjective(model, {"k400.video": 0.25})(batch)
    torch.testing.assert_close(losses["total"], losses["in1k.image"] + 0.25 * losses["k400.video"])


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match=r"k400\.image; the model's losses: in1k\.image, k400\.video"):
        JointObjective(network("unidual10", TASKS), {"k400.image": 0.5})


def test_a_batch_of_other_tasks_is_refused():
    with pytest.raises(ValueError, match="tasks in1k, k400, got in1k"):
        JointObjective(network("unidual10", TASKS))(joint_batch({"in1k": ("image", 7)}))


def test_a_pathway_without_heads_is_left_out():
    model = network("unidual10", {"k400": ("video", 6)})
    assert set(JointObjective(model)(joint_batch({"k400": ("video", 6)}))) == {"k400.video", "total"}


def test_bytes_are_normalised_by_the_models_spec():
    model = network("r2d10", {"in1k": ("image", 7)}).eval()
    pixels, labels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8), torch.tensor([0, 1])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.spec.mean, model.spec.std))
    normalised = (pixels / 255 - mean) / std
    objective = JointObjective(model)
    by_hand = objective({"in1k": (normalised, labels)})["total"]
    torch.testing.assert_close(objective({"in1k": (pixels, labels)})["total"], by_hand, rtol=1e-5, atol=1e-5)


def test_label_smoothing():
    model, batch = network("r2d10", {"in1k": ("image", 7)}).eval(), joint_batch({"in1k": ("image", 7)})
    x, labels = batch["in1k"]
    targets = 0.9 * F.one_hot(labels, 7) + 0.1 / 7
    by_hand = -(targets * model(x).log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(JointObjective(model, label_smoothing=0.1)(batch)["total"], by_hand)


def test_mixup_mixes_inputs_and_targets_alike(monkeypatch):
    monkeypatch.setattr(torch.distributions.Beta, "sample", lambda self: torch.tensor(0.75))
    model, batch = network("r2d10", {"in1k": ("image", 7)}), joint_batch({"in1k": ("image", 7)})
    objective = JointObjective(model, mixup=0.2, freeze_norms=True).train()
    x, labels = batch["in1k"]
    logits = model(0.75 * x + 0.25 * x.flip(0))
    by_hand = 0.75 * F.cross_entropy(logits, labels) + 0.25 * F.cross_entropy(logits, labels.flip(0))
    torch.testing.assert_close(objective(batch)["total"], by_hand)
    assert objective.eval()(batch)["total"] != by_hand


def test_frozen_norms_keep_their_statistics_and_others_do_not():
    model, batch = network("unidual10_aux", TASKS), joint_batch(TASKS)
    before = {key: value.clone() for key, value in model.state_dict().items() if "running" in key}
    JointObjective(model, freeze_norms=True).train()(batch)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())

    model.stem.requires_grad_(False)
    JointObjective(model).train()(batch)
    changed = {key.split(".")[0] for key, value in before.items() if not torch.equal(model.state_dict()[key], value)}
    assert changed == {"stages"}


@pytest.mark.parametrize("training", [False, True])
def test_images_as_single_frames(training):
    """Clips of either length have a forward of their own: the losses are those of the two data sets apart."""
    model = network("r2plus1d10_multitask", THREE, spec=InputSpec(image_frames=1)).train(training)
    batch = joint_batch(THREE)
    losses = JointObjective(model).train(training)(batch)
    if not training:
        assert torch.equal(model(batch["in1k"][0]), model(batch["in1k"][0].unsqueeze(2), task="in1k"))
    images = model.forward_head(model.forward_features(batch["in1k"][0].unsqueeze(2)), task="in1k")
    assert losses["in1k.video"].item() == pytest.approx(F.cross_entropy(images, batch["in1k"][1]).item(), rel=1e-5)
    clips = model.forward_features(torch.cat([batch["k400"][0], batch["minisports"][0]]))
    for task, features in zip(("k400", "minisports"), clips.split(2), strict=True):
        expected = F.cross_entropy(model.forward_head(features, task=task), batch[task][1])
        assert losses[f"{task}.video"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_balanced_classes_weigh_alike():
    weights = balanced_weights([0, 0, 0, 1], 3)
    assert weights.tolist() == pytest.approx([4 / (2 * 3), 4 / 2, 1])  # files / (classes there · files of the class)
    model = network("unidual10_aux", TASKS).eval()
    objective = JointObjective(model, class_weights={"k400": torch.arange(6.0)}).eval()
    x, labels = joint_batch(TASKS)["k400"][0], torch.tensor([1, 4])
    images = (torch.randn(1, 3, 32, 32), torch.tensor([0]))
    losses = objective({"in1k": images, "k400": (x, labels)})
    each = F.cross_entropy(model(x, task="k400"), labels, reduction="none")
    torch.testing.assert_close(losses["k400.video"], (each[0] + 4 * each[1]) / 5)
    torch.testing.assert_close(losses["in1k.image"], F.cross_entropy(model(images[0], task="in1k"), images[1]))
    assert not any("class_weights" in name for name in objective.state_dict())
