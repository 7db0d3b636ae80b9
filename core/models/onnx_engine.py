"""Embeddings of a frozen encoder, computed by ONNX Runtime if that is faster, else by PyTorch.

ONNX Runtime folds batch normalization into convolutions and fuses activations; it is used for images on the CPU. A
network without batch normalization, such as a vision transformer, spends its time in matrix products, which PyTorch
computes faster. Volumes, other devices and very large networks use PyTorch too. Both give the same embeddings within
`TOLERANCE`, which is checked when a graph is built, so a cache may contain embeddings of both. Nothing is written to
disk.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.models.classifier import Classifier, channels_last, compute_in_halves, to_device

TOLERANCE = 1e-4  # largest distance from PyTorch's embedding of an image, relative to its norm
_AT_ONCE = 4  # images per pass: activations between layers stay in the processor's cache
_LARGEST = 2**29  # bytes of weights; building a graph holds them three times in memory
_LOG = logging.getLogger("lowshot.engine")
Embed = Callable[[torch.Tensor], np.ndarray]


def embedder(model: Classifier, key: str, device: torch.device) -> Embed:
    """Return a function that maps normalized images, (B, C, S, S) or (B, C, S, S, S), to embeddings, (B, D).

    Args:
        model: the classifier with the encoder and the pooling; moved to the device and set to evaluation mode.
        key: hash of the encoder's weights and pooling; identifies a graph in the cache.
        device: device of the encoder.
    """

    def embed(images: torch.Tensor) -> np.ndarray:
        if device.type != "cpu" or images.ndim != 4:
            return embed_eagerly(model, images, device)
        run = _graph(_Source((key, tuple(images.shape[1:]), torch.get_num_threads()), model.eval()))
        return _in_parts(run or partial(embed_eagerly, model, device=device), images)

    return embed


def embed_eagerly(model: Classifier, images: torch.Tensor, device: torch.device) -> np.ndarray:
    """Compute embeddings with PyTorch: (B, C, S, S) normalized images or (B, C, S, S, S) volumes -> (B, D)."""
    to_device(model.eval(), device)
    with torch.no_grad():
        return compute_in_halves(lambda part: model.embed(channels_last(part.to(device))).float().cpu(), images).numpy()


def _in_parts(embed: Embed, images: torch.Tensor) -> np.ndarray:
    """Embed the same small number of images at a time: the last bits of an embedding depend on that number."""
    filled = torch.cat([images, images[-1:].expand(-len(images) % _AT_ONCE, *images.shape[1:])])
    return np.concatenate([embed(part) for part in filled.split(_AT_ONCE)])[: len(images)]


def difference(embeddings: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest distance between two embeddings of an image, relative to the norm of the second one.

    Args:
        embeddings: (B, D).
        reference: (B, D).
    """
    distances, lengths = (np.linalg.norm(rows, axis=1) for rows in (embeddings - reference, reference))
    return float((distances / np.maximum(lengths, np.finfo(np.float32).tiny)).max())


@dataclass(frozen=True)
class _Source:
    """The source of a graph; two sources are equal if their keys are.

    Attributes:
        key: hash of the weights, shape of one input, number of threads.
        model: the classifier.
    """

    key: tuple[str, tuple[int, ...], int]
    model: Classifier = field(compare=False)


@lru_cache(maxsize=2)
def _graph(source: _Source) -> Embed | None:
    """Build the graph of an encoder and compare it with PyTorch; None if PyTorch is to be used."""
    _, shape, threads = source.key
    if not any(isinstance(layer, _BatchNorm) for layer in source.model.encoder.modules()):
        return None
    if sum(value.nbytes for value in source.model.state_dict().values()) > _LARGEST:
        return None
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    expected = embed_eagerly(source.model, images, torch.device("cpu"))
    try:
        run = _session(_exported(source.model, shape), threads)
        distance = difference(run(images), expected)
    except Exception as error:  # exporter and runtime raise many types; PyTorch runs every network
        _LOG.info("ONNX Runtime does not support this encoder; PyTorch is used: %s", error)
        return None
    if not distance <= TOLERANCE:
        _LOG.warning("Embeddings of ONNX Runtime differ by %.1e from PyTorch's; PyTorch is used.", distance)
        return None
    return run


def _exported(model: Classifier, shape: tuple[int, ...]) -> bytes:
    """Export encoder and pooling as an ONNX graph for any number of images.

    The graph is traced, which takes about a second; PyTorch's newer exporter takes ten times as long for the same
    graph. The warnings of the tracer concern values that do not depend on the images here; its standard output, where
    it prints networks that it does not support, is suppressed.
    """
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            nn.Sequential(model.encoder, model.head.pool).eval(),
            (torch.zeros(2, *shape),),
            buffer,  # type: ignore[arg-type]  # accepts a buffer as well as a path
            dynamo=False,
            input_names=["images"],
            output_names=["embeddings"],
            dynamic_axes={"images": {0: "batch"}, "embeddings": {0: "batch"}},
        )
    return buffer.getvalue()


def _session(graph: bytes, threads: int) -> Embed:
    """Load a graph; its idle threads sleep, so that they do not slow down PyTorch or other programs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(images: torch.Tensor) -> np.ndarray:
        return np.asarray(session.run(["embeddings"], {"images": images.contiguous().numpy()})[0])

    return run
