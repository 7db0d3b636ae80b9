"""The choices of the Train page: data, models, ways of training, sizes, seeds and settings, and what they will cost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from core.data import DATASETS
from core.data.specs import DatasetSpec, find_dataset, is_present
from core.errors import LowshotError
from core.jobs.catalogue import Catalogue, Row
from core.jobs.costs import Cost, expected, is_same_work
from core.jobs.request import JOINED, own_path
from core.models import MODELS
from core.models.weights import weights_of
from core.paths import data_roots, describe_device, pick_device
from core.runs import Store
from core.ui import cache, text
from core.ui.progress import in_words

PRESENT, OWN = "A data set that is here", "My own images"
SIZES, SEEDS = ("5", "10", "25", "50", "100", "200", "full"), ("0", "1", "2", "3", "4")
USUAL_MODELS = ("scratch-cnn", "imagenet-efficientnet-lite0", "medical-efficientnet-lite0")
_FIRST = ("augment", "preparation", "imbalance")
_TITLES = {"augment": "Augmentation", "preparation": "Preprocessing", "imbalance": "Class imbalance"}


class Data(NamedTuple):
    """Images to learn from: their row, and their path where they are somebody's own."""

    spec: DatasetSpec
    folder: str = ""


def pick_data() -> Data | None:
    """A registered set, or own images below a data root; None until there is one."""
    kind = st.segmented_control("Images", [PRESENT, OWN], default=PRESENT, required=True, key="train_kind")
    if kind == OWN:
        return _pick_own()
    names = [spec.name for spec in DATASETS.values() if is_present(spec) and not spec.corpus_only]
    name = st.selectbox("Data set", names, format_func=lambda one: DATASETS[one].title, key="train_dataset")
    if options := DATASETS[name].options:
        chosen = {
            option: st.pills(
                option.capitalize(), values, default=values[0], required=True, key=f"train_{name}_{option}"
            )
            for option, values in options.items()
        }
        name = f"{name}@{','.join(f'{option}={value}' for option, value in chosen.items())}"
    spec = find_dataset(name)
    if spec.synthetic:
        st.warning("This data set is synthetic: its images are computer-generated.", icon=":material/science:")
    return Data(spec)


def _pick_own() -> Data | None:
    roots = ", ".join(map(str, data_roots()))
    typed = st.text_input(
        "Folder or CSV file", key="train_folder", placeholder="my-images",
        help="A folder that holds one folder a class, or a CSV file with the columns path, label and, best, patient.",
    )  # fmt: skip
    st.caption(f"Own images must lie below {text.escape(roots)}. Nothing is copied or uploaded.")
    if not typed.strip():
        return None
    try:
        path = own_path(typed)
        spec = cache.own(path)
    except (LowshotError, OSError) as error:
        st.error(text.escape(str(error)))
        return None
    st.caption(f"{text.escape(spec.title)}: {len(spec.labels)} classes, {text.escape(', '.join(spec.labels))}.")
    for caveat in spec.caveats:
        st.caption(text.escape(caveat))
    return Data(spec, str(path))


def pick_models(catalogue: Catalogue, spec: DatasetSpec) -> list[str]:
    """Models that take such images and whose weights are here; the others are named with the reason."""
    fit, missing = [], {}
    for name, row in catalogue.of("model").items():
        if row["dims"] != spec.dims or name not in MODELS:
            continue
        try:
            weights_of(MODELS[name], spec.name)
            fit.append(name)
        except LowshotError as error:
            missing[name] = str(error)
    chosen: list[str] = st.multiselect(
        "Models", fit, default=[name for name in USUAL_MODELS if name in fit] or fit[:1],
        format_func=lambda name: MODELS[name].title, key=f"train_models_{spec.dims}_{spec.name}",
    )  # fmt: skip
    if missing:
        with st.expander(f"{len(missing)} models cannot be chosen here"):
            for name, why in missing.items():
                st.write(f"- **{text.escape(MODELS[name].title)}**: {text.escape(why)}")
    return [name for name in fit if name in chosen]


def pick_strategies(catalogue: Catalogue, models: Sequence[str]) -> list[str]:
    """Ways of training that go with at least one of the models."""
    names, rows = catalogue.strategies_for(models), catalogue.of("strategy")
    chosen: list[str] = st.multiselect(
        "Ways of training", names, default=[name for name in ("scratch", "frozen") if name in names],
        format_func=lambda name: rows[name]["title"], key=f"train_strategies_{'_'.join(names)}",
    )  # fmt: skip
    return [name for name in names if name in chosen]


