"""Markdown report: sentences and tables, made from the data of `report` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.metrics import METRICS
from core.metrics.comparisons import MIN_SEEDS, format_p
from trainer.reporting import external, sections
from trainer.reporting.markdown import number, section, series_name, signed, table, with_interval, with_interval_of

SHOWN = ("auroc", "auprc", "balanced_accuracy", "sensitivity", "specificity", "f1", "mcc", "brier", "ece")
COMPARED = ("auroc", "balanced_accuracy", "brier")
SEED_TESTS = {"auroc": "delong", "balanced_accuracy": "mcnemar"}
SEED_TEST_TITLES = {"delong": "DeLong", "mcnemar": "McNemar"}
LEAK_MARK = "**LEAKS ALLOWED**"

Data = Mapping[str, Any]


def as_markdown(content: Data) -> str:
    """Return the whole report."""
    parts = [
        _about(content["about"]),
        _families(content["families"]),
        external.as_text(content["external"]),
        _by_class(content["by_class"], content["about"]["labels"]),
        sections.as_text(content["subgroups"]),
        _comparisons(content["comparisons"]),
        _operating(content["operating"]) if content["families"] else "",
        _calibration(content["calibration"], content["families"]),
        _conformal(content["conformal"], content["about"]),
        _selective(content["selective"]),
        _two_stage(content["two_stage"]),
        _curves(content["curves"]),
        section("Shortcuts", [result["words"] for result in content["shortcuts"]]),
        _apart(content["apart"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(about: Data) -> str:
    size = "all" if about["size"] is None else about["size"]
    against = "" if about["task"] == "multilabel" else " against the rest"
    lines = [
        f"# {about['title']}: what {size} labelled images per class buy",
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
    if not families:
        return ""
    parts = [
        "## Families",
        "Mean over seeds with three 95% intervals, by source of variation: test patients (all images of a patient "
        "resampled together, seeds fixed), seeds (Student's t, patients fixed), and both. Then the standard deviation "
        "between seeds, and the lowest and highest seed. The interval of the calibration error covers the true error, "
        "which is mostly below the measured one.",
    ]
    for name in SHOWN:
        head = [
            METRICS[name].title,
            "seeds",
            "mean",
            "test patients",
            "seeds vary",
            "both vary",
            "SD of seeds",
            "range",
        ]
        rows = [_family(series, series["metrics"][name]) for series in families]
        parts.append(table(head, rows))
    return "\n\n".join(parts)


def _family(series: Data, estimate: Data) -> list[str]:
    seeds = estimate["seeds"]
    return [
        series_name(series), str(seeds["seeds"]), number(estimate["value"]), _ends(estimate["patients"]), _ends(seeds),
        _ends(estimate["both"]), number(seeds["sd"]), f"{number(seeds['lowest'])} to {number(seeds['highest'])}",
    ]  # fmt: skip


def _ends(interval: Data) -> str:
    return "–" if interval["low"] is None else f"{number(interval['low'])} to {number(interval['high'])}"


def _by_class(rows: Sequence[Data], labels: Sequence[str]) -> str:
    if not rows:
        return ""
    parts = [
        "## Class by class",
        "Each class against the rest: mean over seeds with 95% intervals over test patients; then the averages.",
    ]
    for name in rows[0]["classes"]:
        head = [METRICS[name].title, *labels, "macro", "weighted"]
        lines = []
        for row in rows:
            averages = [number(row[f"{average}_{name}"]) for average in ("macro", "weighted")]
            lines.append([series_name(row), *map(with_interval, row["classes"][name]), *averages])
        parts.append(table(head, lines))
    return "\n\n".join(parts)


def _comparisons(pairs: Sequence[Data]) -> str:
    rows = [pair for pair in pairs if not pair["refused"]]
    refused = [f"{_pair(pair)} are not compared. {pair['refused']}" for pair in pairs if pair["refused"]]
    if not rows:
        return "\n\n".join(["## Comparisons", *refused]) if refused else ""
    parts = [
        "## Comparisons",
        _method(rows),
    ]
    for name in COMPARED:
        test = SEED_TESTS.get(name)
        head = [METRICS[name].title, "first minus second", "p", "p of equivalence", "power", "verdict"]
        head += [SEED_TEST_TITLES[test]] if test else []
        parts.append(table(head, [_compared(row, name, test) for row in rows]))
    return "\n\n".join([*parts, *refused])


def _pair(row: Data) -> str:
    return f"{series_name(row['first'])} and {series_name(row['second'])}"


def _compared(row: Data, name: str, test: str | None) -> list[str]:
    difference = row["metrics"][name]
    effect = f"{signed(difference['effect'])} ({signed(difference['low'])} to {signed(difference['high'])})"
    seed_test = [_counted(row["by_seed"], f"{test}_holm")] if test else []
    power = "–" if difference["power"] is None else f"{difference['power']:.0%}"
    return [
        _pair(row),
        effect,
        _p(difference["holm"]),
        _p(difference["holm_equivalence"]),
        power,
        difference["verdict_text"],
        *seed_test,
    ]


def _p(value: float | None) -> str:
    return "–" if value is None else format_p(value)


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
        return (
            "## Operating points\n\nThis task has several classes or findings; name one with `--target` to see its "
            "operating point."
        )
    aim = content["aim"]
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
    cautions = [
        f"{series_name(row)}: {caution}" for row in content["series"] for caution in (row["refused"], *row["cautions"])
    ]
    return "\n\n".join(
        [
            "## Operating points",
            f"{content['of']} against the rest. "
            f"Thresholds fitted inside each training subset for {content['title']}; predictive values and counts of "
            f"1,000 people at a prevalence of {aim['prevalence']:.1%}. Mean over seeds, 95% intervals over test "
            "patients.",
            table(head, rows),
            *(line for line in cautions if not line.endswith(": ")),
        ]
    )


def _calibration(rows: Sequence[Data], families: Sequence[Data]) -> str:
    if not rows:
        return ""
    metrics = {series_name(row): row["metrics"] for row in families}
    head = ["series", "temperature", "Brier score", "ECE", "ECE by chance alone (95% below)"]
    lines = [
        [
            series_name(row),
            " ".join(number(value, 2) for value in row["temperatures"]),
            with_interval(metrics[series_name(row)]["brier"]["patients"]),
            with_interval(metrics[series_name(row)]["ece"]["patients"]),
            f"{number(row['chance_ece'])} ({number(row['chance_ece_high'])})",
        ]
        for row in rows
    ]
    introduction = (
        "Temperatures are fitted on held-out images of the subset. Intervals are over test patients. The last column "
        "is the error that perfectly calibrated probabilities would show on as many images."
    )
    return "\n\n".join(["## Calibration", introduction, table(head, lines)])


def _conformal(content: Data, about: Data) -> str:
    labels = about["labels"] if not about["target"] else (f"not {about['target']}", about["target"])
    labels = ("absent", "present") if about["task"] == "multilabel" else labels
    rows = [row for row in content["series"] if not row["refused"]]
    parts = [
        "## Conformal prediction sets",
        f"Coverage: share of test images whose set contains the true label, mean over seeds with the 95% interval over "
        f"test patients. The target coverage is {content['level']:.0%}.",
    ]
    if rows:
        head = ["series", "calibrated on", *labels, "classes in a set", "sets of one", "empty sets"]
        lines = [
            [
                series_name(row),
                row["kind"],
                *(with_interval(value) for value in row["holds"]),
                *(number(row[name], 2) for name in ("size", "single", "empty")),
            ]
            for row in rows
        ]
        parts += [table(head, lines), *sorted({row["promise"] for row in rows})]
    parts += [f"{series_name(row)}: {row['refused']}" for row in content["series"] if row["refused"]]
    return "\n\n".join(parts) if content["series"] else ""


def _selective(rows: Sequence[Data]) -> str:
    if not rows:
        return ""
    head = ["series", *(f"most certain {risk['coverage']:.0%}" for risk in rows[0]["risks"])]
    lines = [
        [series_name(row), *(with_interval({**risk, "value": risk["risk"]}) for risk in row["risks"])] for row in rows
    ]
    return "\n\n".join(
        [
            "## Selective prediction",
            "Error rate among the most certain images, mean over seeds with 95% intervals over test patients.",
            table(head, lines),
        ]
    )


def _two_stage(content: Data | None) -> str:
    if content is None:
        return ""
    rows = [pair for pair in content["pairs"] if not pair["refused"]]
    head = ["screen", "second stage", "sensitivity", "specificity", "correct class", "seen by the second stage",
            "one model alone", "gain", "verdict"]  # fmt: skip
    names = ("sensitivity", "specificity", "named", "workload", "single")
    lines = [
        [
            f"{series_name(pair['screen'])} {pair['screen']['dataset']}".strip(),
            series_name(pair["confirmer"]),
            *(with_interval(pair[name]) for name in names),
            f"{signed(pair['gain']['effect'])} ({signed(pair['gain']['low'])} to {signed(pair['gain']['high'])})",
            pair["gain"]["verdict"],
        ]
        for pair in rows
    ]
    helpful = [pair for pair in rows if pair["helps"]]
    tested = [pair for pair in rows if pair["gain"]["verdict"] != "no verdict"]
    counted = f"{len(helpful)} of {len(tested)} pairs help, after Holm over them." if tested else "There is no verdict."
    parts = [
        "## Two stages",
        f"A screen fitted for a sensitivity of {content['sensitivity']:.0%}, then a second stage; compared at the same "
        f"sensitivity with {series_name(content['single'])} alone, the best on held-out images. Shares with 95% "
        f"intervals over test patients; gain in specificity with its interval over seeds and test patients. {counted} "
        f"Below {MIN_SEEDS} common seeds there is no verdict.",
        table(head, lines),
    ]
    refused = [
        f"{series_name(pair['screen'])}, {series_name(pair['confirmer'])}: {pair['refused']}"
        for pair in content["pairs"]
        if pair["refused"]
    ]
    return "\n\n".join([*parts, *refused])


def _curves(content: Data) -> str:
    if not content["series"]:
        return ""
    title, reach = METRICS[content["metric"]].title, content["reach"]
    parts = [
        "## Learning curves",
        f"{title} against images per class: power law with asymptote, resampled over seeds and test images. Curves are "
        "extrapolated to at most four times the largest measured size, and not at all where the fit is too uncertain.",
    ]
    head = ["series", "mean at each size", "asymptote", f"images per class for {number(reach)}", "doubts"]
    lines = [
        [
            series_name(row),
            ", ".join(f"{point['size']:g}: {number(point['mean'])}" for point in row["points"]),
            "–" if row["asymptote"] is None else with_interval_of(row["asymptote"]),
            row["needed"]["words"] if row["needed"] else "–",
            " ".join(row["doubts"]) or "none",
        ]
        for row in content["series"]
    ]
    parts.append(table(head, lines))
    for pair in content["pairs"]:
        parts.append(
            f"- To equal {series_name(pair['ahead'])} with {pair['size']:g} images per class, "
            f"{series_name(pair['behind'])} needs {pair['multiplier']['words']}. {pair['crossover']['words']}"
        )
    return "\n\n".join(parts[:3]) + ("\n\n" + "\n".join(parts[3:]) if parts[3:] else "")


def _apart(rows: Sequence[Data]) -> str:
    if not rows:
        return ""
    head = ["run", "size", "seed", "AUROC", "reason"]
    lines = [
        [
            series_name(run), str(run["train_size"] or "all"), str(run["seed"]), number(run["metrics"]["auroc"]),
            f"{LEAK_MARK}: {run['leaks']} images" if run["leaks"] else "variant",
        ]
        for run in rows
    ]  # fmt: skip
    why = "Variants and runs with leaks are in no comparison. Reported performance is inflated by data leakage."
    return f"## Excluded from comparisons\n\n{why}\n\n{table(head, lines)}"
