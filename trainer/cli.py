"""The command line: the flags of each command, and how a command ends. What commands do is in `trainer.commands`."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from core.errors import LowshotError
from core.jobs.events import FULL
from core.paths import DEVICES
from trainer import flags
from trainer.flags import count, minutes, names, pairs, seeds, sizes

DEFAULT_SIZES = "10,25,50,100,200"
DEFAULT_SEEDS = "0,1,2,3,4"
DEFAULT_TARGETS, DEFAULT_START = "kermany,covid-radiography,ham10000", "imagenet-efficientnet-lite0"
RULES = ("balanced", "sensitivity", "youden", "cost")
FORMATS = ("onnx", "torch-export", "safetensors")


def _add_data(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--dataset", default="kermany", help="a data set's name (default: kermany)")
    _add_folder(where)


def _add_folder(group: argparse._MutuallyExclusiveGroup) -> None:
    group.add_argument(
        "--folder",
        type=Path,
        metavar="PATH",
        help="your own images: a folder of class folders, with or without train and test, or a CSV file",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-leaks", action="store_true",
        help="train although copies or patients cross between the parts; the run and every page will say so",
    )  # fmt: skip
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--json", action="store_true", help="print one JSON object a run")


def _add_external(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--external", action="append", metavar="NAME|PATH",
        help="an external test set on which every run is evaluated too: a data set's name, or your own images laid out "
        "as --folder takes them; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--external-classes", type=pairs, metavar="THERE=HERE,...",
        help="which classes of the external test set are which of the data set (default: those of the same name)",
    )  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    parser = argparse.ArgumentParser(prog="python -m trainer", description="Lowshot: what can few labels buy?")
    commands = parser.add_subparsers(dest="command", required=True)

    listed = commands.add_parser("list", help="data sets, models and strategies")
    listed.add_argument("--json", action="store_true", help="print one JSON object a row, with its kind")

    run = commands.add_parser("run", help="train one cell of the comparison, or answer it from the store")
    _add_data(run)
    run.add_argument("--model", required=True, help="a model's name, or weights by path: FAMILY:ARCHITECTURE@PATH")
    run.add_argument("--strategy", required=True)
    run.add_argument("--size", type=sizes, required=True, help="labelled images a class, or full")
    run.add_argument("--seed", type=seeds, default=[0])
    run.add_argument("--again", action="store_true", help="train anew and compare with the stored run")
    _add_training(run)
    _add_external(run)
    flags.add_flags(run)

    curve = commands.add_parser("curve", help="learning curves: every model and strategy that go together")
    _add_data(curve)
    curve.add_argument("--models", type=names, default=None, help="joined by commas (default: all)")
    curve.add_argument("--strategies", type=names, default=["scratch", "frozen"], help="(default: scratch,frozen)")
    curve.add_argument("--sizes", type=sizes, default=sizes(DEFAULT_SIZES), help=f"(default: {DEFAULT_SIZES})")
    curve.add_argument("--seeds", type=seeds, default=seeds(DEFAULT_SEEDS), help=f"(default: {DEFAULT_SEEDS})")
    curve.add_argument("--keep-weights", choices=("served", "all", "none"), default="served")
    _add_training(curve)
    _add_external(curve)
    flags.add_flags(curve)

    ablate = commands.add_parser(
        "ablate", help="what ingredients of a training are worth: none, each alone, in pairs, and all together"
    )
    _add_data(ablate)
    ablate.add_argument(
        "--of", type=names, required=True,
        help="joined by commas: augmentations, preprocessing steps, losses, ways to meet imbalance, settings with a "
        "value; such as horizontal-flip,clahe,class-weights,focal,depth=2",
    )  # fmt: skip
    ablate.add_argument("--orders", type=names, default=["each", "pairs", "all"], help="(default: each,pairs,all)")
    ablate.add_argument("--models", type=names, required=True, help="joined by commas; each is compared with the first")
    ablate.add_argument("--strategies", type=names, default=["scratch", "frozen"], help="(default: scratch,frozen)")
    ablate.add_argument("--sizes", type=sizes, default=sizes("50"), help="(default: 50)")
    ablate.add_argument("--seeds", type=seeds, default=seeds("0,1,2"), help="(default: 0,1,2)")
    _add_training(ablate)
    flags.add_flags(ablate, leave_out=("augment", "preparation"))

    searched = commands.add_parser("search", help="the protocol's search for settings on development images")
    searched.add_argument("--space", default="", help="frozen, frozen-stages, frozen-dinov2, finetune or scratch")
    searched.add_argument("--choose", action="store_true", help="make the best settings of all logs the defaults")
    searched.add_argument("--trials", type=count, default=24, help="in all (default: 24)")
    searched.add_argument("--minutes", type=minutes, default=110.0, help="until it stops; the same command goes on")
    searched.add_argument("--log", type=Path, default=None, help="(default: docs/protocol/search-SPACE.jsonl)")
    _add_training(searched)

    tune = commands.add_parser(
        "tune", help="search settings over held-out images of the subset; the test set stays shut"
    )
    _add_data(tune)
    tune.add_argument("--model", required=True)
    tune.add_argument("--strategy", required=True)
    tune.add_argument("--size", type=sizes, required=True, help="labelled images a class, or full")
    tune.add_argument("--seeds", type=seeds, default=[0], help="subsets over which settings are judged (default: 0)")
    tune.add_argument("--minutes", type=minutes, default=10.0, help="(default: 10); the same command goes on later")
    tune.add_argument("--over", type=names, default=None, help="settings joined by commas (default: the strategy's)")
    tune.add_argument("--out", type=Path, default=None, help="file for the result, which --settings takes")
    _add_training(tune)
    flags.add_flags(tune)

    bench = commands.add_parser("bench", help="what data and augmentation cost a training, in images a second")
    bench.add_argument("--model", default="scratch-cnn", help="(default: scratch-cnn)")
    bench.add_argument("--rounds", type=int, default=5, help="epochs timed (default: 5)")
    bench.add_argument("--device", choices=DEVICES, default="auto")
    bench.add_argument("--json", action="store_true")
    flags.add_flags(bench)

    pretrain = commands.add_parser("pretrain", help="further train an encoder of family B on the medical corpus")
    pretrain.add_argument(
        "--targets", type=names, default=names(DEFAULT_TARGETS),
        help=f"data sets the encoder must never have seen, joined by commas (default: {DEFAULT_TARGETS})",
    )  # fmt: skip
    pretrain.add_argument("--start", default=DEFAULT_START, help=f"the encoder of family B (default: {DEFAULT_START})")
    pretrain.add_argument("--sets", type=names, default=None, help="the corpus (default: all that is here and allowed)")
    for flag, kind, meaning in (
        ("--cut", int, "last block that stays as it is"), ("--views", int, "augmented views an image"),
        ("--epochs", int, "passes over the corpus"), ("--lr", float, "peak rate"),
        ("--distill", float, "weight of the distance to the start"),
        ("--average", float, "share of the trained weights in the average with the start"),
    ):  # fmt: skip
        pretrain.add_argument(flag, type=kind, default=None, help=f"{meaning} (default: the chosen recipe's)")
    pretrain.add_argument("--seed", type=int, default=0, help="0 is shipped; others are replicates (default: 0)")
    pretrain.add_argument(
        "--out", type=Path, default=None, help="folder for encoders (default: LOWSHOT_ENCODERS or checkpoints/encoders)"
    )
    pretrain.add_argument(
        "--trial", action="store_true", help="try the recipe on proxies and validation patients, log it, keep nothing"
    )
    pretrain.add_argument("--device", choices=DEVICES, default="auto")

    gate = commands.add_parser("gate", help="make the input gate of a data set, which refuses images of another kind")
    _add_data(gate)
    gate.add_argument("--allow-leaks", action="store_true", help=argparse.SUPPRESS)
    gate.add_argument("--out", type=Path, default=None, help="folder for the gate (default: beside the set's runs)")
    gate.add_argument("--device", choices=DEVICES, default="auto")

    sanity = commands.add_parser("sanity", help="do heatmaps of stored runs change when weights are made random")
    sanity.add_argument("--dataset", default="kermany")
    sanity.add_argument("--images", type=count, default=20, help="test images explained by each run (default: 20)")
    sanity.add_argument("--draws", type=count, default=3, help="draws of random weights (default: 3)")
    sanity.add_argument("--device", choices=DEVICES, default="auto")

    subgroups = commands.add_parser("subgroups", help="keep ages and sexes of the test images beside a set's runs")
    subgroups.add_argument("--dataset", default="ham10000")

    evaluate = commands.add_parser("evaluate", help="judge a stored run anew on the test images")
    evaluate.add_argument("--run", required=True)
    evaluate.add_argument("--device", choices=DEVICES, default="auto")
    evaluate.add_argument("--json", action="store_true")

    predict = commands.add_parser("predict", help="answers for image files")
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    which = predict.add_mutually_exclusive_group()
    which.add_argument("--dataset", default="kermany", help="task; the best stored run of each family answers")
    which.add_argument("--run", help="one stored run")
    predict.add_argument("--cam", type=Path, metavar="FOLDER", help="write Grad-CAM overlays there")
    predict.add_argument(
        "--despite-gate", action="store_true", help="answer pictures that the input gate refuses, too, and say so"
    )
    predict.add_argument("--json", action="store_true")
    predict.add_argument("--device", choices=DEVICES, default="cpu")

    export = commands.add_parser("export", help="a stored run as a file for other programs, compared with the run")
    export.add_argument("run", metavar="RUN", help="name of a stored run")
    export.add_argument("--format", choices=FORMATS, default=FORMATS[0], help=f"(default: {FORMATS[0]})")
    export.add_argument("--to", type=Path, default=Path("exports"), metavar="FOLDER", help="(default: exports)")

    data = commands.add_parser("data", help="what data sets are here, and fetching others")
    data.set_defaults(command=None)
    of_data = data.add_subparsers(dest="command", required=True, metavar="list|get")
    listed = of_data.add_parser("list", help="what is present, counts, licence, and what is missing")
    listed.set_defaults(command="data list")
    listed.add_argument("--json", action="store_true", help="print one JSON object a data set")
    get = of_data.add_parser("get", help="fetch a data set from its publisher")
    get.set_defaults(command="data get")
    get.add_argument("name", help="a data set's name; python -m trainer data list shows them")
    get.add_argument("--to", type=Path, default=None, help="folder to put it in (default: the first data root)")

    weights = commands.add_parser("weights", help="where pretrained weights are, fetching and converting them")
    weights.set_defaults(command=None)
    of_weights = weights.add_subparsers(dest="command", required=True, metavar="list|get|convert-xrv")
    listed = of_weights.add_parser("list", help="which weights are here, where others come from, licences")
    listed.set_defaults(command="weights list")
    listed.add_argument("--json", action="store_true", help="print one JSON object a model")
    get = of_weights.add_parser("get", help="fetch the weights of a model from their publisher")
    get.set_defaults(command="weights get")
    get.add_argument("name", help="a model's name, or the repository of its weights")
    get.add_argument(
        "--to", type=Path, default=None, help="folder to put them in (default: the first of LOWSHOT_WEIGHTS)"
    )
    made = of_weights.add_parser("convert-xrv", help="make safetensors of TorchXRayVision's pickled DenseNet-121")
    made.set_defaults(command="weights convert-xrv")
    made.add_argument("file", type=Path, metavar="FILE", help="the .pt file as published")
    made.add_argument(
        "--to", type=Path, default=None, help="folder to put it in (default: the first of LOWSHOT_WEIGHTS)"
    )
    made.add_argument("--sha256", default=None, help="what the file must have (default: that of the published file)")

    describe = commands.add_parser("describe", help="a network's stages, parameters and multiply-adds, and its drawing")
    describe.add_argument("model")
    describe.add_argument("--classes", type=int, default=2)
    describe.add_argument("--svg", type=Path, metavar="FILE", help="write the drawing there")
    describe.add_argument("--json", action="store_true")

    audit = commands.add_parser("audit", help="copies between the parts of a set, or between two sets")
    what = audit.add_mutually_exclusive_group(required=True)
    what.add_argument("dataset", nargs="?", help="a data set's name")
    _add_folder(what)
    other = audit.add_mutually_exclusive_group()
    other.add_argument("--against", metavar="DATASET", help="another data set")
    other.add_argument("--sources", action="store_true", help="copies of every other set of its kind, by class")
    audit.add_argument("--json", action="store_true", help="print one JSON object a pair")

    report = commands.add_parser("report", help="what the stored runs of a data set prove, with intervals and tests")
    report.add_argument("--dataset", default="kermany")
    report.add_argument("--size", type=sizes, default=None, help="images per class (default: the largest most have)")
    report.add_argument("--models", type=names, default=None, help="joined by commas (default: all)")
    report.add_argument("--strategies", type=names, default=None, help="joined by commas (default: all)")
    report.add_argument("--target", help="class or finding to judge against the rest, of a task that is not binary")
    report.add_argument("--rule", choices=RULES, default="sensitivity", help="what thresholds are fitted for")
    report.add_argument("--sensitivity", type=float, default=0.95, help="wanted sensitivity (default: 0.95)")
    report.add_argument("--ratio", type=float, default=1.0, help="false alarms that one missed case outweighs")
    report.add_argument("--prevalence", type=float, default=0.1, help="where it is to be used (default: 0.1)")
    report.add_argument("--metric", default="auroc", help="of the learning curves (default: auroc)")
    report.add_argument("--reach", type=float, default=None, help="value that the curves are to reach")
    report.add_argument("--level", type=float, default=0.9, help="of the conformal sets (default: 0.9)")
    report.add_argument("--suspicious", type=names, help="classes that a screen lets through to a second stage")
    report.add_argument("--json", action="store_true", help="print one JSON object")
    report.add_argument("--write", type=Path, metavar="FILE", help="write it as Markdown")

    shortcuts = commands.add_parser(
        "shortcuts", help="whether the border or the corners of the images alone tell the classes apart"
    )
    _add_data(shortcuts)
    shortcuts.add_argument("--model", default="imagenet-efficientnet-lite0", help="(default: %(default)s), frozen")
    shortcuts.add_argument("--size", type=sizes, default=sizes("50"), help="labelled images a class (default: 50)")
    shortcuts.add_argument("--seeds", type=seeds, default=seeds(DEFAULT_SEEDS), help=f"(default: {DEFAULT_SEEDS})")
    _add_training(shortcuts)

    calibrate = commands.add_parser(
        "calibrate",
        help="add the answers for conformal calibration that older runs lack; those without weights are trained again",
    )
    _add_data(calibrate)
    calibrate.add_argument("--models", type=names, default=None, help="joined by commas (default: all)")
    calibrate.add_argument("--strategies", type=names, default=None, help="joined by commas (default: all)")
    calibrate.set_defaults(allow_leaks=False, device="auto")

    results = commands.add_parser("results", help="every stored run of a data set")
    results.add_argument("--dataset", default="kermany")
    results.add_argument("--json", action="store_true")
    results.add_argument("--write", type=Path, metavar="DOCUMENT", help="fill the result tables of a Markdown file")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        the exit code: 0 done, 1 the command's own 'no', 2 a request that cannot be met, 74 a full disk, 130
        interrupted.
    """
    parsed = build_parser().parse_args(arguments)
    from trainer import commands
    from trainer.progress import tell

    code, why = 1, ""
    try:
        code = commands.COMMANDS[parsed.command](parsed)
    except BrokenPipeError:  # who read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except BaseException as error:
        known = ending(error)
        if known is None:
            raise
        code, why = known
        try:
            print(f"\n{why}" if code == INTERRUPTED else f"lowshot: {why}", file=sys.stderr, flush=True)
        except OSError:  # a log on the full disk itself; the code says enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    finally:
        tell("end", code=code, why=why)
    return code


INTERRUPTED = 130
REFUSED = 2
_GO_ON = "Finished runs are kept; the same command goes on from here."
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def ending(error: BaseException) -> tuple[int, str] | None:
    """Exit code and sentence for an error that a person can do something about; None for any other."""
    if isinstance(error, LowshotError):
        return REFUSED, str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, f"Interrupted. {_GO_ON}"
    if isinstance(error, OSError) and error.errno in _FULL:
        return FULL, f"The disk is full ({error.strerror}). Free some space. {_GO_ON}"
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return REFUSED, (
            "Memory ran out. Close other programs, or choose a smaller model, a smaller --batch-size or fewer images. "
            f"{_GO_ON}"
        )
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    """PyTorch's own errors: one class for a GPU, a plain RuntimeError for the CPU's allocator."""
    import torch

    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)
    )
