"""A report in words: Markdown with plain sentences and tables, made from the data of `report` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.metrics import METRICS
from core.metrics.comparisons import MIN_SEEDS, format_p
from trainer.reporting import external, sections
from trainer.reporting.markdown import number, ranged, ranged_of, said, section, signed, table

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
    parts = [
        "## Families",
        "Mean over seeds with three 95% intervals, named by what varies in each: test patients (resampled whole, these "
        "seeds), seeds (Student's t, these patients), and both. Then the standard deviation between seeds, and the "
        "lowest and highest seed. The interval of the calibration error says where the true one lies, which is mostly "
        "below the measured one.",
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
        rows = [_family(one, one["metrics"][name]) for one in families]
        parts.append(table(head, rows))
    return "\n\n".join(parts)


def _family(series: Data, one: Data) -> list[str]:
    seeds = one["seeds"]
    return [
        said(series), str(seeds["seeds"]), number(one["value"]), _ends(one["patients"]), _ends(seeds),
        _ends(one["both"]), number(seeds["sd"]), f"{number(seeds['lowest'])} to {number(seeds['highest'])}",
    ]  # fmt: skip


def _ends(one: Data) -> str:
    return "–" if one["low"] is None else f"{number(one['low'])} to {number(one['high'])}"


def _by_class(rows: Sequence[Data], labels: Sequence[str]) -> str:
    if not rows:
        return ""
    parts = [
        "## Class by class",
        "Each against the rest, mean over seeds with 95% intervals over test patients; then the averages.",
    ]
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
        _method(rows),
    ]
    for name in COMPARED:
        test = BESIDE.get(name)
        head = [METRICS[name].title, "first minus second", "p", "p of equivalence", "power", "verdict"]
        head += [BESIDE_TITLES[test]] if test else []
        parts.append(table(head, [_compared(row, name, test) for row in rows]))
    return "\n\n".join([*parts, *refused])


def _pair(row: Data) -> str:
    return f"{said(row['first'])} and {said(row['second'])}"


def _compared(row: Data, name: str, test: str | None) -> list[str]:
    one = row["metrics"][name]
    effect = f"{signed(one['effect'])} ({signed(one['low'])} to {signed(one['high'])})"
    beside = [_counted(row["by_seed"], f"{test}_holm")] if test else []
    power = "–" if one["power"] is None else f"{one['power']:.0%}"
    return [_pair(row), effect, _p(one["holm"]), _p(one["holm_equivalence"]), power, one["verdict_text"], *beside]


def _p(value: float | None) -> str:
    return "–" if value is None else format_p(value)


def _method(rows: Sequence[Data]) -> str:
    """How pairs were compared, and what the verdicts mean."""
    first = [row["metrics"][COMPARED[0]] for row in rows]
    contrasts, margin = max(one["contrasts"] for one in first), first[0]["margin"]
    over = f"{contrasts} {'contrast' if contrasts == 1 else 'contrasts'}"
    return (
        "Hierarchical paired bootstrap: first minus second with its 95% interval over seeds and test patients "
        "together. *Different*: p below .05. *Equivalent*: two one-sided tests place the difference within "
        f"{margin:g}, p below .05; *power* is how often that would succeed between equal families with these standard "
        f"errors. *Undecided*: neither. Both p are corrected by Holm over {over} of a metric. Below {MIN_SEEDS} common "
        "seeds the interval is the wider t-based one and there is no verdict. Beside it, in how many seeds DeLong "
        "(AUROC) or McNemar (decisions) differs at 5%, corrected by Holm over all pairs and seeds."
    )


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
            f"1,000 people at a prevalence of {aim['prevalence']:.1%}. Mean over seeds, 95% intervals over test "
            "patients.",
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
            ranged(metrics[said(one)]["brier"]["patients"]),
            ranged(metrics[said(one)]["ece"]["patients"]),
            f"{number(one['chance_ece'])} ({number(one['chance_ece_high'])})",
        ]
        for one in rows
    ]
    said_of = (
        "Temperatures are fitted on held-out images of the subset. Intervals are over test patients. Perfectly "
        "calibrated probabilities would show "
    )
    return "\n\n".join(
        ["## Calibration", said_of + "the error of the last column on so many images.", table(head, lines)]
    )


def _conformal(found: Data, about: Data) -> str:
    labels = about["labels"] if not about["target"] else (f"not {about['target']}", about["target"])
    labels = ("absent", "present") if about["task"] == "multilabel" else labels
    rows = [one for one in found["series"] if not one["refused"]]
    parts = [
        "## Conformal sets",
        f"Share of test images whose set holds the truth, mean over seeds with the 95% interval over test patients; "
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
        [
            "## Answering only when sure",
            "Share decided wrongly among the surest images, mean over seeds with 95% intervals over test patients.",
            table(head, lines),
        ]
    )


def _two_stage(found: Data | None) -> str:
    if found is None:
        return ""
    rows = [one for one in found["pairs"] if not one["refused"]]
    head = ["screen", "second stage", "sensitivity", "specificity", "rightly named", "seen by the second stage",
            "one model alone", "gain", "verdict"]  # fmt: skip
    names = ("sensitivity", "specificity", "named", "workload", "single")
    lines = [
        [
            f"{said(one['screen'])} {one['screen']['dataset']}".strip(),
            said(one["confirmer"]),
            *(ranged(one[name]) for name in names),
            f"{signed(one['gain']['effect'])} ({signed(one['gain']['low'])} to {signed(one['gain']['high'])})",
            one["gain"]["verdict"],
        ]
        for one in rows
    ]
    helpful = [one for one in rows if one["helps"]]
    tested = [one for one in rows if one["gain"]["verdict"] != "no verdict"]
    counted = f"{len(helpful)} of {len(tested)} pairs help, after Holm over them." if tested else "There is no verdict."
    parts = [
        "## Two stages",
        f"A screen fitted for a sensitivity of {found['sensitivity']:.0%}, then a second stage; compared at the same "
        f"sensitivity with {said(found['single'])} alone, the best on held-out images. Shares with 95% "
        f"intervals over test patients; gain in specificity with its interval over seeds and test patients. {counted} "
        f"Below {MIN_SEEDS} common seeds there is no verdict.",
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
