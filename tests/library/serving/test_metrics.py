"""What the service counts of the rows that it read."""

from __future__ import annotations

from datetime import timedelta

from fti.scoring.features import FeatureRow
from fti.serving.metrics import AHEAD, AHEAD_UNUSED, count_rows

HOUR = timedelta(hours=1)


def test_rows_stamped_ahead_of_the_servers_clock_are_measured_and_those_not_used_counted():
    """A row within the tolerance is used, and no more than measured."""
    near = FeatureRow(ahead={"ahead_wear": HOUR}, ages={"ahead_wear": timedelta(0)})
    far = FeatureRow(ahead={"ahead_wear": HOUR}, missing=["ahead_wear"])
    count_rows([near, far], [])
    assert AHEAD_UNUSED.labels("ahead_wear")._value.get() == 1
    assert AHEAD.labels("ahead_wear")._sum.get() == 2 * HOUR.total_seconds()
