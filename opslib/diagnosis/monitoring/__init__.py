"""What is wrong with a platform, or with its monitoring, as the monitoring systems tell it.

A rule is a function ``(facts, parameters) -> Iterator[Finding]``; a family of them stands in one file. A field of the facts that is None
was not read: a rule says nothing about it, the gap does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from opslib.diagnosis.monitoring import alerts, capacity, delivery, logs, rules, services, silences
from opslib.diagnosis.monitoring.facts import Facts, Parameters
from opslib.findings import Finding

Rule = Callable[[Facts, Parameters], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    alerts.firing,
    alerts.unknown_to_alertmanager,
    rules.failing,
    rules.slow,
    rules.stalled,
    rules.without_data,
    rules.not_loaded,
    rules.without_runbook,
    rules.prometheus_itself,
    rules.targets_down,
    delivery.no_alertmanager,
    delivery.lost,
    delivery.receivers_failing,
    delivery.cluster,
    delivery.objects,
    delivery.default_receiver,
    silences.ending,
    silences.endless,
    silences.everything,
    capacity.nodes_in_use,
    capacity.requests,
    services.errors,
    services.latency,
    services.traffic,
    logs.stopped,
    logs.more_errors,
    logs.spikes,
    logs.new_templates,
    logs.new_since_release,
    logs.more_of_a_kind,
)


def diagnose(facts: Facts, parameters: Parameters) -> list[Finding]:
    """Everything that any rule finds; gaps are not among them."""
    return [finding for rule in RULES for finding in rule(facts, parameters)]
