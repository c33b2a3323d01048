"""The log that the settings name. Imports an implementation only when it is the one."""

from __future__ import annotations

from shared.log.port import Log
from shared.runtime.settings import Settings
from shared.runtime.timekeeping import clock_of


def connect_log(settings: Settings) -> Log:
    """A log that is not started yet."""
    if settings.kafka:
        from shared.log.kafka import KafkaLog

        return KafkaLog(settings.kafka, settings.topics, settings.kafka_replication, settings.instance)
    from shared.log.embedded import EmbeddedLog

    return EmbeddedLog(settings.data / "log", settings.topics, clock=clock_of(settings))
