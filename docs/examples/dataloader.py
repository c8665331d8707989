"""A model of this package in a loop of one's own: torch.utils.data, one pass over labelled videos with a new head.

    uv run docs/examples/dataloader.py clips/        # folders class/file

The clip in the centre of each video is read, here by loader processes. `unidual finetune` does more: clips at random
places, augmentation, a held-out part, checkpoints.
"""

import argparse

import timm
import torch
from torch.utils.data import DataLoader, Dataset

from unidual_zoo import load_clip
from unidual_zoo.data import read_media


class Clips(Dataset):
    """Labelled videos -> ((3, T, H, W) float32, label). It goes to loader processes, so it holds the spec alone."""

    def __init__(self, folder, spec):
        self.media, self.spec = read_media(folder, modality="video"), spec

    def __len__(self):
        return len(self.media)

    def __getitem__(self, index):
        return load_clip(self.media.files[index], self.spec), self.media.labels[index]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()

    num_classes = len(read_media(options.clips, modality="video").classes)
    model = timm.create_model("unidual10_aux.toy", pretrained=True, num_video_classes=num_classes).train()
    loader = DataLoader(Clips(options.clips, model.spec), batch_size=4, shuffle=True, num_workers=options.workers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for step, (clips, labels) in enumerate(loader):
        loss = torch.nn.functional.cross_entropy(model(clips), labels)  # a 5-D input takes the video pathway
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":  # loader processes import this file
    main()
