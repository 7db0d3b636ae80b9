"""Sanity check of heatmaps: weights are randomized from the head down, and the maps compared.

A map that does not change when the weights are randomized shows the image, not the network. Rank correlation measures
the similarity of two maps. The correlation of the trained network's maps of different images shows how similar
unrelated maps are. If evidence was planted, the check also counts how often a map peaks on it.

References:
    Adebayo et al. 2018, Sanity checks for saliency maps, arXiv:1810.03292 (cascading randomization). Weights are drawn
    as in He et al. 2015, arXiv:1502.01852, and batch normalization uses the statistics of the explained images. Without
    both, the maps of a deep random network are flat and prove nothing.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import stats
from scipy.ndimage import distance_transform_edt
from torch import nn

from core.explain.methods import EXPLAINERS, ExplainerInput, Explanation, explain
from core.models.classifier import Classifier, channels_last

STEPS = ("the head", "and the last third of the encoder", "and its middle third", "every layer")
IMAGES, DRAWS = 20, 3
CHECKED = "grad-cam"  # its maps are compared with those of random weights
POINTING = ("hires-cam", "hires-cam-shifted")  # these are also counted for peaks on planted evidence


@dataclass(frozen=True)
class MapSimilarity:
    """Rank correlation of a trained network's maps with other maps.

    Attributes:
        value: mean over images.
        low, high: 95% interval over images; NaN for fewer than two.
        flat: share of the other maps that are flat; these are meaningless and do not count.
    """

    value: float
    low: float
    high: float
    flat: float


@dataclass(frozen=True)
class PlantedHits:
    """Number of maps that peak on planted evidence, or within half a cell of their feature map of it.

    Flat maps do not count as peaking.

    Attributes:
        hits, of: number of maps of the trained network that peak on the evidence, and of all its maps.
        random_hits, random_of: the same with every layer random.
        elsewhere: share of maps with every layer random that peak on the evidence of another image. Maps and evidence
            both have typical positions and so coincide by chance.
    """

    hits: int
    of: int
    random_hits: int
    random_of: int
    elsewhere: float


@dataclass(frozen=True)
class Randomized:
    """Result of randomizing a network's weights.

    Attributes:
        images: number of images explained, each of another patient.
        draws: number of random initializations.
        steps: similarity of the maps to the trained ones, for each of `STEPS`.
        others: similarity between the trained network's maps of different images.
        planted: by explainer, if evidence was planted; empty otherwise.
    """

    images: int
    draws: int
    steps: tuple[MapSimilarity, ...]
    others: MapSimilarity
    planted: Mapping[str, PlantedHits] = field(default_factory=dict)


def randomize(layer: nn.Module, random: torch.Generator) -> None:
    """Reinitialize a layer's own weights; batch normalization switches to the statistics of its input."""
    for value in layer.parameters(recurse=False):
        if value.ndim > 1:
            fan_in = value[0].numel()
            weights = torch.randn(value.shape, generator=random) * (2 / fan_in) ** 0.5
            value.data.copy_(weights)
        else:
            nn.init.zeros_(value)
    scale = getattr(layer, "weight", None)
    if isinstance(scale, torch.Tensor) and scale.ndim == 1:
        nn.init.ones_(scale)
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        layer.train()


def from_the_head_down(model: Classifier) -> list[list[nn.Module]]:
    """Return the layers that have weights in the order of randomization, one list for each of `STEPS`."""
    encoder, head = (
        [layer for layer in part.modules() if list(layer.parameters(recurse=False))]
        for part in (model.encoder, model.head)
    )
    thirds = np.array_split(np.arange(len(encoder))[::-1], len(STEPS) - 1)
    return [head[::-1], *([encoder[place] for place in third] for third in thirds)]


