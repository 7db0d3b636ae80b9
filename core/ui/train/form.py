"""Form of the Train page: data, models, strategies and settings, and the expected cost of a job."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from core.data import DATASETS
from core.data.datasets.folders import subfolders
from core.data.own_images import SET_LIMITS, is_inside
from core.data.specs import DatasetSpec, is_present
from core.errors import BadRequest, LowshotError
from core.jobs.catalog import Catalog, Row
from core.jobs.costs import Cost, expected, is_same_work
from core.jobs.own_study import STUDY_MODELS
from core.jobs.request import JOINED, Request, own_path
from core.models import MODELS
from core.models.specs import ModelSpec
from core.models.weights import exposure_of, weights_of
from core.paths import data_roots, describe_device, pick_device
from core.runs import RunMeta
from core.ui import address, cache, text
from core.ui.pickers import dataset_options
from core.ui.progress import duration_text
from core.ui.tables import table

OWN, FOLDER, PRESENT = "My own images", "A folder on the server", "An available data set"
KINDS = {OWN: "own", FOLDER: "folder", PRESENT: "set"}  # and their names in an address
SIZES, SEEDS = ("5", "10", "25", "50", "100", "200", "full"), ("0", "1", "2", "3", "4")
_OTHER, _MOST_OFFERED = "Another path", 50
_FIRST = ("augment", "preparation", "imbalance")
_TITLES = {"augment": "Augmentation", "preparation": "Preprocessing", "imbalance": "Class imbalance"}


def pick_data(kind: str) -> tuple[DatasetSpec, str] | None:
    """Pick a registered data set or a folder below a data root; None until there is a valid choice.

    Returns:
        The data set, and the path of own images; "" for a registered data set.
    """
    if kind == FOLDER:
        return _pick_folder()
    names = [spec.name for spec in DATASETS.values() if is_present(spec) and not spec.corpus_only]
    bound = address.choice("set", "train_dataset", names)
    name = st.selectbox("Data set", format_func=lambda row: DATASETS[row].title, **bound)
    return dataset_options(name, "train"), ""


@text.show_errors(OSError)
def _pick_folder() -> tuple[DatasetSpec, str] | None:
    roots = ", ".join(map(str, data_roots()))
    offered = _folders()
    typed: str | None = _OTHER
    if offered:
        bound = address.choice("folder", "train_offered", [*offered, _OTHER], None)
        typed = st.selectbox("Folder", index=None, placeholder="Choose a folder", **bound)
    if typed == _OTHER:
        typed = st.text_input(
            "Folder or CSV file", key="train_folder", placeholder="my-images",
            help="A folder with one subfolder per class, or a CSV file with the columns path, label and, if possible, "
            "patient.",
        )  # fmt: skip
    st.caption(f"Own images must be below {text.escape(roots)}. Nothing is copied or uploaded.")
    if not typed or not typed.strip():
        return None
    path = own_path(typed)
    if is_inside(path):
        raise BadRequest("These images belong to the visitor who uploaded them. Upload yours under My own images.")
    spec = cache.own_images_spec(path)
    st.caption(f"{text.escape(spec.title)}: {len(spec.labels)} classes, {text.escape(', '.join(spec.labels))}.")
    for caveat in spec.caveats:
        st.caption(text.escape(caveat))
    return spec, str(path)


def _folders() -> list[str]:
    """Return the folders directly below a data root that hold folders of classes, without those of registered sets."""
    registered = {name for spec in DATASETS.values() for name in spec.folders}
    return [
        path.name
        for root in data_roots()
        if root.is_dir()
        for path in subfolders(root)
        if path.name not in registered and not is_inside(path) and len(subfolders(path)) > 1
    ][:_MOST_OFFERED]


def fits_study(spec: DatasetSpec) -> bool:
    """Return whether a set suits the study of own images: one class per image, and few enough images to read."""
    return spec.dims == 2 and spec.task != "multilabel" and cache.image_count(spec) <= SET_LIMITS.images


def has_weights(model: str, dataset: str) -> bool:
    """Return whether a model's weights are available here for a data set."""
    try:
        weights_of(MODELS[model], dataset)
        return True
    except LowshotError:
        return False


def pick_models(catalog: Catalog, spec: DatasetSpec) -> list[str]:
    """Pick models that support the images and whose weights are present; list the others with the reason."""
    offered = [name for name, row in catalog.of("model").items() if row["dims"] == spec.dims and name in MODELS]
    usable = [name for name in offered if has_weights(name, spec.name)]
    missing = [name for name in offered if name not in usable]
    default = [name for name in STUDY_MODELS if name in usable] or usable[:1]
    bound = address.choice("model", f"train_models_{spec.dims}_{spec.name}", usable, default, several=True)
    chosen: list[str] = st.multiselect("Models", format_func=lambda name: MODELS[name].title, **bound)
    if missing:
        with st.expander(f"{len(missing)} models are not available here"):
            for name in missing:
                _say_what_is_missing(MODELS[name], spec.name)
    return [name for name in usable if name in chosen]


def _say_what_is_missing(model: ModelSpec, dataset: str) -> None:
    """State why a model cannot be trained on a data set, or link to the card that explains how to get its weights."""
    title = text.escape(model.title)
    if model.weights.kind == "own":
        st.write(f"**{title}**: none of its encoders is known never to have seen this data set.")
    elif exposure_of(model, dataset) == "seen":
        st.write(f"**{title}**: its encoder was trained on images of this data set.")
    else:
        st.page_link(
            "pages/models.py", label=f"What to install for {title}", icon=":material/download:",
            query_params={"section": "networks", "network": model.name},
        )  # fmt: skip


