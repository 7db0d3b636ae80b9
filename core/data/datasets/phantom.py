"""Synthetic images with evidence at a known location: one opacity, several findings, small volumes.

They are used for tests, for a first run without data, and to test whether heatmaps point at the evidence. Pages and
reports label them as synthetic.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from core.data.images import encode_png
from core.data.listing import TEST, TRAIN, VALIDATION, Listing
from core.data.specs import DATASETS, DatasetSpec

SIDE = 192
COUNTS = {TRAIN: 1200, VALIDATION: 200, TEST: 400}
_VERSION = "2"


@dataclass(frozen=True)
class Phantom:
    """One synthetic image.

    Attributes:
        pixels: (SIDE, SIDE), uint8.
        evidence: (SIDE, SIDE), bool: the region of the opacity; all False for label 0.
        label: 1 with an opacity, 0 without.
    """

    pixels: np.ndarray
    evidence: np.ndarray
    label: int


def make_phantom(seed: int, label: int, side: int = SIDE) -> Phantom:
    """Render a thorax with lungs, heart, spine and ribs; label 1 adds an opacity in a lung (8 to 25% of the side)."""
    random = np.random.default_rng([seed, label])
    # Anatomy: body, lungs, heart, spine, ribs.
    y, x = np.mgrid[0:side, 0:side] / (side - 1)
    x, y = _pose(random, x - 0.5, y - 0.5)
    lungs = _ellipse(x, y, 0.30, 0.50, 0.145, 0.32) + _ellipse(x, y, 0.70, 0.50, 0.145, 0.32)
    image = 0.62 * _ellipse(x, y, 0.5, 0.55, 0.47, 0.62) - 0.38 * np.clip(lungs, 0, 1)
    image += 0.20 * _ellipse(x, y, 0.56, 0.66, 0.15 * random.uniform(0.8, 1.2), 0.17)
    image += 0.16 * np.exp(-(((x - 0.5) / 0.035) ** 2))
    phase, pitch, bow = random.uniform(0, 1), random.uniform(0.07, 0.11), random.uniform(0.3, 1.0)
    ribs = np.sin(2 * np.pi * ((y - bow * (x - 0.5) ** 2) / pitch + phase))
    image += 0.05 * np.clip(ribs, 0, 1) * np.clip(lungs + 0.25, 0, 1)
    # Texture of soft tissue and of vessels, then the opacity.
    for grain, strength in ((side / 16, 0.045), (side / 48, 0.065)):
        texture = _blurred(random.normal(size=(side, side)), grain)
        image += strength * texture / texture.std()
    evidence = np.zeros((side, side), bool)
    if label:
        opacity, evidence = _opacity(random, x, y)
        image += opacity
    # Blur, noise and exposure of the detector.
    image = _blurred(image, 0.6) + random.normal(0, 0.02, size=image.shape)
    image = image * random.uniform(0.85, 1.15) + random.uniform(-0.04, 0.04)
    return Phantom(np.round(np.clip(image + 0.06, 0, 1) * 255).astype(np.uint8), evidence, label)


def _blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(values, sigma)


def _pose(random: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    angle, scale = random.normal(0, 0.06), random.uniform(0.9, 1.12)
    turned_x = (np.cos(angle) * x - np.sin(angle) * y) / scale * random.uniform(0.93, 1.07)
    turned_y = (np.sin(angle) * x + np.cos(angle) * y) / scale
    return turned_x + 0.5 + random.normal(0, 0.02), turned_y + 0.5 + random.normal(0, 0.02)


def _ellipse(x: np.ndarray, y: np.ndarray, cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
    inside = 1 - np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2)
    return np.clip(inside * 6, 0, 1)


def _opacity(random: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    across = random.uniform(0.08, 0.25)
    cx = random.choice([0.30, 0.70]) + random.uniform(-0.05, 0.05)
    cy = random.uniform(0.32, 0.70)
    stretch = random.uniform(0.8, 1.25)
    radius = np.sqrt(((x - cx) * stretch) ** 2 + ((y - cy) / stretch) ** 2)
    return random.uniform(0.32, 0.50) * np.exp(-((radius / (across / 2)) ** 4)), radius <= across / 2


def phantom_at(index: int) -> Phantom:
    """Return image `index` of the data set; odd indices have an opacity."""
    return make_phantom(index, index % 2)


@lru_cache(maxsize=2048)
def _phantom_png(index: int) -> bytes:
    """Return image `index` as PNG; cached, as every size and preparation reads it and rendering is slow."""
    return encode_png(phantom_at(index).pixels)


def evidence_in(name: str) -> np.ndarray:
    """Return the region of the opacity in the image of a given name, (SIDE, SIDE) bool."""
    return phantom_at(int(name.rsplit("-", 1)[1].removesuffix(".png"))).evidence


def load(_: Path) -> Listing:
    """List the generated images; pixels are rendered when read."""
    listing = _listing("phantom", ".png", COUNTS, _phantom_png)
    return replace(listing, stamp=f"phantom {_VERSION} {len(listing)} {SIDE}")


def _listing(name: str, suffix: str, counts: dict[str, int], read: Callable[[int], bytes | np.ndarray]) -> Listing:
    """List generated images with alternating labels, by their number in each part."""
    parts = np.repeat(list(counts), list(counts.values()))
    ids = np.array([f"{part}/{name}-{index:05d}{suffix}" for index, part in enumerate(parts)])
    return Listing(ids, np.arange(len(ids)) % 2, groups=ids, parts=parts, read=read, stamp="")


_ROW = DatasetSpec(
    name="phantom",
    title="Phantom chest images (synthetic)",
    question="Opacity in the lungs of a phantom?",
    population="Computer-generated chests, not patients.",
    modality="synthetic image in the style of a chest radiograph",
    task="binary",
    labels=("No opacity", "Opacity"),
    positive=1,
    load=load,
    licence="MIT, as the program",
    citation="Generated by this program",
    synthetic=True,
    evidence=evidence_in,
    caveats=("Synthetic: nothing measured here says anything about patients.",),
)


FINDINGS = ("Opacity", "Nodule", "Effusion")
MORE_COUNTS = {TRAIN: 600, VALIDATION: 150, TEST: 300}
PREVALENCE, UNKNOWN = 0.35, 0.15
CUBE = 32
_MORE_VERSION = "1"


def make_phantom_of_findings(seed: int, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Render a thorax with some findings.

    Args:
        seed: random seed of the image.
        present: (3,) bool, in the order of `FINDINGS`.
    Returns:
        (SIDE, SIDE) uint8 pixels, and (3, SIDE, SIDE) bool: the region of each finding.
    """
    random = np.random.default_rng([seed, 3])
    thorax = make_phantom(seed, int(present[0]))
    pixels = thorax.pixels.astype(float)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / (SIDE - 1)
    side = random.choice([0.30, 0.70])
    across, cx, cy = random.uniform(0.05, 0.08), side + random.uniform(-0.07, 0.07), random.uniform(0.30, 0.65)
    nodule = np.hypot(x - cx, y - cy) <= across / 2
    level = random.uniform(0.66, 0.76)
    effusion = (y >= level + 0.02 * np.sin(9 * x)) & (np.abs(x - (1 - side)) < 0.15) & (y < 0.84)
    for mask, strength, is_present in ((nodule, 85.0, present[1]), (effusion, 75.0, present[2])):
        if is_present:
            pixels += strength * _blurred(mask.astype(float), 1.2)
    regions = np.stack([thorax.evidence, nodule & present[1], effusion & present[2]])
    return np.round(np.clip(pixels, 0, 255)).astype(np.uint8), regions


