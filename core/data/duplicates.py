"""Copies of images within and between data sets: identical files, or one image resized, re-encoded or cropped.

Files are compared by hash, images in two steps. A perceptual fingerprint (the image at 32 x 32 pixels, band-passed)
selects candidate pairs. The correlation of their fine structure at 64 x 64 pixels decides: the local mean is
subtracted, so that features common to all chest radiographs (a bright frame around dark lungs) do not count. If the
correlation is low, the pair is registered first (scale and shift along each axis), which undoes a crop of up to 3% at
each side.

References:
    Registration: Baker and Matthews 2004, Lucas-Kanade 20 years on, doi:10.1023/B:VISI.0000011205.11775.fd (inverse
    compositional algorithm).
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, uniform_filter
from torch.nn import functional as F

from core.data.image_cache import Bank, Progress
from core.files import sha256_of, write_atomically
from core.paths import cache_folder

THRESHOLD, REGISTERED_THRESHOLD = 0.86, 0.90  # registration raises chance similarity
CANDIDATE_THRESHOLD = 0.90  # correlation of fingerprints above which a pair is a candidate
_COMPARED, _REGISTERED = 64, 16  # maximum candidates per image to compare, and to register: the most similar ones
_MANY = 32  # with more identical files than this, each is paired with the first only
_BLOCK, _PAIRS = 1024, 2048
_AT_ONCE = 2**23  # correlations held in memory
_VERSION = "2"


@dataclass(frozen=True)
class Copies:
    """Pairs of copies.

    Attributes:
        first, second: (P,) indices into the first and the second bank.
        similarity: (P,) correlation of the fine structure in [-1, 1]; 1 for identical files.
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


def find_copies(first: Bank, second: Bank | None = None, progress: Progress | None = None) -> Copies:
    """Find copies between two banks, or within one.

    Args:
        first: a bank of gray images, 64 px a side.
        second: another bank; None compares the first with itself, each pair once.
        progress: called with (images done, total images).
    """
    path = _cache_path(first, second)
    if path.exists():
        stored = json.loads(path.read_text())
        return Copies(
            np.array(stored["first"], int), np.array(stored["second"], int), np.array(stored["similarity"], float)
        )
    # Describe every image by a coarse fingerprint and by its fine structure.
    other = second or first
    prints = _in_file(first.images, fingerprint, np.float32)
    other_prints = prints if second is None else _in_file(second.images, fingerprint, np.float32)
    fine = _in_file(first.images, fine_structure, np.float16)
    other_fine = fine if second is None else _in_file(second.images, fine_structure, np.float16)
    # Compare the fine structure of candidates; register those that remain unclear and compare again.
    rows = [_identical_files(first, second)]
    for i, j, to_register in _candidates(prints, other_prints, second is None, progress):
        similarity = np.einsum("pd,pd->p", fine[i], other_fine[j], dtype=np.float32)
        copies = similarity > THRESHOLD
        unclear = to_register & ~copies
        a, b = i[unclear], j[unclear]
        similarity[unclear] = similarity_registered(first.images[a], other.images[b], prints[a], other_prints[b])
        copies |= similarity > REGISTERED_THRESHOLD
        rows.append(np.stack([i, j, np.clip(similarity, -1, 1)], axis=1)[copies])
    # Keep each pair once and store the result.
    pairs = np.concatenate(rows)
    _, keep = np.unique(pairs[:, :2], axis=0, return_index=True)
    pairs = pairs[keep]
    result = Copies(pairs[:, 0].astype(int), pairs[:, 1].astype(int), pairs[:, 2])
    columns = {name: values.tolist() for name, values in vars(result).items()}
    write_atomically(path, json.dumps(columns).encode())
    return result


