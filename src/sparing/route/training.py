"""Train a router on profiled experts and export it; "train dense, route sparse". Needs torch."""

import hashlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.data.samples import Samples, open_samples
from sparing.errors import InputError, LockedError, MissingExtraError
from sparing.images import CLEAN, Corruption
from sparing.models.description import InputDescription
from sparing.models.onnx import load_function
from sparing.route.labels import check_classes, known_labels
from sparing.route.latency import measure_router
from sparing.route.profiling import Profile, open_profile
from sparing.route.router import Router, RouterDescription, open_router, stem_of, write_router
from sparing.storage.files import write_text
from sparing.storage.locks import write_lock

try:
    import onnx
    import torch

    from sparing.route.fitting import Settings, fit
    from sparing.route.networks import MEAN, STD, RouterNetwork, squeezenet_stem
except ImportError as missing:
    raise MissingExtraError(str(missing.name), "torch", "Training a router") from missing

from sparing.route.inputs import Inputs

CHECKPOINT = "training.pt"
_INPUTS = ".inputs-"
_LOCK = ".training.lock"


def train(
    profile: Profile | str | Path,
    samples: Any,
    out: str | Path,
    *,
    settings: Settings | None = None,
    variants: Sequence[Corruption] = (CLEAN,),
    size: int = 96,
    backbone: Callable[[], torch.nn.Module] | None = None,
    weights: str | Path | None = None,
    inputs: Inputs | None = None,
    progress: Callable[[str, int, float], None] | None = None,
) -> Router:
    """Train a router on what the experts say, and write it to a folder.

    The experts run only where the profile does not know their outputs yet. The router never sees samples that
    the experts were trained on, if you can help it: on those all of them are right, and the router would
    learn to trust the cheapest.

    Args:
        profile: the folder that `profile` wrote.
        samples: labelled samples; whatever `open_samples` takes.
        out: the router's folder; a training that was stopped is resumed there.
        settings: objective and training; the objective "benefit" by default.
        variants: corruptions that the router is trained on, each sample once under each.
        size: height and width of the router's input images.
        backbone: makes the network under the linear layer, for inputs other than images or to your taste:
            from a batch of inputs to features (m, d) or (m, d, ...). SqueezeNet's stem by default, for
            images, and two hidden layers of 64 for numbers.
        weights: published weights of SqueezeNet 1.1 to start from; random ones by default.
        inputs: what `prepare` made of the same samples, variants and size, when several routers share it.
        progress: called with "profile", "prepare" or "train", the number done, and the loss so far.

    Returns:
        The router, as `open_router` returns it.

    Raises:
        InputError: samples without labels, a label that is not a class of the experts, settings or weights
            that do not fit, a folder that holds another router or cannot be written.
        ModelError: an expert failed.
        MissingExtraError: onnxscript, which the export needs, is not installed.
        StorageError: the router, or the experts' outputs, could not be written.
    """
    if find_spec("onnxscript") is None:  # now, and not when hours of training are to be exported
        raise MissingExtraError("onnxscript", "torch", "Exporting a router")
    settings = settings or Settings()
    opened = profile if isinstance(profile, Profile) else open_profile(profile)
    data = open_samples(samples)
    folder = Path(out)
    labels = known_labels(data)
    with ExitStack() as stack:
        stack.enter_context(_own(folder))
        if stem_of(folder) is not None:
            raise InputError(f"{folder}: holds a router already; remove it, or choose another folder")
        report = progress or (lambda _stage, _done, _loss: None)
        known = [
            opened.outputs(data, variant, progress=lambda state: report("profile", state.done, 0.0))
            for variant in variants
        ]
        said = known[0] if len(known) == 1 else np.concatenate(known)
        check_classes(data, labels, said.shape[2])
        if inputs is None:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix=_INPUTS))
            inputs = prepare(
                data,
                variants,
                Path(temporary) / "inputs.npy",
                size=size,
                progress=lambda done: report("prepare", done, 0.0),
            )
        elif len(inputs) != len(data) * len(variants):
            raise InputError(
                f"{len(inputs)} prepared inputs for {len(data)} samples in {len(variants)} variants"
            )
        torch.manual_seed(settings.seed)
        example = torch.from_numpy(inputs(np.array([0])))
        network = RouterNetwork(
            _backbone(backbone, weights, inputs.images, example), example, len(opened.experts)
        )
        losses = fit(
            network,
            inputs,
            log_probs=lambda rows: said[rows],
            labels=np.tile(labels, len(variants)),
            latencies=np.array([expert.single.median for expert in opened.experts]),
            settings=settings,
            checkpoint=folder / CHECKPOINT,
            fingerprint=_fingerprint(opened, labels, said, inputs.description),
            progress=lambda epoch, loss: report("train", epoch, loss),
        )
        description, images = inputs.description, inputs.images
        training = {
            **asdict(settings),
            "size": size if images else None,
            "samples": len(data),
            "variants": [variant.name for variant in variants],
            "losses": losses,
        }
        export(network, example, description, folder)
        return _describe(folder, opened, data, settings.objective, training)


