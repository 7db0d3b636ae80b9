"""How much two pictures are alike, as they are and once registered; all at 64 x 64 grey.

References:
    Registration: Baker and Matthews 2004, Lucas-Kanade 20 years on, doi:10.1023/B:VISI.0000011205.11775.fd (inverse
    compositional algorithm).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, uniform_filter
from torch.nn import functional as F

SIZE = 64
SETTLED = 0.945  # correlation of fingerprints once registered, below which a pair is not looked at any further
_MARGIN = 4
_COARSE_SIDE = 32
_BAND = (1.0, 5.0)  # deviations of the two Gaussians of the fingerprint, in its pixels
_FARTHEST = 0.15  # a registration that scales or shifts by more is not of a slight crop
_STEPS = 4


def fine_structure(images: np.ndarray) -> np.ndarray:
    """Unit vectors whose dot product is the correlation of fine structure.

    Args:
        images: (N, 1, 64, 64), uint8.
    Returns:
        (N, 3136), float32; all zero for an image without any structure.
    """
    pixels = np.asarray(images[:, 0], dtype=np.float32)
    detail = pixels - uniform_filter(pixels, size=(0, 9, 9), mode="mirror")
    detail = detail[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN].reshape(len(pixels), -1)
    detail -= detail.mean(axis=1, keepdims=True)
    length = np.linalg.norm(detail, axis=1, keepdims=True)
    return np.divide(detail, length, out=np.zeros_like(detail), where=length > 1e-3)


def fingerprint(images: np.ndarray, side: int = _COARSE_SIDE) -> np.ndarray:
    """Band-passed pictures whose dot product is a correlation.

    Args:
        images: (N, 1, 64, 64), uint8.
        side: of the fingerprint in pixels; divides 64.
    Returns:
        (N, side, side), float32, of unit length inside a margin and zero in it; all zero without structure.
    """
    small = np.asarray(images[:, 0], dtype=np.float32)
    small = small.reshape(len(images), side, SIZE // side, side, SIZE // side).mean(axis=(2, 4))
    return _unit(_smooth(small, _BAND[0]) - _smooth(small, _BAND[1])).astype(np.float32)


def _smooth(images: np.ndarray, deviation: float) -> np.ndarray:
    return np.asarray(gaussian_filter(images, (0, deviation, deviation)))


def _unit(images: np.ndarray) -> np.ndarray:
    """Zero in a margin, of mean 0 and length 1 inside it."""
    margin = images.shape[1] // 16
    inside = np.zeros(images.shape[1:], bool)
    inside[margin:-margin, margin:-margin] = True
    centred = np.where(inside, images - images[:, inside].mean(axis=1)[:, None, None], 0)
    length = np.sqrt((centred**2).sum(axis=(1, 2), keepdims=True))
    return np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-3)


def register(first: torch.Tensor, second: torch.Tensor, pose: torch.Tensor | None = None) -> torch.Tensor:
    """Finds the scale and shift along each axis that lay one picture on another.

    Args:
        first: (P, S, S), fingerprints.
        second: (P, S, S), fingerprints of pictures that show nearly the same.
        pose: (P, 4), where to start; the identity if None.
    Returns:
        (P, 4): scale x, shift x, scale y, shift y, in coordinates from -1 to 1, from the frame of the first to that of
        the second; the identity where no slight crop explains the pair.
    """
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
    """Correlation of the fine structure of pairs once registered.

    Args:
        first: (P, 1, 64, 64), uint8.
        second: (P, 1, 64, 64), uint8.
        first_print: (P, 32, 32), fingerprints of the first.
        second_print: (P, 32, 32), fingerprints of the second.
    Returns:
        (P,), in [-1, 1]; 0 for pairs whose fingerprints stay apart.
    """
    if not len(first):
        return np.zeros(0)
    still, moving = torch.from_numpy(first_print), torch.from_numpy(second_print)
    pose = register(still, moving)
    wider = pose[:, 0] * pose[:, 2] > 1  # the first shows more: lay it on the second, whose every place it has
    inverse = torch.stack([1 / pose[:, 0], -pose[:, 1] / pose[:, 0], 1 / pose[:, 2], -pose[:, 3] / pose[:, 2]], dim=1)
    pose = torch.where(wider[:, None], inverse, pose)
    swapped = wider[:, None, None]
    still, moving = torch.where(swapped, moving, still), torch.where(swapped, still, moving)
    settled = (_unit(_warped(moving, pose).numpy()) * _unit(still.numpy())).sum(axis=(1, 2)) > SETTLED
    found = np.zeros(len(first))
    if settled.any():
        turn = wider.numpy()[settled, None, None, None]
        ours, theirs = first[settled], second[settled]
        ours, theirs = np.where(turn, theirs, ours), np.where(turn, ours, theirs)
        finer = [torch.from_numpy(fingerprint(images, SIZE)) for images in (ours, theirs)]
        pose = register(finer[0], finer[1], pose[torch.from_numpy(settled)])
        moved = _warped(torch.from_numpy(theirs[:, 0].astype(np.float32)), pose).numpy()
        found[settled] = (fine_structure(ours) * fine_structure(moved[:, None])).sum(axis=1)
    return found
