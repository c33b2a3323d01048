"""Settings: read once, cast, refused with the variable's name; keys made once and kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.runtime.settings import GENERATED, OWNER, SECRETS_OF, Settings, SettingsError, read, with_keys


def test_nothing_set_is_the_embedded_setup() -> None:
    settings = read({})
    assert settings == Settings()
    assert settings.embedded
    assert settings.store_url(OWNER).endswith("@127.0.0.1:8123/personlog")


def test_other_variables_are_not_ours() -> None:
    assert read({"PATH": "/bin", "PERSONLOGS": "1", "PERSONLOG_TEST_NO_SKIP": "1"}) == Settings()


def test_an_empty_variable_is_the_default() -> None:
    assert read({"PERSONLOG_PORT": "", "PERSONLOG_KAFKA": ""}) == Settings()


def test_text_is_cast() -> None:
    settings = read({"PERSONLOG_PORT": "9000", "PERSONLOG_WINDOW_HOURS": "1.5", "PERSONLOG_DATA": "/srv/personlog"})
    assert (settings.port, settings.window_hours, settings.data) == (9000, 1.5, Path("/srv/personlog"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PERSONLOG_PORT", "0"),
        ("PERSONLOG_PORT", "65536"),
        ("PERSONLOG_ENGINE_PORT", "many"),
        ("PERSONLOG_PARTITIONS", "0"),
        ("PERSONLOG_PARTITIONS", "1025"),
        ("PERSONLOG_KAFKA_REPLICATION", "8"),
        ("PERSONLOG_WINDOW_HOURS", "0"),
        ("PERSONLOG_WINDOW_HOURS", "169"),
        ("PERSONLOG_WINDOW", "61 5 * * 0"),
        ("PERSONLOG_WINDOW_ZONE", "Nowhere"),
        ("PERSONLOG_CLICKHOUSE", "tcp://localhost:9000"),
        ("PERSONLOG_OPS_PORT", "-1"),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read({name: value})
    assert refused.value.detail.startswith(f"{name}=")


def test_a_bad_secret_is_refused_without_being_shown() -> None:
    with pytest.raises(SettingsError) as refused:
        read({"PERSONLOG_CLICKHOUSE": "user:hunter2@localhost"})
    assert "hunter2" not in refused.value.detail


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(SettingsError, match="PERSONLOG_PROT is not a setting"):
        read({"PERSONLOG_PROT": "8000"})


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("phx_from_a_file\n")
    assert read({"PERSONLOG_PERSONAL_KEY_FILE": str(tmp_path / "key")}).personal_key == "phx_from_a_file"
    with pytest.raises(SettingsError, match="PERSONLOG_PERSONAL_KEY_FILE"):
        read({"PERSONLOG_PERSONAL_KEY_FILE": str(tmp_path / "none")})


def test_keys_are_made_once_and_kept_for_the_owner_only(tmp_path: Path) -> None:
    settings = read({"PERSONLOG_DATA": str(tmp_path / "data")})
    first, made = with_keys(settings)
    again, made_again = with_keys(settings)
    assert (made, made_again) == (True, False)
    assert first == again
    assert first.personal_key.startswith("phx_")
    assert first.project_token.startswith("phc_")
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data" / "keys.env").stat().st_mode & 0o777 == 0o600


def test_a_given_key_is_not_written_down(tmp_path: Path) -> None:
    given = {f"PERSONLOG_{field.upper()}": f"given{number}" for number, field in enumerate(GENERATED)}
    settings, made = with_keys(read({"PERSONLOG_DATA": str(tmp_path), **given}))
    assert not made
    assert settings.engine_password == "given2"
    assert not (tmp_path / "keys.env").exists()


def test_the_password_is_quoted_in_the_address() -> None:
    assert "personlog:a%2Fb%40c@" in read({"PERSONLOG_ENGINE_PASSWORD": "a/b@c"}).store_url(OWNER)


def test_each_service_logs_in_as_itself_and_a_server_names_its_own_user() -> None:
    settings = read({"PERSONLOG_ENGINE_API_PASSWORD": "one", "PERSONLOG_ENGINE_WRITER_PASSWORD": "two"})
    assert settings.store_url("api") == "http://api:one@127.0.0.1:8123/personlog"
    assert settings.store_url("writer") == "http://writer:two@127.0.0.1:8123/personlog"
    assert read({"PERSONLOG_CLICKHOUSE": "http://u:p@h:1/d"}).store_url("api") == "http://u:p@h:1/d"


def test_a_command_learns_only_the_secrets_that_it_needs(tmp_path: Path) -> None:
    settings = read({"PERSONLOG_DATA": str(tmp_path)})
    with_keys(settings)  # somebody made them all
    one, made = with_keys(settings, SECRETS_OF["projector"])
    known = [field for field in GENERATED if getattr(one, field)]
    assert (known, made) == (["engine_writer_password"], False)


def test_keys_of_an_earlier_version_stay_and_the_missing_ones_are_added(tmp_path: Path) -> None:
    old = "PERSONLOG_PERSONAL_KEY=phx_old\nPERSONLOG_PROJECT_TOKEN=phc_old\nPERSONLOG_ENGINE_PASSWORD=old\n"
    (tmp_path / "keys.env").write_text(old)
    settings, made = with_keys(read({"PERSONLOG_DATA": str(tmp_path)}))
    assert (settings.personal_key, settings.engine_password, made) == ("phx_old", "old", False)
    assert len({getattr(settings, field) for field in GENERATED}) == len(GENERATED)
    assert (tmp_path / "keys.env").read_text().startswith(old)


def test_every_secret_is_masked() -> None:
    secrets = {f"PERSONLOG_{field.upper()}" for field in GENERATED}
    shown = read(dict.fromkeys(secrets, "hunter2") | {"PERSONLOG_CLICKHOUSE": "http://u:hunter2@h:1/d"}).describe()
    assert not [line for line in shown if "hunter2" in line]
    assert len(shown) == len(Settings.__struct_fields__)
