"""Closing topics on Kafka: from then on no message is small enough for them. Beside kafka.py only
for its length.

A closing record would not do: a producer that is on its way does not know that one lies before its
own batch, and would be acknowledged behind it. So the brokers refuse: `max.message.bytes` is 0 from
then on. A broker hears of that some milliseconds later than the controller, so each partition is
tried until its leader has refused; what a trial leaves behind until then is a record without a
value, which changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from shared.domain.errors import LogUnavailable
from shared.log.kafka.reader import CALL_SECONDS_MAX
from shared.log.port import EMPTY

REFUSE_ALL = ("max.message.bytes", "0")

TRIAL_SECONDS = 0.1
"""Between two trials of a partition whose leader has not heard yet."""

SEAL_SECONDS_MAX = 60.0

_OWN_VALUE = 1
"""Kafka's mark of a setting that the topic itself has; older versions only say whether it is a
default."""


async def seal(
    bootstrap: list[str], producer: AIOKafkaProducer, topics: Mapping[str, int]
) -> None:
    """Have these topics, with so many partitions, take nothing more. Raises LogUnavailable."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        async with asyncio.timeout(SEAL_SECONDS_MAX):
            await admin.start()
            for name in topics:
                await _refuse_all(admin, name)
            for name, partitions in topics.items():
                for partition in range(partitions):
                    await _until_refused(producer, name, partition)
    except (KafkaError, OSError, TimeoutError) as error:
        raise LogUnavailable(
            f"Kafka did not close the log: {type(error).__name__}"
        ) from error
    finally:
        await admin.close()


async def is_sealed(bootstrap: list[str], name: str) -> bool:
    """Whether a topic was closed, or has an operator's limit that a batch was beyond. Raises
    LogUnavailable."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        async with asyncio.timeout(CALL_SECONDS_MAX):
            await admin.start()
            return (await _own_settings(admin, name)).get(REFUSE_ALL[0]) == REFUSE_ALL[
                1
            ]
    except (KafkaError, OSError, TimeoutError) as error:
        raise LogUnavailable(
            f"Kafka does not tell the settings of {name}: {type(error).__name__}"
        ) from error
    finally:
        await admin.close()


async def _refuse_all(admin: AIOKafkaAdminClient, name: str) -> None:
    """The request that this client knows replaces all of a topic's own settings, so the others go
    with it."""
    own = await _own_settings(admin, name)
    if own.get(REFUSE_ALL[0]) == REFUSE_ALL[1]:
        return
    wanted = own | dict([REFUSE_ALL])
    (answer,) = await admin.alter_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name, wanted)]
    )
    for code, message, *_ in answer.resources:
        if code:
            raise LogUnavailable(f"Kafka did not close {name}: {message or code}")


async def _own_settings(admin: AIOKafkaAdminClient, name: str) -> dict[str, Any]:
    (answer,) = await admin.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name)]
    )
    code, message, _, _, entries = answer.resources[0]
    if code:
        raise LogUnavailable(
            f"Kafka does not tell the settings of {name}: {message or code}"
        )
    newer = answer.API_VERSION > 0
    own = (
        _OWN_VALUE if newer else False
    )  # older answers say instead whether it is the default
    return {
        setting: value for setting, value, _, source, *_ in entries if source == own
    }


async def _until_refused(producer: AIOKafkaProducer, name: str, partition: int) -> None:
    while True:
        batch = producer.create_batch()
        batch.append(key=b"", value=EMPTY, timestamp=None)
        batch.close()
        try:
            await (await producer.send_batch(batch, name, partition=partition))
        except MessageSizeTooLargeError:
            return
        await asyncio.sleep(TRIAL_SECONDS)