def pick_strategies(catalog: Catalog, models: Sequence[str]) -> list[str]:
    """Pick training strategies that at least one of the models supports."""
    names, rows = catalog.strategies_for(models), catalog.of("strategy")
    default = [name for name in ("scratch", "frozen") if name in names]
    bound = address.choice("strategy", f"train_strategies_{'_'.join(names)}", names, default, several=True)
    chosen: list[str] = st.multiselect("Training strategies", format_func=lambda name: rows[name]["title"], **bound)
    return [name for name in names if name in chosen]


def pick_settings(catalog: Catalog, strategies: Sequence[str]) -> dict[str, Any]:
    """Pick settings that differ from the strategy's defaults; only settings that all strategies support."""
    rows = {row["name"]: row for row in catalog.settings_for(strategies)}
    with st.expander("Augmentation, class imbalance and other settings"):
        st.caption("Leave blank for defaults. Any other value makes the runs a variant.")
        values = {name: _widget(catalog, rows[name]) for name in _FIRST if name in rows}
        further = [name for name in rows if name not in _FIRST]
        bound = address.choice("setting", "train_more", further, [], several=True)
        more: list[str] = st.multiselect("Further settings", format_func=_title_of, **bound)
        values |= {name: _widget(catalog, rows[name]) for name in more if name in rows}
    return {name: value for name, value in values.items() if value not in (None, "")}


def _title_of(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " ").capitalize())


def _widget(catalog: Catalog, row: Row) -> Any:
    """Show the widget of a setting and return its value; None if it is left blank."""
    name, title = row["name"], _title_of(row["name"])
    key, help_text = f"train_set_{name}", text.escape(row["meaning"])
    if row["choices"]:
        described = catalog.of(name)

        def choice_title(choice: str) -> str:
            return described[choice]["title"] if choice in described else choice

        if row["several"]:
            bound = address.choice(name, key, row["choices"], [], several=True)
            return JOINED.join(st.multiselect(title, format_func=choice_title, help=help_text, **bound))
        chosen = st.selectbox(
            title, index=None, placeholder="Default of the strategy", format_func=choice_title,
            help=help_text, **address.choice(name, key, row["choices"], None),
        )  # fmt: skip
        if chosen in described:
            st.caption(text.escape(described[chosen]["meaning"]))
        return chosen
    if row["type"] == "str":
        return st.text_input(title, help=help_text, **address.typed(name, key))
    least = row["least"]
    if row["type"] == "int":
        bound = address.number(name, key, None, int(least or 0), kind=int)
        return st.number_input(title, step=1, help=help_text, **bound)
    most = None if row["below"] is None else float(row["below"])  # Streamlit refuses a mixture of int and float
    bound = address.number(name, key, None, float(least or 0), most)
    return st.number_input(title, step=1e-4, format="%g", help=help_text, **bound)


def show_cost(
    metas: Sequence[RunMeta], pairs: Sequence[tuple[str, str]], request: Request, dataset: str
) -> tuple[float, ...]:
    """Show the expected time of a job, based on stored runs.

    Args:
        metas: stored runs.
        pairs: model and strategy of each series.
        request: the job's request.
        dataset: name of the data set.

    Returns:
        The expected seconds of each run; empty if some are unknown.
    """
    device = describe_device(pick_device("auto"))
    costs = expected(metas, pairs, request.sizes, request.seeds, dataset, device, request.options)
    known = [cost for cost in costs if cost]
    stored = sum(cost.seconds == 0 for cost in known)
    if stored == len(costs):
        st.write(f"**{stored} runs**, all of them in the store already: there is nothing to train.")
        return (0.0,) * stored
    message = f"**{len(costs)} runs**" + (f", {stored} of them in the store already. " if stored else ". ")
    new, measured = len(costs) - stored, len(known) - stored
    runs_on = "fewer CPU threads" if any(cost.slower for cost in known) else text.escape(device)
    basis = f"based on stored runs on {runs_on}; reading a data set for the first time takes longer."
    reason = "the settings change the amount of work"
    if is_same_work(request.options):
        reason = f"no similar run on {text.escape(device)} is stored"
    unknown = f"**unknown**, because {reason}."
    total = ("at most " if any(c.slower for c in known) else "") + duration_text(sum(c.seconds for c in known))
    if measured == new:
        time = f"**{total}**, {basis}"
    elif measured:
        time = f"{total} for {measured} of them, {basis} For the other {new - measured} it is {unknown}"
    else:
        time = unknown
    st.write(f"{message}Expected time: {time}")
    _table(pairs, costs, len(request.sizes) * len(request.seeds))
    return tuple(cost.seconds for cost in known) if len(known) == len(costs) else ()


def _table(pairs: Sequence[tuple[str, str]], costs: Sequence[Cost | None], each: int) -> None:
    rows = []
    for position, (model, strategy) in enumerate(pairs):
        of_pair = costs[position * each : (position + 1) * each]
        new = [cost for cost in of_pair if cost is None or cost.seconds]
        known = [cost for cost in new if cost]
        unknown = "unknown" if new else "nothing to train"
        basis = max((cost.runs for cost in known), default=0)
        rows.append({
            "Model": MODELS[model].title, "Strategy": strategy, "Runs": each, "In the store": each - len(new),
            "Time": duration_text(sum(cost.seconds for cost in known)) if known and len(known) == len(new) else unknown,
            "Based on": f"{basis} runs" + (" of other data sets" if any(c.elsewhere for c in known) else "")
            if known else "",
        })  # fmt: skip
    with st.expander("Expected time by model"):
        table(rows, "Expected time by model and strategy")
