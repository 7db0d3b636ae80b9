"""TorchXRayVision's DenseNet-121 (family C), and the one place where its file is read.

Its publishers ship pickled modules, and a pickle can run code. `convert` therefore opens only a file with the SHA-256
of the published one, and reads it with a restricted unpickler: tensors, containers and a few module classes by name,
each class replaced by an empty stand-in; any other name stops it. (PyTorch's own `weights_only` does the same, but
refuses every module saved before PyTorch 1.6, as this one was.) What remains is trust in Python's unpickler and in that
list of names. The result is safetensors, the only thing that models read. TorchXRayVision itself is not needed: timm's
DenseNet-121 of one channel has the same tensors under the same names.

Input: one channel in [-1024, 1024], 224 pixels. Their library resizes anything else and warns; here it is refused.

References:
    TorchXRayVision: Cohen et al. 2021, arXiv:2111.00595; weights `densenet121-res224-all`: arXiv:2002.02497.
"""

from __future__ import annotations

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
from core.models.specs import MODELS, TRANSFER, Exposure, ModelSpec, Weights
from core.models.timm_models import classifier_of
from core.models.weights import FILE, find_file, weights_of
from core.types import ImageSpec

NAME = "medical-xrv-densenet121"
REF = "torchxrayvision/densenet121-res224-all"
ADDRESS = (
    "https://github.com/mlmed/torchxrayvision/releases/download/v1/"
    "nih-pc-chex-mimic_ch-google-openi-kaggle-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"
)
PUBLISHED_SHA256 = "56524913dd16a906422e8d8b66a7a5c46be1d82eb7ac012d8103776f1aa68899"
IMAGE = ImageSpec(size=224, mean=(0.5, 0.5, 0.5), std=(1 / 2048, 1 / 2048, 1 / 2048), channels=1)
_CLASSIFIER = "classifier."
_MODULES = (
    "torchxrayvision.models.DenseNet", "torchxrayvision.models._DenseBlock", "torchxrayvision.models._DenseLayer",
    "torchxrayvision.models._Transition", "torch.nn.modules.container.Sequential", "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.batchnorm.BatchNorm2d", "torch.nn.modules.activation.ReLU", "torch.nn.modules.linear.Linear",
    "torch.nn.modules.pooling.MaxPool2d", "torch.nn.modules.pooling.AvgPool2d",
)  # fmt: skip


class _StandIn:
    """What a module of the file becomes: its attributes without its code."""

    dump_patches = False  # asked for where a file carries the source of its classes


_KNOWN: dict[str, Any] = {
    **dict.fromkeys(_MODULES, _StandIn),
    "collections.OrderedDict": OrderedDict,
    "__builtin__.set": set,  # as Python 2 called it, which pickles of this protocol still do
    "torch.FloatStorage": torch.FloatStorage,
    "torch.LongStorage": torch.LongStorage,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
}


class _Restricted:
    """What `torch.load` takes for the module `pickle`."""

    class Unpickler(pickle.Unpickler):
        """Knows the names of a pickled DenseNet and no other."""

        def find_class(self, module: str, name: str) -> Any:
            if (wanted := f"{module}.{name}") not in _KNOWN:
                raise pickle.UnpicklingError(f"it names {wanted}, which it should not")
            return _KNOWN[wanted]

    @classmethod
    def load(cls, file: IO[bytes], **how: Any) -> Any:
        """The next object of a file."""
        return cls.Unpickler(file, **how).load()


def read_pickled(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickled DenseNet, by name; no code that the file names is run.

    Raises:
        WeightsUnavailable: if the file holds anything but the modules, containers and tensors that are expected.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old files carry the source of their classes, which is not the stand-ins'
            module = torch.load(path, map_location="cpu", pickle_module=_Restricted, weights_only=False)
        return dict(_tensors(module, ""))
    except (pickle.UnpicklingError, RuntimeError, AttributeError, EOFError, ValueError, TypeError) as error:
        why = " ".join(str(error).split())[:200]
        raise WeightsUnavailable(f"{path.name} is not a pickled DenseNet of TorchXRayVision: {why}") from None


def _tensors(module: object, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """A module's parameters and buffers, then those of the modules in it, as `state_dict` would name them."""
    for name, value in (*module._parameters.items(), *module._buffers.items()):  # type: ignore[attr-defined]
        if value is not None:
            yield prefix + name, value.detach()
    for name, inner in module._modules.items():  # type: ignore[attr-defined]
        yield from _tensors(inner, f"{prefix}{name}.")


def convert(path: Path, folder: Path, sha256: str = PUBLISHED_SHA256) -> Path:
    """Makes `<folder>/torchxrayvision/densenet121-res224-all/model.safetensors` of a downloaded file.

    Args:
        path: the file as published.
        folder: below which the result is put: one of `LOWSHOT_WEIGHTS`.
        sha256: what the file must have.
    Raises:
        WeightsUnavailable: if the file is another one, or does not hold the network that is expected.
    """
    from safetensors.torch import save

    found = sha256_of_file(path)
    if found != sha256:
        raise WeightsUnavailable(
            f"{path.name} has SHA-256 {found}; expected {sha256}. It was not opened. Download it again from {ADDRESS}."
        )
    state = {name: value.contiguous() for name, value in read_pickled(path).items()}
    _check(state, path)
    target = folder / REF / FILE
    write_atomically(target, save(state, {"format": "pt", "source_sha256": found}))
    return target


def _check(state: dict[str, torch.Tensor], path: Path) -> None:
    """Raises WeightsUnavailable where tensors are not those of the encoder, beside a classifier's."""
    with torch.device("meta"):
        network: Any = outline(2).encoder.network
    wanted = {name: value.shape for name, value in network.state_dict().items()}
    found = {name: value.shape for name, value in state.items() if not name.startswith(_CLASSIFIER)}
    if wrong := sorted(name for name in {**wanted, **found} if wanted.get(name) != found.get(name)):
        raise WeightsUnavailable(f"{path.name} does not hold a DenseNet-121 of one channel: {wrong[0]} differs.")


def build(classes: int, dataset: str, seed: int) -> Classifier:
    """DenseNet-121 with TorchXRayVision's weights; its 18 findings are dropped."""
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
    """The same without the published weights, for its shape alone."""
    import timm

    return classifier_of(timm.create_model("densenet121", pretrained=False, in_chans=1), classes, IMAGE.size)


MODELS.add(
    ModelSpec(
        name=NAME,
        title="DenseNet-121, TorchXRayVision",
        family="medical",
        image=IMAGE,
        weights=Weights("converted", REF, licence="Apache-2.0; terms of each source", source=ADDRESS),
        strategies=TRANSFER,
        build=build,
        outline=outline,
        summary="Learnt findings on seven public sets of chest X-rays.",
        seen=Exposure(
            named="NIH ChestX-ray14, PadChest, CheXpert, MIMIC-CXR, NIH relabelled by Google, Open-i, RSNA pneumonia",
            # the compilation takes most of its images from RSNA's, which are NIH's, and from PadChest
            seen=("nih-chestxray14", "chexpert", "covid-radiography"),
        ),
    )
)
