"""TorchXRayVision's DenseNet-121 (family C), and the conversion of its published file.

The publishers ship pickled modules, and a pickle can run code. `convert` therefore opens only a file with the SHA-256
of the published one and reads it with a restricted unpickler, which accepts tensors, containers and a few module
classes by name. Each class is replaced by an empty stand-in; any other name raises an error. (PyTorch's own
`weights_only` does the same, but refuses modules saved before PyTorch 1.6, such as this one.) The remaining trust is in
Python's unpickler and in the list of names. The result is a safetensors file, the only format that models read.
TorchXRayVision itself is not needed: timm's DenseNet-121 with one channel has the same tensors under the same names.

Input: one channel in [-1024, 1024], 224 pixels. TorchXRayVision resizes other sizes with a warning; here they are
refused.

References:
    TorchXRayVision: Cohen et al. 2021, arXiv:2111.00595; weights `densenet121-res224-all`: arXiv:2002.02497.
"""

import pickle
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from core.errors import WeightsUnavailable
from core.files import sha256_of_file, write_atomically
from core.models.classifier import Classifier
from core.models.specs import MODELS
from core.models.timm_networks import classifier_of
from core.models.weights import FILE, find_file, weights_of

NAME = "medical-xrv-densenet121"
IMAGE, REF, ADDRESS = MODELS[NAME].image, MODELS[NAME].weights.ref, MODELS[NAME].weights.source
PUBLISHED_SHA256 = "56524913dd16a906422e8d8b66a7a5c46be1d82eb7ac012d8103776f1aa68899"
_CLASSIFIER = "classifier."
_MODULES = (
    "torchxrayvision.models.DenseNet", "torchxrayvision.models._DenseBlock", "torchxrayvision.models._DenseLayer",
    "torchxrayvision.models._Transition", "torch.nn.modules.container.Sequential", "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.batchnorm.BatchNorm2d", "torch.nn.modules.activation.ReLU", "torch.nn.modules.linear.Linear",
    "torch.nn.modules.pooling.MaxPool2d", "torch.nn.modules.pooling.AvgPool2d",
)  # fmt: skip


class _StandIn:
    """Stand-in for a module of the file: its attributes without its code."""

    dump_patches = False  # read by PyTorch if the file contains the source of its classes


_KNOWN: dict[str, Any] = {
    **dict.fromkeys(_MODULES, _StandIn),
    "collections.OrderedDict": OrderedDict,
    "__builtin__.set": set,  # Python 2 name, used by this pickle protocol
    "torch.FloatStorage": torch.FloatStorage,
    "torch.LongStorage": torch.LongStorage,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
}


class _Restricted:
    """Replacement for the module `pickle` in `torch.load`."""

    class Unpickler(pickle.Unpickler):
        """Unpickler that accepts only the names in a pickled DenseNet."""

        def find_class(self, module: str, name: str) -> Any:
            if (full_name := f"{module}.{name}") not in _KNOWN:
                raise pickle.UnpicklingError(f"it contains {full_name}, which is not allowed")
            return _KNOWN[full_name]

    @classmethod
    def load(cls, file: IO[bytes], **how: Any) -> Any:
        """Read the next object of a file."""
        return cls.Unpickler(file, **how).load()


def read_pickled(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a pickled DenseNet, by name, without running code from the file.

    Raises:
        WeightsUnavailable: if the file contains anything but the expected modules, containers and tensors.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old files contain the source of their classes, which stand-ins lack
            module = torch.load(path, map_location="cpu", pickle_module=_Restricted, weights_only=False)
        return dict(_tensors(module, ""))
    except (pickle.UnpicklingError, RuntimeError, AttributeError, EOFError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsUnavailable(f"{path.name} is not a pickled DenseNet of TorchXRayVision: {reason}") from None


def _tensors(module: object, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the parameters and buffers of a module and its submodules under the names of `state_dict`."""
    for name, value in (*module._parameters.items(), *module._buffers.items()):  # type: ignore[attr-defined]
        if value is not None:
            yield prefix + name, value.detach()
    for name, inner in module._modules.items():  # type: ignore[attr-defined]
        yield from _tensors(inner, f"{prefix}{name}.")


def convert(path: Path, folder: Path, sha256: str = PUBLISHED_SHA256) -> Path:
    """Convert a downloaded file to `<folder>/torchxrayvision/densenet121-res224-all/model.safetensors`.

    Args:
        path: the published file.
        folder: one of the folders of `LOWSHOT_WEIGHTS`.
        sha256: expected SHA-256 of the file.
    Raises:
        WeightsUnavailable: if the file has another hash or does not contain the expected network.
    """
    from safetensors.torch import save

    digest = sha256_of_file(path)
    if digest != sha256:
        raise WeightsUnavailable(
            f"{path.name} has SHA-256 {digest}; expected {sha256}. It was not opened. Download it again from {ADDRESS}."
        )
    state = {name: value.contiguous() for name, value in read_pickled(path).items()}
    _check(state, path)
    target = folder / REF / FILE
    write_atomically(target, save(state, {"format": "pt", "source_sha256": digest}))
    return target


def _check(state: dict[str, torch.Tensor], path: Path) -> None:
    """Raise WeightsUnavailable if the tensors, without a classifier's, are not those of the encoder."""
    with torch.device("meta"):
        network: Any = outline(2).encoder.network
    expected = {name: value.shape for name, value in network.state_dict().items()}
    actual = {name: value.shape for name, value in state.items() if not name.startswith(_CLASSIFIER)}
    if wrong := sorted(name for name in {**expected, **actual} if expected.get(name) != actual.get(name)):
        raise WeightsUnavailable(f"{path.name} does not contain a DenseNet-121 with one channel: {wrong[0]} differs.")


def build(classes: int, dataset: str, seed: int) -> Classifier:
    """Build DenseNet-121 with TorchXRayVision's weights; its classifier of 18 findings is dropped."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    spec = MODELS[NAME]
    weights_of(spec, dataset)
    path = find_file(spec.weights)
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsUnavailable(f"{path} cannot be read ({error}). Convert it again.") from None
    _check(state, path)
    torch.manual_seed(seed)
    classifier = outline(classes)
    network: Any = classifier.encoder.network
    encoder = {name: value for name, value in state.items() if not name.startswith(_CLASSIFIER)}
    network.load_state_dict(encoder)
    return classifier


def outline(classes: int) -> Classifier:
    """Build the same network without the published weights, to read its shape."""
    import timm

    return classifier_of(timm.create_model("densenet121", pretrained=False, in_chans=1), classes, IMAGE.size)
