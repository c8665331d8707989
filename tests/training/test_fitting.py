"""Heads fitted by least squares before training begins."""

import json
import math
import shutil

import pytest
import torch
from torch.nn import functional as F
from training.tiny import tiny_recipe

from unidual_zoo.data.joint import Draw
from unidual_zoo.data.transforms import normalize
from unidual_zoo.scoring import ViewReader
from unidual_zoo.training import fitting
from unidual_zoo.training.finetune import finetune_recipe
from unidual_zoo.training.fitting import HeadInputs, fit_head, modest_scale
from unidual_zoo.training.recipes import find_recipe
from unidual_zoo.training.rundir import RunError
from unidual_zoo.training.trainer import Trainer, train


def examples(count=40, features=6, classes=3, noise=1.0):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, features, generator=generator, dtype=torch.float64)
    inputs = centres[labels] + noise * torch.randn(count, features, generator=generator, dtype=torch.float64)
    return inputs * torch.logspace(-3, 3, features, dtype=torch.float64) + 5, labels


def least(deviation, inputs, part=None):
    """Below which a deviation does not count."""
    size = inputs.abs().mean() if part is None else (part @ inputs.abs()).mean()
    return (fitting.LEAST_DEVIATION * deviation.mean() + fitting.ROUNDING * size).item()


def fitted_to_all_but(inputs, labels, left_out, *, classes, ridge, like):
    """The plain way to one example's prediction: solve the normal equations without it."""
    mean, deviation = like.mean(0), like.std(0, correction=0)
    deviation = deviation.clamp(min=least(deviation, like))
    features = (inputs - mean) / deviation / inputs.shape[1] ** 0.5
    kept = torch.arange(len(labels)) != left_out
    x, y = features[kept], F.one_hot(labels[kept], classes).double()
    centred = x - x.mean(0)
    weight = torch.linalg.solve(
        centred.T @ centred + ridge * torch.eye(x.shape[1], dtype=x.dtype), centred.T @ (y - y.mean(0))
    )
    return y.mean(0) + (features[left_out] - x.mean(0)) @ weight


def test_the_loss_is_that_of_each_example_when_it_is_left_out(monkeypatch):
    inputs, labels = examples()
    monkeypatch.setattr(fitting, "RIDGES", (0.3,))
    monkeypatch.setattr(fitting, "SCALES", (4.0,))
    without = [fitted_to_all_but(inputs, labels, n, classes=3, ridge=0.3, like=inputs) for n in range(len(labels))]
    expected = F.cross_entropy(4.0 * torch.stack(without), labels)
    assert fit_head(inputs, labels, num_classes=3).loss == pytest.approx(expected.item(), rel=1e-9)


def test_the_head_is_the_ridge_regression_scaled(monkeypatch):
    inputs, labels = examples()
    monkeypatch.setattr(fitting, "RIDGES", (0.3,))
    monkeypatch.setattr(fitting, "SCALES", (4.0,))
    fit = fit_head(inputs, labels, num_classes=3)
    deviation = inputs.std(0, correction=0)
    features = (inputs - inputs.mean(0)) / deviation.clamp(min=least(deviation, inputs)) / 6**0.5
    y = F.one_hot(labels, 3).double()
    weight = torch.linalg.solve(
        features.T @ features + 0.3 * torch.eye(6, dtype=torch.float64), features.T @ (y - y.mean(0))
    )
    torch.testing.assert_close(inputs @ fit.weight.T + fit.bias, 4.0 * (y.mean(0) + features @ weight))


def test_an_example_of_weight_two_counts_as_two_of_its_class(monkeypatch):
    inputs, labels = examples()
    monkeypatch.setattr(fitting, "RIDGES", (0.3,))
    monkeypatch.setattr(fitting, "SCALES", (4.0,))
    twice = torch.arange(len(labels)).repeat_interleave(1 + (labels == 1))
    fit = fit_head(inputs, labels, num_classes=3, class_weights=torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64))
    monkeypatch.setattr(fitting, "RIDGES", (0.3 * len(twice) / len(labels),))  # of as much more that is to be fitted
    same = fit_head(inputs[twice], labels[twice], num_classes=3)
    torch.testing.assert_close((fit.weight, fit.bias), (same.weight, same.bias))
    assert fit.loss > same.loss  # there the other one is not left out


