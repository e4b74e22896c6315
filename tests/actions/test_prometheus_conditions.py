"""Conditions that Prometheus answers: whether an expanded volume has room."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from opslib.actions.prometheus import PrometheusSystem
from opslib.actions.volumes import _followed
from opslib.environments import Metrics
from opslib.errors import SourceError, Unreachable
from opslib.sources.prometheus import Prometheus
from opslib.sources.transport import Request, Response

GIB = 2**30


class Volume:
    """A transport whose Prometheus knows size and available bytes of a volume; None: it does not answer, {}: it knows none."""

    system = "prometheus"

    def __init__(self, **known: float) -> None:
        self.known: dict[str, float] | None = known

    def send(self, request: Request) -> Response:
        if self.known is None:
            raise Unreachable("prometheus", "it does not answer")
        promql = dict(request.query)["query"]
        value = next((value for name, value in self.known.items() if f"kubelet_volume_stats_{name}_bytes" in promql), None)
        result = [] if value is None else [{"metric": {}, "value": [0, str(value)]}]
        body = {"status": "success", "data": {"resultType": "vector", "result": result}}
        return Response(status=200, headers={}, body=json.dumps(body).encode())

    def stream(self, request: Request) -> Iterator[bytes]:
        raise AssertionError("nothing is streamed")


@pytest.fixture
def volume() -> Volume:
    return Volume(capacity=50 * GIB, available=0)


@pytest.fixture
def system(volume: Volume) -> PrometheusSystem:
    return PrometheusSystem(Prometheus(volume, Metrics(url="http://prometheus")))


def test_more_room_is_seen_by_the_size_or_by_what_is_available(volume: Volume, system: PrometheusSystem) -> None:
    [condition], cautions = _followed(system, "data-0", "data", 20 * GIB)
    assert cautions == []
    assert system.holds(condition.question)[0] is False
    volume.known = {"capacity": 69 * GIB, "available": 0}  # what waited for room has filled it
    assert system.holds(condition.question)[0] is True
    volume.known = {"capacity": 50 * GIB, "available": 19 * GIB}
    assert system.holds(condition.question)[0] is True
    volume.known = {"capacity": 50 * GIB, "available": 2 * GIB}  # somebody deleted a little
    assert system.holds(condition.question)[0] is False


def test_a_value_that_is_away_is_not_yet_reached(volume: Volume, system: PrometheusSystem) -> None:
    [condition], _cautions = _followed(system, "data-0", "data", 20 * GIB)
    volume.known = {}
    assert system.holds(condition.question)[0] is False
    volume.known = None
    with pytest.raises(SourceError):
        system.holds(condition.question)


def test_what_cannot_be_followed_is_said(volume: Volume, system: PrometheusSystem) -> None:
    assert _followed(None, "data-0", "data", 20 * GIB) == ([], [])
    volume.known = {}
    conditions, [caution] = _followed(system, "data-0", "data", 20 * GIB)
    assert (conditions, "cannot be followed" in str(caution)) == ([], True)
    volume.known = None
    conditions, [caution] = _followed(system, "data-0", "data", 20 * GIB)
    assert (conditions, "it does not answer" in str(caution)) == ([], True)
