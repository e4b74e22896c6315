"""A case: the pods of one owner that show the same symptom, with what a rule needs to name the cause and show the evidence.

A rule is a function from a `Case` to a finding, or None where it does not know. To write one: look for what only this cause leaves behind,
and return `case.finding("family.rule", title, evidence=[...], steps=[...])`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from opslib.diagnosis.pods.facts import Facts, Log, owner_of, ready_pods
from opslib.diagnosis.pods.symptoms import Symptom, condition, container_spec, container_status, symptoms
from opslib.diagnosis.pods.words import Said, last_words
from opslib.findings import Evidence, Finding, Severity, Step, Subject, command
from opslib.messages import Message, Text, _
from opslib.mining.traces import essence, fold
from opslib.sources.objects import Container, ContainerStatus, Event, Pod, StateTerminated, Workload

LOG_LINES = 8  # of a log in a finding; the rest is in the chapter's log view
REPRESENTATIVES = 3  # pods of a case that are looked at closely


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Pods of one owner with the same symptom.

    Parameters
    ----------
    facts
        Everything that was read.
    owner
        Who looks after the pods.
    symptom
        What they share.
    pod
        The one that the evidence is from.
    pods
        All of them, by name.
    """

    facts: Facts
    owner: Subject
    symptom: Symptom
    pod: Pod
    pods: tuple[Pod, ...]

    # --- what a rule looks at ---

    @property
    def status(self) -> ContainerStatus | None:
        """Status of the container that the symptom is about."""
        return container_status(self.pod, self.symptom.container)

    @property
    def container(self) -> Container | None:
        """What that container should be."""
        return container_spec(self.pod, self.symptom.container)

    @property
    def ended(self) -> StateTerminated | None:
        """How that container ended last."""
        status = self.status
        return (status.state.terminated or status.last_state.terminated) if status else None

    @property
    def waiting_message(self) -> str:
        """Why the kubelet says that the container waits."""
        status = self.status
        return status.state.waiting.message if status and status.state.waiting else ""

    @property
    def log(self) -> Log:
        """The container's last lines."""
        metadata = self.pod.metadata
        return self.facts.logs.get((metadata.namespace, metadata.name, self.symptom.container), Log())

    @property
    def is_init(self) -> bool:
        """Whether the container is an init container that must end before the others start."""
        return any(item.name == self.symptom.container and item.restart_policy != "Always" for item in self.pod.spec.init_containers)

    @property
    def workload(self) -> Workload | None:
        """The owner's object, where it was read."""
        return self.facts.workload(self.owner.kind, self.owner.namespace, self.owner.name)

    def events(self, *reasons: str) -> tuple[Event, ...]:
        """Events about the pod, newest first; those about another container of it left out."""
        mine = self.facts.events_of(self.pod.metadata.uid, *reasons)
        name = self.symptom.container
        return tuple(event for event in reversed(mine) if not name or _about(event) in ("", name))

    def words(self) -> list[str]:
        """All that Kubernetes said about the trouble: the container's waiting message, its end's, the events, newest first."""
        ended = self.ended
        texts = [self.waiting_message, ended.message if ended else "", *(event.message for event in self.events())]
        return [text for text in texts if text]

    def said(self, pattern: str) -> str:
        """The first of `words` in which the regular expression is found (case ignored); empty where there is none."""
        return next((text for text in self.words() if re.search(pattern, text, re.IGNORECASE)), "")

    @property
    def last_words(self) -> Said | None:
        """What the container said of why it cannot go on, in its log or in its termination message."""
        return last_words(self.log.of_failure) or last_words(self.ended.message if self.ended else "")

    # --- what a finding says ---

    @property
    def severity(self) -> Severity:
        """Critical where no pod of the owner is known to be ready; warning where others still serve.

        For a Job: warning while it may try again; that it failed for good is a finding of the Job's own.
        """
        if self.symptom.kind == "restarted" or self.owner.kind in ("Job", "CronJob"):
            return Severity.WARNING
        return Severity.WARNING if (ready_pods(self.owner, self.facts) or 0) > 0 else Severity.CRITICAL

    @property
    def fully_ready(self) -> bool:
        """Whether the owner has all the ready pods that it wants: the case's pods are what is left of an earlier trouble."""
        workload, ready = self.workload, ready_pods(self.owner, self.facts)
        if workload is None or ready is None:
            return False
        wanted = workload.status.desired_number_scheduled if self.owner.kind == "DaemonSet" else workload.spec.replicas
        return ready >= (1 if wanted is None else wanted)

    @property
    def since(self) -> datetime | None:
        """When the trouble began, as far as the pods and their events tell."""
        return min((time for pod in self.pods if (time := onset(pod, self.facts))), default=None)

    @property
    def affected(self) -> tuple[Subject, ...]:
        """The pods, where the owner stands for them."""
        if self.owner.kind == "Pod":
            return ()
        return tuple(Subject("Pod", pod.metadata.name, pod.metadata.namespace) for pod in self.pods)

    def finding(
        self,
        check: str,
        title: Text,
        *,
        cause: Text | None = None,
        evidence: Iterable[Evidence] = (),
        steps: Iterable[Step] = (),
        severity: Severity | None = None,
    ) -> Finding:
        """A finding about the owner, with the pods it affects and when it began."""
        return Finding(
            check=check,
            severity=self.severity if severity is None else severity,
            subject=self.owner,
            title=titled(self.owner, title),
            cause=cause,
            evidence=tuple(evidence),
            steps=tuple(steps),
            affected=self.affected,
            since=self.since,
        )

    # --- evidence ---

    @property
    def path(self) -> str:
        """The pod's path in the API."""
        return f"/api/v1/namespaces/{self.pod.metadata.namespace}/pods/{self.pod.metadata.name}"

    def pod_evidence(self, text: Text, quote: str = "", time: datetime | None = None) -> Evidence:
        """Evidence that the pod's object gives."""
        return Evidence(text=text, quote=quote, reference=self.path, time=time)

    def waiting_evidence(self) -> Evidence:
        """Why the kubelet says that the container waits."""
        status = self.status
        reason = status.state.waiting.reason if status and status.state.waiting else ""
        return self.pod_evidence(
            _("Container {container} waits: {reason}", container=self.symptom.container, reason=reason or "-"), self.waiting_message
        )

    def end_evidence(self) -> list[Evidence]:
        """How the container ended: exit code or signal, when, after how long, and its termination message."""
        ended, status = self.ended, self.status
        if ended is None:
            return []
        how: Text = _("exit code {code} ({meaning})", code=ended.exit_code, meaning=exit_meaning(ended))
        values = {"container": self.symptom.container, "how": how, "restarts": status.restart_count if status else 0}
        if ended.started_at and ended.finished_at:
            ran = age(ended.finished_at - ended.started_at)
            text = _("Container {container} ended after {ran}: {how}; restarts: {restarts}", ran=ran, **values)
        else:
            text = _("Container {container} ended: {how}; restarts: {restarts}", **values)
        said = ended.message or (ended.reason if ended.reason == "OOMKilled" else "")  # the word that one searches for
        return [self.pod_evidence(text, said, ended.finished_at)]

    def log_evidence(self) -> list[Evidence]:
        """The last lines that the container wrote before it ended; of a stack trace what it is about."""
        events = ((event, essence(event)) for event in fold(self.log.of_failure.splitlines()))
        said = [about.text if about.frame and "\n" in event else event for event, about in events]
        lines = [line for event in said for line in event.splitlines() if line.strip()][-LOG_LINES:]
        if not lines:
            return []
        text = (
            _("Last lines of the log before it ended ({container})", container=self.symptom.container)
            if self.log.previous
            else _("Last lines of the log ({container})", container=self.symptom.container)
        )
        previous = "&previous=true" if self.log.previous else ""
        return [
            self.pod_evidence(text, "\n".join(lines))
            if not previous
            else replace(
                self.pod_evidence(text, "\n".join(lines)), reference=f"{self.path}/log?container={self.symptom.container}{previous}"
            )
        ]

    def told(self, finding: Finding) -> Finding:
        """The finding, with the cause that the container itself said, the line, and what leads from there to what has to be put right."""
        said = self.last_words
        if said is None:
            return finding
        evidence, steps = [self.pod_evidence(_("The line of the log"), said.line)], []
        claims = [item.persistent_volume_claim.claim_name for item in self.pod.spec.volumes if item.persistent_volume_claim]
        if said.kind == "space" and claims:
            evidence.append(self.pod_evidence(_("Its claims: {names}", names=claims)))
        if said.kind == "rights":
            account = f"system:serviceaccount:{self.owner.namespace}:{said.found['name']}"
            words = ("auth", "can-i", said.found["verb"], said.found["resource"], f"--as={account}")
            steps.append(Step(_("See whether it still lacks the right"), self.kubectl(*words)))
        return replace(finding, cause=said.cause, evidence=(*evidence, *finding.evidence), steps=(*steps, *finding.steps))

    def event_evidence(self, *reasons: str, limit: int = 2) -> list[Evidence]:
        """The newest events with one of `reasons`, one a message."""
        found: dict[str, Event] = {}
        for event in self.events(*reasons):
            found.setdefault(event.message, event)
        return [evidence_of(event) for event in list(found.values())[:limit]]

    # --- steps, in the runbook's words ---

    def kubectl(self, *words: object) -> str:
        """A kubectl command in the owner's namespace and the environment's context."""
        return kubectl(self.facts, self.owner.namespace, *words)

    def kubectl_anywhere(self, *words: object) -> str:
        """A kubectl command about the cluster, without a namespace."""
        return kubectl(self.facts, "", *words)

    def describe(self) -> Step:
        """Look at the pod."""
        return Step(_("Look at the pod and its events"), self.kubectl("describe", "pod", self.pod.metadata.name))

    def logs(self, previous: bool = True) -> Step:
        """Read the container's log."""
        words: list[object] = ["logs", self.pod.metadata.name, "-c", self.symptom.container]
        if previous:
            return Step(_("Read what the container wrote before it ended"), self.kubectl(*words, "--previous"))
        return Step(_("Read what the container writes"), self.kubectl(*words))

    def edit(self, text: Text) -> Step:
        """Put right the owner's template."""
        return Step(text, self.kubectl("edit", f"{self.owner.kind.lower()}/{self.owner.name}"), changes=True)

    def restart(self, text: Text | None = None) -> Step:
        """Start the pods again, once the cause is put right."""
        if self.owner.kind in ("Deployment", "StatefulSet", "DaemonSet"):
            return Step(
                text or _("Once the cause is put right, start the pods again"),
                self.kubectl("rollout", "restart", f"{self.owner.kind.lower()}/{self.owner.name}"),
                changes=True,
            )
        if self.owner.kind == "Pod":
            return Step(
                text or _("Once the cause is put right, delete the pod; nothing brings it back, so keep its manifest"),
                self.kubectl("delete", "pod", self.pod.metadata.name),
                changes=True,
            )
        return self.delete(text)

    def delete(self, text: Text | None = None) -> Step:
        """Delete the pod; its owner makes a new one."""
        return Step(
            text or _("Once the cause is put right, delete the pod; its owner makes a new one"),
            self.kubectl("delete", "pod", self.pod.metadata.name),
            changes=True,
        )


