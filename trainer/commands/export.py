"""`export`: write a stored run as a file for other programs, read it again and compare it with the run.

An exported network takes pixels or voxels that were preprocessed as for the run and scaled to [0, 1]. It returns logits
and calibrated probabilities. A JSON file next to it holds labels, operating points, preprocessing and license. Keras'
`.h5` is not written: use the ONNX file instead.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from core.data import DATASETS
from core.data.dataset import load_dataset
from core.data.datasets.phantom import make_cube, phantom_at
from core.data.image_cache import open_bank
from core.data.preprocessing import preparation
from core.data.specs import family_of, find_dataset, is_present
from core.data.transforms import normalize, to_unit
from core.errors import BadRequest
from core.files import sha256_of_file, write_atomically
from core.inference.predictor import image_spec_of, load_classifier
from core.models.classifier import Classifier
from core.registry import Registry
from core.runs import RunMeta, find_run
from core.types import ImageSpec
from trainer.progress import print_status

if TYPE_CHECKING:
    from torch.export import ExportedProgram

IMAGES, VOLUMES = 64, 16  # numbers that are compared
TOLERANCE = 1e-4  # largest difference of a probability that is accepted
ONNX_BYTES = 2**31 - 2**24  # a protocol buffer holds 2 GB, including the graph
_BATCH = 5  # neither the example's batch size nor a divisor of the number of images: files must take any batch size
Predict = Callable[[np.ndarray], np.ndarray]


class Portable(nn.Module):
    """A run's network with its input scaling and its calibration.

    Args:
        model: the classifier.
        image: its input specification.
        temperature: divides the logits.
        multilabel: whether each finding has its own probability.
    """

    def __init__(self, model: Classifier, image: ImageSpec, temperature: float, multilabel: bool) -> None:
        super().__init__()
        self.model = model
        self._image, self._temperature, self._multilabel = image, temperature, multilabel

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, C, S, S) or (B, 1, S, S, S) in [0, 1] to (B, classes) logits and probabilities."""
        logits = self.model(normalize(pixels, self._image))
        scaled = logits / self._temperature
        return logits, scaled.sigmoid() if self._multilabel else scaled.softmax(dim=1)


@dataclass(frozen=True)
class Format:
    """A row of the registry.

    Attributes:
        name: key in the registry.
        suffix: suffix of the file.
        content: (network, an example of its input) -> content of the file.
        read: (path, record of the run, its folder) -> a function from pixels to probabilities that uses only the file.
    """

    name: str
    suffix: str
    content: Callable[[Portable, torch.Tensor], bytes]
    read: Callable[[Path, RunMeta, Path], Predict]


FORMATS: Registry[Format] = Registry("export format")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("run", metavar="RUN", help="name of a stored run")
    parser.add_argument("--format", choices=tuple(FORMATS), default="onnx", help="(default: onnx)")
    parser.add_argument("--to", type=Path, default=Path("exports"), metavar="FOLDER", help="(default: exports)")


def run(arguments: argparse.Namespace) -> int:
    """Export a run; return 1 if the file does not predict as the run does.

    Raises:
        BadRequest: if the network cannot be converted to the format.
        CorruptRun: if the run has no saved weights.
    """
    folder, meta = find_run(arguments.run, with_weights=True)
    row = FORMATS[arguments.format]
    path = arguments.to / f"{meta.run}{row.suffix}"
    network = portable(meta, folder)
    pixels, description = comparison_images(meta)
    try:
        content = row.content(network, to_unit(pixels[:2]))
    except RuntimeError as error:  # raised for whatever PyTorch cannot convert
        why = " ".join(str(error).split())[:200]
        raise BadRequest(
            f"The run {meta.run} cannot be converted to {row.name}; choose another format. {why}"
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    card_text = json.dumps(card(meta, row, path), indent=1) + "\n"
    write_atomically(path.with_suffix(f"{row.suffix}.json"), card_text.encode())
    with torch.no_grad():
        expected = _probabilities(lambda batch: network(torch.from_numpy(batch))[1].numpy(), pixels)
    exported = _probabilities(row.read(path, meta, folder), pixels)
    difference = float(np.abs(exported - expected).max())
    print(f"{path}: largest difference of a probability {difference:.2e} on {len(pixels)} {description}")
    return 0 if difference <= TOLERANCE else 1


def portable(meta: RunMeta, folder: Path) -> Portable:
    """Return a stored run's network, ready to be exported."""
    classifier = load_classifier(meta, folder)
    return Portable(classifier, image_spec_of(meta), meta.temperature, meta.multilabel).eval()


def _probabilities(predict: Predict, pixels: np.ndarray) -> np.ndarray:
    """Map (N, C, S, S) uint8 to (N, classes) probabilities, in small batches, as volumes are large."""
    parts = [pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH)]
    return np.concatenate([predict(to_unit(part).numpy()) for part in parts])


