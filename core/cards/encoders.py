"""What a reader must know before trusting an encoder that this program pretrained, each from its card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.models.medical_encoders import VERSION, Gate, gates_of


def encoder_limits(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Known limits, and what a card of an encoder cannot have."""
    found = [
        "Research use only. It is not a medical device. By itself it decides nothing: operating points, calibration, "
        "figures by group and checks of heatmaps are on the cards of the runs that use it."
    ]
    if card.get("version", 1) < VERSION:
        found.append(
            "Its recipe was chosen with probes on images that later were test images, and it left out only patients by "
            "whom a target validates or tests. It serves stored runs; where an encoder of the recipe of today is here, "
            "new runs take that."
        )
    figures = [(f"{gate.dataset} patients that it never saw", gate.encoder, gate.start) for gate in gates_of(card)]
    figures += [(name, row["encoder"], row["start"]) for name, row in card.get("transfer", {}).items()]
    if worse := [name for name, encoder, start in figures if encoder < start]:
        found.append(f"It is worse than its start on {', '.join(worse)}.")
    corpus = card.get("corpus", ())
    if len(corpus) == 1:
        found.append(f"It learnt from one source: {corpus[0]['title']}, {corpus[0]['images']:,} images.")
    removed: dict[str, int] = {}
    strict = card.get("excluded_patients_of", ())
    apart = {*card["left_out"], *strict}
    for row in corpus:
        for name, count in row["copies_removed"].items():
            if count and name in apart:
                removed[name] = removed.get(name, 0) + count
    if removed:
        said = ", ".join(f"{count:,} of {name}'s" for name, count in removed.items())
        if strict:
            others = "Nor did it learn other images of their patients, as far as it is known who is who."
        elif all("people_removed" in row for row in corpus):
            others = (
                "Nor did it learn other images of people by whom a set there validates or tests, as far as it is known "
                "who is who."
            )
        else:
            others = "Other images of the people in them were not removed."
        found.append(f"Copies were removed from what it learnt: {said}. {others}")
    found.append(f"Not to be used on what it has seen, or on sets of the same images: {', '.join(card['seen'])}.")
    for row in card.get("replicates", ()):
        worst = min((Gate(**one) for one in row["gates"]), key=lambda gate: gate.difference[1])
        outcome = "passed the same gates" if row["passed"] else f"failed the gate of {worst.dataset} ({worst.read})"
        found.append(f"The same recipe with seed {row['seed']} {outcome}; what is shipped is seed 0.")
    if card.get("transfer"):
        found.append("Its figures on other sets have no intervals.")
    found.append("Performance by age, sex or device is not recorded.")
    return tuple(found)
