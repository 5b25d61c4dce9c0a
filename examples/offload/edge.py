"""An edge model for `sparing offload`: what a user writes.

    CIFAR10_VITS=folder/of/weights sparing offload send --edge examples/offload/edge.py:vit ...

For a model of transformers or timm, `sparing.offload.adapters` does the work:

    from transformers import ViTForImageClassification
    from sparing.offload.adapters import transformers_edge
    vit = transformers_edge(ViTForImageClassification.from_pretrained("path/to/deit-tiny"))
"""

import os
from pathlib import Path

from cifar10_vits import load_edge

# load_edge returns EdgeModel(run, Geometry(32, 32, 4)), where run takes images, uint8 of shape
# (m, 32, 32, 3), and returns logits (m, C), the class token's attention (m, 64) and embeddings (m, 64, d).
vit = load_edge(Path(os.environ.get("CIFAR10_VITS", ".")))
