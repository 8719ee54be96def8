"""Search across languages without torch: pip install 'kdserve[cpu]', then python python_search.py BUNDLE "query"."""

from __future__ import annotations

import sys

from kdserve.errors import KdserveError
from kdserve.runtime import Encoder
from kdserve.samples import documents


def main(bundle: str, query: str) -> None:
    """Print the five sample documents nearest to a query, in whatever language."""
    encoder = Encoder.load(bundle)
    found = documents()
    vectors = encoder.encode_document([document.text for document in found])
    scores = vectors @ encoder.encode_query([query])[0]
    for position in scores.argsort()[::-1][:5]:
        print(f"{scores[position]:.3f}  {found[position].lang}  {found[position].text}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit('usage: python python_search.py BUNDLE "query"')
    try:
        main(*sys.argv[1:])
    except KdserveError as error:
        sys.exit(str(error))
