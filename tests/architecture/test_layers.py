"""Who may import whom (DESIGN: the direction of imports), read from the source without running it."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import LONGEST

ROOT = Path(__file__).parents[2]
SOURCES = [p for top in ("core", "trainer", "pages") for p in sorted((ROOT / top).rglob("*.py"))]
SOURCES.append(ROOT / "streamlit_app.py")

ALLOWED = {
    "streamlit": ("core/ui/", "pages/", "streamlit_app.py"),
    "captum": ("core/explain/",),
    "ray": ("trainer/training/ray_engine.py",),
    "timm": ("core/models/",),
    "transformers": ("core/models/",),
    "trainer": ("trainer/",),
    "core.ui": ("core/ui/", "pages/", "streamlit_app.py"),
    "pickle": ("core/models/xrv.py",),  # reads one published file, by a list of names, to convert it
}
HEAVY = ("timm", "transformers", "captum", "kornia", "optuna", "onnx", "onnxruntime", "onnxscript", "ray", "grpc")
LAYERS = (
    ("core/registry.py", "core/types.py", "core/errors.py", "core/paths.py", "core/files.py"),
    ("core/data/", "core/models/", "core/metrics/"),
    ("core/runs/", "core/explain/"),
    ("core/analysis/", "core/inference/", "core/cards/", "core/jobs/"),
    ("core/ui/",),
)

SAME_SUBJECT = {  # base name of several modules -> what all of them are about
    "conformal": "conformal prediction sets",
    "data": "the data sets of this machine",
    "download": "downloads from publishers",
    "duplicates": "copies of images",
    "encoders": "encoders",
    "external": "external test sets",
    "learning_curves": "learning curves",
    "operating_point": "the operating point",
    "own_images": "images of one's own",
    "progress": "progress of long work",
    "scores": "predictions to be measured",
    "shortcuts": "shortcut learning",
    "specs": "tables of facts",
    "subgroups": "results by sex and age",
    "train": "training",
    "two_stage": "two-stage diagnosis",
    "volumes": "volumes",
    "weights": "pretrained weights",
}


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def imports(path):
    """(module, at module level) for every import that runs (not those for type checkers)."""
    found = []

    def visit(node, top):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                found.extend((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                found.extend((f"{child.module}.{alias.name}", top) for alias in child.names)
            visit(child, top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    visit(ast.parse(path.read_text()), True)
    return found


def layer(name):
    for index, members in enumerate(LAYERS):
        if any(name == member or (member.endswith("/") and name.startswith(member)) for member in members):
            return index
    return None


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_libraries_stay_in_their_place(path):
    for module, top in imports(path):
        for library, places in ALLOWED.items():
            if module == library or module.startswith(f"{library}."):
                assert name_of(path).startswith(places), f"{name_of(path)} imports {module}"
        if module.split(".")[0] in HEAVY:
            assert not top, f"{name_of(path)} imports {module} before it is needed"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_go_downwards(path):
    here = layer(name_of(path))
    if here is None:
        return
    for module, _ in imports(path):
        parts = module.split(".")
        there = [layer(f"{'/'.join(parts[:n])}{end}") for n in (2, 3) for end in (".py", "/") if len(parts) >= n]
        reached = [found for found in there if found is not None and module.startswith("core.")]
        assert all(found <= here for found in reached), f"{name_of(path)} imports {module} from above"


def test_every_source_has_a_place():
    unplaced = [
        name_of(path)
        for path in SOURCES
        if name_of(path).startswith("core/") and layer(name_of(path)) is None and path.name != "__init__.py"
    ]
    assert unplaced == []


def test_the_longest_test_files_are_named_as_they_are():
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []


def test_unit_tests_have_the_folders_of_the_product():
    product = {path.name for top in ("core", "trainer") for path in (ROOT / top).iterdir() if path.is_dir()}
    assert {path.parent.name for path in (ROOT / "tests/unit").glob("*/test_*.py")} <= product


def test_pages_have_only_pages():
    assert all(path.suffix == ".py" and path.name != "__init__.py" for path in (ROOT / "pages").glob("*.py"))
    for page in (ROOT / "pages").glob("*.py"):
        assert "frame.require(__file__)" in page.read_text()
        assert "set_page_config" not in page.read_text()


def test_no_circle_of_imports():
    """Imports inside functions count; those for type checkers do not."""
    names = {name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in SOURCES}
    waiting = {}
    for name, path in names.items():
        reached = (module if module in names else module.rpartition(".")[0] for module, _ in imports(path))
        waiting[name] = {module for module in reached if module in names}
    while free := [name for name, needs in waiting.items() if not needs & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert sorted(waiting) == []


def test_no_base_name_stands_for_two_subjects():
    """A module may share its base name with one on another floor only if both are about the same subject."""
    modules = [path for path in SOURCES if path.name != "__init__.py"]
    count = Counter(path.stem for path in modules)
    shared = {name for name, number in count.items() if number > 1}
    assert shared == SAME_SUBJECT.keys()


def test_commands_are_imported_by_commands_only():
    for path in SOURCES:
        if not name_of(path).startswith(("trainer/commands/", "trainer/cli.py")):
            assert not [module for module, _ in imports(path) if module.startswith("trainer.commands")], name_of(path)
