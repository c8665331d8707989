"""The page of `unidual demo` as a Space: push this folder. MODEL is any name that `unidual_zoo` loads.

hf repos create YOU/unidual --type space --space-sdk gradio
hf upload YOU/unidual hub/space . --repo-type space
"""

import os

from unidual_zoo.demo import Limits, served
from unidual_zoo.inference import load_network

MODEL = os.environ.get("MODEL", "unidual_efficientnet_lite0")

with served(
    load_network(MODEL),
    name=MODEL,
    limits=Limits(megabytes=25, seconds=60),
    host="0.0.0.0",
) as page:
    page.block_thread()
