"""Commands of the command line, one module each: `add_flags(parser)` adds its flags, `run(arguments)` runs it.

A module is imported only when its command is called. One with commands of its own names the function of each instead.
"""

import argparse
import importlib

COMMANDS = {  # name of the command, and of its module with underscores -> meaning
    "list": "list data sets, models, strategies and settings",
    "run": "train one run of the comparison, or read it from the store",
    "curve": "train learning curves: models, strategies, sizes and seeds",
    "ablate": "ablation study: no ingredient, each alone, in pairs, and all together",
    "search": "search settings on development images, as the protocol defines",
    "campaign": "run the protocol's run matrix, unit by unit",
    "baselines": "compare recipes with untuned loops, on development images",
    "tune": "search settings by cross-validation inside a subset, without the test set",
    "pretrain": "pretrain an encoder of family B further on medical images",
    "image-check": "fit the image check of a data set, which refuses images of another kind",
    "sanity": "check that heatmaps of stored runs change with randomized weights",
    "subgroups": "store ages and sexes of the test images with a data set's runs",
    "evaluate": "evaluate a stored run on the test images again",
    "predict": "predict image files",
    "export": "export a stored run for other programs and verify the file",
    "data": "list data sets and download them",
    "weights": "list, download and convert pretrained weights",
    "describe": "summarize a network: stages, parameters, multiply-adds, drawing",
    "audit": "find copies of images between the parts of a data set, or between two sets",
    "report": "report on the stored runs of a data set, with intervals and tests",
    "shortcuts": "test for shortcut learning with border-only and corner-only classifiers",
    "results": "list the stored runs of a data set, or fill the tables of a document",
}


def parser_of(command: str) -> argparse.ArgumentParser:
    """Build the parser of one command, whose module is imported."""
    parser = argparse.ArgumentParser(prog=f"python -m trainer {command}", description=COMMANDS[command])
    module = importlib.import_module(f"trainer.commands.{command.replace('-', '_')}")
    module.add_flags(parser)
    if hasattr(module, "run"):
        parser.set_defaults(execute=module.run)
    return parser