def test_the_loss_left_out_is_exact_with_weights(monkeypatch):
    inputs, labels = examples(count=9)
    monkeypatch.setattr(fitting, "RIDGES", (0.3,))
    monkeypatch.setattr(fitting, "SCALES", (4.0,))
    weights = torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)
    part = weights[labels] / weights[labels].sum()
    mean = part @ inputs
    deviation = (part @ (inputs - mean).square()).sqrt()
    x = (inputs - mean) / deviation.clamp(min=least(deviation, inputs, part)) / 6**0.5
    x = torch.cat([x, torch.ones(9, 1, dtype=x.dtype)], 1)
    penalty = 0.3 * torch.diag(torch.tensor([1.0] * 6 + [0.0], dtype=x.dtype))
    without = []
    for n in range(9):
        weighs = (9 * part).clone()
        weighs[n] = 0
        normal = (weighs[:, None] * x).T
        without.append(x[n] @ torch.linalg.solve(normal @ x + penalty, normal @ F.one_hot(labels, 3).double()))
    expected = F.cross_entropy(4.0 * torch.stack(without), labels, weights)
    assert fit_head(inputs, labels, num_classes=3, class_weights=weights).loss == pytest.approx(
        expected.item(), rel=1e-9
    )


def test_of_noise_a_strong_ridge_and_a_small_scale_are_chosen():
    inputs, labels = examples(noise=100.0)
    clear, _ = examples(noise=0.1)
    assert fit_head(inputs, labels, num_classes=3).loss == pytest.approx(torch.tensor(3.0).log().item(), abs=0.1)
    assert fit_head(clear, labels, num_classes=3).loss < 0.1


def test_answers_that_nothing_contradicts_are_as_sure_as_their_number_allows():
    """With margins m of two classes the probability of (n + 1) / (n + 2) takes a scale of ln(n + 1) / m."""
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    right = F.one_hot(labels, 2).double()
    alike = torch.full((6,), 1 / 6, dtype=torch.float64)
    assert modest_scale(0.5 * right + 0.25, labels, alike) == pytest.approx(math.log(7) / 0.5, rel=1e-5)
    assert modest_scale(F.one_hot(labels, 3).double(), labels, alike) == pytest.approx(math.log(2 * 7), rel=1e-5)
    assert modest_scale(1 - right, labels, alike) == pytest.approx(1, rel=1e-5)  # all wrong: as unsure as there is
    weighs = torch.tensor([3, 1, 1, 1, 1, 1]).double() / 8  # the first is wrong: 5 of 8 are right
    mixed = right.clone()
    mixed[0] = right[0].flip(0)
    agreed = (5 * 7 / 8 + 3 / 8) / 8  # the part of the targets that the answers agree with
    assert modest_scale(mixed, labels, weighs) == pytest.approx(max(1, math.log(agreed / (1 - agreed))), rel=1e-5)


def test_a_sure_fit_answers_as_it_did_with_less_certainty():
    inputs, labels = examples(noise=0.01)
    fit = fit_head(inputs, labels, num_classes=3)
    logits = inputs @ fit.weight.T + fit.bias
    assert logits.argmax(1).equal(labels)
    assert 0.9 < logits.softmax(1).amax(1).mean() < 41 / 42 + 0.01


def test_nothing_is_chosen_by_the_only_file_of_a_class():
    """All others say that it is of another class, and would make the answers to them unsure."""
    inputs, labels = examples(noise=0.01)
    there = (labels != 2) | (torch.arange(len(labels)) == 2)
    balanced = torch.tensor([1.0, 1.0, 13.0], dtype=torch.float64)
    fit = fit_head(inputs[there], labels[there], num_classes=3, class_weights=balanced)
    assert fit.loss < 0.1
    assert (inputs @ fit.weight.T + fit.bias).argmax(1)[there].equal(labels[there])


