"""One network for images and videos: UniDual and its baselines as timm models. Importing it registers them."""

from unidual_zoo import models

__version__ = "0.1.0"
__all__ = ["models"]
