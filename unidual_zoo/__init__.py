"""One network for images and videos: UniDual and its baselines as timm models. Importing it registers them."""

from unidual_zoo import data, models
from unidual_zoo.inference import Predictor, for_inference, load_model, to_rows
from unidual_zoo.inputs import create_transform, load_clip, load_image

__version__ = "0.1.0"
__all__ = [
    "Predictor",
    "create_transform",
    "data",
    "for_inference",
    "load_clip",
    "load_image",
    "load_model",
    "models",
    "to_rows",
]
