"""What becomes a repository, what is refused, and that verify.py sees what was spoiled afterwards."""

import json
import re
from pathlib import Path

import card
import convert
import publish
import pytest
import repository
import timm
import torch
import typer
import verify
from huggingface_hub import ModelCard
from models import tokennet
from models.reference import filled
from models.small import TASKS, close, images, make, small
from safetensors.torch import load_file, save_file
from timm.models._hub import save_for_hf
from typer.testing import CliRunner

from unidual.options import run_script

REPORT = {
    "clip@1": 40.1, "video@1": 52.5, "video@5": 81.0, "model": "unidual10_aux", "modality": "video", "task": "k400",
    "protocol": "unidual34", "listed": 200, "decoded": 199, "failed": 1, "resize": [128, 171], "crop": [112, 112],
    "failures": [{"file": "/secret/place/a.mp4", "error": "broken"}], "data": "/secret/place/k400, val",
    "saved_as": "local-dir:/secret/place/run/export",
    "decoder": "PyAV 18.1.0, FFmpeg 8", "torch": "2.15.0", "views": "10 clips a video, centre crop",
}  # fmt: skip
IMAGES = {
    **{key: REPORT[key] for key in REPORT if "@" not in key}, "top-1": 60.5, "top-5": 90.25, "modality": "image",
    "task": "in1k", "decoder": "Pillow 12",
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run directory as training leaves it, with its reports."""
    torch.manual_seed(0)
    model = small("unidual10_aux", tasks=TASKS, num_frames=4, auxiliary=False)
    save_for_hf(model, str(tmp_path / "run" / "export"), safe_serialization=True)
    end = {"event": "end", "step": 3, "reports": {"in1k": IMAGES, "k400": REPORT}}
    (tmp_path / "run" / "log.jsonl").write_text(json.dumps(end) + "\n")
    return tmp_path / "run"


def built(run: Path, **options) -> Path:
    return publish.publish(run, repo="org/mini", dry_run=True, **{"license": "apache-2.0", **options})


def test_a_run_becomes_a_repository_that_is_in_order(run):
    folder = built(run)
    assert sorted(path.name for path in folder.iterdir()) == sorted(repository.FILES)
    assert verify.verify(str(folder)) == []
    original = timm.create_model(f"local-dir:{run / 'export'}", pretrained=True).eval()
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert (again._model_args, again.spec) == (original._model_args, original.spec)
    close(again(x := images()), original(x), 0)
    config = json.loads((folder / "config.json").read_text())
    assert config["spec"] == original.spec.to_dict()
    assert config["parameters"] == sum(p.numel() for p in original.parameters())
    assert built(run) == folder  # again, in its place


def test_the_card_has_our_metrics_with_their_protocol_and_nothing_of_this_machine(run):
    folder = built(run, about="toys")
    data = ModelCard.load(folder / "README.md").data
    assert (data.library_name, data.license, data.pipeline_tag) == ("unidual-zoo", "apache-2.0", "video-classification")
    assert "timm" in data.tags
    assert data.datasets == ["imagenet-1k", "kinetics-400"]
    shown = {(result.dataset_name, result.metric_name): result.metric_value for result in data.eval_results}
    assert shown == {
        ("ImageNet-1k", "top-1 (unidual34)"): 60.5,
        ("ImageNet-1k", "top-5 (unidual34)"): 90.25,
        ("Kinetics-400", "clip@1 (unidual34)"): 40.1,
        ("Kinetics-400", "video@1 (unidual34)"): 52.5,
        ("Kinetics-400", "video@5 (unidual34)"): 81.0,
    }
    for file in ("README.md", "results.json", "config.json"):
        assert "/secret" not in (folder / file).read_text()
    assert "199 of 200 files" in (folder / "README.md").read_text()
    assert "\n`unidual34`: 10 clips a video, centre crop\n" in (folder / "README.md").read_text()


def test_the_cards_snippet_runs(run):
    folder = built(run)
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0]
    assert "import timm, unidual_zoo" in code
    code = code.replace("hf-hub:org/mini", f"local-dir:{folder}")
    exec(code, {"images": torch.rand(1, 3, 32, 32), "clips": torch.rand(1, 3, 4, 32, 32)})


def test_a_network_without_reports_has_a_card_without_metrics(run):
    (run / "log.jsonl").unlink()
    folder = built(run)
    assert not (folder / "results.json").exists()
    assert ModelCard.load(folder / "README.md").data.eval_results is None
    assert verify.verify(str(folder)) == []
    (run / "k400.jsonl").write_text(json.dumps(REPORT) + "\n")
    folder = built(run, results=[run / "k400.jsonl"])
    assert len(ModelCard.load(folder / "README.md").data.eval_results) == 3


@pytest.mark.parametrize("lost", ["protocol", "listed", "decoder", "resize"])
def test_a_metric_without_a_source_is_refused(run, lost):
    report = {key: value for key, value in REPORT.items() if key != lost}
    (run / "k400.jsonl").write_text(json.dumps(report) + "\n")
    with pytest.raises(ValueError, match=f"metrics without a source: the report of k400 lacks {lost}"):
        built(run, results=[run / "k400.jsonl"])


@pytest.mark.parametrize(("name", "value"), [("model", "r2d34"), ("task", "food")])
def test_a_report_of_something_else_is_refused(run, name, value):
    (run / "k400.jsonl").write_text(json.dumps(REPORT | {name: value}) + "\n")
    with pytest.raises(ValueError, match=f"a report is of .*{value}.*, the network is unidual10_aux with in1k, k400"):
        built(run, results=[run / "k400.jsonl"])


def test_what_else_is_refused(run):
    with pytest.raises(ValueError, match=r"weights of org/mini have no licence"):
        built(run, license=None)
    with pytest.raises(ValueError, match="must be organisation/name, got 'mini'"):
        publish.publish(run, repo="mini", dry_run=True, license="mit")
    (run / "mine").mkdir()
    (run / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"mine is no repository to be replaced, it holds thesis.tex"):
        built(run, out=run / "mine")
    assert (run / "mine" / "thesis.tex").exists()
    weights = load_file(run / "export" / "model.safetensors")
    spoiled = {**weights, "stem.spatial.weight": weights["stem.spatial.weight"] * torch.nan}
    save_file(spoiled, run / "export" / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"export: the checkpoint holds NaN or infinity: stem.spatial.weight"):
        built(run)


def change_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["stem.spatial.weight"] *= 1.01
    save_file(weights, folder / "model.safetensors")


def change_config(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def change_card(folder: Path, old: str, new: str) -> None:
    text = (folder / "README.md").read_text()
    assert old in text
    (folder / "README.md").write_text(text.replace(old, new))


SPOILED = {
    "a weight": (change_weight, r"model.safetensors is not the file whose sha256 .*the golden answer .* differs by"),
    "half the weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]),
        "is damaged or not a file of weights",
    ),
    "the count": (lambda f: change_config(f, parameters=7), r"the model has \d+ parameters, config.json says 7"),
    "the spec": (lambda f: change_config(f, spec={}), "the model's spec is not the one in config.json"),
    "the whole config": (
        lambda f: (f / "config.json").write_text("[]"),
        r"config.json must be fields and their values, got \[\]",
    ),
    "a field of a newer version": (
        lambda f: change_config(f, pretrained_cfg={"views": 3}),
        r"config.json does not fit this version of unidual_zoo: unknown fields pretrained_cfg.views",
    ),
    "other weights": (
        lambda f: change_config(f, pretrained_cfg={"url": "https://x/y.pth", "license": "apache-2.0"}),
        r"config.json of .* names other weights \(url\), which are not read",
    ),
    "the reports": (lambda f: (f / "results.json").write_text("[5]"), r"TypeError|AttributeError"),
    "the golden inputs": (
        lambda f: save_file({"x": torch.zeros(1)}, f / "golden.safetensors"),
        r"KeyError: 'input.image'",
    ),
    "a pickle": (lambda f: torch.save({}, f / "pytorch_model.bin"), r"pytorch_model.bin does not belong"),
    "code": (lambda f: (f / "modeling.py").touch(), r"modeling.py does not belong in a repository"),
    "no golden": (lambda f: (f / "golden.safetensors").unlink(), r"golden.safetensors is missing"),
    "no source": (
        lambda f: (f / "results.json").unlink(),
        r"the metric video@1 \(unidual34\) 52.5 of k400 has no source",
    ),
    "a metric": (
        lambda f: change_card(f, "value: 52.5", "value: 62.5"),
        r"62.5 of k400 has no source; .*lacks .* 52.5",
    ),
    "the licence": (lambda f: change_card(f, "license: apache-2.0", "license: mit"), "licence is mit, config.json's"),
    "the snippet": (lambda f: change_card(f, "import timm, unidual_zoo", "import timm"), "does not import unidual_zoo"),
    "the library": (lambda f: change_card(f, "unidual-zoo\n", "timm\n"), "must have library_name unidual-zoo"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_verify_sees_what_was_spoiled(run, what):
    folder = built(run)
    spoil, problem = SPOILED[what]
    spoil(folder)
    assert re.search(problem, "; ".join(verify.verify(str(folder))))


def test_converted_checkpoints_can_be_published(tmp_path):
    theirs = filled("34", width=1 / 16, depths=(1, 1, 1, 1))
    torch.save(theirs.state_dict(), tmp_path / "upstream.pth")
    for name in ("r2plus1d34.ig65m_ft_k400_clip8", "unidual34_aux.ig65m_ft_k400_deflated"):
        out = tmp_path / name
        convert.convert(name, out=out, file=tmp_path / "upstream.pth", width=1 / 16, depths=(1, 1, 1, 1))
        folder = publish.publish(out, repo=f"org/{name}", dry_run=True)
        assert verify.verify(str(folder)) == []
        text = (folder / "README.md").read_text()
        assert "license: mit" in text
        assert "IG-65M, then Kinetics-400" in text
        assert "https://github.com/moabitcoin/ig65m-pytorch" in text
        assert "74.9" not in text  # a metric of others
        again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        close(again(x := torch.randn(1, 3, 8, 32, 32)), theirs(x))


def test_a_network_of_another_family_has_a_card_of_its_own(tmp_path):
    model = make("tokennet", dict(width=16, depth=1, num_frames=4), tasks=TASKS)
    save_for_hf(model, str(tmp_path / "tokens"), safe_serialization=True)
    folder = publish.publish(tmp_path / "tokens", repo="org/tokens", dry_run=True, license="mit", about="nothing")
    assert verify.verify(str(folder)) == []
    assert f"`tokennet` of unidual-zoo: {tokennet.FAMILY.about}.\n" in (folder / "README.md").read_text()
    golden = load_file(folder / "golden.safetensors")
    assert golden["input.video"].shape == (1, 3, 4, 64, 64), "of its own size, as it need not take another"
    assert {"image.in1k.image", "video.k400.video"} <= golden.keys()


def test_model_card_is_up_to_date():
    assert card.INDEX.read_text() == card.make_index(), "run `uv run hub/card.py`"


def call(script, *arguments: str):
    """A script's command line."""
    app = typer.Typer()
    app.command()(script.main)
    return CliRunner().invoke(app, list(arguments))


def test_help_keeps_what_stands_in_brackets(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["publish.py", "--help"])
    with pytest.raises(SystemExit):
        run_script(publish.main)
    assert "[default: FOLDER/repository]" in " ".join(capsys.readouterr().out.split())


def test_the_commands(run, tmp_path):
    good = call(publish, str(run), "--repo", "org/mini", "--license", "mit", "--dry-run")
    assert (good.exit_code, good.output) == (0, f"{run / 'repository'} is ready\n")
    good = call(verify, str(run / "repository"))
    assert (good.exit_code, good.output) == (0, f"{run / 'repository'} is in order\n")
    bad = call(publish, str(run), "--repo", "org/mini", "--dry-run")
    assert (bad.exit_code, bad.output.strip()[:53]) == (1, "publish: the weights of org/mini have no licence: say")
    assert verify.verify(str(run / "repository")) == []  # the one before is still there
    (run / "repository" / "golden.safetensors").unlink()
    bad = call(verify, str(run / "repository"))
    assert (bad.exit_code, bad.output) == (1, f"{run / 'repository'}: golden.safetensors is missing\n")
    bad = call(verify, str(run / "none"))
    assert (bad.exit_code, "No such file or directory" in bad.output) == (1, True)
    bad = call(convert, "r2plus1d34.nonsense", "--out", str(tmp_path))
    assert (bad.exit_code, "convert: r2plus1d34 has no tag 'nonsense', allowed: ig65m" in bad.output) == (1, True)
