"""Train the experts that `intel_route.py` routes between, and write them as ONNX files with their TOML.

Three networks of clearly different cost and robustness, trained from random weights on the part of the
training images that the router never sees:

- small: SqueezeNet 1.1 with batch normalisation, on clean images only;
- medium: a residual network of width 16, on clean and slightly corrupted images;
- large: a residual network of width 32 (four times the work), on clean and corrupted images of every
  strength, and then for a second cycle with half of every batch clean.

python benchmarks/intel_experts.py --data DATA/intel_scenes --work WORK
"""

import argparse
import hashlib
import io
import math
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

SIZE = 96
"""Height and width of the experts' input; the photographs are 100 x 100."""
EPOCHS = 40
"""The first cycle: 28 epochs on images of 64 x 64, which cost less, and 12 of the full size."""
SMALL_SIZE, SMALL_EPOCHS = 64, 28
SECOND_EPOCHS = {"small": 0, "medium": 0, "large": 20}
"""The second cycle, at the full size and a lower learning rate."""
RATES = (0.1, 0.04)
CLEAN_SHARES = (0.25, 0.5)
"""Share of every batch that is left clean in each cycle, where an expert sees corruption at all."""
STRENGTH = {"small": 0.0, "medium": 0.1, "large": 1.0}
"""How strong the corruption is that each expert is trained on, as a share of the strongest."""
STRONGEST_BLUR = 4.0
STRONGEST_NOISE = 0.4
"""Standard deviations, in pixels and in the 0 to 1 range of pixels."""
BATCH = 64
MEAN, STD = (0.43, 0.458, 0.453), (0.27, 0.267, 0.299)


def part_of(sample_id: str) -> str:
    """Say which part of the training images an id belongs to: experts, router or calibration."""
    draw = int.from_bytes(hashlib.sha256(f"split {sample_id}".encode()).digest()[:4], "big") / 2**32
    return "experts" if draw < 0.55 else "router" if draw < 0.87 else "calibration"


class Fire(nn.Module):
    """SqueezeNet's squeeze and expand layers, with batch normalisation."""

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = _conv(channels, squeeze, 1)
        self.narrow, self.wide = _conv(squeeze, expand, 1), _conv(squeeze, expand, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        squeezed = self.squeeze(x)
        return torch.cat([self.narrow(squeezed), self.wide(squeezed)], dim=1)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(channels, out, 3, stride)
        self.second = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out))
        same = channels == out and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.second(self.first(x)) + self.shortcut(x)).relu()


