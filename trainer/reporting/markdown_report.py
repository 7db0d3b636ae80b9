"""Markdown report: sentences and tables, made from the data of `report` alone."""

from collections.abc import Sequence

from core.metrics import METRICS
from core.metrics.bootstrap import interval_text, number_text
from core.metrics.comparisons import MIN_SEEDS, format_p
from trainer.reporting import external, sections
from trainer.reporting.markdown import (
    Data,
    section,
    series_name,
    signed_interval,
    table,
    with_interval,
)

SHOWN = ("auroc", "auprc", "balanced_accuracy", "sensitivity", "specificity", "f1", "mcc", "brier", "ece")
COMPARED = ("auroc", "balanced_accuracy", "brier")
SEED_TESTS = {"auroc": ("delong", "DeLong"), "balanced_accuracy": ("mcnemar", "McNemar")}
_ENDS = ("value", "low", "high")
LEAK_MARK = "**LEAKS ALLOWED**"


def as_markdown(content: Data) -> str:
    """Return the whole report, without the sections that would be empty."""
    about, families = content["about"], content["families"]
    parts = [
        _about(about),
        _families(families) if families else "",
        external.as_text(content["external"]) if content["external"] else "",
        _by_class(content["by_class"], about["labels"]) if content["by_class"] else "",
        sections.as_text(content["subgroups"]) if content["subgroups"] else "",
        _comparisons(content["comparisons"]) if content["comparisons"] else "",
        _operating(content["operating"]) if families else "",
        _calibration(content["calibration"], families) if content["calibration"] else "",
        _conformal(content["conformal"], about) if content["conformal"]["series"] else "",
        _selective(content["selective"]) if content["selective"] else "",
        _two_stage(content["two_stage"]) if content["two_stage"] else "",
        _curves(content["curves"]) if content["curves"]["series"] else "",
        section("Shortcuts", *(row["words"] for row in content["shortcuts"])) if content["shortcuts"] else "",
        _excluded(content["apart"]) if content["apart"] else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(about: Data) -> str:
    size = "all" if about["size"] is None else about["size"]
    against = "" if about["task"] == "multilabel" else " against the rest"
    lines = [
        f"# {about['title']}: what {size} labeled images per class buy",
        f"`{about['command']}` wrote this. {about['images']} test images of {about['groups']} patients or lesions; "
        + (f"only {about['target']}{against} is evaluated; " if about["target"] else "")
        + f"split `{about['split_hash'][:12]}`, images `{about['fingerprint'][:12]}`. All families were trained on "
        + f"the same subsets: {', '.join(f'seed {seed} `{name[:8]}`' for seed, name in about['subsets'].items())}.",
    ]
    if about["synthetic"]:
        lines.append("**The images are synthetic: computer-generated.**")
    if about["short"]:
        lines.append(f"Too few images of {', '.join(about['short'])}: all of them were used for training.")
    if about["other_splits"]:
        lines.append(f"{about['other_splits']} runs of other images or another split are excluded.")
    return "\n\n".join([*lines, *about["notes"]])


def _families(families: Sequence[Data]) -> str:
    head = ["seeds", "mean", "test patients", "seeds vary", "both vary", "SD of seeds", "range"]
    return section(
        "Families",
        "Mean over seeds with three 95% intervals, by source of variation: test patients (all images of a patient "
        "resampled together, seeds fixed), seeds (Student's t, patients fixed), and both. Then the standard deviation "
        "between seeds, and the lowest and highest seed. The interval of the calibration error covers the true error, "
        "which is mostly below the measured one.",
        *(
            table([METRICS[name].title, *head], [_family(series, series["metrics"][name]) for series in families])
            for name in SHOWN
        ),
    )


def _family(series: Data, estimate: Data) -> list[str]:
    seeds = estimate["seeds"]
    return [
        series_name(series), str(seeds["seeds"]), number_text(estimate["value"]), _ends(estimate["patients"]),
        _ends(seeds), _ends(estimate["both"]), number_text(seeds["sd"]),
        interval_text(seeds["lowest"], seeds["highest"]),
    ]  # fmt: skip


def _ends(interval: Data) -> str:
    return "–" if interval["low"] is None else interval_text(interval["low"], interval["high"])


def _by_class(rows: Sequence[Data], labels: Sequence[str]) -> str:
    tables = []
    for name in rows[0]["classes"]:
        lines = [
            [series_name(row), *map(with_interval, row["classes"][name]),
             *(number_text(row[f"{average}_{name}"]) for average in sections.AVERAGES)]
            for row in rows
        ]  # fmt: skip
        tables.append(table([METRICS[name].title, *labels, *sections.AVERAGES], lines))
    introduction = (
        "Each class against the rest: mean over seeds with 95% intervals over test patients; then the averages."
    )
    return section("Class by class", introduction, *tables)


def _comparisons(pairs: Sequence[Data]) -> str:
    rows = [pair for pair in pairs if not pair["refused"]]
    refused = [f"{_pair(pair)} are not compared. {pair['refused']}" for pair in pairs if pair["refused"]]
    tables = []
    for name in COMPARED if rows else ():
        kind, title = SEED_TESTS.get(name, ("", ""))
        head = [METRICS[name].title, "first minus second", "p", "p of equivalence", "power", "verdict"]
        tables.append(table([*head, title] if kind else head, [_compared(row, name, kind) for row in rows]))
    return section("Comparisons", *([_method(rows)] if rows else []), *tables, *refused)


def _pair(row: Data) -> str:
    return f"{series_name(row['first'])} and {series_name(row['second'])}"


def _compared(row: Data, name: str, seed_test: str) -> list[str]:
    difference = row["metrics"][name]
    p_values = ["–" if p is None else format_p(p) for p in (difference["holm"], difference["holm_equivalence"])]
    power = "–" if difference["power"] is None else f"{difference['power']:.0%}"
    cells = [_pair(row), signed_interval(difference), *p_values, power, difference["verdict_text"]]
    return [*cells, _counted(row["by_seed"], f"{seed_test}_holm")] if seed_test else cells


def _method(rows: Sequence[Data]) -> str:
    """Describe how pairs were compared, and what the verdicts mean."""
    first = [row["metrics"][COMPARED[0]] for row in rows]
    contrasts, margin = max(difference["contrasts"] for difference in first), first[0]["margin"]
    over = f"{contrasts} {'contrast' if contrasts == 1 else 'contrasts'}"
    return (
        "Hierarchical paired bootstrap: first minus second with its 95% interval over seeds and test patients "
        "together. *Different*: p below .05. *Equivalent*: two one-sided tests place the difference within "
        f"{margin:g}, p below .05; *power* is the probability of this result for equal families with these standard "
        f"errors. *Undecided*: neither. Both p are corrected by Holm over {over} of a metric. Below {MIN_SEEDS} common "
        "seeds the interval is the wider t-based one and there is no verdict. The last column is the number of seeds "
        "in which DeLong (AUROC) or McNemar (decisions) differs at 5%, corrected by Holm over all pairs and seeds."
    )


def _counted(seeds: Sequence[Data], kind: str) -> str:
    known = [test[kind] for test in seeds if test[kind] is not None]
    return f"{sum(p < 0.05 for p in known)} of {len(known)}" if known else "–"


def _operating(content: Data | None) -> str:
    if content is None:
        remedy = "name one with `--target` to see its operating point."
        return section("Operating points", f"This task has several classes or findings; {remedy}")
    head = ["series", "sensitivity", "specificity", "PPV", "NPV", "found", "missed", "false alarms"]
    rows = [
        [
            series_name(row),
            *(with_interval(row[name]) for name in ("sensitivity", "specificity", "ppv", "npv")),
            *(f"{row['per_thousand'][name]:.0f}" for name in ("found", "missed", "false_alarms")),
        ]
        for row in content["series"]
        if not row["refused"]
    ]
    cautions = [(row, caution) for row in content["series"] for caution in (row["refused"], *row["cautions"])]
    return section(
        "Operating points",
        f"{content['of']} against the rest. Thresholds fitted inside each training subset for {content['title']}; "
        f"predictive values and counts of 1,000 people at a prevalence of {content['aim']['prevalence']:.1%}. Mean "
        "over seeds, 95% intervals over test patients.",
        table(head, rows),
        *(f"{series_name(row)}: {caution}" for row, caution in cautions if caution),
    )


def _calibration(rows: Sequence[Data], families: Sequence[Data]) -> str:
    metrics = {series_name(row): row["metrics"] for row in families}
    lines = [
        [
            series_name(row),
            " ".join(number_text(value, ".2f") for value in row["temperatures"]),
            *(with_interval(metrics[series_name(row)][metric]["patients"]) for metric in ("brier", "ece")),
            f"{number_text(row['chance_ece'])} ({number_text(row['chance_ece_high'])})",
        ]
        for row in rows
    ]
    return section(
        "Calibration",
        "Temperatures are fitted on held-out images of the subset. Intervals are over test patients. The last column "
        "is the error that perfectly calibrated probabilities would show on as many images.",
        table(["series", "temperature", "Brier score", "ECE", "ECE by chance alone (95% below)"], lines),
    )


def _conformal(content: Data, about: Data) -> str:
    labels = about["labels"] if not about["target"] else (f"not {about['target']}", about["target"])
    labels = ("absent", "present") if about["task"] == "multilabel" else labels
    rows = [row for row in content["series"] if not row["refused"]]
    lines = [
        [
            series_name(row),
            row["kind"],
            *map(with_interval, row["coverage"]),
            *(number_text(row[name], ".2f") for name in ("size", "single", "empty")),
        ]
        for row in rows
    ]
    head = ["series", "calibrated on", *labels, "classes in a set", "sets of one", "empty sets"]
    return section(
        "Conformal prediction sets",
        f"Coverage: share of test images whose set contains the true label, mean over seeds with the 95% interval over "
        f"test patients. The target coverage is {content['level']:.0%}.",
        *([table(head, lines)] if rows else []),
        *sorted({row["promise"] for row in rows}),
        *(f"{series_name(row)}: {row['refused']}" for row in content["series"] if row["refused"]),
    )


def _selective(rows: Sequence[Data]) -> str:
    head = ["series", *(f"most certain {risk['coverage']:.0%}" for risk in rows[0]["risks"])]
    lines = [
        [series_name(row), *(with_interval({**risk, "value": risk["risk"]}) for risk in row["risks"])] for row in rows
    ]
    introduction = "Error rate among the most certain images, mean over seeds with 95% intervals over test patients."
    return section("Selective prediction", introduction, table(head, lines))


def _two_stage(content: Data) -> str:
    rows = [pair for pair in content["pairs"] if not pair["refused"]]
    head = ["screen", "second stage", "sensitivity", "specificity", "correct class", "seen by the second stage",
            "one model alone", "gain", "verdict"]  # fmt: skip
    lines = [
        [
            f"{series_name(pair['screen'])} {pair['screen']['dataset']}".strip(),
            series_name(pair["confirmer"]),
            *(with_interval(pair[name]) for name in ("sensitivity", "specificity", "named", "workload", "single")),
            signed_interval(pair["gain"]),
            pair["gain"]["verdict"],
        ]
        for pair in rows
    ]
    helpful = sum(pair["helps"] for pair in rows)
    tested = sum(pair["gain"]["verdict"] != "no verdict" for pair in rows)
    counted = f"{helpful} of {tested} pairs help, after Holm over them." if tested else "There is no verdict."
    return section(
        "Two stages",
        f"A screen fitted for a sensitivity of {content['sensitivity']:.0%}, then a second stage; compared at the same "
        f"sensitivity with {series_name(content['single'])} alone, the best on held-out images. Shares with 95% "
        f"intervals over test patients; gain in specificity with its interval over seeds and test patients. {counted} "
        f"Below {MIN_SEEDS} common seeds there is no verdict.",
        table(head, lines),
        *(
            f"{series_name(pair['screen'])}, {series_name(pair['confirmer'])}: {pair['refused']}"
            for pair in content["pairs"]
            if pair["refused"]
        ),
    )


def _curves(content: Data) -> str:
    title, reach = METRICS[content["metric"]].title, content["reach"]
    head = ["series", "mean at each size", "asymptote", f"images per class for {number_text(reach)}", "doubts"]
    lines = [
        [
            series_name(row),
            ", ".join(f"{point['size']:g}: {number_text(point['mean'])}" for point in row["points"]),
            with_interval(dict(zip(_ENDS, row["asymptote"], strict=True))) if row["asymptote"] else "–",
            row["needed"]["words"] if row["needed"] else "–",
            " ".join(row["doubts"]) or "none",
        ]
        for row in content["series"]
    ]
    pairs = [
        f"- To equal {series_name(pair['ahead'])} with {pair['size']:g} images per class, "
        f"{series_name(pair['behind'])} needs {pair['multiplier']['words']}. {pair['crossover']['words']}"
        for pair in content["pairs"]
    ]
    return section(
        "Learning curves",
        f"{title} against images per class: power law with asymptote, resampled over seeds and test images. Curves are "
        "extrapolated to at most four times the largest measured size, and not at all where the fit is too uncertain.",
        table(head, lines),
        *(["\n".join(pairs)] if pairs else []),
    )


def _excluded(rows: Sequence[Data]) -> str:
    lines = [
        [
            series_name(run), str(run["train_size"] or "all"), str(run["seed"]), number_text(run["metrics"]["auroc"]),
            f"{LEAK_MARK}: {run['leaks']} images" if run["leaks"] else "variant",
        ]
        for run in rows
    ]  # fmt: skip
    return section(
        "Excluded from comparisons",
        "Variants and runs with leaks are in no comparison. Reported performance is inflated by data leakage.",
        table(["run", "size", "seed", "AUROC", "reason"], lines),
    )
