"""Named queries from .sql files, loaded once. Never builds SQL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from shared.domain.errors import Corrupt

_NAME = re.compile(r"--\s*name:\s*([a-z][a-z0-9_]*)\s*")
_WORKLOAD = re.compile(r"--\s*workload:\s*([a-z]+)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One statement; its parameters are bound by the server."""

    name: str
    sql: str
    comment: str = ""
    workload: str = ""
    """One of workloads.sql, for what reads many rows; none for reads by key, which nothing holds
    back."""

    def filled(self, **texts: str) -> Query:
        """The same with these texts of SQL in the places `{{name}}`; never a value from outside."""
        sql = self.sql
        for name, text in texts.items():
            sql = sql.replace(f"{{{{{name}}}}}", text)
        return replace(self, sql=sql)

    def renamed(self, name: str) -> Query:
        """The same under another name, for one of several that a text is filled into."""
        return replace(self, name=name)


def load(path: str | Path) -> Mapping[str, Query]:
    """The queries of a .sql file: `-- name: xyz`, comments, the statement; Corrupt if one is
    unnamed or doubled.

    A comment may be `-- workload: scans`.
    """
    path = Path(path)
    queries: dict[str, Query] = {}
    name = workload = ""
    comment: list[str] = []
    sql: list[str] = []

    def finish() -> None:
        text = "\n".join(sql).strip().removesuffix(";").rstrip()
        if name and not text:
            raise Corrupt(f"{path.name}: query {name} is empty")
        if name in queries:
            raise Corrupt(f"{path.name}: query {name} is defined twice")
        if text:
            queries[name] = Query(
                name=name, sql=text, comment=" ".join(comment), workload=workload
            )

    for line in path.read_text("utf-8").splitlines():
        match = _NAME.fullmatch(line)
        if match is not None:
            finish()
            name, workload, comment, sql = match[1], "", [], []
        elif (workload_line := _WORKLOAD.fullmatch(line)) is not None and not sql:
            workload = workload_line[1]
        elif line.startswith("--") and not sql:
            comment.append(line[2:].strip())
        elif line.strip():
            if not name:
                raise Corrupt(
                    f"{path.name}: a statement stands before the first `-- name:`"
                )
            sql.append(line)
    finish()
    return MappingProxyType(queries)
