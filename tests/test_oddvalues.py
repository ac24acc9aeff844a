"""The odd values themselves: each can be stored, so that a test with them tests what it says."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from oddvalues import FOREIGN, ODD, by_name, odd_values

from telefabric_schemas import values


@pytest.mark.parametrize("value", **by_name(ODD))
def test_each_odd_value_can_be_encoded_and_read(value):
    values.decode(values.encode(value))


@given(odd_values())
def test_so_can_all_that_are_made_of_them(value):
    values.decode(values.encode(value))


@pytest.mark.parametrize("raw", **by_name(FOREIGN))
def test_each_foreign_value_is_read_or_told_to_be_unreadable(raw):
    with suppress(msgspec.DecodeError):
        values.decode(raw)
