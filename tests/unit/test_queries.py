"""Named queries keep what they are named with: whoever fills one must not lose its workload. Never asks a store."""

from __future__ import annotations

import ast
from pathlib import Path

from shared.store.lives import load_with_lives

ROOT = Path(__file__).resolve().parents[2]
MAKERS = {"shared/store/clickhouse/queries.py", "shared/store/clickhouse/client.py"}
"""Who makes queries of their own: from files, and of the statements of migrations."""


def test_a_filled_query_is_held_back_like_the_one_it_was_made_of() -> None:
    page = load_with_lives(ROOT / "services/api/reads/persons.sql")["search_page"]
    assert page.workload == page.filled(filter="1").renamed("a page").workload == "scans"


def test_a_query_is_filled_and_never_made_anew() -> None:
    """Filtered lists, counts and values were made anew and ran beside reads by key, with all threads."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("clients", "services", "shared")
        for path in (ROOT / folder).rglob("*.py")
        if str(path.relative_to(ROOT)) not in MAKERS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Query"
    ]
    assert found == []
