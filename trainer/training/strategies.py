"""Registry of training strategies: what each trains, its settings, and its fitting function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from core.registry import LazyFunction, Registry
from trainer.flags import DATA
from trainer.training.frozen_settings import FROZEN
from trainer.training.settings import FitContext, FitData, FitResult, Settings

if TYPE_CHECKING:
    from core.models.classifier import Classifier
    from core.models.specs import ModelSpec
    from trainer.meta_learning.outer_loop import QueryLoss

LOSS_AND_OPTIMIZER = (
    *DATA, "loss", "label_smoothing", "optimizer", "schedule", "epochs", "min_steps", "batch_size", "lr",
    "weight_decay",
)  # fmt: skip
HEADS = ("views", "scaling", "fold_ensemble", "mirror", "folds")
NETWORK = (*LOSS_AND_OPTIMIZER, "clip", "average", "patience", "mirror", "folds")
FINETUNED = (*NETWORK, "layer_decay", "frozen_below", "depth", "thaw_every", "tune", "rank")
META = ("episodes", "tasks", "shots", "queries", "outer_lr", "sources")


@dataclass(frozen=True)
class Strategy:
    """A row of the registry.

    Attributes:
        name: key in the registry and in the run store.
        title: name for display.
        meaning: one sentence for display.
        settings: default settings.
        fit: trains a model in place on a subset.
        takes: names of the settings that a run may override.
        head_only: whether the encoder stays frozen, so that its embeddings can be cached.
        starts_from: strategy that trains the starting weights, with that strategy's own settings.
        like: another strategy; this one is available for every model that has it. "" where models name it themselves.
        query_loss: loss that is minimized on tasks of other data sets before training on the subset; None for no
            meta-learning.
    """

    name: str
    title: str
    meaning: str
    settings: Settings
    fit: Callable[[Classifier, ModelSpec, FitData, Settings, FitContext], FitResult]
    takes: tuple[str, ...]
    head_only: bool
    starts_from: str | None = None
    like: str = ""
    query_loss: QueryLoss | None = None

    def incompatibility(self, spec: ModelSpec) -> str:
        """Return why a model cannot be trained with the strategy, in a sentence; "" if it can."""
        if self.name not in spec.strategies and self.like not in spec.strategies:
            return f"{spec.name} does not support the strategy {self.name}."
        if self.query_loss and spec.uses_batch_norm:
            return (
                f"{spec.name} does not support the strategy {self.name}: it has batch normalization, which makes the "
                "prediction of an image depend on the other images of its batch."
            )
        return ""


_FINETUNE = Settings(
    epochs=15, min_steps=100, batch_size=32, lr=1e-4, weight_decay=1e-2, layer_decay=0.75, frozen_below=0.2, folds=2
)
STRATEGIES: Registry[Strategy] = Registry("strategy")


def strategies_of(spec: ModelSpec) -> list[str]:
    """Return the strategies that are available for a model."""
    return [strategy.name for strategy in STRATEGIES.values() if not strategy.incompatibility(spec)]


STRATEGIES.add(
    Strategy(
        name="scratch",
        title="From scratch",
        meaning="Every weight is trained on the subset alone, from random initialization.",
        settings=Settings(epochs=60, min_steps=200, batch_size=32, lr=1e-3, weight_decay=1e-2, folds=2),
        fit=LazyFunction("trainer.training.fit:fit_scratch"),
        takes=(*NETWORK, "side"),
        head_only=False,
    ),
    Strategy(
        name="frozen",
        title="Frozen encoder, MLP head",
        meaning="The encoder is frozen; only the head is trained.",
        settings=FROZEN,
        fit=LazyFunction("trainer.training.fit:fit_frozen"),
        takes=(*LOSS_AND_OPTIMIZER, *HEADS),
        head_only=True,
    ),
    Strategy(
        name="frozen-logistic",
        title="Frozen encoder, logistic regression",
        meaning="A linear head on embeddings of unit length; its penalty is chosen inside the subset.",
        settings=Settings(epochs=1, min_steps=1, batch_size=64, lr=0.0, weight_decay=0.0, views=4),
        fit=LazyFunction("trainer.training.fit:fit_frozen_logistic"),
        takes=(*DATA, *HEADS, "strength"),
        head_only=True,
    ),
    Strategy(
        name="plain-loop",
        title="Frozen encoder, plain loop",
        meaning="Untuned baseline: an MLP on raw embeddings, trained for 20 epochs at a constant learning rate.",
        settings=Settings(epochs=20, min_steps=0, batch_size=32, lr=1e-3, weight_decay=1e-2, views=20),
        fit=LazyFunction("trainer.training.fit:fit_plain_loop_frozen"),
        takes=(),
        head_only=True,
        like="frozen",
    ),
    Strategy(
        name="plain-scratch",
        title="From scratch, plain loop",
        meaning="Untuned baseline: 60 epochs at a constant learning rate; the threshold is one half.",
        settings=Settings(
            epochs=60, min_steps=0, batch_size=32, lr=1e-3, weight_decay=1e-2, schedule="constant", folds=1
        ),
        fit=LazyFunction("trainer.training.fit:fit_scratch"),
        takes=("side",),
        head_only=False,
        like="scratch",
    ),
    Strategy(
        name="scratch-quick",
        title="From scratch, few steps",
        meaning="As from scratch, but short enough for a first look at one's own images; more steps may do better.",
        settings=Settings(epochs=8, min_steps=200, batch_size=16, lr=3e-3, weight_decay=1e-2, folds=2),
        fit=LazyFunction("trainer.training.fit:fit_scratch"),
        takes=(*NETWORK, "side"),
        head_only=False,
        like="scratch",
    ),
    Strategy(
        name="finetune",
        title="Fine-tuned",
        meaning="The head is trained first, then together with the deeper layers of the encoder at lower rates.",
        settings=_FINETUNE,
        fit=LazyFunction("trainer.training.fit:fit_finetune"),
        takes=FINETUNED,
        head_only=False,
        starts_from="frozen",
    ),
    Strategy(
        name="finetune-last",
        title="Last stage fine-tuned",
        meaning="The head is trained first, then together with the encoder's last stage.",
        settings=replace(_FINETUNE, depth=1),
        fit=LazyFunction("trainer.training.fit:fit_finetune"),
        takes=FINETUNED,
        head_only=False,
        starts_from="frozen",
        like="finetune",
    ),
    Strategy(
        name="protonet",
        title="Prototypes of a frozen encoder",
        meaning="Nothing is trained: each image gets the class with the nearest mean embedding.",
        settings=Settings(epochs=1, min_steps=0, batch_size=64, lr=0.0, weight_decay=0.0, views=4),
        fit=LazyFunction("trainer.training.fit:fit_protonet"),
        takes=("augment", "preparation"),
        head_only=True,
        like="frozen",
    ),
    Strategy(
        name="protonet-meta",
        title="Prototypes of a meta-learned encoder",
        meaning="Nearest mean embedding, with an encoder trained for that purpose on tasks of other data sets.",
        settings=Settings(
            epochs=1, min_steps=0, batch_size=64, lr=0.0, weight_decay=0.0, views=4, episodes=2000, tasks=4, shots=5,
            queries=5, outer_lr=1e-3,
        ),
        fit=LazyFunction("trainer.training.fit:fit_protonet_meta"),
        takes=("augment", "preparation", "clip", *META),
        head_only=False,
        like="scratch",
        query_loss=LazyFunction("trainer.meta_learning.protonet:query_loss"),
    ),
    Strategy(
        name="maml",
        title="MAML",
        meaning="Weights meta-learned from tasks of other data sets, adapted to the subset in a few gradient steps.",
        settings=Settings(
            epochs=1, min_steps=0, batch_size=64, lr=0.0, weight_decay=0.0, augment="none", episodes=2000, tasks=4,
            shots=5, queries=5, inner_lr=0.1, inner_steps=5, adapt_steps=10, outer_lr=1e-3, order="second",
        ),
        fit=LazyFunction("trainer.training.fit:fit_maml"),
        takes=("preparation", "clip", "inner_lr", "inner_steps", "adapt_steps", "order", *META),
        head_only=False,
        like="scratch",
        query_loss=LazyFunction("trainer.meta_learning.maml:query_loss"),
    )
)  # fmt: skip
