"""What a reader must know before trusting an encoder that this program pretrained, each from its card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.models.own_encoders import judged_on


def encoder_limits(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Known limits, and what a card of an encoder cannot have."""
    found = [
        "Research use only. It is not a medical device. By itself it decides nothing: operating points, calibration, "
        "figures by group and checks of heatmaps are on the cards of the runs that use it."
    ]
    judge, test = judged_on(card) or ("", None)
    judged = [(f"{judge} patients that it never saw", test), *card.get("transfer", {}).items()]
    if worse := [name for name, one in judged if one and one["encoder"] < one["start"]]:
        found.append(f"It is worse than its start on {', '.join(worse)}.")
    corpus = card.get("corpus", ())
    if len(corpus) == 1:
        found.append(f"It learnt from one source: {corpus[0]['title']}, {corpus[0]['images']:,} images.")
    removed: dict[str, int] = {}
    for row in corpus:
        for name, count in row["copies_removed"].items():
            if count and name in card["left_out"]:
                removed[name] = removed.get(name, 0) + count
    if removed:
        said = ", ".join(f"{count:,} of {name}'s" for name, count in removed.items())
        too = all("people_removed" in row for row in corpus)
        others = (
            "Nor did it learn other images of people by whom a set there validates or tests, as far as it is known who "
            "is who."
            if too
            else "Other images of the people in them were not removed."
        )
        found.append(f"Copies were removed from what it learnt: {said}. {others}")
    found.append(f"Not to be used on what it has seen, or on sets of the same images: {', '.join(card['seen'])}.")
    if card.get("transfer"):
        found.append("Its figures on other sets have no intervals.")
    found.append("Performance by age, sex or device is not recorded.")
    return tuple(found)
