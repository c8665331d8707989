"""Photos and videos of Hugging Face `datasets` through a model: set_transform reads and transforms what is asked for.

    uv run --with datasets docs/examples/hf_datasets.py photos/ clips/        # folders class/file

A photo is a column of the type Image, which gives Pillow's images; a video is a column of paths, so that only the
frames of its clip are decoded. `load_dataset` gives the same columns as the two `from_dict` here.
"""

import sys

import timm
import torch
from datasets import Dataset, Image
from torch.utils.data import DataLoader

from unidual_zoo import create_transform, load_clip
from unidual_zoo.data import read_media

photos = read_media(sys.argv[1], modality="image")
clips = read_media(sys.argv[2], modality="video")
model = timm.create_model("unidual10_aux.toy", pretrained=True).eval()
transform = create_transform(model)


def with_pixels_of_images(batch):
    return {"pixels": [transform(image) for image in batch["image"]], "label": batch["label"]}


def with_pixels_of_clips(batch):
    return {"pixels": [load_clip(path, model) for path in batch["path"]], "label": batch["label"]}


images = Dataset.from_dict({"image": photos.files, "label": photos.labels}).cast_column("image", Image())
images.set_transform(with_pixels_of_images)
videos = Dataset.from_dict({"path": clips.files, "label": clips.labels})
videos.set_transform(with_pixels_of_clips)

for name, rows in (("images", images), ("videos", videos)):
    for batch in DataLoader(rows, batch_size=4):
        with torch.inference_mode():
            logits = model(batch["pixels"])  # (B, 3, H, W) take the image pathway, (B, 3, T, H, W) the video pathway
        print(name, tuple(batch["pixels"].shape), "->", logits.argmax(1).tolist())