def rank_correlation(first: Explanation, second: Explanation) -> float:
    """Return Spearman's rank correlation of two maps; NaN if one is flat."""
    if first.degenerate or second.degenerate:
        return float("nan")
    ranks = [stats.rankdata(explanation.heat, axis=None) for explanation in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def near(evidence: np.ndarray, reach: float) -> np.ndarray:
    """Return the region of the evidence, extended by a distance.

    Args:
        evidence: (H, W) bool, True at the evidence.
        reach: distance that still counts, as a share of the side.
    """
    return np.asarray(distance_transform_edt(~evidence) <= reach * evidence.shape[0])


def peaks_on(explanation: Explanation, where: np.ndarray) -> bool:
    """Return whether a map of the whole image peaks where (H, W) bool is True; False for a flat map."""
    if explanation.degenerate:
        return False
    place = np.unravel_index(int(explanation.heat.argmax()), explanation.heat.shape)
    cell = tuple(
        int((index + 0.5) / size * side)
        for index, size, side in zip(place, explanation.heat.shape, where.shape, strict=True)
    )
    return bool(where[cell])


def check_randomized(
    model: Classifier,
    images: torch.Tensor,
    targets: Sequence[int],
    draws: int = DRAWS,
    evidence: Sequence[np.ndarray] | None = None,
) -> Randomized:
    """Compare Grad-CAM of a trained network with Grad-CAM of its copy, randomized from the head down.

    Args:
        model: the trained network, in evaluation mode; not modified.
        images: (B, C, S, S), normalized, at least two; volumes have one dimension more.
        targets: the class to explain in each, the same for trained and random weights.
        draws: number of random initializations.
        evidence: (H, W) bool for each image, True at the evidence; None if unknown.
    """
    trained = _maps(model, images, targets)
    fully_random = []
    by_step: list[list[list[Explanation]]] = [[] for _ in STEPS]
    for draw in range(draws):
        changed = copy.deepcopy(model)
        random = torch.Generator().manual_seed(draw)
        for step, layers in enumerate(from_the_head_down(changed)):
            for layer in layers:
                randomize(layer, random)
            by_step[step].append(_maps(changed, images, targets))
        if evidence is not None:
            fully_random.append(changed)
    steps = tuple(_similarity(trained, maps) for maps in by_step)
    others = _similarity(trained, [trained[shift:] + trained[:shift] for shift in (1, 2, 3) if shift < len(trained)])
    planted = {}
    if evidence is not None:
        planted[CHECKED] = _on_planted(trained, by_step[-1], evidence)
        inputs = _input_of(model, images, targets)
        for name in POINTING:
            if not EXPLAINERS[name].unsupported(inputs):
                random_maps = [_maps(network, images, targets, name) for network in fully_random]
                planted[name] = _on_planted(_maps(model, images, targets, name), random_maps, evidence)
    return Randomized(len(trained), draws, steps, others, planted)


def _on_planted(
    trained: list[Explanation], by_draw: list[list[Explanation]], evidence: Sequence[np.ndarray]
) -> PlantedHits:
    counts = [near(region, trained[0].cell / 2) for region in evidence]
    hits = [peaks_on(explanation, region) for explanation, region in zip(trained, counts, strict=True)]
    random = np.array(
        [[[peaks_on(explanation, region) for region in counts] for explanation in maps] for maps in by_draw]
    )
    own = np.eye(len(counts), dtype=bool)
    return PlantedHits(
        sum(hits), len(hits), int(random[:, own].sum()), random[:, own].size, float(random[:, ~own].mean())
    )


def _input_of(model: Classifier, images: torch.Tensor, targets: Sequence[int]) -> ExplainerInput:
    with torch.no_grad():
        features = model.encoder(channels_last(images))
    return ExplainerInput(model, images, features, torch.as_tensor(targets, device=images.device))


def _maps(model: Classifier, images: torch.Tensor, targets: Sequence[int], name: str = CHECKED) -> list[Explanation]:
    return explain(EXPLAINERS[name], _input_of(model, images, targets))


def _similarity(trained: list[Explanation], others: list[list[Explanation]]) -> MapSimilarity:
    """Average the rank correlation over the others, image by image, then over images."""
    correlations = np.array([[rank_correlation(*pair) for pair in zip(trained, maps, strict=True)] for maps in others])
    flat = float(np.mean([explanation.degenerate for maps in others for explanation in maps]))
    known = ~np.isnan(correlations)
    defined = known.any(axis=0)
    by_image = np.nansum(correlations, axis=0)[defined] / known.sum(axis=0)[defined]
    if len(by_image) < 2:
        value = float(by_image[0]) if len(by_image) else float("nan")
        return MapSimilarity(value, float("nan"), float("nan"), flat)
    ends = stats.bootstrap((by_image,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return MapSimilarity(float(by_image.mean()), float(ends.low), float(ends.high), flat)
