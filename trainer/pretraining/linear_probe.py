"""Linear probes of encoders, on images that no encoder was trained on.

A probe is logistic regression on centered embeddings of unit length, as models with frozen encoders use it. It is
fitted and evaluated on held-out images alone, so that an encoder gains nothing from fitting its own training images.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from core.models.medical_encoders import ProbeResult
from trainer.pretraining.corpus import CorpusPart

MIN_POSITIVES = 20
STRENGTHS = (1.0, 10.0, 100.0)
FEW_SHOT_STRENGTH = 10.0
FOLDS = 5


def unit(features: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Subtract a (D,) center from (N, D) embeddings and scale each to unit length."""
    centered = features - center
    return centered / np.linalg.norm(centered, axis=1, keepdims=True).clip(1e-8)


def probe_results(
    part: CorpusPart, encoder: Mapping[str, np.ndarray], start: Mapping[str, np.ndarray]
) -> list[ProbeResult]:
    """Compare an encoder with its starting weights on held-out patients of a data set: one `ProbeResult` per embedding.

    The strength of each probe is chosen on the validation patients. The metrics are those of the test patients.

    Args:
        part: the data set.
        encoder: name of an embedding -> (V + T, D) embeddings of the validation images, then of the test images.
        start: the same for the starting weights.
    """
    labels, names = columns_of(part)
    held_out = np.concatenate([part.validation, part.test])
    labels, groups = labels[held_out], part.groups[held_out]
    validation, test = slice(0, len(part.validation)), slice(len(part.validation), None)
    results = []
    for read in encoder:
        pair = []
        for features in (encoder[read], start[read]):
            strength = choose_strength(features[validation], labels[validation], groups[validation])
            pair.append(cross_fitted_scores(features[test], labels[test], groups[test], strength))
        (encoder_scores, columns), (start_scores, _) = pair
        truth = labels[test][:, columns]
        difference, low, high = clustered_difference(encoder_scores, start_scores, truth, groups[test])
        results.append(
            ProbeResult(
                dataset=part.spec.name,
                read=read,
                encoder=round(macro_auroc(encoder_scores, truth), 4),
                start=round(macro_auroc(start_scores, truth), 4),
                difference=(round(difference, 4), round(low, 4), round(high, 4)),
                images=len(part.test),
                patients=len(np.unique(groups[test])),
                findings=tuple(names[k] for k in columns),
            )
        )
    return results


def columns_of(part: CorpusPart) -> tuple[np.ndarray, list[str]]:
    """Return the targets of the probes, (N, K) of 0, 1 and NaN, and their names.

    They are the findings, the positive class of two classes, or each class of more.
    """
    labels, names = part.listing.labels, list(part.spec.labels)
    if labels.ndim == 2:
        return labels, names
    classes = [part.spec.positive] if part.spec.positive is not None else list(range(len(names)))
    return np.stack([labels == k for k in classes], axis=1).astype(float), [names[k] for k in classes]


def _scores(train: np.ndarray, labels: np.ndarray, test: np.ndarray, strength: float) -> np.ndarray:
    center = train.mean(axis=0)
    model = LogisticRegression(C=strength, max_iter=300, class_weight="balanced")
    model.fit(unit(train, center), labels)
    return model.decision_function(unit(test, center))


def cross_fitted_scores(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Score held-out images by probes fitted on the other held-out images, in five folds by group.

    Args:
        features: (N, D) embeddings.
        labels: (N, K) of 0 and 1.
        groups: (N,) patients.
        strength: inverse of the probe's L2 penalty.
    Returns:
        (N, K') scores, and the (K',) columns with at least `MIN_POSITIVES` positives to which they belong.
    """
    columns = np.flatnonzero((labels == 1).sum(axis=0) >= MIN_POSITIVES)
    scores = np.zeros((len(labels), len(columns)))
    for index, column in enumerate(columns):
        truth = (labels[:, column] == 1).astype(int)
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(features, truth, groups)
        for train, test in folds:
            scores[test, index] = _scores(features[train], truth[train], features[test], strength)
    return scores, columns


def choose_strength(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    """Return the probe's strength with the best macro AUROC over the folds."""
    candidates = []
    for strength in STRENGTHS:
        scores, columns = cross_fitted_scores(features, labels, groups, strength)
        candidates.append((macro_auroc(scores, labels[:, columns]), strength))
    return max(candidates)[1]


def macro_auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean AUROC over findings."""
    return float(np.mean([roc_auc_score(labels[:, k] == 1, scores[:, k]) for k in range(labels.shape[1])]))


def clustered_difference(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray, groups: np.ndarray, draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Return the difference in macro AUROC on the same images, `first` minus `second`, with a 95% interval.

    The interval is a bootstrap over patients.
    """
    random = np.random.default_rng(seed)
    _, number = np.unique(groups, return_inverse=True)
    members = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    differences = []
    for _ in range(draws):
        resample = np.concatenate([members[i] for i in random.integers(0, len(members), len(members))])
        if (labels[resample].sum(axis=0) == 0).any():
            continue
        differences.append(
            macro_auroc(first[resample], labels[resample]) - macro_auroc(second[resample], labels[resample])
        )
    low, high = np.percentile(differences, [2.5, 97.5])
    return macro_auroc(first, labels) - macro_auroc(second, labels), float(low), float(high)


def few_shot_auroc(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, size: int, seeds: int = 10) -> float:
    """Return the mean AUROC of few-shot probes over classes or findings.

    A probe is fitted on `size` images of each class, or with and without a finding. It scores the images of all other
    groups.

    Args:
        features: (N, D) embeddings.
        labels: (N,) class indices, or (N, K) of 0, 1 and NaN.
        groups: (N,) patients.
        size: training images per class; half of the class where it is too small.
        seeds: number of resamples, over which the mean is taken.
    """
    aurocs = []
    for seed in range(seeds):
        for target in [labels] if labels.ndim == 1 else _findings(labels):
            known = np.flatnonzero(target >= 0)
            chosen = _support(target, known, size, np.random.default_rng(seed))
            others = known[~np.isin(groups[known], groups[chosen])]
            scores = _scores(features[chosen], target[chosen].astype(int), features[others], FEW_SHOT_STRENGTH)
            truth = target[others]
            truths = [truth == 1] if scores.ndim == 1 else [truth == k for k in np.unique(target[known])]
            columns = scores[:, None] if scores.ndim == 1 else scores
            aurocs += [
                roc_auc_score(positive, columns[:, k])
                for k, positive in enumerate(truths)
                if 0 < positive.sum() < len(positive)
            ]
    return float(np.mean(aurocs))


def _findings(labels: np.ndarray) -> Iterator[np.ndarray]:
    for column in labels.T:
        if (column == 1).sum() >= MIN_POSITIVES:  # half of them are learned, the others scored
            yield np.where(np.isnan(column), -1, column)


def _support(target: np.ndarray, known: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    classes = [known[target[known] == value] for value in np.unique(target[known])]
    return np.concatenate([random.permutation(members)[: min(size, len(members) // 2)] for members in classes])
