"""Judges an encoder by frozen probes: findings or classes of held-out patients, and few-shot transfer to sets it never
saw.

Recipes of pretraining are chosen by these figures, never on a target's test set.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from core.data.transforms import normalise, to_unit
from core.types import ImageSpec
from trainer.corpus import CorpusPart

_BATCH = 64
MIN_POSITIVES = 20
STRENGTHS = (1e-5, 1e-4, 1e-3)
FEW_SHOT_STRENGTH = 0.01


@torch.no_grad()
def embed(encoder: torch.nn.Module, images: np.ndarray, size: int, device: torch.device) -> np.ndarray:
    """Pooled features of stored images: (N, C, S, S) uint8 -> (N, D) float32."""
    encoder = encoder.to(device).eval()
    found = []
    for start in range(0, len(images), _BATCH):
        batch = normalise(to_unit(images[start : start + _BATCH], device), ImageSpec(size))
        with torch.autocast(device.type, torch.bfloat16):
            features = encoder(batch.contiguous(memory_format=torch.channels_last))
        found.append(features.float().mean((2, 3)).cpu())
    return torch.cat(found).numpy()


def _probe(train: np.ndarray, labels: np.ndarray, strength: float) -> Callable[[np.ndarray], np.ndarray]:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500, class_weight="balanced"))
    model.fit(train, labels)
    return model.predict_proba


def finding_scores(
    part: CorpusPart, features: np.ndarray, judged: np.ndarray, strength: float
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Probes every finding on the part's training patients and scores the judged images.

    Args:
        part: the judging set.
        features: (N, D) of the whole set.
        judged: indices scored.
        strength: inverse of the probe's L2 penalty.
    Returns:
        (J, K) scores, (J, K) labels, and the K findings with enough positives among the judged.
    """
    labels, names = columns_of(part)
    enough = [k for k in range(labels.shape[1]) if labels[judged, k].sum() >= MIN_POSITIVES]
    scores = [_probe(features[part.train], labels[part.train, k], strength)(features[judged])[:, 1] for k in enough]
    return np.stack(scores, axis=1), labels[judged][:, enough], [names[k] for k in enough]


def columns_of(part: CorpusPart) -> tuple[np.ndarray, list[str]]:
    """(N, K) of 0 and 1, what is probed, and its names: findings, the positive of two classes, each of more."""
    labels, names = part.listing.labels, list(part.spec.labels)
    if labels.ndim == 2:
        return labels, names
    shown = [part.spec.positive] if part.spec.positive is not None else list(range(len(names)))
    return np.stack([labels == k for k in shown], axis=1).astype(float), [names[k] for k in shown]


def choose_strength(part: CorpusPart, features: np.ndarray) -> tuple[float, float]:
    """The probe's strength with the best macro AUROC on validation patients, and that AUROC."""
    tried = []
    for strength in STRENGTHS:
        scores, labels, _ = finding_scores(part, features, part.validation, strength)
        tried.append((macro_auroc(scores, labels), strength))
    best, strength = max(tried)
    return strength, best


def macro_auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean AUROC over findings."""
    return float(roc_auc_score(labels, scores, average="macro"))


def clustered_difference(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray, groups: np.ndarray, draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Macro AUROC of `first` minus `second` on the same images, with a 95% bootstrap interval over patients."""
    random = np.random.default_rng(seed)
    _, number = np.unique(groups, return_inverse=True)
    members = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    found = []
    for _ in range(draws):
        drawn = np.concatenate([members[i] for i in random.integers(0, len(members), len(members))])
        if (labels[drawn].sum(axis=0) == 0).any():
            continue
        found.append(macro_auroc(first[drawn], labels[drawn]) - macro_auroc(second[drawn], labels[drawn]))
    low, high = np.percentile(found, [2.5, 97.5])
    return macro_auroc(first, labels) - macro_auroc(second, labels), float(low), float(high)


def transfer_auroc(part: CorpusPart, features: np.ndarray, size: int = 50, seeds: int = 5) -> float:
    """Few-shot probe on a set left out of the corpus: macro one-vs-rest AUROC on groups that were not learnt.

    Args:
        part: the set.
        features: (N, D) of the whole set.
        size: images learnt a class; half of the class where it is short.
        seeds: draws, over which the mean is taken.
    """
    labels, groups = part.listing.labels, part.listing.groups
    classes = np.unique(labels[part.train])
    found = []
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        chosen = np.concatenate(
            [
                random.permutation(members)[: min(size, len(members) // 2)]
                for members in (part.train[labels[part.train] == c] for c in classes)
            ]
        )
        rest = part.train[~np.isin(groups[part.train], groups[chosen])]
        rest = random.permutation(rest)[:3000]
        scores = _probe(features[chosen], labels[chosen], FEW_SHOT_STRENGTH)(features[rest])
        found.append(roc_auc_score(labels[rest], scores[:, 1] if scores.shape[1] == 2 else scores, multi_class="ovr"))
    return float(np.mean(found))