def pick_settings(catalogue: Catalogue, strategies: Sequence[str]) -> dict[str, Any]:
    """Settings in which the training departs from its strategy's own; only those that all strategies take."""
    rows = {row["name"]: row for row in catalogue.settings_for(strategies)}
    with st.expander("Augmentation, class imbalance and other settings"):
        st.caption("What is left empty stays as the way of training has it. Anything else makes the runs a variant.")
        found = {name: _widget(catalogue, rows[name]) for name in _FIRST if name in rows}
        more: list[str] = st.multiselect(
            "Further settings", [name for name in rows if name not in _FIRST], format_func=_title_of,
            key="train_more",
        )  # fmt: skip
        found |= {name: _widget(catalogue, rows[name]) for name in more if name in rows}
    return {name: value for name, value in found.items() if value not in (None, "")}


def _title_of(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " ").capitalize())


def _widget(catalogue: Catalogue, row: Row) -> Any:
    """The widget of a setting; None where nothing is stated."""
    name, title = row["name"], _title_of(row["name"])
    key, help_text = f"train_set_{name}", text.escape(row["meaning"])
    if row["choices"]:
        told = catalogue.of(name)

        def said(one: str) -> str:
            return told[one]["title"] if one in told else one

        if row["several"]:
            return JOINED.join(st.multiselect(title, row["choices"], format_func=said, key=key, help=help_text))
        chosen = st.selectbox(
            title, row["choices"], index=None, placeholder="As the way of training has it", format_func=said, key=key,
            help=help_text,
        )  # fmt: skip
        if chosen in told:
            st.caption(text.escape(told[chosen]["meaning"]))
        return chosen
    if row["type"] == "str":
        return st.text_input(title, key=key, help=help_text)
    least = row["least"]
    if row["type"] == "int":
        return st.number_input(title, value=None, min_value=int(least or 0), step=1, key=key, help=help_text)
    return st.number_input(
        title, value=None, min_value=float(least or 0), max_value=row["below"], step=1e-4, format="%g", key=key,
        help=help_text,
    )  # fmt: skip


def show_cost(
    store: Store,
    pairs: Sequence[tuple[str, str]],
    sizes: Sequence[int | None],
    seeds: Sequence[int],
    dataset: str,
    options: Collection[str],
) -> tuple[float, ...]:
    """Says how long it will take by what was measured; gives the seconds of each run, none where some are not known."""
    device = describe_device(pick_device("auto"))
    costs = expected(store.metas(), pairs, sizes, seeds, dataset, device, options)
    known = [cost for cost in costs if cost]
    there = sum(cost.seconds == 0 for cost in known)
    if there == len(costs):
        st.write(f"**{there} runs**, all of them in the store already: there is nothing to train.")
        return (0.0,) * there
    said = f"**{len(costs)} runs**" + (f", {there} of them in the store already. " if there else ". ")
    new, measured = len(costs) - there, len(known) - there
    basis = f"measured on stored runs on {text.escape(device)}; reading a data set for the first time adds to it."
    reason = f"no run like them is stored on {text.escape(device)}"
    if not is_same_work(options):
        reason = "the settings change how much there is to do"
    unknown = f"**not known**, because {reason}."
    total = in_words(sum(cost.seconds for cost in known))
    if measured == new:
        said += f"Expected time: **{total}**, {basis}"
    elif measured:
        said += f"Expected time: {total} for {measured} of them, {basis} For the other {new - measured} it is {unknown}"
    else:
        said += f"Expected time: {unknown}"
    st.write(said)
    _table(pairs, costs, len(sizes) * len(seeds))
    return tuple(cost.seconds for cost in known) if len(known) == len(costs) else ()


def _table(pairs: Sequence[tuple[str, str]], costs: Sequence[Cost | None], each: int) -> None:
    rows = []
    for place, (model, strategy) in enumerate(pairs):
        mine = costs[place * each : (place + 1) * each]
        new = [cost for cost in mine if cost is None or cost.seconds]
        known = [cost for cost in new if cost]
        unknown = "not known" if new else "nothing to train"
        basis = max((cost.runs for cost in known), default=0)
        rows.append({
            "Model": MODELS[model].title, "Way of training": strategy, "Runs": each, "In the store": each - len(new),
            "Time": in_words(sum(cost.seconds for cost in known)) if known and len(known) == len(new) else unknown,
            "Rests on": f"{basis} runs" + (" of other data sets" if any(c.elsewhere for c in known) else "")
            if known else "",
        })  # fmt: skip
    alt = "Expected time by model and way of training"
    with st.expander("Expected time by model"):
        st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch", alt=alt)
