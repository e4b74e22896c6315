"""Prometheus as a system that conditions of plans ask: nothing is changed in it."""

from __future__ import annotations

from typing import Any

from opslib.actions.systems import Preview
from opslib.messages import Message, _
from opslib.sources.prometheus import Prometheus


class PrometheusSystem:
    """One Prometheus, asked for what has become of a change. See `opslib.actions.systems.System`."""

    name = "prometheus"

    def __init__(self, prometheus: Prometheus) -> None:
        self.prometheus = prometheus

    def value(self, promql: str) -> float | None:
        """The one value of an expression now; None where there is none."""
        frame = self.prometheus.query(promql)
        return None if frame.empty else float(frame["value"].iloc[0])

    def holds(self, question: dict[str, Any]) -> tuple[bool | None, Message]:
        """``{"any": [{"promql", "at_least"}, ...]}``: one of the expressions gives so much or more."""
        known = [(now, one["at_least"]) for one in question["any"] if (now := self.value(one["promql"])) is not None]
        if not known:
            return False, _("Prometheus has no such value now")
        now, wanted = max(known, key=lambda pair: pair[0] - pair[1])  # the one that is nearest, or furthest above
        return now >= wanted, _("it is {now}, and is to be {wanted}", now=round(now), wanted=round(wanted))

    # --- what is changed elsewhere ---

    def target(self) -> str:
        """Nothing: no plan is for it."""
        return ""

    def observe(self, request: dict[str, Any]) -> dict[str, Any]:
        """See `System.observe`."""
        raise TypeError("nothing is changed in Prometheus")

    def preview(self, request: dict[str, Any]) -> Preview:
        """See `System.preview`."""
        raise TypeError("nothing is changed in Prometheus")

    def reached(self, request: dict[str, Any], after: dict[str, Any], now: dict[str, Any]) -> bool:
        """See `System.reached`."""
        raise TypeError("nothing is changed in Prometheus")

    def send(self, request: dict[str, Any], before: dict[str, Any]) -> None:
        """See `System.send`."""
        raise TypeError("nothing is changed in Prometheus")
