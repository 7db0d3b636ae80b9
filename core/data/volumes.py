"""Volumes: resizing to single-channel cubes, and 2-D images that represent them where only images can be used."""

from dataclasses import replace

import numpy as np

from core.data.listing import Listing


def to_cube(volume: np.ndarray, size: int) -> np.ndarray:
    """Resize (D, H, W) uint8 voxels to (1, size, size, size) uint8, linearly along each axis."""
    from scipy.ndimage import zoom

    if volume.shape != (size,) * 3:
        factors = [size / side for side in volume.shape]
        volume = np.clip(np.rint(zoom(volume.astype(np.float32), factors, order=1)), 0, 255).astype(np.uint8)
    return volume[None]


def as_slice_images(listing: Listing) -> Listing:
    """Return a listing of volumes as one of images: the three middle slices of each volume side by side."""

    def read(index: int) -> np.ndarray:
        volume = np.asarray(listing.read(index))
        middle = [side // 2 for side in volume.shape]
        slices = [volume[middle[0]], volume[:, middle[1]], volume[:, :, middle[2]]]
        side = max(max(piece.shape) for piece in slices)
        return np.hstack([np.pad(piece, [(0, side - length) for length in piece.shape]) for piece in slices])

    return replace(listing, read=read, dims=2, stamp=f"{listing.stamp} flattened") if listing.dims == 3 else listing
