"""What an encoder learnt from before it was used here, in sentences. What nobody names is not called unseen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.models.specs import Exposure


def own_encoder_saw(card: Mapping[str, Any]) -> str:
    """What an encoder that this program pretrained learnt from, by its card."""
    corpus = "; ".join(
        f"{one['images']:,} images of {one['title']} ({one['licence']})" for one in card.get("corpus", ())
    )
    out = ", ".join(card["left_out"])
    return f"It started from {card.get('start', 'weights not named')} and learnt from {corpus}. Left out: {out}."


def encoder_saw(kind: str, source: str, exposure: Exposure | None) -> str:
    """What any other encoder learnt from.

    Args:
        kind: of its weights, as in `Weights`.
        source: where they come from; "" where that is not known.
        exposure: what its makers name, where its row says so.
    """
    if kind == "random":
        return "Nothing: its weights were drawn at random."
    if exposure:
        return f"Its makers say that it saw {exposure.named}. What they do not name is not known to be unseen."
    medical = "no medical images are named" if kind in ("package", "hub", "joined") else "what it saw is not known"
    return f"{source or 'an unnamed source'}; {medical}."
