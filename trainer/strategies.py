"""The table of training strategies: what is trained of a model, and how its operating point is chosen.

References:
    Layer-wise rates: Howard and Ruder 2018, arXiv:1801.06146 (discriminative fine-tuning, gradual unfreezing).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from core.data.augment import augmenter
from core.data.banks import Progress
from core.data.preprocessing import preparation
from core.metrics.calibration import negative_log_likelihood
from core.models.classifier import Classifier
from core.models.specs import ModelSpec
from core.registry import Registry
from trainer.config import FitData, Fitted, Settings
from trainer.embeddings import EmbeddingCache
from trainer.folds import inner_folds
from trainer.heads import LOGISTIC_STRENGTHS, fit_logistic, fit_mlp, logits_of, side_by_side
from trainer.loop import train_network
from trainer.losses import LOSSES
from trainer.options import DATA
from trainer.unfinished import Unfinished
from trainer.unfreezing import groups_of

HEAD = "tapped."
LEARNT = (
    *DATA, "loss", "label_smoothing", "optimizer", "schedule", "epochs", "min_steps", "batch_size", "lr",
    "weight_decay",
)  # fmt: skip
NETWORK = (*LEARNT, "clip", "average", "patience")
FINETUNED = (*NETWORK, "layer_decay", "depth", "thaw_every")


@dataclass(frozen=True)
class Context:
    """Where and how a fit runs.

    Attributes:
        seed: of everything random.
        device: where it runs.
        progress: called with (done, in all) by whatever takes long.
        unfinished: where a training of a network is kept after each epoch, to go on from after a kill.
    """

    seed: int
    device: torch.device
    progress: Progress | None = None
    unfinished: Unfinished | None = None


Fit = Callable[[Classifier, ModelSpec, FitData, Settings, Context], Fitted]


@dataclass(frozen=True)
class Strategy:
    """A row of the table.

    Attributes:
        name: key in the registry and in the run store.
        title: for people.
        meaning: one sentence for people.
        settings: defaults.
        fit: trains a model in place on a subset.
        takes: names of the settings in which a run may depart from its own.
        head_only: the encoder stays as it is, so embeddings can be cached.
        starts_from: the strategy whose result it starts from, with that strategy's own settings.
        like: a strategy that it goes with every model of; "" where models name it themselves.
    """

    name: str
    title: str
    meaning: str
    settings: Settings
    fit: Fit
    takes: tuple[str, ...]
    head_only: bool
    starts_from: str | None = None
    like: str = ""

    def goes_with(self, spec: ModelSpec) -> bool:
        """Whether a model can be trained so."""
        return self.name in spec.strategies or self.like in spec.strategies


STRATEGIES: Registry[Strategy] = Registry("strategy")


def embedding_cache(
    model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, device: torch.device
) -> EmbeddingCache:
    """The cache of a model's encoder on the data set that a subset comes from."""
    pixels = preparation(settings.preparation).of_pixels
    return EmbeddingCache(model, spec.image, data.fingerprint, data.population, settings.augment, device, pixels)


def _embeddings(model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: Context) -> np.ndarray:
    cache = embedding_cache(model, spec, data, settings, context.device)
    return cache.get(data.images, data.rows, settings.views, context.progress)


def _cross_validated(
    embeddings: np.ndarray, data: FitData, settings: Settings, seed: int, fit: Callable[[np.ndarray], nn.Sequential]
) -> tuple[np.ndarray, np.ndarray, nn.Sequential]:
    """Fits a head to all images, and one to each fold's rest to judge the fold by.

    Args:
        embeddings: (n, views, D).
        data: the subset.
        settings: of the training.
        seed: of the folds.
        fit: positions in the subset -> a head that learnt them.
    Returns:
        positions, their logits by a head that did not learn them, and the head that learnt all.
    """
    folds = inner_folds(data.labels, data.groups, settings.folds, seed)
    everything = np.arange(len(data.labels))
    *judges, final = side_by_side([partial(fit, learnt) for learnt in [*(learnt for learnt, _ in folds), everything]])
    judged = [held for _, held in folds]
    logits = [logits_of(judge, embeddings[held, 0]) for judge, held in zip(judges, judged, strict=True)]
    return np.concatenate(judged), np.concatenate(logits), final


def fit_frozen(model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: Context) -> Fitted:
    """The shared MLP head on embeddings of a frozen encoder."""
    embeddings = _embeddings(model, spec, data, settings, context)

    def fit(learnt: np.ndarray) -> nn.Sequential:
        return fit_mlp(model.head.layers, embeddings[learnt], data.labels[learnt], settings, context.seed)

    judged, logits, final = _cross_validated(embeddings, data, settings, context.seed, fit)
    model.head.layers = final
    return Fitted(judged, logits, HEAD, _folds_in_words(settings))