Rule = Callable[[Case], Finding | None]


def cases(facts: Facts) -> list[Case]:
    """Every unhealthy pod under its owner and symptom, and nothing twice: a pod with two troubled containers stands in two cases.

    Left out are pods without a symptom (well, completed, freshly started) and those of Jobs that succeeded after all.
    """
    groups: dict[tuple[Subject, Symptom], list[Pod]] = {}
    for pod in facts.pods or ():
        owner = owner_of(pod, facts)
        if _job_succeeded(pod, facts):
            continue
        for symptom in symptoms(pod, facts.now, _grace(pod, facts), facts.onset_window):
            groups.setdefault((owner, symptom), []).append(pod)
    result = []
    for (owner, symptom), pods in sorted(groups.items(), key=lambda item: (str(item[0][0]), item[0][1])):
        pods.sort(key=lambda pod: pod.metadata.name)
        result.append(Case(facts=facts, owner=owner, symptom=symptom, pod=representatives(pods, facts)[0], pods=tuple(pods)))
    return result


def _grace(pod: Pod, facts: Facts) -> timedelta:
    """How long a pod may be in between: not at all where its kubelet is silent, for which the node controller has waited already."""
    node = facts.node(pod.spec.node_name)
    ready = condition(node, "Ready") if node is not None else None
    return timedelta(0) if ready is not None and ready.status == "Unknown" else facts.grace


