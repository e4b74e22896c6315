"""What stops a new pod besides its own faults: the pod security level of its namespace.

The checks are those of k8s.io/pod-security-admission (policy/check_*.go) that the runbook's pods can meet, in its words and order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from opslib.lab.kube.errors import Object, forbidden

_ENFORCE = "pod-security.kubernetes.io/enforce"
_DEFAULT_CAPABILITIES = frozenset(
    [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
)
_RESTRICTED_VOLUMES = frozenset(
    [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
        "name",
    ]
)


def pod_security(pod: Object, labels: Object) -> None:
    """Refuse a pod that breaks its namespace's pod security level, which `labels` say.

    Raises
    ------
    Refused
        It does; all that is wrong is named.
    """
    level = labels.get(_ENFORCE, "privileged")
    if level not in ("baseline", "restricted"):
        return
    spec = pod.get("spec") or {}
    problems = sorted(_baseline(spec) if level == "baseline" else [*_baseline(spec, restricted=True), *_restricted(spec)])
    if problems:
        version = labels.get(f"{_ENFORCE}-version", "latest")
        words = ", ".join(text for _place, text in problems)
        raise forbidden("", "pods", pod["metadata"].get("name", ""), f'violates PodSecurity "{level}:{version}": {words}')


Problem = tuple[int, str]  # place in the order in which the checks are told, and the words


def _baseline(spec: Object, *, restricted: bool = False) -> Iterator[Problem]:
    shared = [f"{name}=true" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    if shared:
        yield 2, f"host namespaces ({', '.join(shared)})"
    paths = [volume.get("name", "") for volume in spec.get("volumes") or [] if "hostPath" in volume]
    if paths and not restricted:
        yield 3, f"hostPath volumes (volume{_s(paths)} {_quoted(paths)})"
    ports = {one["name"]: [str(port["hostPort"]) for port in one.get("ports") or [] if port.get("hostPort")] for one in _containers(spec)}
    ports = {name: numbers for name, numbers in ports.items() if numbers}
    if ports:
        numbers = [number for found in ports.values() for number in found]
        yield 4, f"hostPort ({_who(ports)} use{'' if len(ports) > 1 else 's'} hostPort{_s(numbers)} {', '.join(numbers)})"
    privileged = _of(spec, lambda context: context.get("privileged") is True)
    if privileged:
        yield 5, f"privileged ({_who(privileged)} must not set securityContext.privileged=true)"
    added = {one["name"]: _added(one) - _DEFAULT_CAPABILITIES for one in _containers(spec)}
    added = {name: extra for name, extra in added.items() if extra}
    if added and not restricted:  # the restricted level has a check of its own
        names = sorted(set().union(*added.values()))
        yield 6, f"non-default capabilities ({_who(added)} must not include {_quoted(names)} in securityContext.capabilities.add)"


def _restricted(spec: Object) -> Iterator[Problem]:
    pod = spec.get("securityContext") or {}
    escalating = _of(spec, lambda context: context.get("allowPrivilegeEscalation") is not False)
    if escalating:
        yield 0, f"allowPrivilegeEscalation != false ({_who(escalating)} must set securityContext.allowPrivilegeEscalation=false)"
    keeping = _of(spec, lambda context: "ALL" not in ((context.get("capabilities") or {}).get("drop") or []))
    adding = {one["name"]: _added(one) - {"NET_BIND_SERVICE"} for one in _containers(spec)}
    adding = {name: extra for name, extra in adding.items() if extra}
    words = [f'{_who(keeping)} must set securityContext.capabilities.drop=["ALL"]'] if keeping else []
    if adding:
        extra = sorted(set().union(*adding.values()))
        words.append(f"{_who(adding)} must not include {_quoted(extra)} in securityContext.capabilities.add")
    if words:
        yield 7, f"unrestricted capabilities ({'; '.join(words)})"
    volumes = [one.get("name", "") for one in spec.get("volumes") or [] if not one.keys() <= _RESTRICTED_VOLUMES]
    if volumes:
        kinds = sorted({kind for one in spec["volumes"] for kind in one if kind not in _RESTRICTED_VOLUMES})
        yield 8, f"restricted volume types (volume{_s(volumes)} {_quoted(volumes)} use{'' if len(volumes) > 1 else 's'} {_quoted(kinds)})"
    if pod.get("runAsNonRoot") is False:
        yield 9, "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)"
    else:
        root = _of(spec, lambda context: context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True)
        if root:
            yield 9, f"runAsNonRoot != true (pod or {_who(root)} must set securityContext.runAsNonRoot=true)"
    zero = _of(spec, lambda context: context.get("runAsUser") == 0)
    if pod.get("runAsUser") == 0 or zero:
        who = [*(["pod"] if pod.get("runAsUser") == 0 else []), *([_who(zero)] if zero else [])]
        yield 10, f"runAsUser=0 ({' and '.join(who)} must not set runAsUser=0)"
    allowed = ("RuntimeDefault", "Localhost")
    own = (pod.get("seccompProfile") or {}).get("type")
    profile = _of(spec, lambda context: ((context.get("seccompProfile") or {}).get("type") or own) not in allowed)
    if profile:
        yield 11, f'seccompProfile (pod or {_who(profile)} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")'


def _containers(spec: Object) -> list[Object]:
    return [*(spec.get("initContainers") or []), *(spec.get("containers") or []), *(spec.get("ephemeralContainers") or [])]


def _of(spec: Object, is_wrong: Callable[[Object], bool]) -> list[str]:
    """Names of the containers whose security context is wrong."""
    return [one["name"] for one in _containers(spec) if is_wrong(one.get("securityContext") or {})]


def _added(container: Object) -> set[str]:
    return set((((container.get("securityContext") or {}).get("capabilities")) or {}).get("add") or [])


def _who(names: Iterable[str]) -> str:
    listed = [*names]
    return f"container{_s(listed)} {_quoted(listed)}"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _s(names: list[str]) -> str:
    return "s" if len(names) > 1 else ""
