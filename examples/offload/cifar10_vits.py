"""The two ViTs of the CIFAR-10 benchmarks, edge and server, both with an 8x8 grid of 4x4 patches."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import nn

from sparing.offload import EdgeModel, EdgeOutput, Geometry, ServerModel

GEOMETRY = Geometry(32, 32, 4)


class Block(nn.Module):
    """A pre-norm block that also returns its attention."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, width))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens, and attention averaged over heads."""
        y = self.norm1(x)
        mixed, attention = self.attn(y, y, y, need_weights=True)  # fused attention would not return them
        x = x + mixed
        return x + self.mlp(self.norm2(x)), attention


class EdgeViT(nn.Module):
    """`vit_edge.pth`."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 128))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, 128, 4, 4)})
        self.pos_embed = nn.ParameterDict({"pos_embedding": torch.zeros(1, 65, 128)})
        self.transformer = nn.ModuleList(Block(128, 4, 256) for _ in range(6))
        self.norm, self.head = nn.LayerNorm(128), nn.Linear(128, 10)

    def forward(self, pixels: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits, the class token's attention in the last block, and the embeddings of a layer (-1: last)."""
        x = self.patch_embed["proj"](pixels * 2 - 1).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed["pos_embedding"]
        layers = [x]
        for block in self.transformer:
            x, attention = block(x)
            layers.append(x)
        return self.head(self.norm(x)[:, 0]), attention[:, 0, 1:], layers[layer][:, 1:]


class ServerViT(nn.Module):
    """`vit_server.pth`."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 128))
        self.pos_embed = nn.Parameter(torch.zeros(1, 65, 128))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, 128, 4, 4)})
        layer = nn.TransformerEncoderLayer(128, 8, 256, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.mlp_head = nn.Sequential(nn.LayerNorm(128), nn.Linear(128, 10))

    def forward(self, patches: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Logits from patches (m, k, 3, 4, 4) at positions (m, k); nothing stands in for the others."""
        m, k = positions.shape
        mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
        std = torch.tensor([0.2023, 0.1994, 0.2010]).view(3, 1, 1)
        x = self.patch_embed["proj"](((patches - mean) / std).flatten(0, 1)).view(m, k, 128)
        x = x + self.pos_embed[0, 1:][positions]
        start = (self.cls_token + self.pos_embed[:, :1]).expand(m, -1, -1)
        return self.mlp_head(self.transformer(torch.cat([start, x], dim=1))[:, 0])


def load_edge(folder: Path, layer: int = -1) -> EdgeModel:
    """The edge model; `layer` chooses the embeddings, 0 being the patch embedding and -1 the last block."""
    model = EdgeViT()
    model.load_state_dict(torch.load(folder / "vit_edge.pth", weights_only=True, map_location="cpu"))
    model.eval()

    @torch.inference_mode()
    def run(pixels: np.ndarray) -> EdgeOutput:
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        return EdgeOutput(*(part.numpy() for part in model(x, layer)))

    return EdgeModel(run, GEOMETRY)


def load_server(folder: Path) -> ServerModel:
    model = ServerViT()
    state = torch.load(folder / "vit_server.pth", weights_only=True, map_location="cpu")
    model.load_state_dict(state)
    model.eval()

    @torch.inference_mode()
    def run(patches: np.ndarray, positions: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(patches).permute(0, 1, 4, 2, 3).float() / 255
        return model(x, torch.from_numpy(positions)).numpy()

    return ServerModel(run, GEOMETRY)


def load_images(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    table = pq.read_table(folder / "test.parquet")
    pixels = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in table["image"].to_pylist()]
    return np.stack(pixels), table["label"].to_numpy().astype(np.int64)
