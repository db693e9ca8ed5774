"""Ask a running service for images, from any program that has Python and Pillow.

    alitok serve runs/demo/model &                                       # in another terminal
    python examples/call_service.py http://127.0.0.1:8000 --out served   # a second for small models

The service draws one batch for all who ask; the images are the same as those drawn alone.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from alitok.apps.serve.client import AnswerError, Client, DrawnRow
from alitok.core.errors import AlitokError


def main() -> None:
    """Draw, watch, and code images over HTTP."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--key", help="where the service asks for one")
    parser.add_argument("--out", type=Path, default=Path("served"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    client = Client(options.address, key=options.key)
    for model in client.models():
        print(f"serving {model['name']}, classes: {len(model['classes'])}")

    for drawn in client.draw([0, 1], count=2, seed=5, settings={"guidance_scale": 3.0}):
        drawn.image.save(options.out / f"{drawn.label}-{drawn.index}.png")
    for event in client.stream([0], seed=5):
        if isinstance(event, DrawnRow):
            print(f"row {event.row}: {event.strip.size[0]} x {event.strip.size[1]} pixels")
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
        client.draw([10**6])
    except AnswerError as refused:  # a sentence, HTTP's status and a short word
        print(f"refused with {refused.status} ({refused.code}): {refused}")


if __name__ == "__main__":
    try:
        main()
    except AlitokError as error:  # what its reader can mend, in a sentence
        sys.exit(str(error))
