"""Files of documents, written and read."""

from __future__ import annotations

from kdserve.search import Columns, Source, format_of


def read(path, **columns):
    return list(Source(path=path, format=format_of(path), columns=Columns(**columns)).read())


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
