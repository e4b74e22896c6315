"""Rules that do not do their work, and Prometheus itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta

from opslib.diagnosis.monitoring.alerts import RUNBOOKS
from opslib.diagnosis.monitoring.facts import Facts, MissingSeries, Parameters
from opslib.findings import Evidence, Finding, Severity, Step, Subject, command
from opslib.messages import _, _n
from opslib.sources.monitored import RuleGroup, Target

SLOW = 0.8  # of the interval: from here on a busy hour makes a round late
STALLED_ROUNDS = 4  # rounds missed before a group counts as standing still; a reload skips one or two


def failing(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A rule whose last evaluation failed: an alert that cannot fire, a record that is not written."""
    for group in facts.groups or []:
        for rule in group.rules:
            if rule.health == "err":
                alerting = rule.type == "alerting"
                yield Finding(
                    check="rules.failing",
                    severity=Severity.CRITICAL if alerting and rule.labels.get("severity") == "critical" else Severity.WARNING,
                    subject=_subject(group, rule.name),
                    title=_("The alert rule {name} cannot be evaluated, so it never fires", name=rule.name)
                    if alerting
                    else _("The recording rule {name} cannot be evaluated, so its series has gaps", name=rule.name),
                    evidence=(
                        Evidence(
                            text=_("Prometheus' error at the last evaluation"),
                            quote=rule.last_error,
                            source="prometheus",
                            reference=rule.query,
                            time=rule.last_evaluation,
                        ),
                    ),
                    steps=(Step(_("Mend the expression in {file}, group {group}", file=group.file, group=group.name)),),
                )


