"""A report in words: Markdown with plain sentences and tables, made from the data of `report` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.metrics import METRICS
from core.metrics.comparisons import said_p
from trainer import report_external, report_subgroups
from trainer.markdown import number, ranged, ranged_of, said, section, signed, table

SHOWN = ("auroc", "auprc", "balanced_accuracy", "sensitivity", "specificity", "f1", "mcc", "brier", "ece")
COMPARED = ("auroc", "balanced_accuracy", "brier")
BESIDE = {"auroc": "delong", "balanced_accuracy": "mcnemar"}
BESIDE_TITLES = {"delong": "DeLong", "mcnemar": "McNemar"}
LEAK_MARK = "**LEAKS ALLOWED**"

Data = Mapping[str, Any]


def as_markdown(content: Data) -> str:
    """The whole report."""
    parts = [
        _about(content["about"]),
        _families(content["families"]),
        report_external.as_text(content["external"]),
        _by_class(content["by_class"], content["about"]["labels"]),
        report_subgroups.as_text(content["subgroups"]),
        _comparisons(content["comparisons"]),
        _operating(content["operating"]) if content["families"] else "",
        _calibration(content["calibration"], content["families"]),
        _conformal(content["conformal"], content["about"]),
        _selective(content["selective"]),
        _two_stage(content["two_stage"]),
        _curves(content["curves"]),
        section("Shortcuts", [one["words"] for one in content["shortcuts"]]),
        _apart(content["apart"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(about: Data) -> str:
    size = "all" if about["size"] is None else about["size"]
    against = "" if about["task"] == "multilabel" else " against the rest"
    lines = [
        f"# {about['title']}: what {size} labelled images per class buy",
        f"`{about['command']}` wrote this. {about['images']} test images of {about['groups']} patients or lesions; "
        + (f"only {about['target']}{against} is judged; " if about["target"] else "")
        + f"split `{about['split_hash'][:12]}`, images `{about['fingerprint'][:12]}`. All families learnt from the "
        + f"same subsets: {', '.join(f'seed {seed} `{name[:8]}`' for seed, name in about['subsets'].items())}.",
    ]
    if about["synthetic"]:
        lines.append("**The images are synthetic: drawn by the program.**")
    if about["short"]:
        lines.append(f"Too few images of {', '.join(about['short'])}: all there are were learnt from.")
    if about["other_splits"]:
        lines.append(f"{about['other_splits']} runs of other images or another split are left out.")
    return "\n\n".join([*lines, *about["notes"]])


def _families(families: Sequence[Data]) -> str:
    if not families:
        return ""
    head = ["series", "seeds", *(METRICS[name].title for name in SHOWN)]
    images = [
        [said(one), str(len(one["seeds"])), *(ranged(one["metrics"][name]["images"]) for name in SHOWN)]
        for one in families
    ]
    seeds = [
        [said(one), str(len(one["seeds"])), *(_spread(one["metrics"][name]["seeds"]) for name in SHOWN)]
        for one in families
    ]
    return "\n\n".join(
        [
            "## Families",
            "Mean over seeds with the 95% interval over test images, patients drawn whole. The interval of the "
            "calibration error says where the true one lies, which is mostly below the measured one.",
            table(head, images),
            "Between seeds, which is another question: standard deviation (lowest to highest seed).",
            table(head, seeds),
        ]
    )


def _spread(one: Data) -> str:
    return f"{number(one['sd'])} ({number(one['lowest'])} to {number(one['highest'])})"


def _by_class(rows: Sequence[Data], labels: Sequence[str]) -> str:
    if not rows:
        return ""
    parts = ["## Class by class", "Each against the rest, mean over seeds with 95% intervals; then the averages."]
    for name in rows[0]["classes"]:
        head = [METRICS[name].title, *labels, "macro", "weighted"]
        lines = []
        for row in rows:
            averages = [number(row[f"{average}_{name}"]) for average in ("macro", "weighted")]
            lines.append([said(row), *map(ranged, row["classes"][name]), *averages])
        parts.append(table(head, lines))
    return "\n\n".join(parts)


def _comparisons(every: Sequence[Data]) -> str:
    rows = [one for one in every if not one["refused"]]
    refused = [f"{_pair(one)} are not compared. {one['refused']}" for one in every if one["refused"]]
    if not rows:
        return "\n\n".join(["## Comparisons", *refused]) if refused else ""
    parts = [
        "## Comparisons",
        "Hierarchical paired bootstrap over seeds and patients: first minus second with its 95% interval, and p "
        f"corrected by Holm over {len(rows)} {'pair' if len(rows) == 1 else 'pairs'}. Beside it, in how many seeds "
        "DeLong (AUROC) or McNemar (decisions) differs at 5%, corrected by Holm over all pairs and seeds.",
    ]
    for name in COMPARED:
        test = BESIDE.get(name)
        head = [METRICS[name].title, "first minus second", "p", "finding", *([BESIDE_TITLES[test]] if test else [])]
        parts.append(table(head, [_compared(row, name, test) for row in rows]))
    return "\n\n".join([*parts, *refused])


def _pair(row: Data) -> str:
    return f"{said(row['first'])} and {said(row['second'])}"


def _compared(row: Data, name: str, test: str | None) -> list[str]:
    one = row["metrics"][name]
    finding = "no detectable difference" + (" once corrected" if one["p"] < 0.05 else "")
    if one["detected"]:
        ahead = (one["effect"] > 0) == METRICS[name].higher_is_better
        finding = f"{said(row['first' if ahead else 'second'])} is better"
    effect = f"{one['effect']:+.3f} ({signed(one['low'])} to {signed(one['high'])})"
    beside = [_counted(row["by_seed"], f"{test}_holm")] if test else []
    return [_pair(row), effect, said_p(one["holm"]), finding, *beside]


def _counted(seeds: Sequence[Data], kind: str) -> str:
    known = [one[kind] for one in seeds if one[kind] is not None]
    return f"{sum(p < 0.05 for p in known)} of {len(known)}" if known else "–"


def _operating(found: Data | None) -> str:
    if found is None:
        return (
            "## Operating points\n\nThis task has several classes or findings; name one with `--target` to see its "
            "operating point."
        )
    aim = found["aim"]
    head = ["series", "sensitivity", "specificity", "PPV", "NPV", "found", "missed", "false alarms"]
    rows = [
        [
            said(one),
            *(ranged(one[name]) for name in ("sensitivity", "specificity", "ppv", "npv")),
            *(f"{one['per_thousand'][name]:.0f}" for name in ("found", "missed", "false_alarms")),
        ]
        for one in found["series"]
        if not one["refused"]
    ]
    cautions = [f"{said(one)}: {said_of}" for one in found["series"] for said_of in (one["refused"], *one["cautions"])]
    return "\n\n".join(
        [
            "## Operating points",
            f"{found['of']} against the rest. "
            f"Thresholds fitted inside each training subset for {found['title']}; predictive values and counts of "
            f"1,000 people at a prevalence of {aim['prevalence']:.1%}.",
            table(head, rows),
            *(line for line in cautions if not line.endswith(": ")),
        ]
    )


def _calibration(rows: Sequence[Data], families: Sequence[Data]) -> str:
    if not rows:
        return ""
    metrics = {said(one): one["metrics"] for one in families}
    head = ["series", "temperature", "Brier score", "ECE", "ECE by chance alone (95% below)"]
    lines = [
        [
            said(one),
            " ".join(number(value, 2) for value in one["temperatures"]),
            ranged(metrics[said(one)]["brier"]["images"]),
            ranged(metrics[said(one)]["ece"]["images"]),
            f"{number(one['chance_ece'])} ({number(one['chance_ece_high'])})",
        ]
        for one in rows
    ]
    said_of = "Temperatures are fitted on held-out images of the subset. Perfectly calibrated probabilities would show "
    return "\n\n".join(
        ["## Calibration", said_of + "the error of the last column on so many images.", table(head, lines)]
    )


def _conformal(found: Data, about: Data) -> str:
    labels = about["labels"] if not about["target"] else (f"not {about['target']}", about["target"])
    labels = ("absent", "present") if about["task"] == "multilabel" else labels
    rows = [one for one in found["series"] if not one["refused"]]
    parts = [
        "## Conformal sets",
        f"Share of test images whose set holds the truth, mean over seeds with the 95% interval over test images; "
        f"{found['level']:.0%} were asked for.",
    ]
    if rows:
        head = ["series", "calibrated on", *labels, "classes in a set", "sets of one", "empty sets"]
        lines = [
            [
                said(one),
                one["kind"],
                *(ranged(value) for value in one["holds"]),
                *(number(one[name], 2) for name in ("size", "single", "empty")),
            ]
            for one in rows
        ]
        parts += [table(head, lines), *sorted({one["promise"] for one in rows})]
    parts += [f"{said(one)}: {one['refused']}" for one in found["series"] if one["refused"]]
    return "\n\n".join(parts) if found["series"] else ""


def _selective(rows: Sequence[Data]) -> str:
    if not rows:
        return ""
    head = ["series", *(f"surest {one['coverage']:.0%}" for one in rows[0]["risks"])]
    lines = [[said(row), *(ranged({**one, "value": one["risk"]}) for one in row["risks"])] for row in rows]
    return "\n\n".join(
        ["## Answering only when sure", "Share decided wrongly among the surest images.", table(head, lines)]
    )


def _two_stage(found: Data | None) -> str:
    if found is None:
        return ""
    rows = [one for one in found["pairs"] if not one["refused"]]
    head = ["screen", "second stage", "sensitivity", "specificity", "rightly named", "seen by the second stage",
            "one model alone", "gain"]  # fmt: skip
    names = ("sensitivity", "specificity", "named", "workload", "single")
    lines = [
        [
            f"{said(one['screen'])} {one['screen']['dataset']}".strip(),
            said(one["confirmer"]),
            *(ranged(one[name]) for name in names),
            f"{signed(one['gain']['value'])} ({signed(one['gain']['low'])} to {signed(one['gain']['high'])})",
        ]
        for one in rows
    ]
    helpful = [one for one in rows if one["helps"]]
    said_of = f"{len(helpful)} of {len(rows)} pairs help." if helpful else "Two stages do not help, whatever the pair."
    parts = [
        "## Two stages",
        f"A screen fitted for a sensitivity of {found['sensitivity']:.0%}, then a second stage; compared at the same "
        f"sensitivity with {said(found['single'])} alone, the best on held-out images. {said_of}",
        table(head, lines),
    ]
    refused = [
        f"{said(one['screen'])}, {said(one['confirmer'])}: {one['refused']}" for one in found["pairs"] if one["refused"]
    ]
    return "\n\n".join([*parts, *refused])


def _curves(found: Data) -> str:
    if not found["series"]:
        return ""
    title, reach = METRICS[found["metric"]].title, found["reach"]
    parts = [
        "## Learning curves",
        f"{title} against images per class: power law with asymptote, draws of seeds and test images. Nothing is said "
        "beyond four times the largest measured size, nor beyond that size itself where the curve does not carry.",
    ]
    head = ["series", "mean at each size", "asymptote", f"images per class for {number(reach)}", "doubts"]
    lines = [
        [
            said(one),
            ", ".join(f"{point['size']:g}: {number(point['mean'])}" for point in one["points"]),
            "–" if one["asymptote"] is None else ranged_of(one["asymptote"]),
            one["needed"]["words"] if one["needed"] else "–",
            " ".join(one["doubts"]) or "none",
        ]
        for one in found["series"]
    ]
    parts.append(table(head, lines))
    for pair in found["pairs"]:
        parts.append(
            f"- To equal {said(pair['ahead'])} with {pair['size']:g} images per class {said(pair['behind'])} needs "
            f"{pair['multiplier']['words']}. {pair['crossover']['words']}"
        )
    return "\n\n".join(parts[:3]) + ("\n\n" + "\n".join(parts[3:]) if parts[3:] else "")


def _apart(rows: Sequence[Data]) -> str:
    if not rows:
        return ""
    head = ["run", "size", "seed", "AUROC", "why apart"]
    lines = [
        [
            said(one), str(one["train_size"] or "all"), str(one["seed"]), number(one["metrics"]["auroc"]),
            f"{LEAK_MARK}: {one['leaks']} images" if one["leaks"] else "variant",
        ]
        for one in rows
    ]  # fmt: skip
    why = "Variants and runs with leaks enter no comparison. Leaks make figures too good."
    return f"## Kept apart\n\n{why}\n\n{table(head, lines)}"
