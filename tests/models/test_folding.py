"""The folded copy: oneDNN's fused pass equals the plain one, and the copy can be moved, copied, cast and saved."""

import copy
import io

import pytest
import torch
from models.small import clips, close, images, small

from unidual_zoo import for_inference
from unidual_zoo.models import folding

NAMES = ["r2plus1d10", "unidual10_aux", "unidual152"]
needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN, so there is no fused pass"
)


def packed(model) -> list[torch.dtype]:
    return [dtype for module in model.modules() if isinstance(module, folding.FoldedConv) for dtype in module._packed]


@needs_onednn
@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_the_fused_pass_equals_the_plain_one_at_any_size(name, monkeypatch):
    model = for_inference(small(name))
    inputs = [images(1), images(3, 33), clips(2, 1), clips(1, 5, 40), clips(3, 8, 16)]  # laid out for the first
    for x in inputs:
        for pathway in model.pathways:
            fused = model(x, modality=pathway)
            with monkeypatch.context() as patch:
                patch.setattr(folding, "_fuses", lambda x, dtype: False)
                close(fused, model(x, modality=pathway))
    assert packed(model)


@needs_onednn
@torch.inference_mode()
def test_weights_are_laid_out_again_when_they_change():
    model, x = small("unidual10"), clips()
    folded = for_inference(model)
    folded(x)
    for again in (copy.deepcopy(folded), torch.load(saved(folded), weights_only=False)):
        assert not packed(again)
        close(again(x), model(x))
    other = for_inference(small("unidual10"))  # of other weights
    folded.load_state_dict(other.state_dict())
    close(folded(x), other(x))
    folded.to(torch.bfloat16)
    assert not packed(folded)
    close(folded(x.bfloat16()).float(), other(x), 0.05)


def saved(model) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return file


def test_pathways_that_share_a_norm_share_the_folded_weight():
    split, shared = (for_inference(small("unidual10", norms=norms)) for norms in ("split", "shared"))
    spatial = [model.stem.layers[0] for model in (split, shared)]
    assert spatial[0]["image"] is not spatial[0]["video"]
    assert spatial[1]["image"] is spatial[1]["video"]


@pytest.mark.parametrize("name", ["r2plus1d10", "unidual152"])
@torch.inference_mode()
def test_unfolded_frames_give_the_same(name):
    model, x = for_inference(small(name), modality="video"), clips(2, 5, 33)
    picture = images(2, 33)
    expected = model(x), model.forward_features(x), model(picture)
    model.unfold()
    assert not any(isinstance(module, torch.nn.Conv2d | folding.FoldedConv) for module in model.modules())
    for got, wanted in zip((model(x), model.forward_features(x), model(picture)), expected, strict=True):
        close(got, wanted)
