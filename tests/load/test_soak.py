"""The soak test on a small scale: uploads and image decoding are killed a few times."""

import os
import re
import subprocess
import sys

from tests import PATIENCE


def test_killed_uploads_and_decoding_lose_nothing():
    argv = [sys.executable, "-m", "tests.load.soak", "--minutes", "0.1", "--kills", "1"]
    argv += ["--only", "uploads,decoding"]
    done = subprocess.run(
        argv, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    found = re.fullmatch(r"(\d+) kills in [\d.]+ min, nothing lost, .* left behind: (.+)", last)
    assert found, done.stdout
    killed = re.findall(r"(\d+) (?:uploads|decoding) killed", found.group(2))
    assert sum(map(int, killed)) == int(found.group(1)) >= 1
