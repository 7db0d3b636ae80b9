"""What an ablation runs: combinations of augmentations and preprocessing steps, each with and without."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from core.data.augment import JOINED
from core.data.augmentations import AUGMENTATIONS
from core.data.preprocessing import PREPROCESSING
from core.errors import BadRequest

NONE, EACH, PAIRS, ALL = "none", "each", "pairs", "all"
ORDERS = (EACH, PAIRS, ALL)


@dataclass(frozen=True)
class Combination:
    """Ingredients used together; the others of the ablation are left out.

    Attributes:
        title: the ingredients joined by `+`, or `none`.
        options: the settings that make it.
    """

    title: str
    options: dict[str, str]


def combinations_of(ingredients: list[str], orders: list[str]) -> list[Combination]:
    """None of the ingredients first, then each alone, pairs, and all together, as asked for.

    Args:
        ingredients: names of augmentations and preprocessing steps.
        orders: which of `each`, `pairs` and `all`.
    Raises:
        BadRequest: if an ingredient is unknown or named twice, or an order is.
    """
    for name in ingredients:
        if name not in AUGMENTATIONS and name not in PREPROCESSING:
            raise BadRequest(
                f"{name!r} is neither an augmentation ({', '.join(AUGMENTATIONS)}) nor a preprocessing step "
                f"({', '.join(PREPROCESSING)})."
            )
    if len(set(ingredients)) < len(ingredients):
        raise BadRequest(f"An ingredient is named twice in {', '.join(ingredients)}.")
    if unknown := [name for name in orders if name not in ORDERS]:
        raise BadRequest(f"Expected {', '.join(ORDERS)}, but got {unknown[0]!r}.")
    counts = {EACH: 1, PAIRS: 2, ALL: len(ingredients)}
    wanted = sorted({counts[name] for name in orders if counts[name] <= len(ingredients)})
    chosen = [(), *(together for count in wanted for together in combinations(ingredients, count))]
    return [_combination(together, ingredients) for together in chosen]


def _combination(together: tuple[str, ...], ingredients: list[str]) -> Combination:
    augment = [name for name in together if name in AUGMENTATIONS]
    steps = [name for name in together if name in PREPROCESSING]
    left_out = [PREPROCESSING[name].instead for name in ingredients if name in PREPROCESSING and name not in together]
    options = {"augment": JOINED.join(augment) or NONE, "preparation": JOINED.join(filter(None, [*steps, *left_out]))}
    return Combination(JOINED.join(together) or NONE, options)
