"""What a user would write instead, shared by several pairs: DataLoaders of PyTorch and of fastai over image files."""

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks.harness import cores
from core.data.listing import Listing
from core.types import ImageSpec


class ImageFiles(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Image files that are read, decoded and, for training, augmented each time.

    Args:
        listing: the images.
        rows: positions in the listing.
        image: the network's input.
        augmented: whether to change each image at random.
    """

    def __init__(self, listing: Listing, rows: np.ndarray, image: ImageSpec, augmented: bool) -> None:
        self._listing, self._rows = listing, rows
        sizes = (
            [
                transforms.RandomResizedCrop(image.size, scale=(0.6, 1), ratio=(0.6, 1.67)),
                transforms.RandomHorizontalFlip(),
                transforms.RandomRotation(10),
                transforms.ColorJitter(0.3, 0.3),
            ]
            if augmented
            else [transforms.Resize((image.size, image.size))]
        )
        self._transform = transforms.Compose(
            [*sizes, transforms.ToTensor(), transforms.Normalize(image.mean, image.std)]
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        row = int(self._rows[index])
        picture = Image.open(io.BytesIO(bytes(self._listing.read(row)))).convert("RGB")
        return self._transform(picture), int(self._listing.labels[row])


def loader(
    listing: Listing, rows: np.ndarray, image: ImageSpec, batch_size: int, augmented: bool, workers: int | None = None
) -> DataLoader[Any]:
    """Return a DataLoader with a worker process for each core, unless another number is given."""
    workers = cores() if workers is None else workers
    return DataLoader(
        ImageFiles(listing, rows, image, augmented), batch_size, shuffle=augmented, num_workers=workers,
        persistent_workers=bool(workers), multiprocessing_context="fork" if workers else None,
    )  # fmt: skip


def fastai_loaders(listing: Listing, rows: np.ndarray, image: ImageSpec, batch_size: int) -> Any:
    """Return fastai's DataLoaders with its default augmentation, squished to the network's size.

    The validation part holds two of the images only, as nothing is validated between epochs.
    """
    from fastai.vision import all as fastai

    block = fastai.DataBlock(
        blocks=(fastai.ImageBlock, fastai.CategoryBlock(vocab=np.unique(listing.labels).tolist())),
        get_x=lambda row: listing.read(row),
        get_y=lambda row: int(listing.labels[row]),
        splitter=fastai.IndexSplitter([len(rows), len(rows) + 1]),
        item_tfms=fastai.Resize(image.size, method="squish"),
        batch_tfms=[*fastai.aug_transforms(), fastai.Normalize.from_stats(image.mean, image.std)],
    )
    source = [*rows.tolist(), *rows[:2].tolist()]
    workers = cores() if len(rows) > batch_size else 0  # starting workers takes longer than one batch
    return block.dataloaders(source, bs=min(batch_size, len(rows)), num_workers=workers, device=torch.device("cpu"))
