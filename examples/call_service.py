"""Call a running service from Python: generate, stream, encode and decode images.

    alitok serve runs/demo/model &                                       # in another terminal
    python examples/call_service.py http://127.0.0.1:8000 --out served   # a second for small models

The service batches the requests of all clients; the images are the same as those generated alone.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from alitok.apps.serve.client import Client, GeneratedRow, ResponseError
from alitok.core.errors import AlitokError


def main() -> None:
    """Generate, stream, encode and decode images over HTTP."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--key", help="if the service requires one")
    parser.add_argument("--out", type=Path, default=Path("served"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    client = Client(options.address, key=options.key)
    for model in client.models():
        print(f"serving {model['name']}, classes: {len(model['classes'])}")

    for result in client.generate([0, 1], count=2, seed=5, settings={"guidance_scale": 3.0}):
        result.image.save(options.out / f"{result.label}-{result.index}.png")
    for event in client.stream([0], seed=5):
        if isinstance(event, GeneratedRow):
            print(f"row {event.row}: {event.strip.size[0]} x {event.strip.size[1]} px")
        else:
            print(f"finished: class {event.class_name}, seed {event.seed}")
            last = event.image

    file = io.BytesIO()
    last.save(file, "png")
    (codes,) = client.encode([file.getvalue()])
    (rebuilt,) = client.decode([codes])
    rebuilt.save(options.out / "rebuilt.png")
    print(f"{len(codes)} codes, the first {codes[:6]}")
    try:
        client.generate([10**6])
    except ResponseError as error:  # a message, the HTTP status and a short code
        print(f"rejected with {error.status} ({error.code}): {error}")


if __name__ == "__main__":
    try:
        main()
    except AlitokError as error:  # a mistake that the user can fix
        sys.exit(str(error))