def comparison_images(meta: RunMeta) -> tuple[np.ndarray, str]:
    """Return preprocessed pixels and their description: test images if they are installed, else generated ones."""
    image = image_spec_of(meta)
    steps = preparation(meta.preparation).for_encoder(image)
    count, kind = (VOLUMES, "volumes") if image.dims == 3 else (IMAGES, "images")
    if family_of(meta.dataset) in DATASETS and is_present(find_dataset(meta.dataset)):
        dataset = load_dataset(find_dataset(meta.dataset), allow_leaks=meta.leaks > 0)
        rows = dataset.parts.test[:: max(1, len(dataset.parts.test) // count)][:count]
        listing = dataset.listing.subset(rows)  # a bank of its own, so that the rest of the set is not decoded
        bank = open_bank(listing, meta.size, meta.channels, preparation=steps)
        return np.array(bank.images), f"test {kind} of {meta.dataset}"
    print_status(f"The {kind} of {meta.dataset} are not installed; comparing on generated ones.")
    if image.dims == 3:
        generated = [steps.volume(make_cube(index, index % 2)[0], meta.size) for index in range(count)]
    else:
        phantoms = [Image.fromarray(phantom_at(index).pixels) for index in range(count)]
        generated = [steps.image(phantom, meta.size, meta.channels) for phantom in phantoms]
    return np.stack(generated), f"generated {kind}"


def card(meta: RunMeta, row: Format, path: Path) -> dict[str, Any]:
    """Return what a user of an exported file must know."""
    image = image_spec_of(meta)
    shape = ", ".join(map(str, (meta.channels, *[meta.size] * image.dims)))
    resized = f"resized to a square, {image.interpolation}" if image.dims == 2 else "resized to a cube, linearly"
    return {
        "run": meta.run, "format": row.name, "sha256": sha256_of_file(path),
        "use": "Research use only. Not a medical device: do not base decisions about patients on its output.",
        "input": f"pixels: (B, {shape}), preprocessed as stated here and divided by 255",
        "preparation": f"{meta.preparation}, {resized}" if meta.preparation else resized,
        "outputs": ["logits", "probabilities"], "labels": list(meta.labels), "positive": meta.positive,
        "task": meta.task, "threshold": meta.threshold, "thresholds": list(meta.thresholds),
        "temperature": meta.temperature, "mean": list(meta.mean), "std": list(meta.std), "synthetic": meta.synthetic,
        "trained_on": meta.dataset, "encoder": meta.encoder, "notes": list(meta.notes),
    }  # fmt: skip


def _program(network: Portable, example: torch.Tensor) -> ExportedProgram:
    program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:  # paths of this machine are not exported
        node.meta.pop("stack_trace", None)
    return program


def _to_onnx(network: Portable, example: torch.Tensor) -> bytes:
    import torch.onnx

    size = sum(value.nbytes for value in network.state_dict().values())
    if size > ONNX_BYTES:
        raise BadRequest(
            f"An ONNX file holds at most 2 GB, but this network has {size / 1e9:.1f} GB; choose another format."
        )
    written = torch.onnx.export(
        _program(network, example), (), dynamo=True, input_names=["pixels"], output_names=["logits", "probabilities"],
        verbose=False,
    )  # fmt: skip
    assert written is not None
    return bytes(written.model_proto.SerializeToString())


def _read_onnx(path: Path, meta: RunMeta, folder: Path) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["probabilities"], {"pixels": pixels})[0]


def _to_program(network: Portable, example: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(_program(network, example), buffer)
    return buffer.getvalue()


def _read_program(path: Path, meta: RunMeta, folder: Path) -> Predict:
    program = torch.export.load(path).module()
    return lambda pixels: program(torch.from_numpy(pixels))[1].detach().numpy()


def _to_tensors(network: Portable, example: torch.Tensor) -> bytes:
    from safetensors.torch import save

    return save({name: value.contiguous() for name, value in network.model.state_dict().items()})


def _read_tensors(path: Path, meta: RunMeta, folder: Path) -> Predict:
    from safetensors.torch import load_file

    network = portable(meta, folder)
    for value in network.model.state_dict().values():  # the weights come from the file alone
        value.zero_()
    network.model.load_state_dict(load_file(path))
    return lambda pixels: network(torch.from_numpy(pixels))[1].detach().numpy()


FORMATS.add(
    Format("onnx", ".onnx", _to_onnx, _read_onnx),
    Format("torch-export", ".pt2", _to_program, _read_program),
    Format("safetensors", ".safetensors", _to_tensors, _read_tensors),
)
