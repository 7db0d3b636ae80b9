"""Strategies that adapt a start learnt from other tasks, and those that need no learning: MAML and prototypes."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from core.models.classifier import Classifier
from core.models.specs import ModelSpec
from trainer.config import Context, FitData, Fitted, Settings
from trainer.course import predict_logits
from trainer.fitting import HEAD, cross_validated, embeddings_of, folds_in_words, together
from trainer.folds import judged_folds
from trainer.maml import adapt_to
from trainer.protonet import fit_prototypes


def fit_maml(model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: Context) -> Fitted:
    """Adapts the meta-learnt start to the subset; each fold is judged by an adaptation to the rest."""
    start = {name: value.clone() for name, value in model.state_dict().items()}
    folds = judged_folds(data.labels, data.groups, settings.folds, context.seed)
    everything = np.arange(len(data.labels))
    found, failed = [], ""
    for done, (learnt, held) in enumerate([*folds, (everything, everything[:0])]):
        model.load_state_dict(start)
        weights = adapt_to(model, data.part(learnt), spec.image, settings, context.device)
        if not all(torch.isfinite(value).all() for value in weights.values()):
            failed = (
                "adaptation to the subset diverged, and the start was kept. Lower --inner-lr, which was "
                f"{settings.inner_lr:g}, or --adapt-steps."
            )
            break
        model.load_state_dict({**start, **weights})
        if len(held):
            found.append(predict_logits(model, data.images[held], spec.image, context.device))
        if context.progress:
            context.progress(done + 1, len(folds) + 1)
    if failed:
        model.load_state_dict(start)
    judged, logits = together([held for _, held in folds[: len(found)]], found, data.classes)
    model.eval().cpu()
    return Fitted(judged, logits, "", folds_in_words(settings, judged), failed=failed)


def fit_protonet(model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: Context) -> Fitted:
    """Class means of the embeddings of an encoder that stays as it is."""
    embeddings = embeddings_of(model, spec, data, settings, context)

    def fit(learnt: np.ndarray) -> nn.Sequential:
        return fit_prototypes(embeddings[learnt], data.labels[learnt], data.classes)

    judged, logits, final = cross_validated(embeddings, data, settings, context.seed, fit)
    model.head.layers = final
    return Fitted(judged, logits, HEAD, folds_in_words(settings, judged))


def fit_protonet_meta(
    model: Classifier, spec: ModelSpec, data: FitData, settings: Settings, context: Context
) -> Fitted:
    """The same with an encoder trained on tasks of other data sets, which a run keeps with its head."""
    fitted = fit_protonet(model, spec, data, settings, context)
    return Fitted(fitted.judged, fitted.logits, "", fitted.selection)
