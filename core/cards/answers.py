"""Answers of a run's record to the items of a checklist: one function per item, "" if the record has no answer.

Answers that are the same for every run are constants.
"""

from core.analysis.saliency_sanity import caution_for
from core.analysis.subgroups import characteristics, title_of
from core.cards.subject import Subject, operating_point, training_data
from core.inference.input_gate import FILE as GATE_FILE
from core.metrics import METRICS

ENSEMBLE = "None: a single network."
PREDICTORS = "The pixels of one image; nothing else about the patient."
UNCERTAINTY = (
    "95% intervals over test patients, by a bootstrap that resamples patients as a whole; the training images are "
    "fixed."
)
UPDATING = "None."
USE = "Research use only: not a medical device, and not for decisions about patients."


def technology(subject: Subject) -> str:
    """Kind of technology, task and outcome."""
    meta = subject.meta
    kind = (
        "transfer learning with a deep network" if meta.family != "scratch" else "a deep network trained from scratch"
    )
    return f"Development and evaluation of {kind} ({meta.model}, {meta.strategy}) for {' or '.join(meta.titles)}."


def aim(subject: Subject) -> str:
    """Objective."""
    size = f"{subject.meta.train_size} labeled images per class" if subject.meta.train_size else "all labeled images"
    return f"To measure the performance reached with {size}, compared with model families trained on the same images."


def retrospective(subject: Subject) -> str:
    """Study design; only published images are used."""
    if subject.meta.synthetic:
        return "Neither: the images are computer-generated."
    return "Retrospective: a published data set." if subject.data else ""


def source(subject: Subject) -> str:
    """Data sources."""
    data = subject.data
    if data is None:
        return ""
    parts = [subject.meta.dataset_title, data.citation, data.url, f"license: {data.licence}" if data.licence else ""]
    return "; ".join(part for part in parts if part) + ". " + " ".join(data.caveats)


def preprocessing(subject: Subject) -> str:
    """Preprocessing of an image."""
    meta = subject.meta
    steps = f", after {meta.preparation}" if meta.preparation else ""
    return (
        f"Resized to {meta.size} x {meta.size} pixels{steps}, scaled to [0, 1] and normalized (mean {meta.mean[0]:g}, "
        f"standard deviation {meta.std[0]:g}). Augmentation of training images: {meta.config.get('augment', 'none')}."
    )


def subset(subject: Subject) -> str:
    """Subsets, drawn at random per class and nested."""
    rows = training_data(subject)
    return f"{rows['Labeled images']}; subsets of one seed are nested. Subset hash {subject.meta.subset_hash[:12]}."


def missing(subject: Subject) -> str:
    """Unknown labels, which only multilabel tasks have."""
    if subject.meta.multilabel:
        return "Images whose label for a finding is unknown are excluded for that finding."
    return "Every image has a label; files that cannot be read are excluded and listed."


def partitions(subject: Subject) -> str:
    """Notes on the split."""
    return f"{' '.join(subject.meta.notes)} Split hash {subject.meta.split_hash[:12]}.".strip()


def level(subject: Subject) -> str:
    """Level at which partitions are disjoint."""
    if subject.meta.leaks:
        return f"Not disjoint: data leakage was allowed for {subject.meta.leaks} images."
    return f"{subject.data.group_key}; copies of an image are kept together." if subject.data else ""


def sample_size(subject: Subject) -> str:
    """Sample sizes, which were chosen, not calculated."""
    return (
        f"{subject.meta.images:,} training and {subject.tests:,} test images. No sample size calculation was performed."
    )


def software(subject: Subject) -> str:
    """Library versions."""
    return ", ".join(f"{name} {version}" for name, version in subject.meta.versions.items())


def training(subject: Subject) -> str:
    """Strategy and settings."""
    shown = ("epochs", "batch_size", "lr", "weight_decay", "augment", "imbalance", "loss", "optimizer", "schedule")
    stated = [f"{name} {value}" for name in shown if (value := subject.meta.config.get(name)) not in (None, "")]
    return f"Strategy {subject.meta.strategy}, trained: {subject.meta.trained}; {', '.join(stated)}."


def selection(subject: Subject) -> str:
    """Images used for model selection."""
    return f"On images of the training subset only: {subject.meta.selection}." if subject.meta.selection else ""