def prepare(
    samples: Any,
    variants: Sequence[Corruption],
    path: Path,
    *,
    size: int = 96,
    progress: Callable[[int], None] | None = None,
) -> Inputs:
    """Prepare the inputs of SqueezeNet's stem once, for several trainings; see `Inputs`."""
    return Inputs(
        open_samples(samples), variants, size=size, path=path, mean=MEAN, std=STD, progress=progress
    )


def export(
    network: torch.nn.Module, example: torch.Tensor, description: InputDescription, folder: Path
) -> None:
    """Write `router.onnx` and `router.toml`; InputError where the network cannot be held or written."""
    path = folder / "router.onnx"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about torch's own internals
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            torch.onnx.export(
                network.cpu().eval(),
                (example,),
                path,
                dynamo=True,
                verbose=False,
                external_data=False,
                input_names=["input"],
                output_names=["scores"],
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            )
        _forget_sources(path)
    except ImportError as error:
        raise MissingExtraError(str(error.name), "torch", "Exporting a router") from error
    except Exception as error:  # the exporter raises what it likes
        raise InputError(f"{path}: the network cannot be written as ONNX: {error}") from error
    lines = ["[input]", f'decode = "{description.decode}"']
    if description.resize is not None:
        lines.append(f"resize = {list(description.resize)}")
    lines += [f"mean = {list(description.mean or (0.0,))}", f"std = {list(description.std or (1.0,))}"]
    write_text(folder / "router.toml", "\n".join(lines) + "\n")


def _forget_sources(path: Path) -> None:
    """Leave out of an exported graph where the code of its nodes lay on this machine."""
    graph = onnx.load(path)
    for nodes in (graph.graph.node, *(function.node for function in graph.functions)):
        for node in nodes:
            del node.metadata_props[:]
    onnx.save(graph, path)


def _describe(
    folder: Path, profile: Profile, samples: Samples, objective: str, training: dict[str, Any]
) -> Router:
    """Measure the router's own latency and write `router.json`, which makes the folder a router."""
    network = load_function(folder / "router.onnx", threads=1)
    single, batched = measure_router(
        network,
        samples,
        batch_size=profile.experts[0].batched.batch_size,
        shared=profile.decoding is not None,
    )
    write_router(
        folder,
        RouterDescription(
            objective=objective,
            experts=profile.experts,
            single=single,
            batched=batched,
            classes=profile.classes,
            training=training,
        ),
    )
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return open_router(folder)


@contextmanager
def _own(folder: Path) -> Iterator[None]:
    """Make the folder, keep other trainings out of it, and remove what a killed one left."""
    with ExitStack() as stack:
        try:
            stack.enter_context(write_lock(folder / _LOCK))
        except LockedError as error:
            raise InputError(f"{folder}: another training is at work here; choose another folder") from error
        for left in folder.glob(f"{_INPUTS}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _fingerprint(
    profile: Profile,
    labels: npt.NDArray[np.int64],
    said: npt.NDArray[np.float32],
    description: InputDescription,
) -> str:
    """Tell trainings apart by samples, experts and size: none resumes from the checkpoint of another."""
    digest = hashlib.sha256(repr([(e.name, e.digest) for e in profile.experts]).encode())
    digest.update(repr(description).encode())
    digest.update(labels.tobytes())
    digest.update(np.ascontiguousarray(said).data)
    return digest.hexdigest()


def _backbone(
    make: Callable[[], torch.nn.Module] | None,
    weights: str | Path | None,
    images: bool,
    example: torch.Tensor,
) -> torch.nn.Module:
    if make is not None:
        if weights is not None:
            raise InputError("weights are for SqueezeNet's stem; a backbone of your own brings its own")
        try:
            made = make()
        except Exception as error:  # whatever the user's function raises
            raise InputError(f"the backbone cannot be made: {type(error).__name__}: {error}") from error
        if not isinstance(made, torch.nn.Module):
            raise InputError(f"the backbone must be a torch module, got {type(made).__name__}")
        return made
    if images:
        return squeezenet_stem(weights)
    if weights is not None:
        raise InputError("weights are for SqueezeNet's stem, which takes images; these samples are numbers")
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(example[0].numel(), 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, 64),
        torch.nn.ReLU(),
    )
