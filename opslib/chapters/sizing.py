"""Requests and limits from percentiles, as chapters 4.3 cpu and memory show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from opslib.chapters.tables import table
from opslib.diagnosis.usage import Place, Proposal, Use
from opslib.findings import Column, Table, Unit
from opslib.messages import Message, _


def sizing_table(
    name: str,
    uses: Mapping[Place, Use] | None,
    proposal: Callable[[Use], Proposal | None],
    *,
    unit: Unit,
    of_limit: Message,
    note: Callable[[float, float], Message],
) -> Table:
    """Request and limit that fit what is used, and what they save.

    Parameters
    ----------
    unit
        Of requests and limits: cores or bytes.
    of_limit
        What the proposed limit is made of.
    note
        What is said of all that could be given back, and all that is wanted more.
    """
    rows: list[tuple[Any, ...]] | None = None
    said: Message | str = ""
    if uses is not None:
        found = [(place, use, one) for place, use in uses.items() if (one := proposal(use)) is not None]
        found.sort(key=lambda item: -abs(item[2].saving or 0))
        rows = [
            (
                place.namespace, place.workload, place.container, use.pods, use.request, use.p50, use.p95, use.p99, use.peak, use.limit,
                one.request, one.limit, one.saving,
            )
            for place, use, one in found
        ]  # fmt: skip
        savings = [one.saving or 0 for _place, _use, one in found]
        said = note(sum(max(one, 0) for one in savings), sum(max(-one, 0) for one in savings))
    return table(
        name,
        _("Requests and limits that fit what is used"),
        (
            Column("namespace", _("Namespace")),
            Column("workload", _("Workload")),
            Column("container", _("Container")),
            Column("pods", _("Pods"), Unit.COUNT),
            Column("request", _("Request of a pod"), unit),
            Column("p50", _("p50"), unit, _("Of the average pod")),
            Column("p95", _("p95"), unit, _("Of the pod that used most at each time")),
            Column("p99", _("p99"), unit),
            Column("peak", _("Peak"), unit),
            Column("limit", _("Limit of a pod"), unit),
            Column("new_request", _("Proposed request"), unit, _("p95 and a seventh more")),
            Column("new_limit", _("Proposed limit"), unit, of_limit),
            Column("saving", _("Saved, all pods"), unit, _("Of what is reserved; negative where more is needed")),
        ),
        rows,
        _("There is no history to size by."),
        said,
    )