def findings_of(index: int) -> np.ndarray:
    """Return which findings image `index` of the data set has, (3,) bool."""
    return np.random.default_rng([index, 7]).random(len(FINDINGS)) < PREVALENCE


@lru_cache(maxsize=2048)
def _findings_png(index: int) -> bytes:
    return encode_png(make_phantom_of_findings(index, findings_of(index))[0])


def load_findings(_: Path) -> Listing:
    """List the generated images; 15% of the training labels are unknown."""
    listing = _listing("phantom-findings", ".png", MORE_COUNTS, _findings_png)
    labels = np.array([findings_of(index) for index in range(len(listing))], np.float32)
    hidden = np.random.default_rng(0).random(labels.shape) < UNKNOWN
    labels[hidden & (listing.parts == TRAIN)[:, None]] = np.nan
    return replace(listing, labels=labels, stamp=f"phantom-multilabel {_MORE_VERSION} {len(listing)}")


def make_cube(seed: int, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Render a volume with vessels; label 1 adds a ball.

    Returns:
        (CUBE, CUBE, CUBE) uint8 voxels, and the region of the ball, (CUBE, CUBE, CUBE) bool.
    """
    random = np.random.default_rng([seed, label, 5])
    z, y, x = np.mgrid[0:CUBE, 0:CUBE, 0:CUBE] / (CUBE - 1)
    cube = 0.3 + 0.06 * random.normal(size=(CUBE,) * 3)
    for _ in range(4):
        point, direction = random.uniform(0.2, 0.8, 3), random.normal(size=3)
        direction /= np.linalg.norm(direction)
        away = np.stack([z, y, x], axis=-1) - point
        off_axis = np.linalg.norm(away - (away @ direction)[..., None] * direction, axis=-1)
        cube += 0.25 * np.exp(-((off_axis / 0.05) ** 2))
    center, radius = random.uniform(0.3, 0.7, 3), random.uniform(0.10, 0.17)
    ball = np.linalg.norm(np.stack([z, y, x], axis=-1) - center, axis=-1) <= radius
    if label:
        cube += 0.3 * _blurred(ball.astype(float), 0.7)
    cube = _blurred(cube, 0.5)
    return np.round(np.clip(cube, 0, 1) * 255).astype(np.uint8), ball & bool(label)


def load_cubes(_: Path) -> Listing:
    """List the generated volumes; odd ones have a ball."""
    listing = _listing("phantom-3d", "", MORE_COUNTS, lambda index: make_cube(index, index % 2)[0])
    return replace(listing, stamp=f"phantom-3d {_MORE_VERSION} {len(listing)}", dims=3)


DATASETS.add(
    _ROW,
    replace(
        _ROW,
        name="phantom-multilabel",
        title="Phantom chest images with several findings (synthetic)",
        question="Which of three findings in a phantom?",
        task="multilabel",
        labels=FINDINGS,
        positive=None,
        load=load_findings,
        evidence=None,
        caveats=(*_ROW.caveats, "15% of the training labels are unknown on purpose."),
    ),
    replace(
        _ROW,
        name="phantom-3d",
        title="Phantom volumes (synthetic)",
        question="Ball in a phantom volume?",
        population="Computer-generated volumes, not patients.",
        modality="synthetic volume",
        labels=("No ball", "Ball"),
        load=load_cubes,
        dims=3,
        evidence=None,
    ),
)
