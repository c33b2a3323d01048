"""Bodies of bulk_delete that say nobody. Never a server."""

from __future__ import annotations

from typing import Any

import pytest

from services.api.deletions.schemas import BULK_MAX, BulkDelete
from services.api.http.decoding import struct_of
from shared.domain.errors import BadInput


@pytest.mark.parametrize("flags", [{}, {"delete_events": True}, {"keep_person": True}], ids=str)
@pytest.mark.parametrize("field", ["ids", "distinct_ids"])
def test_an_empty_list_is_refused_and_named(field: str, flags: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as refused:
        struct_of({field: []} | flags, BulkDelete)
    assert refused.value.attr == field


@pytest.mark.parametrize("count", [1, BULK_MAX])
def test_one_to_a_thousand_are_taken(count: int) -> None:
    assert struct_of({"ids": [1] * count}, BulkDelete).ids == [1] * count
    assert struct_of({"distinct_ids": ["a"] * count}, BulkDelete).distinct_ids == ["a"] * count
