"""Image corruptions: transforms that no candidate trains on; the search for settings uses them to test robustness.

A test set differs from the training images in ways that nobody foresees. A search on clean validation images alone
favors heads that were trained without any change of the images.

References:
    Hendrycks and Dietterich 2019, arXiv:1903.12261 (corruptions as a benchmark of robustness).
"""

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

Corruption = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


def _gamma(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    exponents = torch.exp(torch.empty(len(images), 1, 1, 1).uniform_(-0.6, 0.6, generator=random))
    return (images / 255) ** exponents * 255


def _blur(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    from torchvision.transforms.v2.functional import gaussian_blur

    kernel, deviation = images.shape[-1] // 16 * 2 + 1, images.shape[-1] / 90
    return gaussian_blur(images, [kernel, kernel], [deviation, deviation])


def _noise(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    return images + 15 * torch.randn(images.shape, generator=random)


def _jpeg(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    mode = "RGB" if images.shape[1] == 3 else "L"
    packed = images.round().to(torch.uint8).permute(0, 2, 3, 1).squeeze(-1).numpy()  # (N, S, S) or (N, S, S, 3)
    return torch.stack([_compressed(Image.fromarray(pixels, mode)) for pixels in packed])


def _compressed(image: Image.Image) -> torch.Tensor:
    """Compress an image as JPEG at quality 15 and return its pixels, (C, S, S)."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=15)
    pixels = torch.from_numpy(np.array(Image.open(file), np.float32))
    return pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def _contrast(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    factors = torch.exp(torch.empty(len(images), 1, 1, 1).uniform_(-0.7, 0.4, generator=random))
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * factors + mean


CORRUPTIONS: dict[str, Corruption] = {
    "gamma": _gamma, "blur": _blur, "noise": _noise, "jpeg": _jpeg, "contrast": _contrast,
}  # fmt: skip


def corrupt(name: str, images: np.ndarray, seed: int) -> np.ndarray:
    """Apply one corruption to images.

    Args:
        name: key of `CORRUPTIONS`.
        images: (N, 1 or 3, S, S), uint8.
        seed: seed of the random parameters; equal seeds give equal images.
    Returns:
        the same shape, uint8.
    """
    corrupted = CORRUPTIONS[name](
        torch.from_numpy(np.ascontiguousarray(images)).float(), torch.Generator().manual_seed(seed)
    )
    return corrupted.round().clamp(0, 255).to(torch.uint8).numpy()