def representatives(pods: Sequence[Pod], facts: Facts | None = None) -> list[Pod]:
    """The pods of a case that are worth a closer look: those already looked at, else the first, the oldest and the newest."""
    looked_at = [pod for pod in pods if facts is not None and facts.events_of(pod.metadata.uid)]
    if looked_at:
        return looked_at
    by_age = sorted(pods, key=lambda pod: (pod.metadata.creation_timestamp is None, pod.metadata.creation_timestamp, pod.metadata.name))
    chosen: dict[str, Pod] = {pod.metadata.name: pod for pod in (by_age[-1], by_age[0], by_age[len(by_age) // 2])}
    return list(chosen.values())[:REPRESENTATIVES]


def _job_succeeded(pod: Pod, facts: Facts) -> bool:
    """Whether the pod is a failed try of a Job that has a success."""
    for owner in pod.metadata.owner_references:
        if owner.kind == "Job" and pod.status.phase == "Failed":
            job = facts.workload("Job", pod.metadata.namespace, owner.name)
            if job and any(item.type in ("Complete", "SuccessCriteriaMet") and item.status == "True" for item in job.status.conditions):
                return True
    return False


def onset(pod: Pod, facts: Facts) -> datetime | None:
    """When a pod's trouble began: its first warning, or when it stopped being ready; its creation where it never was."""
    times = [
        event.first_timestamp or event.event_time or event.seen for event in facts.events_of(pod.metadata.uid) if event.type == "Warning"
    ]
    known = [time for time in times if time]
    ready = condition(pod, "Ready")
    if ready and ready.status != "True" and ready.last_transition_time:
        known.append(ready.last_transition_time)
    if not known:
        ends = [status.last_state.terminated.finished_at for status in pod.status.container_statuses if status.last_state.terminated]
        known = [time for time in ends if time]
    if not known and pod.metadata.creation_timestamp:
        known = [pod.metadata.creation_timestamp]
    return min(known, default=None)


def titled(subject: Subject, what: Text) -> Message:
    """A title that names its subject: titles also stand alone, in lists."""
    return _("{name}: {what}", name=subject.name, what=what)


def evidence_of(event: Event) -> Evidence:
    """An event as evidence."""
    about = event.involved_object
    text: Message
    if event.times > 1:
        text = _(
            "Event {reason} about {kind} {name}, {times} times", reason=event.reason, kind=about.kind, name=about.name, times=event.times
        )
    else:
        text = _("Event {reason} about {kind} {name}", reason=event.reason, kind=about.kind, name=about.name)
    return Evidence(text=text, quote=event.message, reference=f"/api/v1/namespaces/{about.namespace}/events", time=event.seen)


def kubectl(facts: Facts, namespace: str, *words: object) -> str:
    """A kubectl command in a namespace (empty: none is named) and the environment's context."""
    place = ["-n", namespace] if namespace else []
    return command("kubectl", *words, *place, *facts.kubectl)


def age(duration: timedelta) -> str:
    """A duration as kubectl shortens it."""
    from opslib.sources.status import human_duration

    return human_duration(duration)


_SIGNALS = {
    **{1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 5: "SIGTRAP", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL"},
    **{10: "SIGUSR1", 11: "SIGSEGV", 12: "SIGUSR2", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM", 25: "SIGXFSZ", 31: "SIGSYS"},
}


def signal_of(ended: StateTerminated) -> int:
    """The signal that ended a container; 0 where none did. Runtimes write it as exit code 128 + signal."""
    if ended.signal:
        return ended.signal
    number = ended.exit_code - 128
    return number if number in _SIGNALS else 0


def signal_name(number: int) -> str:
    """The signal's name on Linux: "SIGSEGV"."""
    return _SIGNALS.get(number, f"signal {number}")


def exit_meaning(ended: StateTerminated) -> Text:
    """What an exit code says, by the conventions of shells and container runtimes."""
    signal = signal_of(ended)
    if ended.reason == "OOMKilled":
        return _("killed for lack of memory")
    if signal:
        return _("ended by {signal}", signal=signal_name(signal))
    known = {
        0: _("ended without an error"),
        1: _("the application reported an error"),
        2: _("wrong use of a command, or an application error"),
        125: _("the container runtime failed"),
        126: _("the command could not be executed"),
        127: _("the command was not found"),
        128: _("the container could not be started"),
        255: _("exit status out of range, or the node was lost"),
    }
    return known.get(ended.exit_code, _("an error that the application defines"))


def _about(event: Event) -> str:
    """Name of the container that an event is about; empty where it is about the pod."""
    match = re.search(r"ontainers\{([^}]*)\}", event.involved_object.field_path)
    return match[1] if match else ""
