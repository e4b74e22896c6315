"""HorizontalPodAutoscalers: as many replicas as the metrics call for (pkg/controller/podautoscaler).

Resource metrics (of pods and of single containers) are computed. Of the others it is said that their API is not there, as in a cluster
without an adapter.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers.clock import parse as moment_of
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.objects import condition_of, is_deleted, itself, labels_of, name_of, namespace_of, quoted, split, uid_of
from opslib.lab.controllers.runner import Controller
from opslib.lab.kube.quantities import parse, write
from opslib.lab.kube.selectors import parse_labels

SOURCE = "horizontal-pod-autoscaler"
_PERIOD = 15.0
_TOLERANCE = 0.1
_STABLE_SECONDS = 300.0
_CPU_START_SECONDS, _READY_DELAY_SECONDS = 300.0, 30.0

_DEFAULT_UP = {
    "stabilizationWindowSeconds": 0,
    "selectPolicy": "Max",
    "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}],
}
_DEFAULT_DOWN = {
    "stabilizationWindowSeconds": None,
    "selectPolicy": "Max",
    "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
}


class _NoMetric(Exception):
    """A metric could not be had; its reason is that of the condition."""

    def __init__(self, reason: str, message: str, condition: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.condition = condition or message


@dataclass(slots=True)
class _Memory:
    """What an autoscaler remembers of one object."""

    uid: str = ""
    ran: datetime | None = None
    recommended: list[tuple[datetime, int]] = field(default_factory=list)
    scaled: list[tuple[datetime, int]] = field(default_factory=list)  # changes: above 0 up, below 0 down


class Autoscaler:
    """All autoscalers; what they recommended lately is kept here only, as in the real one."""

    def __init__(self) -> None:
        self._memory: dict[str, _Memory] = {}

    def controller(self) -> Controller:
        """As the runner wants it."""
        return Controller(
            name="horizontalpodautoscaler",
            reconcile=self._reconcile,
            watches={"horizontalpodautoscalers.autoscaling": itself, "pods": lambda cluster, pod: ()},
        )

    def _reconcile(self, cluster: Cluster, key: str) -> float | None:
        found = cluster["horizontalpodautoscalers.autoscaling"].get(*split(key))
        if found is None:
            self._memory.pop(key, None)
            return None
        memory = self._memory.setdefault(key, _Memory())
        if memory.uid != uid_of(found):  # seen for the first time: the metrics may need a moment
            memory = self._memory[key] = _Memory(uid=uid_of(found), ran=cluster.now())
        left = _PERIOD - (cluster.now() - memory.ran).total_seconds() if memory.ran is not None else 0.0
        if left > 0:
            return left
        memory.ran = cluster.now()
        _Round(cluster, found, memory).run()
        return _PERIOD


class _Round:
    """One round for one autoscaler."""

    def __init__(self, cluster: Cluster, hpa: Object, memory: _Memory) -> None:
        self.cluster = cluster
        self.hpa = hpa
        self.spec: Object = hpa["spec"]
        self.memory = memory
        self.status: Object = copy.deepcopy(hpa.get("status", {}))
        self.metrics: list[Object] | None = None

    def event(self, kind: str, reason: str, message: str) -> None:
        self.cluster.event(SOURCE, self.hpa, "Normal" if kind == "Normal" else "Warning", reason, message)

    def run(self) -> None:
        target = self.spec["scaleTargetRef"]
        stub = {"apiVersion": target.get("apiVersion", "v1"), "kind": target["kind"]}
        stub["metadata"] = {"name": target["name"], "namespace": namespace_of(self.hpa)}
        try:
            path = f"{self.cluster.path(stub)}/scale"
            scale = self.cluster.api.get(path)
        except ApiError as error:
            message = error.server_message
            if message.startswith("no kind "):
                message = f"no matches for kind {quoted(target['kind'])} in group {quoted(stub['apiVersion'].partition('/')[0])}"
            self.event("Warning", "FailedGetScale", message)
            self._set(
                "AbleToScale", "False", "FailedGetScale", f"the HPA controller was unable to get the target's current scale: {message}"
            )
            self._write()
            return
        self._set("AbleToScale", "True", "SucceededGetScale", "the HPA controller was able to get the target's current scale")
        current = int(scale["spec"].get("replicas", 0))
        least, most = int(self.spec.get("minReplicas", 1)), int(self.spec["maxReplicas"])
        if not self.memory.recommended:
            self.memory.recommended.append((self.cluster.now(), current))
        wanted, reason, rescale = 0, "", True
        if current == 0 and least != 0:
            rescale = False
            message = "scaling is disabled since the replica count of the target is zero"
            self._set("ScalingActive", "False", "ScalingDisabled", message)
        elif current > most:
            wanted, reason = most, "Current number of replicas above Spec.MaxReplicas"
        elif current < least:
            wanted, reason = least, "Current number of replicas below Spec.MinReplicas"
        else:
            try:
                proposed, metric = self._propose(scale, current)
            except _NoMetric as error:
                self._set_current(current, self.status.get("desiredReplicas", 0))
                self._write()
                self.event("Warning", "FailedComputeMetricsReplicas", error.message)
                return
            wanted = max(0, proposed)
            if wanted > current:
                reason = f"{metric} above target"
            elif wanted < current:
                reason = "All metrics below target"
            wanted = self._normalize(current, wanted, least, most)
            rescale = wanted != current
        if rescale:
            if not self._scale(path, scale, current, wanted, reason):
                return
        else:
            wanted = current
        self._set_current(current, wanted)
        if rescale:
            self.status["lastScaleTime"] = self.cluster.stamp()
        self._write()

    def _scale(self, path: str, scale: Object, current: int, wanted: int, reason: str) -> bool:
        try:
            self.cluster.api.request("PUT", path, {**scale, "spec": {**scale["spec"], "replicas": wanted}})
        except ApiError as error:
            if error.status == 409:
                raise
            self.event("Warning", "FailedRescale", f"New size: {wanted}; reason: {reason}; error: {error.server_message}")
            message = f"the HPA controller was unable to update the target scale: {error.server_message}"
            self._set("AbleToScale", "False", "FailedUpdateScale", message)
            self._set_current(current, self.status.get("desiredReplicas", 0))
            self._write()
            return False
        self._set("AbleToScale", "True", "SucceededRescale", f"the HPA controller was able to update the target scale to {wanted}")
        self.event("Normal", "SuccessfulRescale", f"New size: {wanted}; reason: {reason}")
        self.memory.scaled.append((self.cluster.now(), wanted - current))
        return True

    # --- metrics ---

    def _propose(self, scale: Object, current: int) -> tuple[int, str]:
        """The highest count that one of the metrics calls for, and that metric."""
        text = scale.get("status", {}).get("selector", "")
        if not text:
            self.event("Warning", "SelectorRequired", "selector is required")
            self._set("ScalingActive", "False", "InvalidSelector", "the HPA target's scale is missing a selector")
            raise _NoMetric("InvalidSelector", "selector is required")
        matches = parse_labels(text)
        pods = [pod for pod in self.cluster["pods"].list(namespace_of(self.hpa)) if matches(labels_of(pod))]
        best, metric = -1, ""
        failures: list[_NoMetric] = []
        specs = self.spec.get("metrics") or []
        self.metrics = []
        for one in specs:
            try:
                count, name, status = self._one(one, pods, current, text)
            except _NoMetric as error:
                failures.append(error)
                self.metrics.append({"type": ""})  # as the real one leaves it
                continue
            self.metrics.append(status)
            if count > best:
                best, metric = count, name
        if failures:
            first = failures[0]
            message = f"invalid metrics ({len(failures)} invalid out of {len(specs)}), first error is: {first.message}"
            if len(failures) == len(specs) or best < current:
                self._set("ScalingActive", "False", first.reason, f"the HPA was unable to compute the replica count: {first.condition}")
                raise _NoMetric(first.reason, message)
        message = f"the HPA was able to successfully calculate a replica count from {metric}"
        self._set("ScalingActive", "True", "ValidMetricFound", message)
        return best, metric

    def _one(self, spec: Object, pods: list[Object], current: int, selector: str) -> tuple[int, str, Object]:
        kind = spec["type"]
        if kind in ("Resource", "ContainerResource"):
            return self._resource(spec, pods, current, selector)
        reasons = {"Pods": "FailedGetPodsMetric", "Object": "FailedGetObjectMetric", "External": "FailedGetExternalMetric"}
        source = spec[kind[0].lower() + kind[1:]]
        name = source["metric"]["name"]
        api = "external" if kind == "External" else "custom"
        error = f"unable to fetch metrics from {api} metrics API: the server could not find the requested resource"
        condition = f"unable to get metric {name}: {error}"
        self.event("Warning", reasons[kind], condition)
        what = {"Pods": "pods metric", "Object": "object metric"}.get(kind, f"{name} external metric")
        raise _NoMetric(reasons[kind], f"failed to get {what} value: {condition}", condition)

    def _resource(self, spec: Object, pods: list[Object], current: int, selector: str) -> tuple[int, str, Object]:
        by_container = spec["type"] == "ContainerResource"
        source = spec["containerResource" if by_container else "resource"]
        name, target, container = source["name"], source["target"], source.get("container", "")
        reason = "FailedGetContainerResourceMetric" if by_container else "FailedGetResourceMetric"
        what = f"{container} container" if by_container else f"{name} resource"
        word = "utilization" if target.get("averageUtilization") is not None else "usage"
        try:
            usage = self._usage(name, container, selector)
            if word == "utilization":
                count, value, percent = self._by_utilization(pods, usage, name, container, target["averageUtilization"], current)
            else:
                count, value = self._by_value(pods, usage, name, _milli(target["averageValue"]), current)
                percent = None
        except ValueError as error:
            message = f"failed to get {name} {word}: {error}"
            self.event("Warning", reason, message)
            raise _NoMetric(reason, f"failed to get {what} metric value: {message}", message) from None
        found: Object = {"averageValue": write(Decimal(value) / 1000, "binary" if name == "memory" else "decimal")}
        if percent is not None:
            found["averageUtilization"] = percent
        status = {"name": name, "current": found} | ({"container": container} if by_container else {})
        kind = "container resource" if by_container else "resource"
        text = f"{name} {kind} utilization (percentage of request)" if percent is not None else f"{name} resource"
        return count, text, {"type": spec["type"], "containerResource" if by_container else "resource": status}

    def _usage(self, name: str, container: str, selector: str) -> dict[str, tuple[int, datetime, float]]:
        """Usage by pod, in thousandths, with time and window."""
        path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{namespace_of(self.hpa)}/pods"
        try:
            answer = self.cluster.api.request("GET", path, query={"labelSelector": selector})
        except ApiError as error:
            message = (
                "the server could not find the requested resource (get pods.metrics.k8s.io)"
                if error.status == 404
                else error.server_message
            )
            raise ValueError(
                f"unable to get metrics for resource {name}: unable to fetch metrics from resource metrics API: {message}"
            ) from None
        found: dict[str, tuple[int, datetime, float]] = {}
        for one in answer.get("items") or ():
            chosen = [each for each in one["containers"] if not container or each["name"] == container]
            if chosen and all(name in each["usage"] for each in chosen):
                total = sum(_milli(each["usage"][name]) for each in chosen)
                found[name_of(one)] = (total, moment_of(one["timestamp"]), _duration(one.get("window", "0s")))
        if not (answer.get("items") or ()):
            raise ValueError(f"unable to get metrics for resource {name}: no metrics returned from resource metrics API")
        return found

    def _grouped(self, pods: list[Object], usage: dict[str, tuple[int, datetime, float]], name: str) -> tuple[int, set[str], set[str]]:
        """Ready pods, and the names of those that are not and of those without a value; what must not count is taken out of `usage`."""
        ready, unready, missing = 0, set(), set()
        for pod in pods:
            status, key = pod.get("status", {}), name_of(pod)
            if is_deleted(pod) or status.get("phase") == "Failed":
                usage.pop(key, None)
            elif status.get("phase") == "Pending":
                unready.add(key)
            elif key not in usage:
                missing.add(key)
            elif name == "cpu" and self._is_starting(pod, usage[key]):
                unready.add(key)
            else:
                ready += 1
        for key in unready:
            usage.pop(key, None)
        return ready, unready, missing

    def _is_starting(self, pod: Object, value: tuple[int, datetime, float]) -> bool:
        condition, started = condition_of(pod, "Ready"), pod["status"].get("startTime")
        if not condition or not started:
            return True
        since = moment_of(condition["lastTransitionTime"])
        if self.cluster.since(started) < _CPU_START_SECONDS:
            return condition["status"] == "False" or value[1] < since + timedelta(seconds=value[2])
        return condition["status"] == "False" and moment_of(started) + timedelta(seconds=_READY_DELAY_SECONDS) > since

    def _by_utilization(
        self, pods: list[Object], usage: dict[str, tuple[int, datetime, float]], name: str, container: str, target: int, current: int
    ) -> tuple[int, int, int]:
        if not pods:
            raise ValueError("no pods returned by selector while calculating replica count")
        ready, unready, missing = self._grouped(pods, usage, name)
        values = {key: value[0] for key, value in usage.items()}
        if not values:
            raise ValueError("did not receive metrics for targeted pods (pods might be unready)")
        requests = {name_of(pod): _request(pod, name, container) for pod in pods}

        def ratio_of(found: dict[str, int]) -> tuple[float, int, int]:
            known = [key for key in found if key in requests]
            wanted = sum(requests[key] for key in known)
            if not wanted:
                raise ValueError("no metrics returned matched known pods")
            total = sum(found[key] for key in known)
            percent = total * 100 // wanted
            return percent / target, percent, total // len(known)

        ratio, percent, value = ratio_of(values)
        fallback = {key: request * max(100, target) // 100 for key, request in requests.items()}
        return self._count(values, ratio_of, (ratio, ready, unready, missing), fallback, current), value, percent

    def _by_value(
        self, pods: list[Object], usage: dict[str, tuple[int, datetime, float]], name: str, target: int, current: int
    ) -> tuple[int, int]:
        if not pods:
            raise ValueError("no pods returned by selector while calculating replica count")
        ready, unready, missing = self._grouped(pods, usage, name)
        values = {key: value[0] for key, value in usage.items()}
        if not values:
            raise ValueError("did not receive metrics for targeted pods (pods might be unready)")

        def ratio_of(found: dict[str, int]) -> tuple[float, int, int]:
            mean = sum(found.values()) // len(found)
            return mean / target, mean, mean

        ratio, value, _mean = ratio_of(values)
        fallback = dict.fromkeys(missing, target)
        return self._count(values, ratio_of, (ratio, ready, unready, missing), fallback, current), value

    def _count(
        self,
        values: dict[str, int],
        ratio_of: Callable[[dict[str, int]], tuple[float, int, int]],
        found: tuple[float, int, set[str], set[str]],
        fallback: dict[str, int],
        current: int,
    ) -> int:
        """How many replicas a ratio calls for; pods without a value are taken so that they slow the change down."""
        ratio, ready, unready, missing = found
        up_with_unready = bool(unready) and ratio > 1
        if not up_with_unready and not missing:
            return current if self._is_near(ratio) else math.ceil(ratio * ready)
        values = dict(values)
        if missing and ratio < 1:
            values |= {key: fallback.get(key, 0) for key in missing}
        elif missing and ratio > 1:
            values |= dict.fromkeys(missing, 0)
        if up_with_unready:
            values |= dict.fromkeys(unready, 0)
        new, _percent, _value = ratio_of(values)
        if self._is_near(new) or (ratio < 1 < new) or (new < 1 < ratio):
            return current
        count = math.ceil(new * len(values))
        return current if (new < 1 and count > current) or (new > 1 and count < current) else count

    def _is_near(self, ratio: float) -> bool:
        behavior = self.spec.get("behavior") or {}
        up = (behavior.get("scaleUp") or {}).get("tolerance")
        down = (behavior.get("scaleDown") or {}).get("tolerance")
        return 1 - float(parse(str(down)) if down else _TOLERANCE) <= ratio <= 1 + float(parse(str(up)) if up else _TOLERANCE)

    # --- bounds ---

    def _normalize(self, current: int, wanted: int, least: int, most: int) -> int:
        behavior = self.spec.get("behavior")
        up = _DEFAULT_UP | ((behavior or {}).get("scaleUp") or {})
        down = _DEFAULT_DOWN | ((behavior or {}).get("scaleDown") or {})
        seconds = down["stabilizationWindowSeconds"]
        stable, reason, message = self._stabilize(
            current,
            wanted,
            up["stabilizationWindowSeconds"] or 0,
            _STABLE_SECONDS if seconds is None else seconds,
            behaves=behavior is not None,
        )
        if stable != wanted:
            self._set("AbleToScale", "True", reason, message)
        else:
            self._set("AbleToScale", "True", "ReadyForNewScale", "recommended size matches current size")
        limited, reason, message = self._limit(current, stable, least, most, up, down, behaves=behavior is not None)
        self._set("ScalingLimited", str(limited != stable), reason, message)
        return limited

    def _stabilize(self, current: int, wanted: int, up_seconds: float, down_seconds: float, *, behaves: bool) -> tuple[int, str, str]:
        now = self.cluster.now()
        recent = self.memory.recommended
        in_down = [count for moment, count in recent if (now - moment).total_seconds() < down_seconds]
        in_up = [count for moment, count in recent if (now - moment).total_seconds() < up_seconds]
        longest = max(up_seconds, down_seconds)
        self.memory.recommended = [one for one in recent if (now - one[0]).total_seconds() < longest] + [(now, wanted)]
        lower, higher = min([wanted, *in_up]), max([wanted, *in_down])
        if not behaves:
            message = "recent recommendations were higher than current one, applying the highest recent recommendation"
            return max([wanted, *in_down]), "ScaleDownStabilized", message
        stable = min(max(current, lower), higher)
        way, kept = ("higher", "highest") if wanted < current else ("lower", "lowest")
        reason = "ScaleDownStabilized" if wanted < current else "ScaleUpStabilized"
        return stable, reason, f"recent recommendations were {way} than current one, applying the {kept} recent recommendation"

    def _limit(self, current: int, wanted: int, least: int, most: int, up: Object, down: Object, *, behaves: bool) -> tuple[int, str, str]:
        fine = (wanted, "DesiredWithinRange", "the desired count is within the acceptable range")
        fast = "the desired replica count is {} faster than the maximum scale rate"
        if not behaves:
            rate = max(2 * current, 4)
            if wanted < least:
                return least, "TooFewReplicas", "the desired replica count is less than the minimum replica count"
            if wanted > min(most, rate):
                return (rate, "ScaleUpLimit", fast.format("increasing")) if most > rate else (most, "TooManyReplicas", _TOO_MANY)
            return fine
        if wanted > current:
            rate = max(current, self._rate(current, up, 1))
            if wanted > min(most, rate):
                return (rate, "ScaleUpLimit", fast.format("increasing")) if most > rate else (most, "TooManyReplicas", _TOO_MANY)
        elif wanted < current:
            rate = min(current, self._rate(current, down, -1))
            if wanted < max(least, rate):
                too_few = "the desired replica count is less than the minimum replica count"
                return (rate, "ScaleDownLimit", fast.format("decreasing")) if least < rate else (least, "TooFewReplicas", too_few)
        return fine

    def _rate(self, current: int, rules: Object, sign: int) -> int:
        if rules["selectPolicy"] == "Disabled":
            return current
        proposals: list[int] = []
        for policy in rules["policies"]:
            now = self.cluster.now()
            start: int = current - sum(
                change for moment, change in self.memory.scaled if (now - moment).total_seconds() < policy["periodSeconds"]
            )
            if policy["type"] == "Pods":
                proposals.append(start + sign * policy["value"])
            else:
                exact = start * (1 + sign * policy["value"] / 100)
                proposals.append(math.ceil(exact) if sign > 0 else int(exact))
        return max(proposals) if (rules["selectPolicy"] == "Max") == (sign > 0) else min(proposals)

    # --- status ---

    def _set(self, kind: str, status: str, reason: str, message: str) -> None:
        conditions = self.status.get("conditions") or []
        before = next((one for one in conditions if one["type"] == kind), None)
        since = before["lastTransitionTime"] if before is not None and before["status"] == status else self.cluster.stamp()
        made = {"type": kind, "status": status, "lastTransitionTime": since, "reason": reason, "message": message}
        if before is None:
            self.status["conditions"] = [*conditions, made]
        else:
            self.status["conditions"] = [made if one["type"] == kind else one for one in conditions]

    def _set_current(self, current: int, wanted: int) -> None:
        self.status |= {"currentReplicas": current, "desiredReplicas": wanted}
        if self.metrics is not None:
            self.status["currentMetrics"] = self.metrics

    def _write(self) -> None:
        status = {"currentMetrics": None, "desiredReplicas": 0} | self.status
        if not status.get("currentReplicas"):
            status.pop("currentReplicas", None)
        self.cluster.write_status(self.hpa, status)


_TOO_MANY = "the desired replica count is more than the maximum replica count"


def _milli(text: object) -> int:
    return math.ceil(parse(str(text)) * 1000)


def _duration(text: str) -> float:
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    import re

    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h)", text))


def _request(pod: Object, name: str, container: str) -> int:
    total = 0
    spec = pod["spec"]
    sidecars = [one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"]
    for one in [*spec["containers"], *sidecars]:
        if container and one["name"] != container:
            continue
        request = (one.get("resources", {}).get("requests") or {}).get(name)
        if request is None:
            raise ValueError(f"missing request for {name} in container {one['name']} of Pod {name_of(pod)}")
        total += _milli(request)
    return total
