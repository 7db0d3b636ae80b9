"""The network of a stored run as files for other programs: `python -m trainer export`, run in a process of its own."""

import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from core.errors import LowshotError
from core.paths import PROJECT

FORMATS = ("onnx", "safetensors")
_SECONDS = 300


def export_network(run: str) -> bytes:
    """Return a zip of a run's network as ONNX and safetensors files, each with a card; nothing stays on disk.

    Args:
        run: name of the run.
    Raises:
        LowshotError: if a file cannot be written, or does not predict as the run does.
    """
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for form in FORMATS:
            argv = [sys.executable, "-m", "trainer", "export", run, "--format", form, "--to", folder]
            try:
                subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=_SECONDS, check=True)
            except subprocess.CalledProcessError as error:
                output = (error.stderr.strip() or error.stdout.strip()).splitlines() or [""]
                raise LowshotError(f"The network could not be written as {form}: {output[-1]}") from None
            except (OSError, subprocess.SubprocessError) as error:
                raise LowshotError(f"The network could not be written ({type(error).__name__}). Try again.") from None
        for path in sorted(Path(folder).iterdir()):
            archive.write(path, path.name)
    return buffer.getvalue()
