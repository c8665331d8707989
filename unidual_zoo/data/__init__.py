"""Files to batches: decoding, frame sampling, transforms and labelled sets of files."""

from unidual_zoo.data.datasets import MediaSet, load_clips, load_image, read_media
from unidual_zoo.data.decode import Video, VideoInfo, probe, read_frames
from unidual_zoo.data.images import read_image
from unidual_zoo.data.media import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, MediaError, MediaWarning, is_image, is_video
from unidual_zoo.data.sampling import random_clip, uniform_clips
from unidual_zoo.data.transforms import eval_transform, normalize, train_transform

__all__ = [
    "IMAGE_EXTENSIONS",
    "VIDEO_EXTENSIONS",
    "MediaError",
    "MediaSet",
    "MediaWarning",
    "Video",
    "VideoInfo",
    "eval_transform",
    "is_image",
    "is_video",
    "load_clips",
    "load_image",
    "normalize",
    "probe",
    "random_clip",
    "read_frames",
    "read_image",
    "read_media",
    "train_transform",
    "uniform_clips",
]
