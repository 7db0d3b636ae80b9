"""The command `export`: a stored run as a file for other programs, read again and compared with the run.

An exported network takes pixels that were prepared as the run was and scaled to [0, 1], and gives logits and calibrated
probabilities; the rest of what one must know (labels, operating points, preparation, licence) is in a JSON file beside
it. Keras' `.h5` is not written: read the ONNX file instead.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from core.checkpoints import RunMeta
from core.data import DATASETS
from core.data.banks import open_bank
from core.data.dataset import load_dataset
from core.data.phantom import phantom_at
from core.data.preprocessing import preparation
from core.data.specs import family_of, find_dataset, is_present
from core.data.transforms import normalise, to_unit
from core.errors import CorruptRun
from core.models.classifier import Classifier
from core.predictor import load_classifier
from core.registry import Registry
from core.storage import sha256_of_file, write_atomically
from core.types import ImageSpec
from trainer.answers import find_run
from trainer.progress import say

if TYPE_CHECKING:
    from torch.export import ExportedProgram

IMAGES = 64
TOLERANCE = 1e-4  # largest difference of a probability
Answer = Callable[[np.ndarray], np.ndarray]


class Portable(nn.Module):
    """A run's network with its scaling before it and its calibration behind it.

    Args:
        model: the classifier.
        image: its input.
        temperature: divides the logits.
        multilabel: whether each finding stands alone.
    """

    def __init__(self, model: Classifier, image: ImageSpec, temperature: float, multilabel: bool) -> None:
        super().__init__()
        self.model = model
        self._image, self._temperature, self._multilabel = image, temperature, multilabel

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C, S, S) in [0, 1] -> (B, classes) logits and probabilities."""
        logits = self.model(normalise(pixels, self._image))
        scaled = logits / self._temperature
        return logits, scaled.sigmoid() if self._multilabel else scaled.softmax(dim=1)


@dataclass(frozen=True)
class Format:
    """A row of the table.

    Attributes:
        name: key in the registry.
        suffix: of the file.
        write: (network, an example of its input, path) -> writes the file.
        read: (path, record of the run, its folder) -> what gives probabilities for pixels by the file alone.
    """

    name: str
    suffix: str
    write: Callable[[Portable, torch.Tensor, Path], None]
    read: Callable[[Path, RunMeta, Path], Answer]


FORMATS: Registry[Format] = Registry("export format")


def export(arguments: argparse.Namespace) -> int:
    """`export`: 1 if the file does not answer as the run does."""
    folder, meta = find_run(arguments.run)
    if not meta.has_weights:
        raise CorruptRun(f"The run {meta.run} keeps no weights. Remove its folder {folder} and run it again.")
    row = FORMATS[arguments.format]
    path = arguments.to / f"{meta.run}{row.suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    network = portable(meta, folder)
    pixels, what = comparison_images(meta)
    row.write(network, to_unit(pixels[:2]), path)
    beside = path.with_suffix(f"{row.suffix}.json")
    write_atomically(beside, (json.dumps(card(meta, row, path), indent=1) + "\n").encode())
    with torch.no_grad():
        expected = network(to_unit(pixels))[1].numpy()
    found = row.read(path, meta, folder)(to_unit(pixels).numpy())
    apart = float(np.abs(found - expected).max())
    print(f"{path}: largest difference of a probability {apart:.2e} on {len(pixels)} {what}")
    return 0 if apart <= TOLERANCE else 1


def portable(meta: RunMeta, folder: Path) -> Portable:
    """A stored run's network, ready to be exported."""
    image = ImageSpec(meta.size, meta.mean, meta.std)
    return Portable(load_classifier(meta, folder), image, meta.temperature, meta.multilabel).eval()


def comparison_images(meta: RunMeta) -> tuple[np.ndarray, str]:
    """Prepared pixels of some test images of the run's data set where they are here, else of drawn ones, and which."""
    steps = preparation(meta.preparation)
    if family_of(meta.dataset) in DATASETS and is_present(find_dataset(meta.dataset)):
        dataset = load_dataset(find_dataset(meta.dataset), allow_leaks=meta.leaks > 0)
        rows = dataset.parts.test[:: max(1, len(dataset.parts.test) // IMAGES)][:IMAGES]
        some = dataset.listing.only(rows)  # a bank of its own, so that not the whole set is decoded
        bank = open_bank(some, meta.size, meta.channels, preparation=steps)
        return np.array(bank.images), f"test images of {meta.dataset}"
    say(f"The images of {meta.dataset} are not here; comparing on generated ones.")
    drawn = [Image.fromarray(phantom_at(index).pixels) for index in range(IMAGES)]
    return np.stack([steps.image(image, meta.size, meta.channels) for image in drawn]), "generated images"


def card(meta: RunMeta, row: Format, path: Path) -> dict[str, Any]:
    """What one must know of an exported file."""
    return {
        "run": meta.run, "format": row.name, "sha256": sha256_of_file(path),
        "use": "Research use only. Not a medical device: no answer may decide on a patient.",
        "input": f"pixels: (B, {meta.channels}, {meta.size}, {meta.size}), prepared so and divided by 255",
        "preparation": meta.preparation or "resized to a square, bilinear",
        "outputs": ["logits", "probabilities"], "labels": list(meta.labels), "positive": meta.positive,
        "task": meta.task, "threshold": meta.threshold, "thresholds": list(meta.thresholds),
        "temperature": meta.temperature, "mean": list(meta.mean), "std": list(meta.std), "synthetic": meta.synthetic,
        "trained_on": meta.dataset, "encoder": meta.encoder, "notes": list(meta.notes),
    }  # fmt: skip


def _program(network: Portable, example: torch.Tensor) -> ExportedProgram:
    program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:  # where this program lies on this machine is nobody's business
        node.meta.pop("stack_trace", None)
    return program


def _write_onnx(network: Portable, example: torch.Tensor, path: Path) -> None:
    import torch.onnx

    written = torch.onnx.export(
        _program(network, example), (), dynamo=True, input_names=["pixels"], output_names=["logits", "probabilities"],
        verbose=False,
    )  # fmt: skip
    assert written is not None
    written.save(str(path), external_data=False)


def _read_onnx(path: Path, meta: RunMeta, folder: Path) -> Answer:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["probabilities"], {"pixels": pixels})[0]


def _write_program(network: Portable, example: torch.Tensor, path: Path) -> None:
    torch.export.save(_program(network, example), path)


def _read_program(path: Path, meta: RunMeta, folder: Path) -> Answer:
    program = torch.export.load(path).module()
    return lambda pixels: program(torch.from_numpy(pixels))[1].detach().numpy()


def _write_tensors(network: Portable, example: torch.Tensor, path: Path) -> None:
    from safetensors.torch import save

    state = {name: value.contiguous() for name, value in network.model.state_dict().items()}
    write_atomically(path, save(state))


def _read_tensors(path: Path, meta: RunMeta, folder: Path) -> Answer:
    from safetensors.torch import load_file

    network = portable(meta, folder)
    for value in network.model.state_dict().values():  # so that nothing but the file can answer
        value.zero_()
    network.model.load_state_dict(load_file(path))
    with torch.no_grad():
        return lambda pixels: network(torch.from_numpy(pixels))[1].detach().numpy()


for _row in (
    Format("onnx", ".onnx", _write_onnx, _read_onnx),
    Format("torch-export", ".pt2", _write_program, _read_program),
    Format("safetensors", ".safetensors", _write_tensors, _read_tensors),
):
    FORMATS.add(_row)