def metrics(subject: Subject) -> str:
    """Names of the metrics."""
    return ", ".join(METRICS[name].title for name in subject.estimates)


def explainability(subject: Subject) -> str:
    """Heatmaps."""
    methods = "Grad-CAM and other attributions on request. They show what raised a score, not where disease is."
    return f"{methods} {caution_for(subject.folder, subject.meta) if subject.folder else ''}".strip()


def internal(subject: Subject) -> str:
    """Test images of the same source."""
    return f"{subject.tests:,} test images of the same source, not used for any fitting."


def external(subject: Subject) -> str:
    """Test images of other sources, with the drop in performance."""
    sentences = [result.sentence("auroc") for result in subject.elsewhere]
    refused = [
        f"Not evaluated on {record.title}: {record.refused}"
        for record in subject.meta.external.values()
        if record.refused
    ]
    return " ".join([*sentences, *refused])


def numbers(subject: Subject) -> str:
    """Numbers of images."""
    rows = training_data(subject)
    return f"Training: {rows['Labeled images']} ({rows['Images per epoch']} per epoch). Test: {subject.tests:,}."


def performance(subject: Subject) -> str:
    """Metrics with intervals."""
    figures = "; ".join(f"{METRICS[name].title} {estimate:.3f}" for name, estimate in subject.estimates.items())
    return f"{figures} (95% intervals over test patients)"


def performance_by_group(subject: Subject) -> str:
    """Metrics with intervals, overall and by sex and age."""
    return " ".join(part for part in (f"{performance(subject)}.", by_group(subject)) if part)


def by_group(subject: Subject) -> str:
    """One metric by sex and age, with group sizes."""
    parts = []
    for group in subject.subgroups:
        name, estimate = next(iter(group.figures.items()), ("", None))
        performance_text = f"{title_of(name)} {estimate:.3f}" if estimate else group.too_few
        parts.append(f"{group.by.lower()} {group.name} ({group.images:,} images): {performance_text}")
    return f"{'; '.join(parts)}." if parts else ""


def fairness(subject: Subject) -> str:
    """Assessment and mitigation of differences between groups."""
    if not subject.subgroups:
        return ""
    return (
        "Performance by sex and age with intervals is on the model card. No measures were taken to reduce differences "
        "between groups."
    )


def people(subject: Subject) -> str:
    """Demographics of the test images."""
    return characteristics(subject.folder.parent) if subject.folder else ""


def poor_input(subject: Subject) -> str:
    """Handling of unsuitable images."""
    if subject.folder is None or not (subject.folder.parent / GATE_FILE).is_file():
        return ""
    return (
        "Files that cannot be read are rejected. An image check rejects images unlike the training images, and rotated "
        "or inverted ones; an override is recorded in the report."
    )


def diagnostic(subject: Subject) -> str:
    """Metrics at the operating point."""
    names = [name for name in ("sensitivity", "specificity", "precision") if name in subject.estimates]
    return "; ".join(f"{METRICS[name].title} {subject.estimates[name]:.3f}" for name in names)


def details(subject: Subject) -> str:
    """Location of technical details."""
    return f"The record of the run {subject.meta.run}, and the program's source code under the MIT license."


def availability(subject: Subject) -> str:
    """Availability of software, weights and data."""
    weights = "are stored with the run" if subject.meta.has_weights else "are not stored"
    where = f"; the data: {subject.data.url}" if subject.data and subject.data.url else ""
    return f"The program is under the MIT license; the run's weights {weights}{where}."


def outcome(subject: Subject) -> str:
    """The classes."""
    return f"{training_data(subject)['Task']}, according to the data set's labels."


def imbalance(subject: Subject) -> str:
    """Handling of class imbalance."""
    handling = subject.meta.config.get("imbalance", "none")
    size = "The subset is balanced as far as possible" if subject.meta.train_size else "All images are used"
    return f"{size}; handling of class imbalance: {handling}."


def output(subject: Subject) -> str:
    """Probabilities and thresholds."""
    rows = operating_point(subject)
    return f"Calibrated probabilities (temperature {rows['Temperature']}); decision rule: {rows['Decision rule']}."


def specification(subject: Subject) -> str:
    """The weights and their export."""
    if not subject.meta.has_weights:
        return ""
    return "Weights in the run's folder; its model card offers them for other programs, as ONNX and safetensors files."
