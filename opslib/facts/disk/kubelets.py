"""What the kubelets say of themselves, through the API server (``nodes/proxy``): log rotation, image clean-up, the image file system.

The right to do so lets its holder do much more (https://kubernetes.io/docs/concepts/security/rbac-good-practices/#access-to-proxy-subresource-of-nodes),
so it is used where it is there, and not asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opslib.diagnosis.disk.facts import Kubelet
from opslib.errors import SourceError
from opslib.facts import Questions
from opslib.facts.sources import Sources
from opslib.findings import Finding, Severity, Step, Subject
from opslib.messages import Text, _
from opslib.sources.kubernetes import Kubernetes
from opslib.sources.quantities import value_of

MOST = 20  # nodes that are asked: those of one node group are set up alike


def read(sources: Sources, questions: Questions, nodes: Sequence[str]) -> dict[str, Kubelet] | None:
    """Of each node what its kubelet says; None where that may not be asked, or none answers."""
    cluster = sources.kubernetes
    if not nodes:
        return {}
    if not cluster.may("get", "nodes/proxy"):
        questions.gap(_not_asked(_("That needs the right to get nodes/proxy, which these credentials do not have.")))
        return None
    answers = [questions.ask(_("the kubelet's settings"), question(cluster, name)) for name in nodes[:MOST]]
    found: dict[str, Kubelet] = {}
    reason: Text = ""
    for name, answer in zip(nodes, answers, strict=False):
        one = answer.get()
        if isinstance(one, Kubelet):
            found[name] = one
        elif one is not None:
            reason = one.what
    if reason:
        questions.gap(_not_asked(reason))
    return found or None


def question(cluster: Kubernetes, node: str, *, summary: bool = True) -> Callable[[], Kubelet | SourceError]:
    """The question to one kubelet, without its summary where that is not wanted; why it does not answer is an answer, too."""

    def ask() -> Kubelet | SourceError:
        try:
            return kubelet(cluster.of_kubelet(node, "configz"), _summary(cluster, node) if summary else {})
        except SourceError as error:
            return error  # many API servers do not hand such requests on: one word about all of them

    return ask


def _summary(cluster: Kubernetes, node: str) -> Mapping[str, Any]:
    try:
        return cluster.of_kubelet(node, "stats/summary")
    except SourceError:
        return {}  # the settings are worth having without it


def kubelet(config: Mapping[str, Any], summary: Mapping[str, Any]) -> Kubelet:
    """What ``/configz`` and ``/stats/summary`` say, as far as they say it."""
    settings = config.get("kubeletconfig")
    settings = settings if isinstance(settings, dict) else {}
    runtime = (summary.get("node") or {}).get("runtime") or {}
    images = runtime.get("imageFs") or {}
    files, percent = settings.get("containerLogMaxFiles"), settings.get("imageGCHighThresholdPercent")
    return Kubelet(
        log_max_bytes=value_of(settings.get("containerLogMaxSize")),
        log_max_files=files if isinstance(files, int) else None,
        image_gc_high_percent=percent if isinstance(percent, int) else None,
        eviction_hard={str(name): str(value) for name, value in (settings.get("evictionHard") or {}).items()},
        image_size=value_of(images.get("capacityBytes")),
        image_used=value_of(images.get("usedBytes")),
    )


def _not_asked(why: Text) -> Finding:
    return Finding(
        check="gap.kubelets",
        severity=Severity.INFO,
        subject=Subject("System", "kubelet"),
        title=_("Log rotation and image clean-up are not known: the kubelets were not asked, or did not answer"),
        cause=why,
        steps=(Step(_("Look at the settings of the node group, or on a node in the kubelet's configuration file")),),
    )
