"""The API's own description (OpenAPI 3.1), made from the types that its bodies are read with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

import kdserve
from kdserve.serve.endpoint import Endpoint
from kdserve.serve.refusals import ErrorBody, PlainErrorBody, as_tei

_REASONS = {
    400: "The request does not fit", 401: "No valid key", 403: "A key that may not do this", 404: "No such thing",
    409: "Somebody else is writing", 413: "Too much in one request",
    415: "A compressed body", 429: "Too much waits; see Retry-After",
    500: "It failed", 503: "The server is not ready", 504: "No answer in time", 507: "The disk is full",
}  # fmt: skip


def describe(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Describe some endpoints as an OpenAPI document, in plain JSON values."""
    types = [kind for one in endpoints for kind in (one.takes, one.gives) if kind is not None]
    types += [ErrorBody, PlainErrorBody]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for one in endpoints:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kdserve",
            "version": kdserve.__version__,
            "description": "Embeddings, search and classification from a CPU.",
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(one: Endpoint, schema_of: dict[str, Any]) -> dict[str, Any]:
    content = {one.media: {"schema": schema_of[repr(one.gives)] if one.gives is not None else {"type": "string"}}}
    operation: dict[str, Any] = {
        "summary": one.summary,
        "operationId": f"{one.method.lower()} {one.path}",
        "responses": {"200": {"description": "As asked", "content": content}},
    }
    error = schema_of[repr(PlainErrorBody if one.dialect is as_tei else ErrorBody)]
    for status in sorted({*one.refuses, *((401, 403) if one.needs else ()), *((415,) if one.takes else ()), 500}):
        operation["responses"][str(status)] = {
            "description": _REASONS[status],
            "content": {"application/json": {"schema": error}},
        }
    if one.needs:
        operation["security"] = [{}, {"key": []}] if one.needs == "read" else [{"key": []}]
    if one.takes is not None:
        body = {"application/json": {"schema": schema_of[repr(one.takes)]}}
        operation["requestBody"] = {"required": True, "content": body}
    names = [part[1:-1] for part in one.path.split("/") if part.startswith("{")]
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    return operation
