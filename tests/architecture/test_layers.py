"""Which module may import which, read from the source without running it."""

import ast
from collections import Counter
from functools import cache
from pathlib import Path

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
LAYERS = (  # from the lowest; a file named in one layer does not belong to its folder's
    ("core/registry.py", "core/types.py", "core/errors.py", "core/paths.py", "core/files.py"),
    ("core/data/", "core/metrics/"),
    ("core/models/",),
    ("core/runs/", "core/explain/"),
    ("core/analysis/",),
    ("core/inference/",),
    ("core/cards/", "core/jobs/"),
    ("core/ui/",),
    ("pages/", "streamlit_app.py"),
    ("trainer/allocator.py", "trainer/flags.py", "trainer/progress.py"),
    (
        "trainer/training/auc_margin.py", "trainer/training/class_balance.py", "trainer/training/embedding_cache.py",
        "trainer/training/folds.py", "trainer/training/layer_freezing.py", "trainer/training/loss_functions.py",
        "trainer/training/losses.py", "trainer/training/optimizer_builders.py", "trainer/training/optimizers.py",
        "trainer/training/resume.py", "trainer/training/settings.py",
    ),
    ("trainer/meta_learning/", "trainer/pretraining/"),
    ("trainer/training/",),
    ("trainer/reporting/",),
    ("trainer/commands/",),
    ("trainer/cli.py", "trainer/__main__.py"),
)  # fmt: skip

SAME_SUBJECT = {  # base name of several modules -> what all of them are about
    "baselines": "recipes against untuned baselines",
    "conformal": "conformal prediction sets",
    "data": "the data sets of this machine",
    "external": "external test sets",
    "image_check": "the check that an image is of the kind that a task is about",
    "learning_curves": "learning curves",
    "operating_point": "the operating point",
    "own_images": "images of one's own",
    "progress": "progress of long work",
    "scores": "predictions to be measured",
    "shortcuts": "shortcut learning",
    "specs": "tables of facts",
    "subgroups": "results by sex and age",
    "two_stage": "two-stage diagnosis",
    "weights": "pretrained weights",
}


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@cache
def imports(path):
    """List (module, whether at module level) for every import that runs: not for those for type checkers.

    A `LazyFunction` names a function of another module, which is imported when the function is called.
    """
    modules = []

    def visit(node, top):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                modules.extend((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                modules.extend((f"{child.module}.{alias.name}", top) for alias in child.names)
            elif isinstance(child, ast.Call) and getattr(child.func, "id", "") == "LazyFunction":
                modules.append((ast.literal_eval(child.args[0]).replace(":", "."), False))
            visit(child, top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    visit(ast.parse(path.read_text()), True)
    return modules


@cache
def sources_by_module():
    return {name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in SOURCES}


def sources_imported_by(path):
    """Return the sources that a source imports: modules themselves, and those whose names it imports."""
    sources = sources_by_module()
    modules = (module if module in sources else module.rpartition(".")[0] for module, _ in imports(path))
    return {sources[module] for module in modules if module in sources}


def layer(name):
    for index, members in enumerate(LAYERS):
        if any(name == member or (member.endswith("/") and name.startswith(member)) for member in members):
            return index
    return None


def test_libraries_stay_in_their_place():
    misplaced = [
        f"{name_of(path)} imports {module}"
        for path in SOURCES
        for module, _ in imports(path)
        for library, places in ALLOWED.items()
        if f"{module}.".startswith(f"{library}.") and not name_of(path).startswith(places)
    ]
    assert misplaced == []


def test_heavy_libraries_are_imported_only_when_needed():
    early = [
        f"{name_of(path)} imports {module} before it is needed"
        for path in SOURCES
        for module, at_module_level in imports(path)
        if at_module_level and module.split(".")[0] in HEAVY
    ]
    assert early == []


def test_imports_go_downwards():
    upward = [
        f"{name_of(path)} imports {name_of(source)} from a higher layer"
        for path in SOURCES
        if layer(name_of(path)) is not None
        for source in sources_imported_by(path)
        if (layer(name_of(source)) or 0) > layer(name_of(path))
    ]
    assert upward == []


def test_every_source_has_a_layer():
    roots = ("core/__init__.py", "trainer/__init__.py")
    assert [name_of(path) for path in SOURCES if layer(name_of(path)) is None and name_of(path) not in roots] == []
    files = [member for members in LAYERS for member in members]
    assert [member for member in files if not (ROOT / member).exists()] == []


def test_the_longest_test_files_exist():
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []


def test_unit_tests_mirror_the_folders_of_the_product():
    product = {path.name for top in ("core", "trainer") for path in (ROOT / top).iterdir() if path.is_dir()}
    assert {path.parent.name for path in (ROOT / "tests/unit").glob("*/test_*.py")} <= product


def test_the_folder_of_pages_holds_only_pages():
    assert all(path.suffix == ".py" and path.name != "__init__.py" for path in (ROOT / "pages").glob("*.py"))
    for page in (ROOT / "pages").glob("*.py"):
        assert "frame.require(__file__)" in page.read_text()
        assert "set_page_config" not in page.read_text()


def test_there_are_no_circular_imports():
    """Imports inside functions count; those for type checkers do not."""
    waiting = {path: sources_imported_by(path) for path in SOURCES}
    while free := [path for path, needed in waiting.items() if not needed & waiting.keys()]:
        for path in free:
            del waiting[path]
    assert sorted(map(name_of, waiting)) == []


def test_no_base_name_stands_for_two_subjects():
    """Modules of different layers may share a base name only if they are about the same subject."""
    modules = [path for path in SOURCES if path.name != "__init__.py"]
    count = Counter(path.stem for path in modules)
    shared = {name for name, number in count.items() if number > 1}
    assert shared == SAME_SUBJECT.keys()
