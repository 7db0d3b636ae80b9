"""`image-check`: fit the image check of a data set to its training images, without their labels."""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from core.data.dataset import Dataset
from core.data.image_cache import Progress
from core.errors import BadRequest
from core.inference.image_check import (
    ENCODER,
    MIN_COLOR,
    ImageCheck,
    corrections,
    embed,
    fit_image_check,
    save_image_check,
)
from core.models import MODELS
from core.paths import pick_device, runs_folder
from trainer.flags import add_data, add_device, requested_dataset
from trainer.progress import print_status, progress_bar
from trainer.training.embedding_cache import EmbeddingCache
from trainer.training.sweep import load_for_training

IMAGES = 2000
_HELD_OUT_SHARE = 4  # one group in four is held out for the threshold


def make_image_check(dataset: Dataset, device: torch.device, progress: Progress | None = None) -> ImageCheck:
    """Fit an image check to at most `IMAGES` training images; one group in four is held out for its threshold.

    Raises:
        BadRequest: if the data set holds volumes, or too few images.
    """
    if dataset.spec.dims == 3:
        raise BadRequest(f"{dataset.spec.name} holds volumes; the image check is for images.")
    random = np.random.default_rng(0)
    rows = np.sort(random.permutation(dataset.parts.train)[:IMAGES])
    groups = np.unique(dataset.parts.groups[rows])
    held = np.isin(dataset.parts.groups[rows], random.permutation(groups)[: len(groups) // _HELD_OUT_SHARE])
    if held.sum() < 5:
        raise BadRequest(f"An image check needs training images of at least 20 groups, but there are {len(groups)}.")
    spec = MODELS[ENCODER]
    images = dataset.bank(spec.image.size, progress).images
    model = spec.build(2, "", 0).eval().requires_grad_(False)
    cache = EmbeddingCache(
        model, spec.image, dataset.spec.name, dataset.fingerprint, len(dataset.listing), "none", device
    )
    embeddings = cache.get(images[rows], rows, 0, progress)[:, 0]
    changed = []  # embeddings of held-out images, turned or inverted
    for row in rows[held]:
        variants = corrections(Image.fromarray(np.squeeze(images[row].transpose(1, 2, 0))))
        changed.append(embed(model, spec.image, list(variants.values())))
        if progress:
            progress(len(changed), int(held.sum()))
    return fit_image_check(
        embeddings[~held], embeddings[held], np.stack(changed), _color_share(images, rows), dataset.fingerprint
    )


def _color_share(images: np.ndarray, rows: np.ndarray) -> float:
    """Return the share of color images; a share below 1% is rounded to 0, one above 99% to 1."""
    if images.shape[1] == 1:
        return 0.0
    share = float(np.mean([np.ptp(images[row].astype(int), axis=0).mean() / 255 > MIN_COLOR for row in rows]))
    return round(share) if min(share, 1 - share) < 0.01 else share


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_data(parser)
    parser.add_argument("--allow-leaks", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--out", type=Path, default=None, help="folder for the image check (default: that of the set's runs)"
    )
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Fit and store the image check."""
    dataset = load_for_training(requested_dataset(arguments), arguments.allow_leaks)
    store_image_check(dataset, pick_device(arguments.device), arguments.out)
    return 0


def store_image_check(dataset: Dataset, device: torch.device, folder: Path | None = None) -> None:
    """Fit and store the image check of a data set, by default next to its runs.

    Raises:
        BadRequest: if the data set holds volumes, or too few images.
    """
    with progress_bar(f"{dataset.spec.name}: embedding training images") as show:
        image_check = make_image_check(dataset, device, show)
    folder = folder or runs_folder() / dataset.spec.name
    save_image_check(folder, image_check)
    print_status(f"The image check of {dataset.spec.name}, from {image_check.images} images, is in {folder}.")
