"""How often a client may ask."""

from __future__ import annotations

import time

import pytest

from fti.serving.http.rates import Rates, TooOften


def test_a_client_may_ask_as_often_as_is_set(monkeypatch):
    """At once, and again as time passes; others are not kept from it; it is told when to come again."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rates = Rates(6)
    for _ in range(6):
        rates.count("alice")
    with pytest.raises(TooOften) as refused:
        rates.count("alice")
    assert refused.value.seconds == 10
    rates.count("bob")
    now += 10
    rates.count("alice")
    with pytest.raises(TooOften):
        rates.count("alice")
    now += 3600
    for _ in range(6):
        rates.count("alice")
    with pytest.raises(TooOften):
        rates.count("alice")


def test_without_a_number_anybody_may_ask():
    """Which is the default."""
    rates = Rates(None)
    for _ in range(1000):
        rates.count("alice")
