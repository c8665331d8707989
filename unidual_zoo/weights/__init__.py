"""Checkpoints: rows of facts, fetching files, checking saved configurations, and fitting weights to a model."""

from unidual_zoo.spec import InputSpec
from unidual_zoo.weights.config import check_config, check_saved, check_size, read_config
from unidual_zoo.weights.fetch import cached_from_hub, check_hash, check_hub, fetch, fetch_from_hub, fetch_url
from unidual_zoo.weights.files import CONFIG, EXPORT, WEIGHTS_FILE, sha256_of
from unidual_zoo.weights.fit import HEADS, check_finite, check_plain, fit_to_model, is_finite, read_weights, unwrap
from unidual_zoo.weights.key_map import KeyMap
from unidual_zoo.weights.rows import Checkpoint, CheckpointError, Metric, is_noncommercial

__all__ = [
    "CONFIG",
    "EXPORT",
    "HEADS",
    "WEIGHTS_FILE",
    "Checkpoint",
    "CheckpointError",
    "InputSpec",
    "KeyMap",
    "Metric",
    "cached_from_hub",
    "check_config",
    "check_finite",
    "check_hash",
    "check_hub",
    "check_plain",
    "check_saved",
    "check_size",
    "fetch",
    "fetch_from_hub",
    "fetch_url",
    "fit_to_model",
    "is_finite",
    "is_noncommercial",
    "read_config",
    "read_weights",
    "sha256_of",
    "unwrap",
]
