"""The output of `personlog analyst`: connections to the analysts' views."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from services.engine.config import native_port
from shared.runtime.settings import Settings, SettingsError
from shared.store.clickhouse.roles import ANALYST, ANALYST_VIEWS, DATABASE

_TEXT = """\
ClickHouse, read-only: the views {views}
user {user}, password {password}, database {database}

HTTP      curl -u '{user}:{password}' '{url}/?database={database}' \
--data-binary 'SELECT count() FROM property_changes'
browser   {url}/play?user={user}
native    clickhouse-client --host {host} --port {native} --user {user} \
--password '{password}' --database {database}
JDBC      jdbc:clickhouse://{host}:{port}/{database}?user={user}&password={quoted}
Grafana   data source ClickHouse: server {host}, port {native}, protocol native, user {user}
Metabase  database ClickHouse: host {host}, port {port}, user {user}, database {database}

docs/analytics.md has queries to begin with."""


def connections(settings: Settings) -> str:
    """Return the text, with the password; raise SettingsError without the embedded engine."""
    if not settings.embedded:
        host = urlsplit(settings.clickhouse).hostname
        raise SettingsError(
            f"the users of the ClickHouse server on {host} are its own; see `personlog grants`"
        )
    return _TEXT.format(
        views=", ".join(ANALYST_VIEWS),
        user=ANALYST.name,
        password=settings.engine_analyst_password,
        quoted=quote(settings.engine_analyst_password, safe=""),
        database=DATABASE,
        host="127.0.0.1",
        port=settings.engine_port,
        native=native_port(settings),
        url=f"http://127.0.0.1:{settings.engine_port}",
    )
