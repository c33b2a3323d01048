"""The log that the settings name. Imports an implementation only when it is the one."""

from __future__ import annotations

from shared.domain.ids import GENERATION_FIRST
from shared.log.identity import Generation
from shared.log.port import Log
from shared.runtime.settings import Settings
from shared.runtime.timekeeping import clock_of


def connect_log(
    settings: Settings, known: Generation | None = None, *, create: bool = False
) -> Log:
    """A log that is not started yet. One that the store knows has the number and partition counts
    of that generation, and is never made anew, unless it is to be created; else it is made with the
    settings' counts where it is missing."""
    create = create or known is None
    number, counts = (
        (known.number, known.partitions)
        if known
        else (GENERATION_FIRST, settings.topics)
    )
    if settings.kafka:
        from shared.log.kafka.log import KafkaLog

        return KafkaLog(
            settings.kafka,
            counts,
            settings.kafka_replication,
            settings.instance,
            number,
            create=create,
        )
    from shared.log.embedded.log import EmbeddedLog

    return EmbeddedLog(
        settings.data / "log", counts, number, create=create, clock=clock_of(settings)
    )
