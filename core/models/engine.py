"""One way to compute embeddings of a frozen encoder: ONNX Runtime where it takes the network, PyTorch elsewhere.

ONNX Runtime folds batch normalization into the convolutions and fuses activations; it serves images on the CPU.
Volumes, other devices and very large networks stay with PyTorch. Both give the same embeddings within `TOLERANCE`,
which is checked when a graph is built, so a cache may hold embeddings of both. Nothing is written to disk.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from core.models.classifier import Classifier, channels_last, placed

TOLERANCE = 1e-4  # largest difference from PyTorch's embedding of an image, as a share of its length
_AT_ONCE = 4  # images in a pass: what is computed between two layers stays in the processor's cache
_LARGEST = 2**29  # bytes of weights; a graph holds them three times while it is built
_LOG = logging.getLogger("lowshot.engine")
Embed = Callable[[torch.Tensor], np.ndarray]


def embedder(model: Classifier, key: str, device: torch.device) -> Embed:
    """Return a function from normalized images, (B, C, S, S) or (B, C, S, S, S), to embeddings, (B, D).

    Args:
        model: the classifier whose encoder and pooling are run; moved to the device and set to evaluation.
        key: a hash of the encoder's weights and pooling, by which a built graph is found again.
        device: where the encoder runs.
    """

    def embed(images: torch.Tensor) -> np.ndarray:
        run = None
        if device.type == "cpu" and images.ndim == 4:
            run = _graph(_Source((key, tuple(images.shape[1:]), torch.get_num_threads()), model.eval()))
        return run(images) if run else embed_eagerly(model, images, device)

    return embed


def embed_eagerly(model: Classifier, images: torch.Tensor, device: torch.device) -> np.ndarray:
    """Embeddings by PyTorch: (B, C, S, S) normalized images, or (B, C, S, S, S) volumes -> (B, D)."""
    placed(model.eval(), device)
    with torch.no_grad():
        return model.embed(channels_last(images.to(device))).float().cpu().numpy()


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest distance between two embeddings of an image, (B, D) each, as a share of the second's length."""
    distances, lengths = (np.linalg.norm(rows, axis=1) for rows in (found - wanted, wanted))
    return float((distances / np.maximum(lengths, np.finfo(np.float32).tiny)).max())


@dataclass(frozen=True)
class _Source:
    """What a graph is built from; equal where the key is.

    Attributes:
        key: hash of the weights, shape of an input, threads.
        model: the classifier.
    """

    key: tuple[str, tuple[int, ...], int]
    model: Classifier = field(compare=False)


class _Embedding(nn.Module):
    """(B, C, S, S) normalized images -> (B, D) embeddings."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model.embed(images)


@lru_cache(maxsize=2)
def _graph(source: _Source) -> Embed | None:
    """Build the graph of an encoder and compare it with PyTorch; None where it cannot be built or differs."""
    _, shape, threads = source.key
    if sum(value.nbytes for value in source.model.state_dict().values()) > _LARGEST:
        return None
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    wanted = embed_eagerly(source.model, images, torch.device("cpu"))
    try:
        run = _session(_exported(source.model, shape), threads)
        apart = difference(run(images), wanted)
    except Exception as error:  # exporter and runtime raise many kinds; PyTorch runs every network
        _LOG.info("ONNX Runtime does not take this encoder, PyTorch does: %s", error)
        return None
    if not apart <= TOLERANCE:
        _LOG.warning("The embeddings of ONNX Runtime differ by %.1e from PyTorch's, which are used instead.", apart)
        return None
    return run


def _exported(model: Classifier, shape: tuple[int, ...]) -> bytes:
    """The ONNX graph of encoder and pooling, for any number of images.

    By tracing, which takes about a second; PyTorch's newer exporter takes ten times as long for the same graph. Its
    warnings are about what does not depend on the images here, and it prints a network that it does not take.
    """
    written = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Embedding(model).eval(),
            (torch.zeros(2, *shape),),
            written,  # type: ignore[arg-type]  # a buffer will do as well as a path
            dynamo=False,
            input_names=["images"],
            output_names=["embeddings"],
            dynamic_axes={"images": {0: "batch"}, "embeddings": {0: "batch"}},
        )
    return written.getvalue()


def _session(graph: bytes, threads: int) -> Embed:
    """Load a graph. Its threads sleep while they wait, so that they take nothing from PyTorch's or other programs'."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(images: torch.Tensor) -> np.ndarray:
        parts = [part.contiguous().numpy() for part in images.split(_AT_ONCE)]
        return np.concatenate([session.run(["embeddings"], {"images": part})[0] for part in parts])

    return run
