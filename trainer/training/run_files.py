"""Files that a training reads besides its arguments: decoded images and encoders' weights. Workers may lack them."""

from collections.abc import Iterator
from pathlib import Path

from core.data.dataset import Dataset
from core.data.image_cache import Bank
from core.models.medical_encoders import CARD_FILE, WEIGHTS_FILE, find_medical_encoder
from core.models.specs import Weights
from core.models.weights import find_file
from core.paths import cache_folder
from trainer.training.engines import File
from trainer.training.run_plan import RunPlan

CACHE, ENCODERS, WEIGHTS = "LOWSHOT_CACHE", "LOWSHOT_ENCODERS", "LOWSHOT_WEIGHTS"


def files_of_run(plan: RunPlan, dataset: Dataset) -> Iterator[File]:
    """Yield the files of a run: images of its data set and external sets, and what its training reads."""
    size = plan.spec.image.size
    for part in (dataset, *(external.dataset for external in dataset.external)):
        yield from files_of_bank(part.bank(size, preparation=plan.preparation))
    yield from files_of_fit(plan)


def files_of_fit(plan: RunPlan) -> Iterator[File]:
    """Yield the files of a training on images that it already has: sources of tasks and the encoder's weights."""
    for source in plan.sources:
        yield from files_of_bank(source.bank(plan.spec.image.size, plan.settings.preparation))
    yield from files_of_weights(plan.spec.weights, plan.setup.dataset)


def files_of_bank(bank: Bank) -> Iterator[File]:
    """Yield the files of a bank; the last one makes it complete."""
    for path in bank.files:
        yield File(CACHE, str(path.relative_to(cache_folder())), path)


def files_of_weights(weights: Weights, dataset: str) -> Iterator[File]:
    """Yield the files of an encoder's weights; those in Python packages are installed with them on every machine.

    Args:
        weights: weights of a model.
        dataset: data set on which it is used, which determines the medical encoder.
    """
    for part in weights.parts:
        yield from files_of_weights(part, dataset)
    if weights.kind == "own":
        folder = find_medical_encoder(weights.ref, dataset)
        for name in (WEIGHTS_FILE, CARD_FILE):
            yield File(ENCODERS, f"{weights.ref}/{folder.name}/{name}", folder / name)
    if weights.kind in ("hub", "converted", "file") and not weights.ref.startswith(("/", "~")):
        file, ref = find_file(weights), Path(weights.ref)
        folder = ref.parent if ref.name == file.name else ref
        for path in (*sorted(file.parent.glob("*.json")), file):
            yield File(WEIGHTS, str(folder / path.name), path)
