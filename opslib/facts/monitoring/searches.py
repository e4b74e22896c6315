"""The searches on the error logs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from opslib.diagnosis.monitoring.facts import Parameters
from opslib.diagnosis.monitoring.templates import phrases
from opslib.environments import Logs

MOST_LOG_SERVICES = 50
MOST_VERSIONS = 100  # of a service, or of its pods


class LogSearches:
    """The searches on the error logs, in the query language that Elasticsearch and OpenSearch share.

    `version` is the field that tells versions apart, or pods, whose images tell them; empty: there is neither.
    """

    def __init__(self, settings: Logs, parameters: Parameters, now: datetime, message_types: frozenset[str], version: str = "") -> None:
        self.settings = settings
        self._parameters = parameters
        self._now = now
        self._window = timedelta(minutes=parameters.window_minutes)
        self._phrases = not message_types <= {"keyword", "wildcard"}
        self._versions = {"versions": {"terms": {"field": version, "size": MOST_VERSIONS, "missing": "-"}}} if version else {}
        self._errors = {"terms": {settings.level_field: settings.error_levels}}
        self._where = [{"term": {settings.namespace_field: parameters.namespace}}] if parameters.namespace else []

    def _range(self, start: datetime, end: datetime) -> dict[str, Any]:
        return {
            "range": {self.settings.time_field: {"gte": start.isoformat(), "lt": end.isoformat(), "format": "strict_date_optional_time"}}
        }

    def window(self) -> dict[str, Any]:
        """Lines of the window."""
        return self._range(self._now - self._window, self._now)

    def before(self) -> dict[str, Any]:
        """Lines of the days before the window."""
        start = self._now - self._window
        return self._range(start - timedelta(days=self._parameters.baseline_days), start)

    def errors(self, span: dict[str, Any], *others: dict[str, Any]) -> dict[str, Any]:
        """A query for the errors of a time."""
        return {"bool": {"filter": [span, self._errors, *self._where, *others]}}

    def days(self) -> dict[str, Any]:
        """The same window on each of the earlier days, yesterday's first."""
        return {f"day{day}": self._same_window(day) for day in range(1, self._parameters.baseline_days + 1)}

    def _same_window(self, day: int) -> dict[str, Any]:
        return self._range(self._now - self._window - timedelta(days=day), self._now - timedelta(days=day))

    def counts(self) -> dict[str, Any]:
        """Errors by service, in the window and in the same window of earlier days; only those windows are read."""
        slices = self._windows()
        return {
            "size": 0,
            "track_total_hits": False,
            "query": {"bool": {"filter": [*self._where, _any(slices)]}},
            "aggs": {
                "slices": {
                    "filters": {"filters": slices},
                    "aggs": {"errors": {"filter": self._errors, "aggs": {"services": self._services()}}},
                }
            },
        }

    def runs(self, services: Sequence[str]) -> dict[str, Any] | None:
        """Lines of any level by service and version in the same windows, and when the first of each came; None without a field for it."""
        if not self._versions:
            return None
        first = {"aggs": {"first": {"min": {"field": self.settings.time_field}}}}
        return {
            "size": 0,
            "track_total_hits": False,
            "query": {"bool": {"filter": [*self._where, {"terms": {self.settings.service_field: list(services)}}, _any(self._windows())]}},
            "aggs": {"services": self._services() | {"aggs": {"versions": self._versions["versions"] | first}}},
        }

    def _windows(self) -> dict[str, Any]:
        """The window, and the same one of earlier days."""
        return {"day0": self._same_window(0), **self.days()}

    def _services(self, size: int = MOST_LOG_SERVICES) -> dict[str, Any]:
        return {"terms": {"field": self.settings.service_field, "size": size, "missing": "-"}}

    def over_time(self) -> dict[str, Any]:
        """Errors by service over the last day, in quarters of the window."""
        return self._over_time("services", self._services(20))

    def templates_over_time(self, templates: Sequence[str]) -> dict[str, Any]:
        """Errors by template over the last day, in quarters of the window."""
        return self._over_time(
            "templates", {"filters": {"filters": {f"t{at}": self.of_template(text) for at, text in enumerate(templates)}}}
        )

    def _over_time(self, name: str, parts: dict[str, Any]) -> dict[str, Any]:
        start = self._now - max(timedelta(days=1), self._window * 4)
        seconds = max(60, int(self._window.total_seconds() // 4))
        histogram = {
            "field": self.settings.time_field,
            "fixed_interval": f"{seconds}s",
            "format": "epoch_millis",
            "min_doc_count": 0,
            "extended_bounds": {"min": int(start.timestamp() * 1000), "max": int(self._now.timestamp() * 1000)},
        }
        return {
            "size": 0,
            "track_total_hits": False,
            "query": self.errors(self._range(start, self._now)),
            "aggs": {name: parts | {"aggs": {"over_time": {"date_histogram": histogram}}}},
        }

    def newest(self) -> dict[str, Any]:
        """The time of the newest line. Lines from the future, of a clock that is wrong, do not count."""
        span = self._range(self._now - timedelta(days=self._parameters.baseline_days), self._now + timedelta(minutes=5))
        return {
            "size": 0,
            "track_total_hits": False,
            "query": {"bool": {"filter": [span]}},
            "aggs": {"newest": {"max": {"field": self.settings.time_field}}},
        }

    def sample(self, without: Sequence[str]) -> dict[str, Any]:
        """The newest few errors of each service that none of the templates `without` covers."""
        settings = self.settings
        query = self.errors(self.window())
        query["bool"]["must_not"] = [self.of_template(text) for text in without]
        return {
            "size": 0,
            "track_total_hits": False,
            "query": query,
            "aggs": {
                "services": {
                    **self._services(),
                    "aggs": {
                        "lines": {
                            "top_hits": {
                                "size": 20,
                                "sort": [{settings.time_field: "desc"}],
                                "_source": [settings.message_field, settings.pod_field],
                            }
                        }
                    },
                }
            },
        }

    def by_template(self, templates: Sequence[str], span: dict[str, Any]) -> dict[str, Any]:
        """How many errors each template covers, by service and version, since when, and in the same hours of earlier days.

        And how many none does.
        """
        return {
            "size": 0,
            "track_total_hits": False,
            "query": self.errors(span),
            "aggs": {
                "templates": {
                    "filters": {
                        "filters": {f"t{number}": self.of_template(text) for number, text in enumerate(templates)},
                        "other_bucket_key": "other",
                    },
                    "aggs": {
                        "services": self._services() | ({"aggs": self._versions} if self._versions else {}),
                        "first": {"min": {"field": self.settings.time_field}},
                        "days": {"filters": {"filters": self.days()}},
                    },
                }
            },
        }

    def of_template(self, text: str) -> dict[str, Any]:
        """A query for the lines of a template: all its phrases, or, where the field is not analysed, its phrases with anything between."""
        parts = phrases(text)
        if self._phrases:
            return {"bool": {"filter": [{"match_phrase": {self.settings.message_field: part}} for part in parts]}}
        pattern = "*".join(["", *(_wildcard(part) for part in parts), ""])
        return {"wildcard": {self.settings.message_field: {"value": pattern}}}


def _any(spans: dict[str, Any]) -> dict[str, Any]:
    return {"bool": {"should": list(spans.values()), "minimum_should_match": 1}}


def _wildcard(text: str) -> str:
    return "".join("\\" + char if char in "\\*?" else char for char in text)
