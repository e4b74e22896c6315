"""Pods without a network, and names that are not resolved."""

from __future__ import annotations

import re

from opslib.diagnosis.pods.cases import Case, Rule
from opslib.findings import Evidence, Finding, Step
from opslib.messages import Text, _

_NAME = r"[\"'`]?(?P<name>[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,250}[A-Za-z0-9_])?)[\"'`]?"
_WORDS = "Temporary failure in name resolution|Name or service not known|Name does not resolve"
# What resolvers and language runtimes write when a name is not found; each may carry the name.
_DNS = (
    re.compile(rf"lookup {_NAME}(?: on \S+)?: (?:no such host|server misbehaving|.*(?:timeout|temporary failure))", re.IGNORECASE),
    re.compile(rf"getaddrinfo (?:ENOTFOUND|EAI_AGAIN) {_NAME}"),
    re.compile(rf"UnknownHostException: {_NAME}"),
    re.compile(rf"could not translate host name {_NAME} to address", re.IGNORECASE),
    re.compile(rf"host not found in upstream {_NAME}", re.IGNORECASE),
    re.compile(rf"could not resolve host:? {_NAME}", re.IGNORECASE),
    re.compile(rf"bad address {_NAME}", re.IGNORECASE),
    re.compile(rf"unable to resolve host(?: address)? {_NAME}", re.IGNORECASE),
    re.compile(rf"Failed to resolve {_NAME}", re.IGNORECASE),
    re.compile(rf"Unknown MySQL server host {_NAME}", re.IGNORECASE),
    re.compile(rf"(?P<name>[A-Za-z0-9_.-]{{1,250}}): (?:{_WORDS})", re.IGNORECASE),
    re.compile(rf"{_WORDS}|nodename nor servname provided|NXDOMAIN|no such host|EAI_AGAIN", re.IGNORECASE),
)  # fmt: skip
_NO_ANSWER = re.compile(r"i/o timeout|temporary failure|EAI_AGAIN|server misbehaving|timed out", re.IGNORECASE)


def sandbox(case: Case) -> Finding | None:
    """The pod's network cannot be made."""
    if case.symptom.kind not in ("creating", "not_ready", "exited", "init"):
        return None
    said = case.event_evidence("FailedCreatePodSandBox", "NetworkNotReady", "FailedPodSandBoxStatus", limit=2)
    if not said or case.symptom.kind != "creating":
        return None
    text = " ".join(item.quote for item in said).lower()
    cause: Text | None = None
    if re.search(
        r"failed to assign an ip|no (?:more )?(?:free |available )?ip|not enough.*address|no addresses available"
        r"|insufficientfreeaddresses|range is full",
        text,
    ):
        cause = _("There is no free address for the pod: the subnet, or the node's share of it, is used up.")
    elif re.search(
        r"cni plugin not initialized|cni config uninitialized|no networks found|networkpluginnotready|network plugin is not ready", text
    ):
        cause = _("The network plugin on the node is not ready: look at its DaemonSet (aws-node on EKS).")
    elif re.search(r"cni|network", text):
        cause = _("The network plugin on the node could not connect the pod.")
    elif "runtime" in text or "runc" in text:
        cause = _("The container runtime on the node could not make the pod's sandbox.")
    return case.finding(
        "network.sandbox",
        _("The network of the pods cannot be set up on node {node}", node=case.pod.spec.node_name or "?"),
        cause=cause,
        evidence=said,
        steps=(
            case.describe(),
            Step(_("Look at the network plugin's pod on that node"), _on_node(case)),
        ),
    )


def dns(case: Case) -> Finding | None:
    """The application fails, and says that it cannot resolve a name."""
    if case.symptom.kind not in ("exited", "not_ready", "failed", "init"):
        return None
    found = find_dns_failure(case.log.of_failure) or find_dns_failure(case.said(r"no such host|name resolution|lookup "))
    if found is None:
        return None
    line, name = found
    container = case.symptom.container
    if not name:
        title = _("Container {container} cannot resolve names", container=container)
    elif case.is_init:
        title = _("Init container {container} cannot resolve the name {name}, and the pods do not start", container=container, name=name)
    else:
        title = _("Container {container} cannot resolve the name {name}", container=container, name=name)
    return case.finding(
        "network.dns",
        title,
        cause=_why(case, line, name),
        evidence=[case.pod_evidence(_("The line of the log"), line), *case.end_evidence(), *_service(case, name)],
        steps=(
            Step(_("See whether the Service exists"), case.kubectl_anywhere("get", "services", "-A")),
            Step(_("See whether the cluster's DNS runs"), _dns_pods(case)),
            case.logs(previous=bool(case.log.previous)),
        ),
    )


RULES: tuple[Rule, ...] = (sandbox,)
LOG_RULES: tuple[Rule, ...] = (dns,)


def find_dns_failure(log: str) -> tuple[str, str] | None:
    """The last line that says that a name was not resolved, and the name ("" where it does not tell)."""
    for line in reversed(log.splitlines()):
        line = line[:2000]
        for pattern in _DNS:
            match = pattern.search(line)
            if match:
                return line, match.groupdict().get("name") or ""
    return None


def _why(case: Case, line: str, name: str) -> Text:
    known = _known(case, name)
    if known is False:
        return _("There is no Service of that name in the cluster: a wrong name or namespace, or one that was deleted.")
    if _NO_ANSWER.search(line):
        return _("The cluster's DNS did not answer in time: look at CoreDNS, and at network policies that forbid port 53.")
    return _("The name is not known to the cluster's DNS, or the DNS cannot be reached.")


def _known(case: Case, name: str) -> bool | None:
    """Whether a name is a Service of the cluster; None for names outside, and where Services could not be read."""
    if not name or case.facts.services is None:
        return None
    parts = name.rstrip(".").split(".")
    if len(parts) > 2 and parts[2] != "svc":
        return None
    namespace = parts[1] if len(parts) > 1 else case.owner.namespace
    if case.facts.namespace and case.facts.namespace != namespace:
        return None
    if len(parts) == 2 and not any(service.metadata.namespace == namespace for service in case.facts.services):
        return None  # such as example.com
    return any(service.metadata.name == parts[0] and service.metadata.namespace == namespace for service in case.facts.services)


def _service(case: Case, name: str) -> list[Evidence]:
    if _known(case, name) is not False:
        return []
    return [Evidence(text=_("No Service is called {name}", name=name), reference="/api/v1/services", time=case.facts.now)]


def _on_node(case: Case) -> str:
    from opslib.diagnosis.pods.cases import kubectl

    return kubectl(case.facts, "kube-system", "get", "pods", "-o", "wide", "--field-selector", f"spec.nodeName={case.pod.spec.node_name}")


def _dns_pods(case: Case) -> str:
    from opslib.diagnosis.pods.cases import kubectl

    return kubectl(case.facts, "kube-system", "get", "pods", "-l", "k8s-app=kube-dns", "-o", "wide")
