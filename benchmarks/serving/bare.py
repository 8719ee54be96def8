"""The bare encoder, in a process of its own: CPU seconds a text, one by one or in lists.

python benchmarks/serving/bare.py BUNDLE TEXTS.json --texts 32 --seconds 2 [--pause 0.0001]

With a pause before each call, as there is where one client asks: what stood in the CPU's caches is colder then.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from kdserve import Encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("texts", type=Path)
    parser.add_argument("--texts", dest="size", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--pause", type=float, default=0.0)
    given = parser.parse_args()
    encoder = Encoder.load(given.bundle, num_threads=1)
    texts = json.loads(given.texts.read_text(encoding="utf-8"))
    lists = [texts[start : start + given.size] for start in range(0, len(texts), given.size)]
    for some in lists[:20]:
        encoder.encode_document(some)
    num_texts, place, end, began = 0, 0, time.monotonic() + given.seconds, time.process_time()
    while time.monotonic() < end:
        some = lists[place % len(lists)]
        if given.pause:
            time.sleep(given.pause)
        encoder.encode_document(some)
        num_texts, place = num_texts + len(some), place + 1
    sys.stdout.write(json.dumps({"texts": num_texts, "cpu_s": time.process_time() - began}) + "\n")


if __name__ == "__main__":
    main()
