"""What the code computes is what it computed when `expected.json` was recorded; see `record.py`.

The other parts take as long as all of these together: run `record.py` for them.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PARTS = "demo", "sample", "store", "resume", "parity", "serve", "convert"


@pytest.mark.slow
def test_the_recorded_numbers_are_reproduced(tmp_path):
    for name in ("fastapi", "httpx", "prometheus_client", "uvicorn"):
        pytest.importorskip(name)
    command = [sys.executable, HERE / "record.py", "--out", tmp_path / "new.json", "--only", ",".join(PARTS)]
    done = subprocess.run(
        [*command, "--compare", HERE / "expected.json"], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
