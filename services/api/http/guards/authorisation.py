"""Who may do what. The one place that says so: keys and their scopes, projects, and tokens of
capture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from services.api.http import errors
from services.api.http.decoding import json_of
from services.api.http.guards.access import Access, PersonalKey, Project
from services.api.http.messages import Request

BODY_KEY = "personal_api_key"
"""The member of a JSON body, or the parameter of a query, that a client may send its key in."""

PROJECT_PARAMETER = "token"
"""The parameter of a query that names the project, where the path does not."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The project that a request is for, and the personal key that it came with; no key where a
    token is enough."""

    project: Project
    key: PersonalKey | None = None


def bearer_of(headers: Mapping[str, str]) -> str:
    """The text of a Bearer header; empty without one."""
    scheme, _, text = headers.get("Authorization", "").partition(" ")
    return text.strip() if scheme.lower() == "bearer" else ""


def key_of(access: Access, text: str) -> PersonalKey:
    """The living key with this text. 401 without one."""
    if not text:
        raise errors.not_authenticated()
    key = access.key(text.strip())
    if key is None:
        raise errors.authentication_failed()
    return key


def key_text_of(request: Request) -> str:
    """The key's text in the body or in the query; empty without one. What else is wrong with the
    body is said later."""
    try:
        body = json_of(request)
    except errors.ApiError:
        body = None
    text = body.get(BODY_KEY) if isinstance(body, dict) else None
    return text if isinstance(text, str) and text else request.query.get(BODY_KEY, "")


def caller_of(access: Access, request: Request, key: PersonalKey, scope: str) -> Caller:
    """The caller, if its key covers the project and has the scope. 403 or 404 otherwise."""
    project = _project_of(access, request, key)
    if project is None:
        raise errors.not_found("Project not found.")
    if not covers(key, project.id):
        raise errors.permission_denied(None)
    if not may(key, scope):
        raise errors.permission_denied(scope)
    return Caller(project=project, key=key)


def may(key: PersonalKey, scope: str) -> bool:
    """Whether a key has a scope: `write` includes `read`, `*` everything."""
    return (
        scope in key.scopes
        or "*" in key.scopes
        or (
            scope.endswith(":read")
            and scope.removesuffix("read") + "write" in key.scopes
        )
    )


def covers(key: PersonalKey, project: int) -> bool:
    """Whether a key is one of this project; a key without projects is one of all."""
    return not key.projects or project in key.projects


def project_of_bearer(access: Access, headers: Mapping[str, str]) -> Project:
    """The project whose token is in the Bearer header. 401 without one."""
    return project_of_tokens(access, [bearer_of(headers)])


def project_of_tokens(access: Access, tokens: Iterable[Any]) -> Project:
    """The project of the one token that all events of a request carry. 401 for none, or several."""
    distinct = set(tokens)
    if len(distinct) > 1:
        raise errors.authentication_failed("The events carry different tokens.")
    token = distinct.pop()
    if not token:
        raise errors.not_authenticated()
    project = access.by_token(token)
    if project is None:
        raise errors.authentication_failed("No project has this token.")
    return project


def _project_of(access: Access, request: Request, key: PersonalKey) -> Project | None:
    """The project that the path names, or the query's token, or the lowest one that the key
    covers."""
    name = request.parameters.get("project")
    token = request.query.get(PROJECT_PARAMETER)
    if name is None and token:
        return access.by_token(token)
    if name is None or name == "@current":
        return next(
            (project for project in access.projects() if covers(key, project.id)), None
        )
    is_number = name.isascii() and name.isdigit() and len(name) < 11
    return access.project(int(name)) if is_number else None
