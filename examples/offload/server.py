"""A server model for `sparing offload`: what a user writes.

    CIFAR10_VITS=folder/of/weights sparing offload serve --model examples/offload/server.py:vit

For a model of transformers or timm, `sparing.offload.adapters` does the work:

    import timm
    from sparing.offload.adapters import timm_server
    vit = timm_server(timm.create_model("deit_base_patch16_224", pretrained=True))
"""

import os
from pathlib import Path

from cifar10_vits import load_server

# load_server returns ServerModel(run, Geometry(32, 32, 4)), where run takes patches, uint8 of shape
# (m, k, 4, 4, 3), and their positions (m, k) in [0, 64), and returns logits (m, C).
vit = load_server(Path(os.environ.get("CIFAR10_VITS", ".")))
