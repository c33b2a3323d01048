"""The page /docs: the OpenAPI document for people, as plain HTML. No script, no font, no other
host."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from services.api.http.rendering import JSON, json_body


def page_of(described: dict[str, Any]) -> str:
    """The document as one HTML page without scripts."""
    rows = [
        _section(path, method, operation)
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
    ]
    style = (
        "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "code,pre{background:#f3f3f3}"
        "h2{font-size:1.1rem;border-top:1px solid #ccc;padding-top:1rem}"
        "td{text-align:left;padding:.1rem .8rem .1rem 0;vertical-align:top}"
        "pre{padding:.6rem;overflow:auto}"
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>personlog</title>'
        f"<style>{style}</style>"
        f"<h1>personlog</h1><p>{html.escape(described['info']['description'])}</p>"
        f'<p><a href="/openapi.json">/openapi.json</a></p>{"".join(rows)}</html>'
    )


def _section(path: str, method: str, operation: dict[str, Any]) -> str:
    escape = html.escape
    anchor = escape(operation["operationId"])
    parts = [
        f'<h2 id="{anchor}"><code>{method.upper()} {escape(path)}</code></h2>',
        f"<p>{escape(operation['summary'])} {escape(operation.get('description', ''))}</p>",
        _table(
            (
                parameter["name"],
                parameter["in"],
                parameter["description"],
                _limits(parameter["schema"]),
                parameter.get("example", ""),
            )
            for parameter in operation.get("parameters", ())
        ),
    ]
    if "requestBody" in operation:
        body = json_body(operation["requestBody"]["content"][JSON]).decode()
        parts.append(f"<p>Body:</p><pre>{escape(body)}</pre>")
    parts.append(
        _table(
            (status, response["description"])
            for status, response in operation["responses"].items()
        )
    )
    return "".join(parts)


def _limits(schema: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value}" for name, value in schema.get("anyOf", [schema])[0].items()
    )


def _table(rows: Iterable[Sequence[Any]]) -> str:
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table>{body}</table>" if body else ""
