"""`gate`: makes the input gate of a data set from its training images, without their labels."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from core.data.dataset import Dataset
from core.data.image_cache import Progress
from core.errors import BadRequest
from core.inference.input_gate import ENCODER, MIN_COLOUR, Gate, embed, fit_gate, save_gate, turned
from core.models import MODELS
from core.paths import DEVICES, pick_device, runs_folder
from trainer.commands.run import dataset_of
from trainer.flags import add_data
from trainer.progress import print_status, progress_bar
from trainer.training.embedding_cache import EmbeddingCache

IMAGES = 2000
_HELD = 4  # one group in four serves the threshold


def make_gate(dataset: Dataset, device: torch.device, progress: Progress | None = None, most: int = IMAGES) -> Gate:
    """Fits a gate to training images, at most so many; every fourth group is kept for its threshold.

    Raises:
        BadRequest: if the data set holds volumes, or too few images.
    """
    if dataset.spec.dims == 3:
        raise BadRequest(f"{dataset.spec.name} holds volumes; the input gate is for images.")
    random = np.random.default_rng(0)
    rows = np.sort(random.permutation(dataset.parts.train)[:most])
    groups = np.unique(dataset.parts.groups[rows])
    held = np.isin(dataset.parts.groups[rows], random.permutation(groups)[: len(groups) // _HELD])
    if held.sum() < 5:
        raise BadRequest(f"An input gate needs training images of 20 groups at least; {len(groups)} are here.")
    spec = MODELS[ENCODER]
    images = dataset.bank(spec.image.size, progress).images
    model = spec.build(2, "", 0).eval().requires_grad_(False)
    cache = EmbeddingCache(model, spec.image, dataset.fingerprint, len(dataset.listing), "none", device)
    embeddings = cache.get(images[rows], rows, 0, progress)[:, 0]
    others = []
    for row in rows[held]:
        ways = turned(Image.fromarray(np.squeeze(images[row].transpose(1, 2, 0))))
        others.append(embed(model, spec.image, list(ways.values())))
        if progress:
            progress(len(others), int(held.sum()))
    return fit_gate(
        embeddings[~held], embeddings[held], np.stack(others), _share_in_colour(images, rows), dataset.fingerprint
    )


def _share_in_colour(images: np.ndarray, rows: np.ndarray) -> float:
    """Share of images in colour; 0 and 1 stand for fewer than one in a hundred either way."""
    if images.shape[1] == 1:
        return 0.0
    share = float(np.mean([np.ptp(images[row].astype(int), axis=0).mean() / 255 > MIN_COLOUR for row in rows]))
    return round(share) if min(share, 1 - share) < 0.01 else share


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    add_data(parser)
    parser.add_argument("--allow-leaks", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=None, help="folder for the gate (default: beside the set's runs)")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.set_defaults(execute=run)


def run(arguments: argparse.Namespace) -> int:
    """`gate`."""
    dataset = dataset_of(arguments)
    with progress_bar(f"{dataset.spec.name}: looking at training images") as show:
        made = make_gate(dataset, pick_device(arguments.device), show)
    folder = Path(arguments.out or runs_folder() / dataset.spec.name)
    save_gate(folder, made)
    print_status(f"The input gate of {dataset.spec.name}, from {made.images} images, is in {folder}.")
    return 0
