"""Errors in the logs, counted by Elasticsearch: a few lines come here, as examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opslib.diagnosis.monitoring.facts import (
    ErrorCount,
    LogFacts,
    LogTemplate,
    Parameters,
    Run,
    Versions,
)
from opslib.diagnosis.monitoring.templates import PLACE, families, phrases, template
from opslib.facts import Questions
from opslib.facts.monitoring.searches import LogSearches
from opslib.findings import Evidence, Finding, Severity, Step, Subject, command
from opslib.messages import _
from opslib.mining.traces import essence
from opslib.sources.monitored import SearchResult
from opslib.sources.redaction import MASK, redact

if TYPE_CHECKING:
    import pandas

    from opslib.environments import Logs
    from opslib.sources.elasticsearch import Elasticsearch

Runs = Mapping[str, Mapping[str, Run]]
Images = Callable[[Sequence[str]], Mapping[str, Mapping[str, frozenset[str]]]]
"""The versions of some pods' images: by pod and container."""

MOST_TEMPLATES = 60
TEMPLATE_ROUNDS = 4
DRAWN_TEMPLATES = 8


@dataclass(frozen=True, slots=True)
class _Fields:
    """Which fields the logs really have. `missing` are those that the environment names and no index has, with their parameter."""

    indices: int
    missing: Mapping[str, str]
    message_types: frozenset[str]
    version: str = ""  # the field with the version, else the one with the pod, else empty


def _fields(elasticsearch: Elasticsearch, parameters: Parameters) -> _Fields:
    """Whether the configured fields exist and can be counted by."""
    settings = elasticsearch.settings
    names = {
        "time_field": settings.time_field,
        "level_field": settings.level_field,
        "service_field": settings.service_field,
        "message_field": settings.message_field,
    }
    if parameters.namespace:
        names["namespace_field"] = settings.namespace_field
    wanted = [*names.values(), settings.version_field, settings.pod_field]
    indices, known = elasticsearch.fields([*wanted, *(f"{name}.keyword" for name in wanted)])
    missing = {}
    for parameter, name in names.items():
        types = known.get(name, {})
        counted = parameter == "message_field" or any(types.values())
        if not types or not counted:
            missing[parameter] = f"{name}.keyword" if f"{name}.keyword" in known else ""
    both = (settings.version_field, settings.pod_field)
    version = next((field for name in both for field in (name, f"{name}.keyword") if any(known.get(field, {}).values())), "")
    return _Fields(len(indices), missing, frozenset(known.get(settings.message_field, {})), version)


def _runs(elasticsearch: Elasticsearch, search: LogSearches, templates: Sequence[LogTemplate]) -> Runs | None:
    """Which versions the services with errors had, and when their first lines came."""
    body = search.runs(sorted({service for template in templates for service in template.services}))
    if body is None or not templates:
        return None
    result = elasticsearch.search(body, what=_("versions in the logs"))
    return {
        str(service["key"]): {
            str(version["key"]): Run(moment, version["doc_count"])
            for version in service["versions"]["buckets"]
            if (moment := _moment(version["first"].get("value"))) is not None
        }
        for service in result.aggregations["services"]["buckets"]
    }


def _by_image(
    templates: tuple[LogTemplate, ...] | None, runs: Runs | None, images: Images, questions: Questions
) -> tuple[tuple[LogTemplate, ...] | None, Runs | None]:
    """The same with the versions of pods' images in place of the pods' names; "-" where a pod had several, or none that is known."""
    pods = sorted({pod for service in (runs or {}).values() for pod in service} - {"-"})
    tags = questions.ask(_("images of the pods that logged errors"), lambda: images(pods)).get() if pods else None
    if tags is None:
        return tuple(replace(one, versions={}, versions_before={}) for one in templates or ()) if templates is not None else None, None

    def version(service: str, pod: str) -> str:
        known = tags.get(pod, {})
        found = known.get(service) or frozenset().union(*known.values())
        return next(iter(found)) if len(found) == 1 else "-"

    def of(counts: Versions) -> Versions:
        told: dict[str, Counter[str]] = {}
        for service, by_pod in counts.items():
            for pod, count in by_pod.items():
                told.setdefault(service, Counter())[version(service, pod)] += count
        return told

    merged: dict[str, dict[str, Run]] = {}
    for service, by_pod in (runs or {}).items():
        mine = merged.setdefault(service, {})
        for pod, run in by_pod.items():
            name = version(service, pod)
            first, lines = mine.get(name, (run.first, 0))
            mine[name] = Run(min(first, run.first), lines + run.lines)
    found = (replace(one, versions=of(one.versions), versions_before=of(one.versions_before)) for one in templates or ())
    return None if templates is None else tuple(found), merged


