"""One network for images and videos: UniDual and its baselines as timm models. Importing it registers them."""

from unidual_zoo import data, models
from unidual_zoo.inference import for_inference

__version__ = "0.1.0"
__all__ = ["data", "for_inference", "models"]
