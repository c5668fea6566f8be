"""The values that `Timings` accepts."""

from __future__ import annotations

import pytest

from handout import HandoutError, Timings


def test_an_hour_of_silence_needs_one_setting() -> None:
    assert Timings(host_timeout_s=3600).suspect_s == Timings().suspect_s


def test_scaling_keeps_their_proportions() -> None:
    scaled = Timings().scaled(0.1)
    assert (scaled.host_timeout_s, scaled.linger_s) == (1.5, 6.0)
    assert scaled.scaled(10).heartbeat_s == pytest.approx(2.0)


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), True, "15"])
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(HandoutError, match="linger_s="):
        Timings(linger_s=value)  # type: ignore[arg-type]


def test_steps_out_of_order_are_refused_with_a_remedy() -> None:
    with pytest.raises(HandoutError, match=r"reconnect_s=9 is not below host_timeout_s=8\..*scaled"):
        Timings(host_timeout_s=8)
