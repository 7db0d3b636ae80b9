"""The study of own images that users are offered first: short enough to wait for, so its results are estimates.

Deletion of own images is here too, because it concerns their jobs, their runs and the images themselves.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from core.data import own_images
from core.data.dataset import Dataset
from core.data.own_images import OwnSet
from core.errors import BadRequest
from core.files import remove_unfinished
from core.jobs.queue import Queue
from core.jobs.records import Job
from core.paths import embeddings_folder, runs_folder, written_folders

STUDY_MODELS = ("imagenet-efficientnet-lite0", "medical-efficientnet-lite0", "scratch-cnn-64")  # quickest of B, C, A
STUDY_STRATEGIES = ("frozen", "scratch-quick")
STUDY_SEEDS = (0, 1, 2)
LARGEST = 200  # images per class
LEAST = 8  # images per class that a study needs
_SIZES = 4  # a curve can be fitted to three sizes, but not extrapolated


def study_sizes(dataset: Dataset) -> tuple[int, ...]:
    """Return the training-set sizes of a study, each about twice the one before.

    Args:
        dataset: the images, split; the largest size is what the smallest class has for training, at most 200.
    Raises:
        BadRequest: if the smallest class has too few training images for three sizes.
    """
    largest = min(LARGEST, smallest_class(dataset))
    if largest < LEAST:
        raise BadRequest(
            f"After test and validation images are set apart, {largest} images of the smallest class are left for "
            f"training; a learning curve needs {LEAST}. Add images to this class."
        )
    sizes = [largest // 2**step for step in range(_SIZES)]
    return tuple(sorted(size for size in sizes if size >= 2))


def smallest_class(dataset: Dataset) -> int:
    """Return the number of training images of the rarest class; for findings, of images with the rarest finding."""
    labels = dataset.listing.labels[dataset.parts.train]
    if labels.ndim == 2:
        return int((labels > 0.5).sum(axis=0).min())
    return int(np.bincount(labels[labels >= 0], minlength=len(dataset.labels)).min())


def jobs_on(own: OwnSet, jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs that train on a set of own images."""
    return [job for job in jobs if job.request.folder == str(own.path)]


def is_of_another(job: Job, owner: str) -> bool:
    """Return whether a job trains on images that another visitor stored."""
    folder = Path(job.request.folder)
    return own_images.is_inside(folder) and folder.parent.name != owner


def delete_runs(own: OwnSet) -> None:
    """Delete all that was trained on a set of own images."""
    shutil.rmtree(runs_folder() / own.name, ignore_errors=True)


def delete(own: OwnSet, queue: Queue) -> None:
    """Delete a set of own images with its jobs, its runs, and the decoded copies and embeddings of its images.

    Raises:
        BadRequest: if a job still uses the images, or they cannot be deleted.
    """
    jobs = jobs_on(own, queue.jobs())
    if any(not job.is_over for job in jobs):
        raise BadRequest("A job still uses these images. Cancel it first.")
    own_images.delete(own)
    delete_runs(own)
    shutil.rmtree(embeddings_folder() / own.name, ignore_errors=True)
    for job in jobs:
        queue.remove(job)


def delete_expired(queue: Queue) -> None:
    """Delete the expired sets that no job uses, and everything that was left half-written."""
    remove_unfinished(written_folders())
    for own in own_images.expired_sets():
        with suppress(BadRequest):
            delete(own, queue)
