"""The CIFAR models behind the benchmarks: the ResNet, its export to ONNX, and cached outputs.

    python benchmarks/cifar.py --data DATA/cifar100 --work WORK resnet20 resnet56

exports the named state dicts, runs each over `test.parquet` through Sparing's own adapters, and prints
accuracy and where the seconds went. The export needs torch and onnxscript.
"""

import argparse
import logging
import warnings
from io import BytesIO
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from torch import nn

from sparing.data.samples import open_samples
from sparing.data.tables import OutputTable, read_outputs, write_outputs
from sparing.models import load_model, run
from sparing.numerics.metrics import accuracy

NORMALISATION = {
    10: ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    100: ((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)),
}
"""Mean and standard deviation per channel, by number of classes."""

CHUNK = 2048


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (m, inputs, h, w) to (m, outputs, h / stride, w / stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet(nn.Module):
    """A CIFAR ResNet: three stages of 16, 32 and 64 channels, n blocks each; depth 6n + 2."""

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        inputs = 16
        for stage, outputs in enumerate((16, 32, 64), start=1):
            layers = []
            for index in range(blocks):
                stride = 2 if stage > 1 and index == 0 else 1
                layers.append(Block(inputs, outputs, stride))
                inputs = outputs
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.fc = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map normalised pictures (m, 3, 32, 32) to logits (m, classes)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean(dim=(2, 3)))


def load_resnet(state_dict_path: Path) -> ResNet:
    """Build the ResNet that a state dict belongs to, in evaluation mode."""
    state = torch.load(state_dict_path, weights_only=True, map_location="cpu")
    blocks = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("layer1."))
    model = ResNet(blocks, classes=len(state["fc.bias"]))
    model.load_state_dict(state)
    return model.eval()


def export(state_dict_path: str | Path, out_dir: str | Path) -> Path:
    """Write NAME.onnx and NAME.toml for a CIFAR ResNet, unless they are there.

    Args:
        state_dict_path: a state dict NAME.pth.
        out_dir: the folder to write to; made if need be.

    Returns:
        The path of the ONNX file.
    """
    source, folder = Path(state_dict_path), Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{source.stem}.onnx"
    toml = target.with_suffix(".toml")
    if target.exists() and toml.exists():
        return target
    model = load_resnet(source)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it would mention that torchvision is missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, about its own tree utilities
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, 32, 32),),
            str(target),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    mean, std = NORMALISATION[model.fc.out_features]
    toml.write_text(
        "[input]\n"
        'decode = "image"\n'
        f"mean = {list(mean)}  # of pixels from 0 to 1\n"
        f"std = {list(std)}\n\n"
        "[output]\n"
        "logits = true\n"
    )
    return target


def noisy(name: str, share: float, seed: int, data: str | Path, work: str | Path) -> str:
    """Write a state dict whose convolution and linear weights carry Gaussian noise (PURE, B.7).

    Args:
        name: of the state dict to start from.
        share: standard deviation of the noise, as a share of each weight tensor's own.
        seed: of the noise.
        data: folder with NAME.pth.
        work: folder to write to.

    Returns:
        The name of the noisy state dict, for `outputs`; batch-norm values and biases are as they were.
    """
    new = f"{name}_noise{share}_seed{seed}"
    path = Path(work) / f"{new}.pth"
    if not path.exists():
        Path(work).mkdir(parents=True, exist_ok=True)
        state = torch.load(Path(data) / f"{name}.pth", weights_only=True, map_location="cpu")
        draw = torch.Generator().manual_seed(seed)
        for key, weights in state.items():
            if weights.ndim >= 2:
                noise = torch.randn(weights.shape, generator=draw)
                state[key] = weights + share * weights.std() * noise
        torch.save(state, path)
    return new


def embeddings(name: str, data: str | Path, work: str | Path) -> np.ndarray:
    """Give a model's penultimate features (m, 64), float32, over the test rows, computed once and kept."""
    kept = Path(work) / f"{name}.features.npy"
    if not kept.exists():
        model = load_resnet(_state_dict(name, data, work))
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in NORMALISATION[model.fc.out_features])
        model.fc = nn.Identity()
        samples = open_samples(Path(data) / "test.parquet")
        parts = []
        for start in range(0, len(samples), CHUNK):
            values = samples.fetch(np.arange(start, min(start + CHUNK, len(samples))))
            pictures = np.stack([np.asarray(Image.open(BytesIO(value)).convert("RGB")) for value in values])
            pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
            with torch.no_grad():
                parts.append(model((pixels - mean) / std).numpy())
        np.save(kept, np.concatenate(parts))
    features: np.ndarray = np.load(kept, allow_pickle=False)
    return features


def _state_dict(name: str, data: str | Path, work: str | Path) -> Path:
    made = Path(work) / f"{name}.pth"
    return made if made.exists() else Path(data) / f"{name}.pth"


def outputs(name: str, data: str | Path, work: str | Path) -> OutputTable:
    """Give the distributions of one model over the test rows, computed once and kept.

    Args:
        name: of the state dict, for example "resnet56", or what `noisy` gave.
        data: folder with NAME.pth and test.parquet.
        work: folder for the exported model and its outputs (NAME.parquet).

    Returns:
        Ids, distributions and labels of all rows, in the order of test.parquet.
    """
    kept = Path(work) / f"{name}.parquet"
    if not kept.exists():
        model = load_model(f"{name}={export(_state_dict(name, data, work), work)}")
        samples = open_samples(Path(data) / "test.parquet")
        probs = []
        for start in range(0, len(samples), CHUNK):
            at = np.arange(start, min(start + CHUNK, len(samples)))
            probs.append(run(model, samples.ids.take(at).to_pylist(), samples.fetch(at))[0])
        write_outputs(kept, samples.ids, np.concatenate(probs), samples.labels())
    return read_outputs(kept)


def main() -> None:
    """Export and run the named models; print accuracy and seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with NAME.pth and test.parquet")
    parser.add_argument("--work", type=Path, required=True, help="folder for exported models")
    parser.add_argument("names", nargs="+")
    arguments = parser.parse_args()
    for name in arguments.names:
        path = export(arguments.data / f"{name}.pth", arguments.work)
        started = perf_counter()
        samples = open_samples(arguments.data / "test.parquet")
        model = load_model(f"{name}={path}")
        opened = perf_counter() - started
        fetching = running = 0.0
        predicted = []
        for start in range(0, len(samples), CHUNK):
            at = np.arange(start, min(start + CHUNK, len(samples)))
            started = perf_counter()
            ids, values = samples.ids.take(at).to_pylist(), samples.fetch(at)
            fetching += perf_counter() - started
            probs, seconds = run(model, ids, values)
            running += seconds
            predicted.append(probs.argmax(axis=1))
        share = accuracy(np.concatenate(predicted), samples.labels())
        print(
            f"{name}: accuracy {share:.2%} on {len(samples)} rows; opening {opened:.2f} s, "
            f"fetching {fetching:.2f} s, model with decoding {running:.2f} s"
        )


if __name__ == "__main__":
    main()
