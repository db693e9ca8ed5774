"""Records numbers that a refactor must not change, and compares them with an earlier recording.

    python tests/golden/record.py --out new.json --compare tests/golden/expected.json
    python tests/golden/record.py --out new.json --only sample,serve

A recording is a head, the machine, and a flat mapping of dotted names to numbers and hashes. On the machine of the
other recording all are compared exactly; on another one, only what no processor rounds differently. What runs stands in
`parts.py`, and every name that may change in `names.py`.

Left out, as they differ from run to run: times, memory in use, versions, dates and paths.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.update({"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "COLUMNS": "200"})  # before torch is imported
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import numpy as np
import torch
from measures import Values, flat
from names import RENAMED
from parts import PARTS, Workshop

# Besides all whole numbers and booleans, what is the same on every machine.
PORTABLE = re.compile(r"plan\.|convert\.|store\.\w+\.(inspect\.|labels$)")


def machine() -> dict[str, str]:
    """What decides how numbers are rounded. Processors of one name may have other instructions, so these count too."""
    fields = dict(re.findall(r"^(model name|flags)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    flags = hashlib.sha256(" ".join(sorted(fields.get("flags", "").split())).encode()).hexdigest()[:12]
    return {
        "cpu": fields.get("model name", "unknown"),
        "instructions": flags,
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def record(parts: Iterable[str]) -> Values:
    values: Values = {}
    with tempfile.TemporaryDirectory() as folder:
        shop = Workshop(Path(folder))
        for name in parts:
            began = time.monotonic()
            values |= flat(PARTS[name](shop), name)
            sys.stderr.write(f"{name}: {time.monotonic() - began:.0f} s\n")
    return {"head": machine(), "values": values}


def differences(old: Values, new: Values) -> list[str]:
    """A line for each key that differs, of the parts that both have; prints first what is not compared."""
    before = {renamed(key): value for key, value in old["values"].items()}
    after, lines = new["values"], []
    shared = {key.split(".")[0] for key in before} & {key.split(".")[0] for key in after}
    keys = [key for key in sorted(before.keys() | after.keys()) if key.split(".")[0] in shared]
    if "parity" in shared and not all(each["parity.official_is_here"] for each in (before, after)):
        keys = [key for key in keys if not key.startswith("parity.official")]
        sys.stderr.write("The released data is not here: parity.official is not compared.\n")
    if old["head"] != new["head"]:
        whole = len(keys)
        keys = [key for key in keys if all(_portable(key, each.get(key, 0)) for each in (before, after))]
        sys.stderr.write(f"Another machine or other libraries: {len(keys)} of {whole} keys are compared.\n")
    for key in keys:
        pair = before.get(key, "missing"), after.get(key, "missing")
        if repr(pair[0]) != repr(pair[1]):  # NaN equals NaN
            lines.append(f"{key}: {pair[0]} -> {pair[1]}")
    sys.stderr.write(f"{len(keys)} keys compared, {len(lines)} differ.\n")
    return lines


def renamed(key: str) -> str:
    for old, new in RENAMED.items():
        key = key.replace(old, new)
    return key


def _portable(key: str, value: Any) -> bool:
    return isinstance(value, int) or PORTABLE.match(key) is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the recording to write")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts: {', '.join(PARTS)}")
    parser.add_argument("--compare", type=Path, help="an earlier recording; exit with 1 where it differs")
    asked = parser.parse_args()
    parts = asked.only.split(",")
    if unknown := [name for name in parts if name not in PARTS]:
        parser.error(f"there are no parts {', '.join(unknown)}")
    new = record(parts)
    asked.out.write_text(json.dumps(new, indent=1) + "\n")
    if asked.compare is None:
        return 0
    found = differences(json.loads(asked.compare.read_text()), new)
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