def test_what_differs_by_rounding_alone_is_not_learnt_from():
    """One picture in batches of other sizes: weights that made something of it would drown it in their own rounding."""
    generator = torch.Generator().manual_seed(0)
    same = 100 + 50 * torch.rand(64, generator=generator).double()
    for _ in range(20):
        inputs = same * (1 + 1e-7 * torch.randn(12, 64, generator=generator).double())
        fit = fit_head(inputs, torch.arange(12) % 2, num_classes=2)
        logits = inputs.float() @ fit.weight.float().T + fit.bias.float()
        assert logits.abs().max() < 10


def test_what_needs_steps_is_refused_where_none_are_made():
    for setting in ("patience=1", "publish=best"):
        with pytest.raises(ValueError, match=f"{setting} needs evaluations .* eval_every is 1 and epochs 0"):
            find_recipe("finetune", ["epochs=0", setting])
    with pytest.raises(ValueError, match="recompute_norms=2 changes what heads are fitted to"):
        find_recipe("finetune", ["epochs=0", "recompute_norms=2"])
    with pytest.raises(ValueError, match="epochs=0 makes no step, and heads are not fitted"):
        finetune_recipe("unidual10", images="photos", settings=["epochs=0", "pretrained=false"])
    with pytest.raises(
        ValueError, match=r"epochs=0 makes no step, and heads are not fitted \(every task has a teacher"
    ):
        finetune_recipe("unidual10_aux", videos="clips", settings=["epochs=0", "teachers=videos:resnet18"])


def test_a_run_of_no_steps_that_goes_on_fits_no_heads_again(media, tmp_path, monkeypatch):
    recipe = tiny_recipe(media, "tasks=pictures:image", "fit_heads=true", "epochs=0", "class_weights=balanced")
    train(recipe, out=tmp_path)
    monkeypatch.setattr("unidual_zoo.training.trainer.fit_heads", None)
    assert train(recipe, out=tmp_path, resume=True)["pictures"].metrics()["top-1"] == 100.0


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_run_begins_with_fitted_heads(media, tmp_path, epochs):
    """The files differ in brightness, which a network of random weights tells at once."""
    steps = (f"epochs={epochs}", "lr=0.000001", "freeze_norms=true", "eval_every=0")
    recipe = tiny_recipe(media, "fit_heads=true", *steps)
    reports = train(recipe, out=tmp_path)
    assert reports["pictures"].metrics()["top-1"] == reports["films"].metrics()["video@1"] == 100.0


def test_a_head_that_is_better_stays(media, tmp_path):
    trainer = Trainer(tiny_recipe(media, "fit_heads=true"), out=tmp_path)
    try:
        trainer.fit_heads()
        head = trainer.model.heads["image"]["pictures"]
        with torch.no_grad():
            head.weight.mul_(1000.0), head.bias.mul_(1000.0)  # right, and surer than one can be of files left out
        before = trainer.model.state_dict()
        before = {key: value.clone() for key, value in before.items()}
        trainer.fit_heads()
        changed = {key for key, value in trainer.model.state_dict().items() if not torch.equal(value, before[key])}
        assert not any(key.startswith("heads.image.pictures") for key in changed)
    finally:
        trainer.close()


def fits_of(trainer, monkeypatch):
    """What heads of a trainer are fitted to, and the fits: (inputs, labels, fit)."""
    fits = []

    def noted(inputs, labels, **options):
        fits.append((inputs, labels, fit_head(inputs, labels, **options)))
        return fits[-1][2]

    monkeypatch.setattr(fitting, "fit_head", noted)
    trainer.fit_heads()
    return fits


