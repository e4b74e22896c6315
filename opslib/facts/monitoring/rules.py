"""Rules whose metrics or series do not exist."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from opslib.diagnosis.monitoring.facts import (
    MissingSeries,
    Parameters,
)
from opslib.errors import NotFound, SourceError, Unauthenticated, Unreachable
from opslib.facts import Questions
from opslib.findings import Finding, Severity, Subject
from opslib.messages import _
from opslib.sources.monitored import Matcher, RuleGroup
from opslib.sources.prometheus import Prometheus, any_of, matcher

if TYPE_CHECKING:
    pass

PARALLEL = 8
MOST_EXPRESSIONS = 1_000  # of rules, taken apart to see whether their metrics exist


def missing_series(
    prometheus: Prometheus, groups: list[RuleGroup], parameters: Parameters, questions: Questions, now: datetime
) -> list[MissingSeries]:
    """Selectors of rules that select nothing.

    Prometheus itself takes each expression apart, and its index, without samples, says which metrics exist (at any time that it keeps) and
    which selectors have series in the window.
    """
    users: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for group in groups:
        for rule in group.rules:
            users[rule.query].append((group.name, rule.name))
    if len(users) > MOST_EXPRESSIONS:
        questions.gap(
            Finding(
                check="gap.prometheus",
                severity=Severity.INFO,
                subject=Subject("System", "prometheus"),
                title=_(
                    "Only the first {some} of {all} rules were searched for metrics that do not exist",
                    some=MOST_EXPRESSIONS,
                    all=len(users),
                ),
            )
        )
    expressions = list(users)[:MOST_EXPRESSIONS]
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="rules") as executor:
        parsed = list(executor.map(lambda text: _selectors(prometheus, text), expressions))
        wanted = list(dict.fromkeys(matchers for found in parsed for matchers in found))
        names = sorted({name for matchers in wanted if (name := _metric(matchers))})
        known = {name for chunk in _chunks(names) for name in prometheus.label_values("__name__", [f"{{{any_of('__name__', chunk)}}}"])}
        # Alerts themselves are series only while one is pending or firing.
        known |= {"ALERTS", "ALERTS_FOR_STATE"}
        unknown = [name for name in names if name not in known]
        declared = {
            name
            for name, metadata in zip(unknown, executor.map(lambda name: _declared(prometheus, name), unknown), strict=True)
            if metadata
        }
        narrow = [matchers for matchers in wanted if len(matchers) > 1 and (not _metric(matchers) or _metric(matchers) in known)]
        since = now - timedelta(minutes=max(parameters.window_minutes, 60))
        has_series = dict(
            zip(narrow, executor.map(lambda matchers: bool(prometheus.series([_text(matchers)], since, now, 1)), narrow), strict=True)
        )
    missing = []
    for text, found in zip(expressions, parsed, strict=True):
        for matchers in found:
            metric = _metric(matchers)
            never = bool(metric) and metric not in known
            if metric in ("ALERTS", "ALERTS_FOR_STATE") or not (never or has_series.get(matchers) is False):
                continue
            missing += [
                MissingSeries(
                    group=group,
                    rule=rule,
                    selector=_text(matchers),
                    metric=metric or _text(matchers),
                    metric_known=not never,
                    metric_declared=metric in declared,
                )
                for group, rule in users[text]
            ]
    return missing


def _selectors(prometheus: Prometheus, promql: str) -> list[tuple[Matcher, ...]]:
    try:
        return prometheus.selectors(promql)
    except (NotFound, Unreachable, Unauthenticated):
        raise
    except SourceError:  # this one expression cannot be parsed: its rule's health says so
        return []


def _declared(prometheus: Prometheus, metric: str) -> bool:
    """Whether an exporter that is scraped knows the metric: then it has no series only because there is nothing to count yet."""
    base = re.sub("_(bucket|count|sum)$", "", metric)
    return any(prometheus.metadata(name) for name in dict.fromkeys((metric, base)))


def _metric(matchers: Sequence[Matcher]) -> str:
    return next((item.value for item in matchers if item.name == "__name__" and item.type == "="), "")


def _text(matchers: Sequence[Matcher]) -> str:
    return "{" + ",".join(matcher(item.name, item.value, item.type) for item in matchers) + "}"


def _chunks(names: Sequence[str], longest: int = 4_000) -> Iterable[list[str]]:
    """`names` in lists whose text is short enough for an address."""
    chunk: list[str] = []
    for name in names:
        if chunk and sum(map(len, chunk)) + len(name) > longest:
            yield chunk
            chunk = []
        chunk.append(name)
    if chunk:
        yield chunk
