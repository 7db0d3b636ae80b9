"""Diagnose: the three families' answers to uploaded images, side by side, with their evidence."""

import streamlit as st

from core.data.datasets.phantom import phantom_at
from core.data.images import KINDS, encode_png
from core.data.uploads import Upload
from core.errors import CorruptRun, LowshotError, WeightsUnavailable
from core.explain import EXPLAINERS
from core.inference.seed_interval import siblings
from core.inference.two_stage import Stages, suspicious_of
from core.models import FAMILY_TITLES
from core.paths import LIMITS, MIB
from core.runs import RunMeta, Store
from core.runs.selection import SERVED_FAMILIES, candidates
from core.runs.series import Run
from core.ui import app_frame, cache, charts, pickers, text
from core.ui.diagnose.answers import Asked, Picture, case_of, forget_others, item_of, taken_apart
from core.ui.diagnose.batch import ask_all, show_table
from core.ui.diagnose.case_view import legend, override, override_key, scales_of, show_case

app_frame.require(__file__)

EXAMPLE = 2003
FULLY_SHOWN = 4  # images; of more a table is shown, and one of them in full

st.title("Diagnose")
st.write("Upload images and see what three differently trained networks make of them.")

store, answering = cache.store_and_served()
text.problems(store)
titles = {meta.dataset: meta.dataset_title for meta in store.metas()}
tasks = list(answering)
if not tasks:
    st.info(
        "No trained run with weights is stored yet. Train one: `.venv/bin/python -m trainer curve --dataset phantom "
        "--models scratch-cnn,imagenet-efficientnet-lite0 --sizes 25 --seeds 0`",
        icon=":material/model_training:",
    )
    st.stop()


def run_title(meta: RunMeta) -> str:
    """A run in few words, for a menu."""
    size = meta.train_size if meta.train_size is not None else "all"
    leaks = " · LEAKS ALLOWED" if meta.leaks else ""
    series = charts.series_title(meta.model, meta.strategy, meta.series_variant)
    return f"{series} · {size} per class · seed {meta.seed}{leaks} · {meta.run[-8:]}"


def chosen_stages(store: Store, chosen: dict[str, Run]) -> Stages | None:
    """Asks how sensitive the screen is to be, where the task has one, and picks both stages."""
    if not suspicious_of(next(iter(chosen.values()))[1]):
        return None
    sensitivity = st.slider(
        "Sensitivity wanted of the screen (two stages)", 0.8, 0.99, 0.95, 0.01, format="percent",
        key="diagnose_sensitivity", help="The screen and the second stage are chosen among these networks by images "
        "held out inside their subsets; the screen's threshold is fitted there too.",
    )  # fmt: skip
    try:
        series = {family: [run, *siblings(store, run[1])] for family, run in chosen.items()}
        return cache.chosen_stages(series, sensitivity)
    except LowshotError as error:
        st.caption(f"No two-stage verdict: {text.escape(str(error))}")
        return None


linked = st.query_params.get("task", "")
task = st.selectbox(
    "Task",
    tasks,
    index=tasks.index(linked) if linked in tasks else 0,
    format_func=titles.__getitem__,
    key="diagnose_task",
)
synthetic = any(meta.synthetic for meta in store.metas(task))
if synthetic:
    st.warning("This task is synthetic: its images are drawn by the program.", icon=":material/science:")
pickers.warn(store, task)