def test_each_file_is_read_once_for_the_heads_of_all_pathways(media, tmp_path, monkeypatch):
    trainer = Trainer(tiny_recipe(media, "fit_heads=true"), out=tmp_path)
    read, call = [], ViewReader.__call__
    monkeypatch.setattr(ViewReader, "__call__", lambda self, path: (read.append(path), call(self, path))[1])
    model = trainer.model.eval()
    files = trainer.media["films"]
    clips = torch.stack(
        [call(HeadInputs(model, "video", pathways=["video"]).reader, path)[0][0] for path in files.files]
    )
    try:
        fits_of(trainer, monkeypatch)
        assert sorted(read) == sorted(path for task in trainer.media.values() for path in task.files)
        for pathway in ("image", "video"):
            with torch.no_grad():
                features = model.forward_features(normalize(clips, model.spec), modality=pathway)
                inputs = model.head_inputs(features, pathway).double()
            fit = fit_head(inputs, torch.tensor(files.labels), num_classes=2)
            torch.testing.assert_close(model.heads[pathway]["films"].weight, fit.weight.float(), rtol=1e-3, atol=1e-4)
    finally:
        trainer.close()


def test_where_features_are_kept_heads_are_fitted_to_them(media, tmp_path, monkeypatch):
    """Of the tokens of a frozen V-JEPA what its probe, which learns, makes of them; no file is read again."""
    arguments = {"embed_dim": 32, "depth": 1, "num_heads": 2, "probe_depth": 1, "token_pool": "attentive"}
    settings = ("model=vjepa2_1_vit_base", f"model_args={json.dumps(arguments)}", "freeze=trunk", "feature_views=2")
    trainer = Trainer(tiny_recipe(media, "fit_heads=true", *settings), out=tmp_path)
    try:
        trainer.keep_features()
        monkeypatch.setattr(fitting, "score_files", None)
        (inputs, labels, _), _ = fits_of(trainer, monkeypatch)
        order = trainer.loader.sampler.order("pictures", 0).tolist()
        assert labels.tolist() == [trainer.media["pictures"].labels[index] for index in order]
        trainer.loader.dataset.kept.clear()
        (batch,) = trainer.loader.read([[Draw("pictures", order[3], 3)]])
        model = trainer.model.eval()
        with torch.no_grad():
            features = model.forward_features(normalize(batch.data["pictures"][0], model.spec))
            torch.testing.assert_close(inputs[3:4].float(), model.head_inputs(features, "image"), rtol=1e-3, atol=1e-3)
    finally:
        trainer.close()


def test_classes_of_which_nothing_can_be_read_are_told_where_features_are_kept(media, tmp_path):
    copy = tmp_path / "media"
    shutil.copytree(media / "pictures", copy / "pictures")
    for file in (copy / "pictures/train/circle").iterdir():
        file.write_bytes(b"no picture")
    settings = ("model=r2d10", "tasks=pictures:image", "freeze=trunk", "feature_views=1", "fit_heads=true")
    trainer = Trainer(tiny_recipe(copy, *settings), out=tmp_path / "run")
    try:
        trainer.keep_features()
        with pytest.warns(UserWarning, match="pictures: no training file can be read of 1 of 2 classes: circle"):
            trainer.fit_heads()
    finally:
        trainer.close()


def test_files_that_cannot_be_read_are_left_out_and_no_more_than_most_are_looked_at(media, tmp_path, monkeypatch):
    recipe = tiny_recipe(media, "fit_heads=true")
    trainer = Trainer(recipe, out=tmp_path)
    try:
        files = trainer.media["pictures"]
        broken = tmp_path / "broken.png"
        broken.write_bytes(b"no picture")
        files = files.take(range(len(files)))
        object.__setattr__(files, "files", (str(broken), *files.files[1:]))
        trainer.media = {"pictures": files}
        seen = fits_of(trainer, monkeypatch)
        assert [labels.tolist() for _, labels, _ in seen] == 2 * [list(files.labels[1:])]
        assert list(trainer.loader.failed) == [str(broken)]
        trainer.media = {"pictures": files.take([0, 5, 6])}
        with pytest.warns(UserWarning, match="pictures: no training file can be read of 1 of 2 classes: circle"):
            trainer.fit_heads()
        trainer.media = {"pictures": files.take([0])}
        with pytest.raises(
            RunError, match=r"pictures: none of 1 training file can fit heads; the last, .*broken.png: "
        ):
            trainer.fit_heads()
        monkeypatch.setattr(fitting, "MOST", 4)
        assert len(fitting._some(10, seed=0)) == 4
        assert fitting._some(3, seed=0) == [0, 1, 2]
    finally:
        trainer.close()
