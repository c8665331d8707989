"""What the networks compute: against Conv3d, against torchvision, and the paper's invariances."""

import dataclasses
import tempfile

import pytest
import timm
import torch
import torchvision
from conv3d import twin
from models.small import DIFFERENT, TASKS, clips, close, images, randomise_norms, small

from unidual_zoo.models.pathways import deflate, inflate, select_pathway
from unidual_zoo.models.unidual import mid_chans


@pytest.mark.parametrize("name", DIFFERENT)
@pytest.mark.parametrize("frames", [1, 5, 8])
def test_equals_a_network_of_conv3d(name, frames):
    model = small(name)
    for pathway in model.pathways:
        x = clips(frames=frames, size=33)
        close(model.forward_features(x, modality=pathway), twin(model, pathway).features(x))


@pytest.mark.parametrize("norms", ["split", "shared"])
@pytest.mark.parametrize("name", ["unidual34_aux", "unidual152"])
def test_pathways_of_a_unidual_are_r2plus1d_and_r2d_with_the_same_weights(name, norms):
    model = small(name, tasks=TASKS, norms=norms)
    shape = dict(width=1 / 16, depths=(2, 1, 1, 1), auxiliary=model.auxiliary)
    size = "152" if "152" in name else "34"
    r2plus1d = timm.create_model(f"r2plus1d{size}", tasks=TASKS, heads={"video": model.pathway_tasks("video")}, **shape)
    r2d = timm.create_model(f"r2d{size}", tasks=TASKS, heads={"image": model.pathway_tasks("image")}, **shape)
    r2plus1d.load_state_dict(select_pathway(model.state_dict(), "video"))
    r2d.load_state_dict(select_pathway(model.state_dict(), "image"))
    close(model(x := clips(), task="k400"), r2plus1d.eval()(x, task="k400"), 1e-6)
    close(model(x := images(), task="in1k"), r2d.eval()(x, task="in1k"), 1e-6)


def test_lstm_reads_the_frames_in_order_and_an_image_as_equal_frames():
    model = small("r2d34_lstm_multitask")
    x = clips(frames=3)
    frames = torch.stack([model.forward_features(x[:, :, t]).mean((2, 3)) for t in range(3)], 1)
    close(model(x), model.heads["image"]["k400"](model.lstm(frames)[0][:, -1]))
    assert not torch.allclose(model(x), model(x.flip(2)))
    still = images()
    repeated = still[:, :, None].expand(-1, -1, model.num_frames, -1, -1)
    close(model(still), model(repeated, task="in1k"))


def test_mid_channels_are_vmz():
    pairs = [(64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    assert [mid_chans(*pair) for pair in pairs] == [144, 230, 288, 460, 576, 921, 1152]


@pytest.mark.parametrize("size", ["34", "152"])
def test_deflated_r2plus1d_sees_a_still_clip_as_inflated_r2d_does(size):
    """Inflating what was deflated keeps the image network's answer where time is not cut off by padding."""
    r2d, r2plus1d = small(f"r2d{size}", num_classes=5), small(f"r2plus1d{size}", tasks={"in1k": ("image", 5)})
    r2plus1d.load_state_dict(inflate(r2d.state_dict()))
    for unit in [m for m in r2plus1d.modules() if type(m).__name__ == "TemporalConv"]:
        unit.padding_mode, unit._reversed_padding_repeated_twice = "replicate", [0, 0, 1, 1]
    x = images()
    close(r2plus1d(x), r2d(x), 1e-4)
    again = deflate(r2plus1d.state_dict())
    for key, value in r2d.state_dict().items():
        torch.testing.assert_close(again[key], value)


def test_inflate_and_deflate_refuse_both_pathways():
    with pytest.raises(ValueError, match="video pathway alone"):
        deflate(small("unidual10").state_dict())
    with pytest.raises(ValueError, match="image pathway alone"):
        inflate(small("r2plus1d10").state_dict())


def test_r2plus1d18_equals_torchvision():
    theirs = randomise_norms(torchvision.models.video.r2plus1d_18()).eval()
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(theirs.state_dict(), file.name)
        overlay = dict(file=file.name)
        ours = timm.create_model("r2plus1d18.tv_k400", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    x = clips(batch=1, frames=9, size=56)
    with torch.no_grad():
        close(ours(x), theirs(x), 1e-5)
    assert ours.spec.clip == dataclasses.replace(ours.spec.clip, length=16, stride=1, rate=15)


def test_drop_path_drops_whole_clips():
    model = small("r2plus1d10", drop_path_rate=0.5)
    block = model.stages[1][0]
    block.drop_path.train()
    x = torch.rand(16 * 4, 4, 8, 8)
    out = block(x, "video", 16).unflatten(0, (16, -1))
    kept = block.shortcut(x, "video", 16).relu().unflatten(0, (16, -1))
    dropped = (out == kept).flatten(2).all(-1)  # (16 clips, 2 frames)
    assert torch.equal(dropped.all(1), dropped.any(1))
    assert 0 < dropped.all(1).sum() < 16


def test_no_copies_between_the_convolutions():
    """The temporal convolution sees a view: it shares its input's memory, and its output is channels_last again."""
    unit = small("r2plus1d10").stages[0][0].conv1
    seen = []
    unit.pointwise["video"].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    out = unit(torch.rand(8, 4, 16, 16).contiguous(memory_format=torch.channels_last), "video", 2)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert out.is_contiguous(memory_format=torch.channels_last)
    view = seen[0].permute(0, 2, 3, 1).reshape(2, 4, 256, -1)
    assert view.data_ptr() == seen[0].data_ptr()