def fit_frozen_logistic(
    model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: Context
) -> Fitted:
    """Logistic regression on the same embeddings; its penalty is the one with the best out-of-fold likelihood."""
    embeddings = _embeddings(model, spec, data, settings, context)

    def fit(learnt: np.ndarray, strength: float) -> nn.Sequential:
        return fit_logistic(embeddings[learnt], data.labels[learnt], data.classes, strength, settings, context.seed)

    tried = []
    for strength in LOGISTIC_STRENGTHS:
        judged, logits, final = _cross_validated(
            embeddings, data, settings, context.seed, partial(fit, strength=strength)
        )
        tried.append((negative_log_likelihood(logits, data.labels[judged]), strength, judged, logits, final))
    _, strength, judged, logits, final = min(tried, key=lambda row: row[0])
    model.head.layers = final
    return Fitted(judged, logits, HEAD, _folds_in_words(settings) + f"; penalty strength 1/{strength:g} chosen there")


def fit_finetune(model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: Context) -> Fitted:
    """The head first, on frozen embeddings; then the deeper layers with it, the deeper the faster."""
    learnt, held = inner_folds(data.labels, data.groups, settings.folds, context.seed)[0]
    learn, hold_out = data.part(learnt), data.part(held)
    start = _settings_of_head(settings)
    of_encoder = groups_of(model.encoder, settings)
    embeddings = _embeddings(model, spec, learn, start, context)
    model.head.layers = fit_mlp(model.head.layers, embeddings, learn.labels, start, context.seed)
    trained = train_network(
        model,
        [*of_encoder, {"params": list(model.head.parameters()), "lr": settings.lr}],
        learn,
        hold_out,
        spec.image,
        settings,
        context.seed,
        context.device,
        frozen_statistics=True,
        progress=context.progress,
        unfinished=context.unfinished,
    )
    return Fitted(held, trained.logits, "", _hold_out_in_words(settings), trained.history, trained.failed)


def _settings_of_head(settings: Settings) -> Settings:
    """How the head is trained before the encoder: as `frozen` does, on the same images and by the same loss.

    Mixed images have no embeddings to cache, and a loss with an optimiser of its own wants a start by the usual one.
    """
    start = replace(STRATEGIES["frozen"].settings, preparation=settings.preparation, imbalance=settings.imbalance)
    if not augmenter(settings.augment).mixes:
        start = replace(start, augment=settings.augment)
    if not settings.loss or not LOSSES[settings.loss].optimizer:
        start = replace(start, loss=settings.loss, label_smoothing=settings.label_smoothing)
    return start


def fit_scratch(model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: Context) -> Fitted:
    """Everything from random weights."""
    learnt, held = inner_folds(data.labels, data.groups, settings.folds, context.seed)[0]
    trained = train_network(
        model,
        [{"params": list(model.parameters()), "lr": settings.lr}],
        data.part(learnt),
        data.part(held),
        spec.image,
        settings,
        context.seed,
        context.device,
        frozen_statistics=False,
        progress=context.progress,
        unfinished=context.unfinished,
    )
    return Fitted(held, trained.logits, "", _hold_out_in_words(settings), trained.history, trained.failed)


def _folds_in_words(settings: Settings) -> str:
    return f"cross-validation inside the subset, {settings.folds} folds at most"


def _hold_out_in_words(settings: Settings) -> str:
    return f"one in {settings.folds} images of the subset held out"


STRATEGIES.add(
    Strategy(
        name="scratch",
        title="From scratch",
        meaning="Every weight is learnt from the subset alone.",
        settings=Settings(epochs=60, min_steps=400, batch_size=32, lr=1e-3, weight_decay=1e-2, patience=20),
        fit=fit_scratch,
        takes=NETWORK,
        head_only=False,
    )
)
STRATEGIES.add(
    Strategy(
        name="frozen",
        title="Frozen encoder, MLP head",
        meaning="The encoder stays as it is; only the head learns.",
        settings=Settings(epochs=10, min_steps=30, batch_size=64, lr=1e-3, weight_decay=1e-2, views=4),
        fit=fit_frozen,
        takes=LEARNT,
        head_only=True,
    )
)
STRATEGIES.add(
    Strategy(
        name="frozen-logistic",
        title="Frozen encoder, logistic regression",
        meaning="The simplest head there is, as a control of the MLP.",
        settings=Settings(epochs=1, min_steps=1, batch_size=64, lr=0.0, weight_decay=0.0, views=4),
        fit=fit_frozen_logistic,
        takes=DATA,
        head_only=True,
    )
)
_FINETUNE = Settings(
    epochs=15,
    min_steps=60,
    batch_size=32,
    lr=1e-4,
    weight_decay=1e-2,
    average=0.98,
    patience=6,
    layer_decay=0.75,
    frozen_below=0.2,
)
STRATEGIES.add(
    Strategy(
        name="finetune",
        title="Fine-tuned",
        meaning="The head first, then the deeper layers of the encoder with it at lower rates.",
        settings=_FINETUNE,
        fit=fit_finetune,
        takes=FINETUNED,
        head_only=False,
        starts_from="frozen",
    )
)
STRATEGIES.add(
    Strategy(
        name="finetune-last",
        title="Last stage fine-tuned",
        meaning="The head first, then the encoder's last stage with it.",
        settings=replace(_FINETUNE, depth=1),
        fit=fit_finetune,
        takes=FINETUNED,
        head_only=False,
        starts_from="frozen",
        like="finetune",
    )
)