with st.expander("Which networks answer, and how heatmaps are drawn", icon=":material/tune:"):
    defaults = answering[task]
    chosen = {}
    for family, column in zip(defaults, st.columns(len(defaults)), strict=True):
        runs = {meta.run: (folder, meta) for folder, meta in candidates(store, task, family)}
        families = dict.fromkeys(meta.family for _, meta in runs.values())
        run = column.selectbox(
            " / ".join(FAMILY_TITLES[one] for one in FAMILY_TITLES if one in families),
            list(runs),
            index=list(runs).index(defaults[family][1].run),
            format_func=lambda name, runs=runs: run_title(runs[name][1]),
            key=f"diagnose_{task}_{family}",
            help="By default the run with most labels that did best on images held out inside its own subset.",
        )
        chosen[runs[run][1].family] = runs[run]
    left, right = st.columns(2)
    explainer = left.selectbox(
        "Heatmap", list(EXPLAINERS), format_func=lambda name: EXPLAINERS[name].title, key="diagnose_explainer",
        help="Occlusion and integrated gradients take seconds an image and network.",
    )  # fmt: skip
    opacity = right.slider("Heatmap opacity", 0.0, 1.0, 0.6, 0.05, key="diagnose_opacity")
    classes = next(iter(chosen.values()))[1].titles
    about = st.selectbox(
        "Class to explain",
        [None, *range(len(classes))],
        format_func=lambda k: "The one that each answer is about" if k is None else classes[k],
        key=f"diagnose_{task}_target",
        help="Of two classes the positive one; of more the likeliest; of findings the highest above its threshold.",
    )
    stages = chosen_stages(store, chosen)
if missing := [FAMILY_TITLES[family] for family in SERVED_FAMILIES if family not in defaults]:
    st.caption(f"No run with weights is stored for: {', '.join(missing)}.")

folder = st.toggle("Upload a folder instead of files", key="diagnose_folder")
uploads = st.file_uploader(
    f"{KINDS} images, several at once, or zip archives of them (at most {LIMITS.images} images)",
    accept_multiple_files="directory" if folder else True,
    key="diagnose_folder_files" if folder else "diagnose_files",
    help=f"Up to {LIMITS.file_bytes // MIB} MB a file. Held in memory only, never stored; no name of a file is logged.",
)
example = st.toggle("Show an example (a synthetic phantom, not a patient)", key="diagnose_example")
images, more = taken_apart(uploads)
if more:
    st.warning(f"{more} more files were given than are read at once; the first {len(images)} images are answered.")
if example:
    images.append(Upload("Synthetic phantom", encode_png(phantom_at(EXAMPLE).pixels)))
    if not synthetic:
        st.info(
            "The example is a synthetic phantom. The networks of this task have never seen one: their answers show how "
            "the page works, nothing else.",
            icon=":material/science:",
        )
forget_others({upload.digest for upload in images})
if not images:
    st.caption("Images are held in memory only and never stored.")
    st.stop()

try:
    keeper = cache.gatekeeper(task, (meta for _, meta in chosen.values()))
except (CorruptRun, WeightsUnavailable) as error:
    keeper = None
    st.error(f"Pictures are not checked before they are answered: {text.escape(str(error))}")
if keeper is None:
    st.caption(
        "No input gate was made for this task: any picture is answered, whatever it shows. Make one: "
        f"`.venv/bin/python -m trainer gate --dataset {task}`"
    )
asked = Asked(store, task, titles[task], synthetic, chosen, explainer, about, keeper, stages)
pictures = [Picture(upload) for upload in images]
items = [(item_of(picture), picture) for picture in pictures]
readable = [(item, picture) for item, picture in items if not item.problem]
shown = items
if len(items) > FULLY_SHOWN:
    every = (
        st.toggle("Answer images that the input gate refuses, too", key="diagnose_override_all") if keeper else False
    )
    cases = ask_all(asked, readable, "-".join(item.digest[:8] for item, _ in items), every)
    show_table(cases, [(item.name, item.problem) for item, _ in items if item.problem])
    names = [f"{number}: {item.name}" for number, (item, _) in enumerate(readable, start=1)]
    pick = st.selectbox("Image shown in full", range(len(readable)), format_func=names.__getitem__, key="diagnose_pick")
    shown = [readable[pick]] if pick is not None else []

answered = [
    (item, picture, case_of(asked, item, picture, st.session_state.get(override_key(item), False), explained=True))
    for item, picture in shown
    if not item.problem
]
scales = scales_of([case for _, _, case in answered])
for item, _ in shown:
    if item.problem:
        with st.container(border=True):
            st.text(item.name)
            st.error(item.problem, icon=":material/broken_image:")
for item, picture, case in answered:
    with st.container(border=True):
        st.text(item.name)
        override(item, case)
        show_case(asked, item, picture, case, opacity, scales)
if scales:
    legend(asked)
