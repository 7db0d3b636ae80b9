"""What augmentations compute on batches of images: photometry, mixing, and the affine warp.

References:
    MixUp: Zhang et al. 2018, arXiv:1710.09412. CutMix: Yun et al. 2019, arXiv:1905.04899.
    CLAHE: Zuiderveld 1994, Graphics Gems IV, doi:10.1016/B978-0-12-336156-1.50061-6.
"""

import numpy as np
import torch

Batch = tuple[torch.Tensor, torch.Tensor]  # images and targets


def _uniform(low: float, high: float, images: torch.Tensor, randoms: list[np.random.Generator]) -> torch.Tensor:
    """Return one random factor per image, (B,)."""
    values = [random.uniform(low, high) for random in randoms]
    return torch.tensor(values, dtype=torch.float32, device=images.device)


def brightness(images: torch.Tensor, randoms: list[np.random.Generator]) -> torch.Tensor:
    """Add a random amount to the pixels of each image."""
    from kornia.enhance import adjust_brightness

    return adjust_brightness(images, _uniform(0.85, 1.15, images, randoms) - 1)


def contrast(images: torch.Tensor, randoms: list[np.random.Generator]) -> torch.Tensor:
    """Stretch or compress the pixels of each image around their mean."""
    from kornia.enhance import adjust_contrast_with_mean_subtraction

    return adjust_contrast_with_mean_subtraction(images, _uniform(0.75, 1.25, images, randoms))


def noise(images: torch.Tensor, randoms: list[np.random.Generator]) -> torch.Tensor:
    """Add Gaussian noise to some of the images."""
    planes = images.shape[1] if images.shape[1] > 3 else 1  # noise is shared by color channels, not by slices
    noise = np.zeros((len(randoms), planes, *images.shape[2:]), np.float32)
    for row, random in zip(noise, randoms, strict=True):
        if random.random() < 0.3:
            row[:] = 0.03 * random.standard_normal(row.shape, dtype=np.float32)
    return images + torch.from_numpy(noise).to(images.device)


def clahe(images: torch.Tensor, randoms: list[np.random.Generator]) -> torch.Tensor:
    """Blend each image with its locally equalized version."""
    from kornia.enhance import equalize_clahe

    share = _uniform(0, 1, images, randoms).view(-1, 1, 1, 1)
    return torch.lerp(images, equalize_clahe(images.clamp(0, 1), 2.0, (8, 8)), share)


def mixup(images: torch.Tensor, targets: torch.Tensor, random: np.random.Generator) -> Batch:
    """Blend each image, and its targets, with another one of the batch."""
    share = float(random.beta(0.4, 0.4))
    other = torch.from_numpy(random.permutation(len(images))).to(images.device)
    return torch.lerp(images[other], images, share), torch.lerp(targets[other], targets, share)


def cutmix(images: torch.Tensor, targets: torch.Tensor, random: np.random.Generator) -> Batch:
    """Paste a box of another image of the batch into each image, and mix their targets by its area."""
    height, width = images.shape[-2:]
    cut = np.sqrt(1 - random.beta(1, 1))
    tall, wide = round(height * cut), round(width * cut)
    top, left = random.integers(height - tall + 1), random.integers(width - wide + 1)
    other = torch.from_numpy(random.permutation(len(images))).to(images.device)
    mixed = images.clone()
    mixed[..., top : top + tall, left : left + wide] = images[other][..., top : top + tall, left : left + wide]
    return mixed, torch.lerp(targets, targets[other], tall * wide / (height * width))


def warp(images: torch.Tensor, poses: np.ndarray) -> torch.Tensor:
    """Warp (B, C, S, S) images to (B, 5) poses."""
    from kornia.geometry.transform import get_affine_matrix2d, warp_affine

    count, _, height, width = images.shape
    angle, shift, scale = torch.from_numpy(poses).float().to(images.device).split([1, 2, 2], dim=1)
    side = torch.tensor([width, height], device=images.device)
    center = ((side - 1) / 2).expand(count, 2).float()
    matrix = get_affine_matrix2d(shift * side, center, scale, angle[:, 0])[:, :2]
    return warp_affine(images, matrix, (height, width), padding_mode="border", align_corners=True)
