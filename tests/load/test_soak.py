"""The soak test on a small scale: uploads and decoding, killed a few times."""

import os
import re
import subprocess
import sys

from tests import PATIENCE


def test_killed_uploads_and_decoding_lose_nothing():
    argv = [sys.executable, "-m", "tests.load.soak", "--minutes", "0.1", "--only", "uploads,decoding"]
    done = subprocess.run(
        argv, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(re.search(r"^(\d+) kills, nothing lost", done.stdout, re.MULTILINE).group(1)) >= 1, done.stdout
