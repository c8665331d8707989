"""Joint training under Lightning: every step has a batch of images and one of clips, and one backward pass.

    uv run --with lightning docs/examples/lightning_module.py photos/ clips/        # folders class/file

Both pathways run in each step, so that Lightning's plain "ddp" works on several devices: every parameter gets a
gradient from every process. What `unidual train` adds: batches whose mixture is the same on every rank and after a
resumption, the auxiliary losses, strict checkpoints.
"""

import sys

import timm
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from unidual_zoo import load_clip, load_image
from unidual_zoo.data import read_media


class Files(Dataset):
    """Labelled images or videos -> (pixels as the model takes them, label)."""

    def __init__(self, media, spec):
        self.media, self.spec = media, spec
        self.load = load_image if media.modality == "image" else load_clip

    def __len__(self):
        return len(self.media)

    def __getitem__(self, index):
        return self.load(self.media.files[index], self.spec), self.media.labels[index]


class Joint(LightningModule):
    """Two losses, one for each modality, of one network."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_index):
        losses = [cross_entropy(self.model(pixels), labels) for pixels, labels in batch.values()]
        loss = torch.stack(losses).sum()
        self.log("loss", loss, batch_size=len(losses))
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


photos, clips = (read_media(folder, modality=m) for folder, m in zip(sys.argv[1:3], ("image", "video"), strict=True))
model = timm.create_model(
    "unidual10_aux.toy",
    pretrained=True,
    num_classes=len(photos.classes),
    num_video_classes=len(clips.classes),
)
loaders = {media.modality: DataLoader(Files(media, model.spec), 2, shuffle=True) for media in (photos, clips)}
trainer = Trainer(max_epochs=1, accelerator="auto", logger=False, enable_checkpointing=False, enable_progress_bar=False)
trainer.fit(Joint(model), CombinedLoader(loaders, mode="max_size_cycle"))
print(f"{trainer.global_step} steps, the last one's loss {trainer.callback_metrics['loss']:.3f}")