def read(
    elasticsearch: Elasticsearch, parameters: Parameters, questions: Questions, now: datetime, images: Images = lambda pods: {}
) -> LogFacts | None:
    """The errors in the logs; None where the logs' fields or their counts could not be read, which is a gap.

    `images` is asked for the versions of pods, where the lines do not tell their own.

    Raises
    ------
    SourceError
        It does not answer at all.
    """
    settings = elasticsearch.settings
    fields = _fields(elasticsearch, parameters)
    if not fields.indices:
        questions.gap(
            Finding(
                check="gap.elasticsearch",
                severity=Severity.UNKNOWN,
                subject=Subject("Index", settings.index),
                title=_("Could not look at {what}: no index is called {index}", what=_("error logs"), index=settings.index),
                steps=(Step(_("Name the logs' index pattern in the environment's file: {field}", field="elasticsearch.index")),),
            )
        )
        return None
    for parameter, instead in fields.missing.items():
        questions.gap(_missing_field(settings, parameter, instead))
    if not fields.missing.keys().isdisjoint({"time_field", "level_field", "service_field", "namespace_field"}):
        return None
    search = LogSearches(settings, parameters, now, fields.message_types, fields.version)
    counts = questions.ask(
        _("errors in the logs, now and on earlier days"),
        lambda: _complete(questions, settings, elasticsearch.search(search.counts(), what=_("errors by service"))),
    )
    over_time = questions.ask(
        _("errors in the logs over the last day"),
        lambda: _complete(questions, settings, elasticsearch.search(search.over_time(), what=_("errors over time"))),
    )
    newest = questions.ask(_("the newest log line"), lambda: elasticsearch.search(search.newest(), what=_("the newest line")))
    templates = (
        questions.ask(_("kinds of errors in the logs"), lambda: _templates(elasticsearch, search, questions))
        if "message_field" not in fields.missing
        else None
    )

    counted, last = counts.get(), newest.get()
    if counted is None or last is None:
        return None
    slices = counted.aggregations["slices"]["buckets"]
    lines = [slices[f"day{day}"]["doc_count"] for day in range(parameters.baseline_days + 1)]
    errors = [
        {bucket["key"]: bucket["doc_count"] for bucket in slices[f"day{day}"]["errors"]["services"]["buckets"]}
        for day in range(parameters.baseline_days + 1)
    ]
    services = sorted({service for day in errors for service in day}, key=lambda name: (-errors[0].get(name, 0), str(name)))
    found, uncovered = (templates.get() if templates else None) or (None, 0)
    ran = questions.ask(_("versions in the logs"), lambda: _runs(elasticsearch, search, found or ())).get()
    if fields.version.startswith(settings.pod_field):
        found, ran = _by_image(found, ran, images, questions)
    drawn = [template.text for template in (found or ())[:DRAWN_TEMPLATES]]
    rates = questions.ask(
        _("kinds of errors over the last day"),
        lambda: elasticsearch.search(search.templates_over_time(drawn), what=_("kinds of errors over time")) if drawn else None,
    )
    return LogFacts(
        lines=lines[0],
        newest=_moment(last.aggregations["newest"].get("value")),
        earlier_lines=tuple(lines[1:]),
        errors=tuple(
            ErrorCount(
                service=str(service),
                now=errors[0].get(service, 0),
                earlier=tuple(errors[day].get(service, 0) if lines[day] else None for day in range(1, len(lines))),
            )
            for service in services
        ),
        templates=found,
        uncovered=uncovered,
        over_time=_histogram(over_time.get()),
        templates_over_time=_template_rates(rates.get(), drawn),
        runs=ran,
    )


def _missing_field(settings: Logs, parameter: str, instead: str) -> Finding:
    name = getattr(settings, parameter)
    remedy = (
        _("Name {instead} in the environment's file: {field}", instead=instead, field=f"elasticsearch.{parameter}")
        if instead
        else _("Name the field in the environment's file: {field}", field=f"elasticsearch.{parameter}")
    )
    return Finding(
        check="gap.elasticsearch",
        severity=Severity.UNKNOWN,
        subject=Subject("Field", name),
        title=_("Could not look at all of the error logs: the field {name} is not there, or cannot be counted by", name=name),
        evidence=(
            Evidence(
                text=_("In the indices {index}", index=settings.index), source="elasticsearch", reference=f"/{settings.index}/_field_caps"
            ),
        ),
        steps=(Step(remedy),),
    )


def _complete(questions: Questions, settings: Logs, result: SearchResult) -> SearchResult:
    """The result; where it covers only a part of the logs, that is a gap."""
    for reason in result.partial:
        questions.gap(
            Finding(
                check="gap.elasticsearch",
                severity=Severity.UNKNOWN,
                subject=Subject("System", "elasticsearch"),
                title=_("Elasticsearch could answer only in part: errors in the logs may be missing here"),
                evidence=(Evidence(text=_("Its reason"), quote=reason, source="elasticsearch"),),
                steps=(
                    Step(
                        _("See which shards are not there"),
                        command("curl", f"{settings.url}/_cat/shards?v&h=index,shard,prirep,state,unassigned.reason"),
                    ),
                ),
            )
        )
    return result


