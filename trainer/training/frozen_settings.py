"""Settings of a head on a frozen encoder: alone, and as the start of fine-tuning."""

from dataclasses import replace

from core.data.augmentation import augmenter
from trainer.training.losses import LOSSES
from trainer.training.settings import Settings

FROZEN = Settings(epochs=10, min_steps=30, batch_size=64, lr=1e-3, weight_decay=1e-2, views=4)


def head_settings(settings: Settings) -> Settings:
    """Return how the head is trained before the encoder: as `frozen` does, on the same images and with the same loss.

    Mixed images have no embeddings to cache, so that mixing augmentations are left out. A loss with an optimizer of its
    own is replaced by the default loss.
    """
    start = replace(FROZEN, preparation=settings.preparation, imbalance=settings.imbalance)
    if not augmenter(settings.augment).mixes:
        start = replace(start, augment=settings.augment)
    if not settings.loss or not LOSSES[settings.loss].optimizer:
        start = replace(start, loss=settings.loss, label_smoothing=settings.label_smoothing)
    return start