def _candidates(
    ours: np.ndarray, theirs: np.ndarray, same: bool, progress: Progress | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield candidate pairs in batches: positions in both banks, and whether to register the pair.

    Within one bank each pair comes once.
    """
    ours, theirs = ours.reshape(len(ours), -1), theirs.reshape(len(theirs), -1)
    rows = min(_BLOCK, max(1, _AT_ONCE // max(1, len(theirs))))
    for start in range(0, len(ours), rows):
        offset = start if same else 0
        correlation = ours[start : start + rows] @ theirs[offset:].T
        if same:
            correlation[np.tri(*correlation.shape, dtype=np.bool_)] = -1
        i, j = np.nonzero(correlation > _threshold_for(correlation, _COMPARED)[:, None])
        to_register = correlation[i, j] > _threshold_for(correlation, _REGISTERED)[i]
        for first in range(0, len(i), _PAIRS):
            some = slice(first, first + _PAIRS)
            yield i[some] + start, j[some] + offset, to_register[some]
        if progress:
            progress(min(start + rows, len(ours)), len(ours))


def _threshold_for(correlation: np.ndarray, count: int) -> np.ndarray:
    """Return for each row the value that at most `count` entries exceed, but not below `CANDIDATE_THRESHOLD`."""
    thresholds = np.full(len(correlation), CANDIDATE_THRESHOLD, np.float32)
    crowded = (correlation > CANDIDATE_THRESHOLD).sum(axis=1) > count
    if crowded.any():
        thresholds[crowded] = -np.partition(-correlation[crowded], count, axis=1)[:, count]
    return thresholds


def _in_file(images: np.ndarray, describe: Callable[[np.ndarray], np.ndarray], kind: type[np.floating]) -> np.ndarray:
    """Return the descriptions of a bank's images, mapped from a file without a name, so that large sets fit in memory.

    Raises:
        OSError: if the disk of the cache is full.
    """
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=cache_folder()) as file:
        shape = (0,)
        for at in range(0, len(images), _BLOCK):
            block = describe(images[at : at + _BLOCK]).astype(kind)
            shape = block.shape[1:]
            file.write(block.tobytes())
        file.flush()
        return np.memmap(file, kind, "r", shape=(len(images), *shape)) if len(images) else np.empty(shape, kind)


def _identical_files(first: Bank, second: Bank | None) -> np.ndarray:
    other = second or first
    where: dict[str, list[int]] = {}
    for index, digest in enumerate(other.content):
        if index not in other.errors:
            where.setdefault(digest, []).append(index)
    pairs: list[tuple[int, int, float]] = []
    for i, digest in enumerate(first.content):
        if i in first.errors:
            continue
        same = where.get(digest, [])
        if len(same) > _MANY:  # all are linked through the first one
            same = same[:1]
        elif second is None:
            same = [j for j in same if j > i]
        pairs += [(i, j, 1.0) for j in same if second is not None or i != j]
    return np.array(pairs, dtype=float).reshape(-1, 3)


def _cache_path(first: Bank, second: Bank | None) -> Path:
    thresholds = map(str, (THRESHOLD, REGISTERED_THRESHOLD, CANDIDATE_THRESHOLD))
    parts = [_VERSION, *thresholds, *first.content, "against", *(second.content if second else ())]
    return cache_folder() / "audits" / f"{sha256_of(parts)[:24]}.json"


SIZE = 64
REGISTERED_FINGERPRINT_THRESHOLD = 0.945  # correlation of registered fingerprints below which a pair is no copy
_MARGIN = 4
_COARSE_SIDE = 32
_BAND = (1.0, 5.0)  # standard deviations of the two Gaussians of the fingerprint, in its pixels
_FARTHEST = 0.15  # a registration that scales or shifts by more does not undo a slight crop
_STEPS = 4


def fine_structure(images: np.ndarray) -> np.ndarray:
    """Return unit vectors whose dot product is the correlation of fine structure.

    Args:
        images: (N, 1, 64, 64), uint8.
    Returns:
        (N, 3136), float32; all zero for an image without structure.
    """
    pixels = np.asarray(images[:, 0], dtype=np.float32)
    detail = pixels - uniform_filter(pixels, size=(0, 9, 9), mode="mirror")
    detail = detail[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN].reshape(len(pixels), -1)
    detail -= detail.mean(axis=1, keepdims=True)
    length = np.linalg.norm(detail, axis=1, keepdims=True)
    return np.divide(detail, length, out=np.zeros_like(detail), where=length > 1e-3)


def fingerprint(images: np.ndarray, side: int = _COARSE_SIDE) -> np.ndarray:
    """Return band-passed images whose dot product is a correlation.

    Args:
        images: (N, 1, 64, 64), uint8.
        side: side of the fingerprint in pixels; a divisor of 64.
    Returns:
        (N, side, side), float32: unit norm, zero in the margin; all zero for an image without structure.
    """
    small = np.asarray(images[:, 0], dtype=np.float32)
    small = small.reshape(len(images), side, SIZE // side, side, SIZE // side).mean(axis=(2, 4))
    return _unit(_smooth(small, _BAND[0]) - _smooth(small, _BAND[1])).astype(np.float32)


def _smooth(images: np.ndarray, deviation: float) -> np.ndarray:
    return np.asarray(gaussian_filter(images, (0, deviation, deviation)))


def _unit(images: np.ndarray) -> np.ndarray:
    """Set the margin of each image to zero, and its inside to mean 0 and unit norm."""
    margin = images.shape[1] // 16
    inside = np.zeros(images.shape[1:], bool)
    inside[margin:-margin, margin:-margin] = True
    centered = np.where(inside, images - images[:, inside].mean(axis=1)[:, None, None], 0)
    length = np.sqrt((centered**2).sum(axis=(1, 2), keepdims=True))
    return np.divide(centered, length, out=np.zeros_like(centered), where=length > 1e-3)


def register(first: torch.Tensor, second: torch.Tensor, pose: torch.Tensor | None = None) -> torch.Tensor:
    """Estimate the scale and shift along each axis that map one image onto another.

    Args:
        first: (P, S, S), fingerprints.
        second: (P, S, S), fingerprints of images that show nearly the same.
        pose: (P, 4), initial estimate; the identity if None.
    Returns:
        (P, 4): scale x, shift x, scale y, shift y, in coordinates from -1 to 1, from the frame of the first to that of
        the second; the identity if the pair is not related by a slight crop.
    """
    # Inverse compositional algorithm: the steepest-descent images of the first are computed once.
    line = torch.linspace(-1, 1, first.shape[1])
    slope_y, slope_x = torch.gradient(first, spacing=float(line[1] - line[0]), dim=(1, 2))
    steepest = torch.stack([slope_x * line, slope_x, slope_y * line[:, None], slope_y], dim=1).flatten(2)  # (P, 4, SS)
    update = torch.linalg.solve(steepest @ steepest.transpose(1, 2) + 1e-6 * torch.eye(4), steepest)
    identity = torch.tensor([1.0, 0, 1, 0])
    pose = identity.repeat(len(first), 1) if pose is None else pose
    for _ in range(_STEPS):
        error = (_warped(second, pose) - first).flatten(1)[:, :, None]
        step = (update @ error)[:, :, 0]
        scale = pose[:, ::2] / (1 + step[:, ::2])
        pose = torch.stack([scale, pose[:, 1::2] - scale * step[:, 1::2]], dim=2).flatten(1)
    slight = ((pose - identity).abs() <= _FARTHEST).all(dim=1, keepdim=True)
    return torch.where(slight, pose, identity)


def _warped(images: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
    zero = torch.zeros(len(pose))
    matrix = torch.stack([pose[:, 0], zero, pose[:, 1], zero, pose[:, 2], pose[:, 3]], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, [len(images), 1, *images.shape[1:]], align_corners=True)
    return F.grid_sample(images[:, None], grid, padding_mode="border", align_corners=True)[:, 0]


def similarity_registered(
    first: np.ndarray, second: np.ndarray, first_print: np.ndarray, second_print: np.ndarray
) -> np.ndarray:
    """Correlation of the fine structure of pairs after registration.

    Args:
        first: (P, 1, 64, 64), uint8.
        second: (P, 1, 64, 64), uint8.
        first_print: (P, 32, 32), fingerprints of the first.
        second_print: (P, 32, 32), fingerprints of the second.
    Returns:
        (P,), in [-1, 1]; 0 for pairs whose fingerprints differ even after registration.
    """
    if not len(first):
        return np.zeros(0)
    # Register the fingerprints, and warp the image of each pair that shows more.
    still, moving = torch.from_numpy(first_print), torch.from_numpy(second_print)
    pose = register(still, moving)
    wider = pose[:, 0] * pose[:, 2] > 1  # the first image shows more: warp it onto the second, which it covers
    inverse = torch.stack([1 / pose[:, 0], -pose[:, 1] / pose[:, 0], 1 / pose[:, 2], -pose[:, 3] / pose[:, 2]], dim=1)
    pose = torch.where(wider[:, None], inverse, pose)
    swapped = wider[:, None, None]
    still, moving = torch.where(swapped, moving, still), torch.where(swapped, still, moving)
    settled = (_unit(_warped(moving, pose).numpy()) * _unit(still.numpy())).sum(
        axis=(1, 2)
    ) > REGISTERED_FINGERPRINT_THRESHOLD
    # Refine the registration of the pairs that agree at full size, then compare their fine structure.
    similarity = np.zeros(len(first))
    if settled.any():
        swap = wider.numpy()[settled, None, None, None]
        ours, theirs = first[settled], second[settled]
        ours, theirs = np.where(swap, theirs, ours), np.where(swap, ours, theirs)
        finer = [torch.from_numpy(fingerprint(images, SIZE)) for images in (ours, theirs)]
        pose = register(finer[0], finer[1], pose[torch.from_numpy(settled)])
        moved = _warped(torch.from_numpy(theirs[:, 0].astype(np.float32)), pose).numpy()
        similarity[settled] = (fine_structure(ours) * fine_structure(moved[:, None])).sum(axis=1)
    return similarity