def _templates(elasticsearch: Elasticsearch, search: LogSearches, questions: Questions) -> tuple[tuple[LogTemplate, ...], int]:
    """The kinds of errors in the window, and how many errors no kind covers.

    A few lines of each service are read and made into templates; the next round reads lines that no template covers yet, so that the rare
    kinds are found beside the frequent ones. Then Elasticsearch counts each template, in the window and in the days before.
    """
    settings = search.settings
    examples: dict[str, tuple[str, str]] = {}
    for _round in range(TEMPLATE_ROUNDS):
        # A template of one or two words would hide most other lines from the next round.
        without = [
            text for text in dict.fromkeys(families(examples).values()) if len(" ".join(phrases(text)).split()) > 2 or not text.isascii()
        ]
        result = elasticsearch.search(search.sample(without), what=_("error lines"))
        fresh: Counter[str] = Counter()
        for service in result.aggregations["services"]["buckets"]:
            for hit in service["lines"]["hits"]["hits"]:
                line = redact(str(_value(hit.get("_source", {}), settings.message_field) or ""))
                text = template(line.replace(MASK, PLACE))
                if text and text not in examples:
                    fresh[text] += 1
                    examples.setdefault(text, (_shown(line), str(_value(hit.get("_source", {}), settings.pod_field) or "")))
        if not fresh or len(examples) >= MOST_TEMPLATES:
            break
    for text, family in families(examples).items():
        if family != text:
            examples.setdefault(family, examples[text])
            del examples[text]
    texts = list(examples)[:MOST_TEMPLATES]
    if not texts:
        return (), 0
    now = _complete(questions, settings, elasticsearch.search(search.by_template(texts, search.window()), what=_("kinds of errors now")))
    before = elasticsearch.search(search.by_template(texts, search.before()), what=_("kinds of errors before"))
    these, those = now.aggregations["templates"]["buckets"], before.aggregations["templates"]["buckets"]
    found = []
    for number, text in enumerate(texts):
        bucket = these[f"t{number}"]
        # A template that does not even find the line that it was made from cannot say that there was none before.
        known = bucket["doc_count"] > 0 and not before.partial
        line, pod = examples[text]
        found.append(
            LogTemplate(
                text=text,
                services={str(item["key"]): item["doc_count"] for item in bucket["services"]["buckets"]},
                now=bucket["doc_count"],
                earlier=those[f"t{number}"]["doc_count"] if known else None,
                same_hours=_same_hours(those[f"t{number}"], search) if known else (),
                example=line,
                pod=pod,
                first=_moment(bucket["first"].get("value")),
                versions=_versions(bucket),
                versions_before=_versions(those[f"t{number}"]) if known else {},
            )
        )
    found.sort(key=lambda item: (item.earlier != 0, -item.now, item.text))
    return tuple(found), these["other"]["doc_count"]


def _versions(bucket: Any) -> Versions:
    return {
        str(service["key"]): {str(version["key"]): version["doc_count"] for version in service["versions"]["buckets"]}
        for service in bucket["services"]["buckets"]
        if "versions" in service
    }


def _shown(line: str) -> str:
    """A line as an example; of a stack trace only what it is about."""
    return (essence(line).text if "\n" in line.strip() else line)[:2_000]


def _same_hours(bucket: Any, search: LogSearches) -> tuple[int, ...]:
    days = bucket["days"]["buckets"]
    return tuple(days[name]["doc_count"] for name in search.days())


def _histogram(result: SearchResult | None) -> pandas.DataFrame | None:
    """Columns service, time (UTC) and count."""
    return _frame("service", {str(part["key"]): part for part in result.aggregations["services"]["buckets"]}) if result else None


def _template_rates(result: SearchResult | None, texts: Sequence[str]) -> pandas.DataFrame | None:
    """Columns template, time (UTC) and count; the templates in their order."""
    return (
        _frame("template", {text: result.aggregations["templates"]["buckets"][f"t{at}"] for at, text in enumerate(texts)})
        if result
        else None
    )


def _frame(name: str, parts: Mapping[str, Any]) -> pandas.DataFrame:
    import pandas

    rows = [(part, bucket["key"], bucket["doc_count"]) for part, of in parts.items() for bucket in of["over_time"]["buckets"]]
    frame = pandas.DataFrame(rows, columns=[name, "time", "count"])
    frame["time"] = pandas.to_datetime(frame["time"].astype("int64"), unit="ms", utc=True)
    return frame


def _value(source: Any, path: str) -> Any:
    """The value of a field in a document, which may be nested, or written with dots in its name."""
    if not isinstance(source, dict):
        return None
    if path in source:
        return source[path]
    names = path.split(".")
    for number in range(len(names) - 1, 0, -1):
        head = ".".join(names[:number])
        if head in source:
            return _value(source[head], ".".join(names[number:]))
    return None


def _moment(milliseconds: Any) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(float(milliseconds) / 1000, UTC)