def _conv(channels: int, out: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


def squeezenet(classes: int) -> nn.Module:
    """SqueezeNet 1.1 with batch normalisation."""
    pool = {"kernel_size": 3, "stride": 2, "ceil_mode": True}
    return nn.Sequential(
        _conv(3, 64, 3, 2),
        nn.MaxPool2d(**pool),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
        nn.MaxPool2d(**pool),
        Fire(128, 32, 128),
        Fire(256, 32, 128),
        nn.MaxPool2d(**pool),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        Fire(512, 64, 256),
        nn.Conv2d(512, classes, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def resnet(width: int, classes: int) -> nn.Module:
    """An 18-layer residual network of a given width, its first layer with stride 2 and no pooling."""
    layers: list[nn.Module] = [_conv(3, width, 3, 2)]
    channels = width
    for stage in range(4):
        out = width * 2**stage
        layers += [Block(channels, out, 2 if stage else 1), Block(out, out, 1)]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


NETWORKS = {
    "small": squeezenet,
    "medium": lambda classes: resnet(16, classes),
    "large": lambda classes: resnet(32, classes),
}


def blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Convolve with a Gaussian, as a pair of one-dimensional convolutions."""
    radius = max(1, math.ceil(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / max(sigma, 1e-3)) ** 2)
    kernel = (kernel / kernel.sum()).repeat(3, 1)
    padded = functional.pad(images, (radius,) * 4, mode="reflect")
    rows = functional.conv2d(padded, kernel[:, None, :, None], groups=3)
    return functional.conv2d(rows, kernel[:, None, None, :], groups=3)


def augment(images: torch.Tensor, strength: float, clean: float, generator: torch.Generator) -> torch.Tensor:
    """Corrupt a batch but for a clean share: a third each by blur, noise and both, of a strength drawn anew."""

    def draw() -> float:
        return float(torch.rand((), generator=generator)) * strength

    if strength == 0:
        return images
    third = int(len(images) * (1 - clean)) // 3
    parts = list(images.split([third] * 3 + [len(images) - 3 * third]))
    for at in (0, 2):
        parts[at] = blur(parts[at], draw() * STRONGEST_BLUR)
    for at in (1, 2):
        noise = torch.randn(parts[at].shape, generator=generator)
        gamma = torch.rand(len(parts[at]), 1, 1, 1, generator=generator) * strength * STRONGEST_NOISE
        parts[at] = (parts[at] + gamma * noise).clamp(0, 1)
    return torch.cat(parts)


def load(path: Path, part: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Decode the images of one part of a table: uint8 of shape (m, 100, 100, 3), and labels."""
    table = pq.read_table(path, columns=["id", "image", "label"]).to_pydict()
    rows = [i for i, one in enumerate(table["id"]) if part is None or part_of(one) == part]
    images = [Image.open(io.BytesIO(table["image"][i])).convert("RGB").resize((100, 100)) for i in rows]
    return np.stack([np.asarray(p) for p in images]), np.array([table["label"][i] for i in rows])


def train(
    network: nn.Module, name: str, images: np.ndarray, labels: np.ndarray, cycle: int, seed: int
) -> None:
    """Train one cycle: SGD with Nesterov momentum, one cycle of the learning rate, label smoothing."""
    generator = torch.Generator().manual_seed(seed + cycle)
    rate, clean = RATES[cycle], CLEAN_SHARES[cycle]
    epochs, steps = (EPOCHS, SECOND_EPOCHS[name])[cycle], len(images) // BATCH
    optimiser = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * steps, pct_start=0.2)
    data, target = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    started = time.perf_counter()
    network.train()
    for epoch in range(epochs):
        size = SMALL_SIZE if cycle == 0 and epoch < SMALL_EPOCHS else SIZE
        order = torch.randperm(len(data), generator=generator)
        total = 0.0
        for step in range(steps):
            rows = order[step * BATCH : (step + 1) * BATCH]
            batch = data[rows].float() / 255
            if torch.rand((), generator=generator) < 0.5:
                batch = batch.flip(3)
            batch = augment(batch, STRENGTH[name], clean, generator)
            scale = 0.7 + 0.3 * float(torch.rand((), generator=generator))
            side = int(100 * scale)
            top, left = (int(v) for v in torch.randint(0, 101 - side, (2,), generator=generator))
            batch = batch[:, :, top : top + side, left : left + side]
            batch = functional.interpolate(batch, (size, size), mode="bilinear", antialias=True)
            batch = ((batch - mean) / std).to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                output = network(batch)
            loss = functional.cross_entropy(output.float(), target[rows], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - started
        print(
            f"{name} cycle {cycle + 1} epoch {epoch + 1}/{epochs} size {size} loss {total / steps:.3f} "
            f"{seconds:.0f} s",
            flush=True,
        )


def export(network: nn.Module, name: str, classes: list[str], folder: Path) -> None:
    """Write NAME.onnx and NAME.toml."""
    path = folder / f"{name}.onnx"
    torch.onnx.export(
        network.to(memory_format=torch.contiguous_format),
        (torch.zeros(1, 3, SIZE, SIZE),),
        path,
        dynamo=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )
    named = ", ".join(f'"{one}"' for one in classes)
    path.with_suffix(".toml").write_text(
        f'[input]\ndecode = "image"\nresize = [{SIZE}, {SIZE}]\nmean = {list(MEAN)}\nstd = {list(STD)}\n\n'
        f"[output]\nlogits = true\nclasses = [{named}]\n\n[run]\nthreads = 1\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.parquet and classes.txt")
    parser.add_argument("--work", type=Path, required=True, help="where the experts are written")
    parser.add_argument("--experts", default="small,medium,large")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    classes = (arguments.data / "classes.txt").read_text().split()
    images, labels = load(arguments.data / "train.parquet", "experts")
    print(f"{len(images)} images, {len(classes)} classes")
    for name in arguments.experts.split(","):
        torch.manual_seed(arguments.seed)
        network = NETWORKS[name](len(classes)).to(memory_format=torch.channels_last)
        for cycle in (0, 1):
            kept = arguments.work / f"{name}-cycle{cycle + 1}.pth"
            if kept.exists():
                network.load_state_dict(torch.load(kept, weights_only=True))
            elif cycle == 0 or SECOND_EPOCHS[name]:
                train(network, name, images, labels, cycle=cycle, seed=arguments.seed)
                torch.save(network.state_dict(), kept)
        export(network.eval(), name, classes, arguments.work)


if __name__ == "__main__":
    main()