def slow(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A group that takes about as long as its interval: alerts come late, and rounds are skipped."""
    for group in facts.groups or []:
        if group.interval > 0 and group.evaluation_time > SLOW * group.interval:
            slowest = sorted(group.rules, key=lambda rule: -rule.evaluation_time)[:3]
            yield Finding(
                check="rules.slow",
                severity=Severity.WARNING,
                subject=_subject(group),
                title=_("The rule group {name} takes nearly as long as its interval, or longer", name=group.name),
                evidence=(
                    Evidence(
                        text=_(
                            "Its last round took {took} of {interval} seconds; the slowest rules",
                            took=f"{group.evaluation_time:.1f}",
                            interval=f"{group.interval:g}",
                        ),
                        quote="\n".join(f"{rule.name}: {rule.evaluation_time:.2f} s" for rule in slowest),
                        source="prometheus",
                        reference="/api/v1/rules",
                        time=group.last_evaluation,
                    ),
                ),
                steps=(Step(_("Split the group, give it a longer interval, or record the costly part of its expressions")),),
            )


def stalled(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A group that has not been evaluated for several intervals."""
    for group in facts.groups or []:
        late = group.last_evaluation and facts.now - group.last_evaluation > timedelta(seconds=STALLED_ROUNDS * group.interval + 30)
        if late and group.interval > 0 and group.last_evaluation and group.last_evaluation.year > 1:
            yield Finding(
                check="rules.stalled",
                severity=Severity.CRITICAL,
                subject=_subject(group),
                title=_("The rule group {name} is not evaluated any more", name=group.name),
                evidence=(
                    Evidence(
                        text=_("Its interval is {interval} seconds, its last round was at the time shown", interval=f"{group.interval:g}"),
                        source="prometheus",
                        reference="/api/v1/rules",
                        time=group.last_evaluation,
                    ),
                ),
                steps=(Step(_("Look at Prometheus' log and load; compare its clock with this machine's")),),
                since=group.last_evaluation,
            )


def without_data(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Rules that look at a metric that does not exist (a warning: they never fire), or at series that are not there now (information)."""
    by_rule: dict[tuple[str, str], list[MissingSeries]] = defaultdict(list)
    for missing in facts.missing or []:
        by_rule[missing.group, missing.rule].append(missing)
    for (group, rule), found in sorted(by_rule.items()):
        never = [missing for missing in found if not missing.metric_known and not missing.metric_declared]
        if never:
            yield Finding(
                check="rules.no_metric",
                severity=Severity.WARNING,
                subject=Subject("Rule", f"{group}/{rule}"),
                title=_("The rule {name} never had data: its metric does not exist", name=rule),
                cause=_("The exporter is not scraped, the metric was renamed, or the name is misspelled"),
                evidence=tuple(
                    Evidence(
                        text=_("No series of the metric {metric}, at any time that Prometheus keeps", metric=missing.metric),
                        source="prometheus",
                        reference=missing.selector,
                    )
                    for missing in never
                ),
                steps=(Step(_("Scrape what gives the metric, mend the name, or remove the rule")),),
            )
        else:
            yield Finding(
                check="rules.no_series",
                severity=Severity.INFO,
                subject=Subject("Rule", f"{group}/{rule}"),
                title=_("The rule {name} has no data now: there is no series that it asks for", name=rule),
                evidence=tuple(
                    Evidence(
                        text=_("The metric {metric} has series, but none with these labels", metric=missing.metric)
                        if missing.metric_known
                        else _("An exporter offers the metric {metric}, and never had anything to count", metric=missing.metric),
                        source="prometheus",
                        reference=missing.selector,
                    )
                    for missing in found
                ),
                steps=(Step(_("Right for a counter of rare errors; else mend the labels in the expression")),),
            )


def not_loaded(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """PrometheusRule objects that exist and that Prometheus has not taken: `kubectl get prometheusrules` shows them all the same."""
    if facts.groups is None or facts.prometheus_rules is None:
        return
    loaded: dict[str, list[set[str]]] = defaultdict(list)
    for group in facts.groups:
        loaded[group.name].append({rule.name for rule in group.rules})
    for item in facts.prometheus_rules:
        missing = [
            group.name
            for group in item.spec.groups
            if not any({rule.alert or rule.record for rule in group.rules} <= names for names in loaded.get(group.name, []))
        ]
        if missing:
            name, namespace = item.metadata.name, item.metadata.namespace
            context = ("--context", facts.context) if facts.context else ()
            yield Finding(
                check="rules.not_loaded",
                severity=Severity.WARNING,
                subject=Subject("PrometheusRule", name, namespace),
                title=_("The PrometheusRule {name} exists, but Prometheus has not loaded it", name=f"{namespace}/{name}"),
                cause=_("The Prometheus object's ruleSelector or ruleNamespaceSelector does not select it, or a rule in it is not valid"),
                evidence=(
                    Evidence(
                        text=_n(
                            "{count} of its groups is not loaded, or lacks rules",
                            "{count} of its groups are not loaded, or lack rules",
                            len(missing),
                        ),
                        quote="\n".join(missing),
                        source="prometheus",
                        reference="/api/v1/rules",
                    ),
                ),
                steps=(
                    Step(
                        _("Compare its labels"),
                        command("kubectl", *context, "-n", namespace, "get", "prometheusrules", name, "--show-labels"),
                    ),
                    Step(
                        _("with what Prometheus selects"),
                        command(
                            "kubectl",
                            *context,
                            "get",
                            "prometheuses",
                            "-A",
                            "-o",
                            'jsonpath={range .items[*]}{.metadata.name} {.spec.ruleSelector} {.spec.ruleNamespaceSelector}{"\\n"}{end}',
                        ),
                    ),
                ),
            )


def without_runbook(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Alert rules without a runbook link, in one finding."""
    lacking = sorted(
        {
            f"{group.name}/{rule.name}"
            for group in facts.groups or []
            for rule in group.rules
            if rule.type == "alerting"
            and not any(rule.annotations.get(name) for name in RUNBOOKS)
            and rule.labels.get("severity") != "none"
        }
    )
    if lacking:
        yield Finding(
            check="rules.no_runbook",
            severity=Severity.INFO,
            subject=Subject("System", "prometheus"),
            title=_n("{count} alert rule has no runbook link", "{count} alert rules have no runbook link", len(lacking)),
            evidence=(
                Evidence(
                    text=_("Whoever is woken by one does not learn what to do"),
                    quote="\n".join(lacking[:20]),
                    source="prometheus",
                    reference="/api/v1/rules",
                ),
            ),
            steps=(Step(_("Add the annotation runbook_url to each")),),
            affected=tuple(Subject("Rule", name) for name in lacking),
        )


def prometheus_itself(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A configuration that was not taken, and storage that was corrupt."""
    if facts.runtime is None:
        return
    if not facts.runtime.reload_config_success:
        yield Finding(
            check="prometheus.reload",
            severity=Severity.WARNING,
            subject=Subject("System", "prometheus"),
            title=_("Prometheus did not take its configuration at the last reload"),
            cause=_("A file of the configuration or a rule file is not valid; the old one is still in use"),
            evidence=(
                Evidence(
                    text=_("The configuration in use was read at the time shown"),
                    source="prometheus",
                    reference="/api/v1/status/runtimeinfo",
                    time=facts.runtime.last_config_time,
                ),
            ),
            steps=(Step(_("Check the files"), "promtool check config prometheus.yml"),),
        )
    if facts.runtime.corruption_count:
        yield Finding(
            check="prometheus.corruption",
            severity=Severity.WARNING,
            subject=Subject("System", "prometheus"),
            title=_("Prometheus found its write-ahead log corrupt"),
            evidence=(
                Evidence(
                    text=_n("{count} time since it started", "{count} times since it started", facts.runtime.corruption_count),
                    source="prometheus",
                    reference="prometheus_tsdb_wal_corruptions_total",
                ),
            ),
            steps=(Step(_("Check its disk and volume; samples of that time may be lost")),),
        )


def targets_down(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Targets that cannot be scraped, one finding a job; critical where the whole job is gone, since nothing of it is seen any more."""
    jobs: dict[str, list[Target]] = defaultdict(list)
    for target in facts.targets or []:
        jobs[target.job].append(target)
    for job, targets in sorted(jobs.items()):
        down = sorted((target for target in targets if target.health == "down"), key=lambda target: target.instance)
        if not down:
            continue
        errors = dict.fromkeys(target.last_error for target in down if target.last_error)
        yield Finding(
            check="targets.down",
            severity=Severity.CRITICAL if len(down) == len(targets) else Severity.WARNING,
            subject=Subject("Job", job),
            title=_("No target of the job {job} can be scraped", job=job)
            if len(down) == len(targets)
            else _("{down} of {all} targets of the job {job} cannot be scraped", down=len(down), all=len(targets), job=job),
            evidence=(
                Evidence(
                    text=_("Prometheus' error at the last scrape"),
                    quote="\n".join(list(errors)[:5]),
                    source="prometheus",
                    reference=down[0].scrape_url,
                    time=down[0].last_scrape,
                ),
            ),
            steps=(
                Step(_("See whether the target's pod runs (chapter 4.1), and whether its port, path and network policy let Prometheus in")),
            ),
            affected=tuple(Subject("Target", target.instance) for target in down),
        )


def _subject(group: RuleGroup, rule: str = "") -> Subject:
    return Subject("Rule", f"{group.name}/{rule}") if rule else Subject("RuleGroup", group.name)
