"""Jobs: pods that are to end well so many times (pkg/controller/job).

A pod that ended is counted once: its uid goes into the status, its finalizer is taken off, then the count goes up. So a count is right
however often this is interrupted.
"""

from __future__ import annotations

import copy
from datetime import datetime, timedelta

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.objects import (
    annotations_of,
    batched,
    claim,
    create_pod,
    created,
    delete_pod,
    is_active,
    is_deleted,
    is_ready,
    itself,
    name_of,
    namespace_of,
    owner_of_kind,
    pod_from,
    split,
    uid_of,
)
from opslib.lab.controllers.runner import Controller

SOURCE = "job-controller"
FINALIZER = "batch.kubernetes.io/job-tracking"
_INDEX = "batch.kubernetes.io/job-completion-index"
_INDEX_FAILURES = "batch.kubernetes.io/job-index-failure-count"
_FIRST_BACKOFF, _LAST_BACKOFF = 10.0, 600.0
_AT_ONCE = 500

Ending = tuple[str, str, str]  # condition, reason, message


class _Round:
    """One round for one job."""

    def __init__(self, cluster: Cluster, job: Object) -> None:
        self.cluster = cluster
        self.job = job
        self.spec: Object = job["spec"]
        self.pods = claim(cluster, job, "pods")
        before = job.get("status", {})
        self.before: Object = before
        self.status: Object = copy.deepcopy(before)
        self.conditions: list[Object] = self.status.get("conditions") or []
        uncounted = before.get("uncountedTerminatedPods") or {}
        self.uncounted = {kind: set(uncounted.get(kind) or ()) for kind in ("succeeded", "failed")}
        self.indexed = self.spec.get("completionMode") == "Indexed"
        self.per_index = self.spec.get("backoffLimitPerIndex") is not None
        self.suspended = bool(self.spec.get("suspend"))
        self.again: float | None = None

    def run(self) -> float | None:
        if any(one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in self.conditions):
            self._release([pod for pod in self.pods if _is_tracked(pod)])
            return None
        if self.status.get("startTime") is None and not self.suspended:
            self.status["startTime"] = self.cluster.stamp()
        active = [pod for pod in self.pods if is_active(pod)]
        newly = {kind: [pod for pod in self.pods if self._is_new(pod, kind)] for kind in ("succeeded", "failed")}
        ignored = {uid_of(pod) for pod in newly["failed"] if self._policy(pod)[0] == "Ignore"}
        succeeded = before_count(self.before, "succeeded") + len(newly["succeeded"]) + len(self.uncounted["succeeded"])
        failed = before_count(self.before, "failed") + len(newly["failed"]) - len(ignored) + len(self.uncounted["failed"])
        done = self._indexes("completedIndexes", "Succeeded") if self.indexed else set()
        lost = self._failed_indexes() if self.per_index else set()
        if self.indexed:
            succeeded = len(done)
        ending = self._ending(failed, done, lost)
        failure: ApiError | None = None
        if ending is not None:
            failure = self._delete(active)
            active = []
            if failure is not None:
                ending = None
        elif not is_deleted(self.job):
            active, failure = self._manage(active, succeeded, newly["failed"], done, lost)
            wanted = self.spec.get("completions")
            if (succeeded > 0 if wanted is None else succeeded >= wanted) and not active and failure is None:
                ending = ("SuccessCriteriaMet", "CompletionsReached", "Reached expected number of succeeded pods")
            else:
                self._note_suspension()
        self._count(active, newly, ignored, ending, done, lost)
        if failure is not None:
            raise failure
        return self.again

    # --- counting ---

    def _is_new(self, pod: Object, kind: str) -> bool:
        uid, phase = uid_of(pod), pod.get("status", {}).get("phase")
        if not _is_tracked(pod) or any(uid in uids for uids in self.uncounted.values()):
            return False
        if kind == "succeeded":
            return bool(phase == "Succeeded")
        # a pod that is deleted counts as failed; with a failure policy only when it has really ended
        return bool(phase == "Failed" or (is_deleted(pod) and phase != "Succeeded" and self._counts_deleted(pod)))

    def _counts_deleted(self, pod: Object) -> bool:
        waits = self.spec.get("podReplacementPolicy", "TerminatingOrFailed") == "Failed" or self.spec.get("podFailurePolicy")
        return not waits

    def _count(
        self, active: list[Object], newly: dict[str, list[Object]], ignored: set[str], ending: Ending | None, done: set[int], lost: set[int]
    ) -> None:
        for kind in ("succeeded", "failed"):
            self.uncounted[kind] |= {uid_of(pod) for pod in newly[kind] if uid_of(pod) not in ignored}
        pods = self.cluster["pods"].owned(uid_of(self.job))
        terminating = sum(is_deleted(pod) and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed") for pod in pods)
        numbers = {"active": len(active), "ready": sum(is_ready(pod) for pod in active), "terminating": terminating}
        self.status |= numbers
        if not numbers["active"]:
            del self.status["active"]
        if self.indexed and done:
            self.status["completedIndexes"] = written(done)
        if self.per_index and (lost or "failedIndexes" in self.status):
            self.status["failedIndexes"] = written(lost)
        if ending is not None and ending[0] in ("FailureTarget", "SuccessCriteriaMet"):
            self._add_condition(*ending)
        counting = any(self.uncounted.values())
        if counting:
            self.status["uncountedTerminatedPods"] = {kind: sorted(uids) for kind, uids in self.uncounted.items() if uids}
            self._write()
        ended = {uid for uids in self.uncounted.values() for uid in uids} | ignored
        self._release([pod for pod in self.pods if uid_of(pod) in ended and _is_tracked(pod)])
        for kind, uids in self.uncounted.items():
            number = before_count(self.before, kind) + len(uids)
            if kind == "succeeded" and self.indexed:
                number = len(done)
            if number:
                self.status[kind] = number
        self.status["uncountedTerminatedPods"] = {}
        if ending is not None:
            self._finish(ending, terminating)
        self._write()

    def _finish(self, ending: Ending, terminating: int) -> None:
        """The last condition comes when no pod is left that ends."""
        if terminating:
            return
        kind, reason, message = ending
        if kind == "SuccessCriteriaMet":
            self._add_condition("Complete", reason, message)
            self.status["completionTime"] = self.cluster.stamp()
            self.cluster.event(SOURCE, self.job, "Normal", "Completed", "Job completed")
        else:
            self._add_condition("Failed", reason, message)
            self.cluster.event(SOURCE, self.job, "Warning", reason, message)

    def _add_condition(self, kind: str, reason: str, message: str) -> None:
        if any(one["type"] == kind and one["status"] == "True" for one in self.conditions):
            return
        now = self.cluster.stamp()
        condition = {"type": kind, "status": "True", "lastProbeTime": now, "lastTransitionTime": now, "reason": reason, "message": message}
        self.conditions = [*(one for one in self.conditions if one["type"] != kind), condition]
        self.status["conditions"] = self.conditions

    def _write(self) -> None:
        if self.status != self.job.get("status", {}):
            self.job = self.cluster.write_status(self.job, copy.deepcopy(self.status))
            self.status = copy.deepcopy(self.job["status"])

    def _release(self, pods: list[Object]) -> None:
        for pod in pods:
            body = {"metadata": {"uid": uid_of(pod), "$deleteFromPrimitiveList/finalizers": [FINALIZER]}}
            try:
                made = self.cluster.patch(pod, body)
            except ApiError as error:
                if error.status not in (404, 422):
                    raise
                continue
            if is_deleted(made) and not made["metadata"].get("finalizers") and not made["metadata"].get("deletionGracePeriodSeconds"):
                self.cluster.forget(made)

    # --- its end ---

    def _ending(self, failed: int, done: set[int], lost: set[int]) -> Ending | None:
        for one in self.conditions:
            if one["type"] in ("FailureTarget", "SuccessCriteriaMet") and one["status"] == "True":
                return one["type"], one.get("reason", ""), one.get("message", "")
        for pod in self.pods:
            action, message = self._policy(pod)
            if action == "FailJob":
                return "FailureTarget", "PodFailurePolicy", message
        limit = self.spec.get("backoffLimit", 6)
        if failed > limit or self._restarts_too_often(limit):
            return "FailureTarget", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        deadline = self.spec.get("activeDeadlineSeconds")
        if deadline is not None and not self.suspended and self.status.get("startTime"):
            left = deadline - self.cluster.since(self.status["startTime"])
            if left <= 0:
                return "FailureTarget", "DeadlineExceeded", "Job was active longer than specified deadline"
            self.again = left
        if self.per_index:
            most = self.spec.get("maxFailedIndexes")
            if most is not None and len(lost) > most:
                message = "Job has exceeded the specified maximal number of failed indexes"
                return "FailureTarget", "MaxFailedIndexesExceeded", message
            if lost and len(lost) + len(done) >= self.spec["completions"]:
                return "FailureTarget", "FailedIndexes", "Job has failed indexes"
        return None

    def _restarts_too_often(self, limit: int) -> bool:
        if self.spec["template"]["spec"].get("restartPolicy") != "OnFailure":
            return False
        restarts = sum(
            one.get("restartCount", 0)
            for pod in self.pods
            if pod.get("status", {}).get("phase") in ("Running", "Pending")
            for kind in ("initContainerStatuses", "containerStatuses")
            for one in pod["status"].get(kind) or ()
        )
        return bool(restarts > 0 if limit == 0 else restarts >= limit)

    def _policy(self, pod: Object) -> tuple[str, str]:
        """What the failure policy says of a pod that failed: an action ("Count" where nothing else), and why."""
        rules = (self.spec.get("podFailurePolicy") or {}).get("rules") or ()
        status = pod.get("status", {})
        if not rules or status.get("phase") != "Failed":
            return "Count", ""
        for number, rule in enumerate(rules):
            codes = rule.get("onExitCodes")
            for one in status.get("containerStatuses") or () if codes else ():
                ended = one.get("state", {}).get("terminated")
                if ended is None or not ended["exitCode"] or codes.get("containerName") not in (None, one["name"]):
                    continue
                if (ended["exitCode"] in codes["values"]) is (codes["operator"] == "In"):
                    what = f"Container {one['name']} for pod {namespace_of(pod)}/{name_of(pod)} failed with exit code {ended['exitCode']}"
                    return rule["action"], f"{what} matching {rule['action']} rule at index {number}"
            for wanted in rule.get("onPodConditions") or ():
                for found in status.get("conditions") or ():
                    if found["type"] == wanted["type"] and found["status"] == wanted.get("status", "True"):
                        what = f"Pod {namespace_of(pod)}/{name_of(pod)} has condition {found['type']}"
                        return rule["action"], f"{what} matching {rule['action']} rule at index {number}"
        return "Count", ""

    # --- pods ---

    def _manage(
        self, active: list[Object], succeeded: int, failed: list[Object], done: set[int], lost: set[int]
    ) -> tuple[list[Object], ApiError | None]:
        if self.suspended:
            return [], self._delete(active)
        parallelism = self.spec.get("parallelism", 1)
        completions = self.spec.get("completions")
        if completions is None:
            wanted = len(active) if succeeded else parallelism
        else:
            wanted = max(0, min(parallelism, completions - succeeded - len(lost)))
        if len(active) > wanted:
            surplus = self._least_useful(active, len(active) - wanted)
            failure = self._delete(surplus)
            gone = {uid_of(pod) for pod in surplus}
            return [pod for pod in active if uid_of(pod) not in gone], failure
        ending = 0
        if self.spec.get("podReplacementPolicy") == "Failed" or self.spec.get("podFailurePolicy"):
            ending = sum(is_deleted(pod) and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed") for pod in self.pods)
        missing = min(wanted - ending - len(active), _AT_ONCE)
        if missing <= 0:
            return active, None
        pause = 0.0 if self.per_index else self._backoff()
        if pause > 0:
            self.again = min(self.again, pause) if self.again is not None else pause
            return active, None
        return self._create(active, missing, done, lost)

    def _create(self, active: list[Object], missing: int, done: set[int], lost: set[int]) -> tuple[list[Object], ApiError | None]:
        made = list(active)
        if not self.indexed:
            _done, failure = batched(missing, lambda: made.append(create_pod(self.cluster, SOURCE, self.job, self._pod(None))))
            return made, failure
        taken = {_index(pod) for pod in active} | done | lost
        free = [number for number in range(self.spec["completions"]) if number not in taken][:missing]
        indexes = iter(free)
        _done, failure = batched(len(free), lambda: made.append(create_pod(self.cluster, SOURCE, self.job, self._pod(next(indexes)))))
        return made, failure

    def _pod(self, index: int | None) -> Object:
        pod = pod_from(self.spec["template"], self.job)
        metadata, spec = pod["metadata"], pod["spec"]
        metadata["finalizers"] = [*(metadata.get("finalizers") or ()), FINALIZER]
        if index is None:
            return pod
        metadata["annotations"] = {**(metadata.get("annotations") or {}), _INDEX: str(index)}
        if self.per_index:
            metadata["annotations"][_INDEX_FAILURES] = str(self._failures_of(index))
        metadata["labels"] = {**(metadata.get("labels") or {}), _INDEX: str(index)}
        metadata["generateName"] = f"{name_of(self.job)}-{index}-"
        spec["hostname"] = f"{name_of(self.job)}-{index}"
        source = {"fieldRef": {"fieldPath": f"metadata.labels['{_INDEX}']"}}
        for container in [*(spec.get("initContainers") or ()), *spec["containers"]]:
            if not any(one["name"] == "JOB_COMPLETION_INDEX" for one in container.get("env") or ()):
                container["env"] = [*(container.get("env") or ()), {"name": "JOB_COMPLETION_INDEX", "valueFrom": source}]
        return pod

    def _delete(self, pods: list[Object]) -> ApiError | None:
        failure: ApiError | None = None
        for pod in pods:
            try:
                delete_pod(self.cluster, SOURCE, self.job, pod)
            except ApiError as error:
                failure = error
        return failure

    def _least_useful(self, active: list[Object], count: int) -> list[Object]:
        def rank(pod: Object) -> tuple[object, ...]:
            phase = {"Pending": 0, "Unknown": 1, "Running": 2}.get(pod.get("status", {}).get("phase", ""), 0)
            age = -self.cluster.since(created(pod))
            return (bool(pod["spec"].get("nodeName")), phase, is_ready(pod), -age, uid_of(pod))

        return sorted(active, key=rank)[:count]

    def _backoff(self) -> float:
        """Seconds until a pod may follow on those that failed in a row: ten, then double."""
        ended = sorted(
            (_ended(pod), pod["status"].get("phase") == "Failed")
            for pod in self.pods
            if pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
        )
        in_row, last = 0, ""
        for moment, failed in ended:
            in_row, last = (in_row + 1, moment) if failed else (0, "")
        if not in_row or not last:
            return 0.0
        pause = min(_FIRST_BACKOFF * 2 ** min(in_row - 1, 20), _LAST_BACKOFF)
        return max(0.0, (datetime.fromisoformat(last) + timedelta(seconds=pause) - self.cluster.now()).total_seconds())

    # --- indexes ---

    def _indexes(self, field: str, phase: str) -> set[int]:
        known = read(self.before.get(field, ""))
        found = {
            _index(pod)
            for pod in self.pods
            if pod.get("status", {}).get("phase") == phase and (_is_tracked(pod) or uid_of(pod) in self.uncounted["succeeded"])
        }
        return {one for one in known | found if 0 <= one < self.spec.get("completions", 0)}

    def _failed_indexes(self) -> set[int]:
        found = set(read(self.before.get("failedIndexes", "")))
        limit = self.spec["backoffLimitPerIndex"]
        for pod in self.pods:
            if pod.get("status", {}).get("phase") == "Failed" and _is_tracked(pod):
                action, _message = self._policy(pod)
                if action == "FailIndex" or (action == "Count" and int(annotations_of(pod).get(_INDEX_FAILURES, "0")) >= limit):
                    found.add(_index(pod))
        return found

    def _failures_of(self, index: int) -> int:
        counts = [
            int(annotations_of(pod).get(_INDEX_FAILURES, "0")) + 1
            for pod in self.pods
            if _index(pod) == index and pod.get("status", {}).get("phase") == "Failed" and self._policy(pod)[0] != "Ignore"
        ]
        return max(counts, default=0)

    # --- suspension ---

    def _note_suspension(self) -> None:
        before = next((one for one in self.conditions if one["type"] == "Suspended"), None)
        status = "True" if self.suspended else "False"
        if (before is None and not self.suspended) or (before is not None and before["status"] == status):
            return
        word = "Suspended" if self.suspended else "Resumed"
        now, text = self.cluster.stamp(), f"Job {word.lower()}"
        times = {"lastProbeTime": now, "lastTransitionTime": now}
        condition = {"type": "Suspended", "status": status, **times, "reason": f"Job{word}", "message": text}
        self.conditions = (
            [condition if one["type"] == "Suspended" else one for one in self.conditions] if before else [*self.conditions, condition]
        )
        self.status["conditions"] = self.conditions
        if self.suspended:
            self.status.pop("startTime", None)
        else:
            self.status["startTime"] = now
        self.cluster.event(SOURCE, self.job, "Normal", word, text)


def before_count(status: Object, kind: str) -> int:
    """A count of a job's status."""
    return int(status.get(kind, 0))


def _is_tracked(pod: Object) -> bool:
    return FINALIZER in (pod["metadata"].get("finalizers") or ())


def _index(pod: Object) -> int:
    text = annotations_of(pod).get(_INDEX, "")
    return int(text) if text.isdigit() else -1


def _ended(pod: Object) -> str:
    moments = [
        one["state"]["terminated"].get("finishedAt") or ""
        for one in pod["status"].get("containerStatuses") or ()
        if "terminated" in one.get("state", {})
    ]
    return max(moments, default="") or next(
        (one["lastTransitionTime"] for one in pod["status"].get("conditions") or () if one["type"] == "Ready"), created(pod)
    )


def read(text: str) -> set[int]:
    """ "1,3-5" as numbers."""
    numbers: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _dash, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def written(numbers: set[int]) -> str:
    """Numbers as "1,3-5"."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first},{last}" if last == first + 1 else f"{first}-{last}" for first, last in parts)


def _reconcile(cluster: Cluster, key: str) -> float | None:
    job = cluster["jobs.batch"].get(*split(key))
    if job is None or job["spec"].get("managedBy", "kubernetes.io/job-controller") != "kubernetes.io/job-controller":
        return None
    return _Round(cluster, job).run()


def _release_orphan(cluster: Cluster, key: str) -> None:
    """A pod whose job is gone must not wait for it."""
    pod = cluster["pods"].get(*split(key))
    if pod is None or not _is_tracked(pod):
        return
    owner = next((one for one in pod["metadata"].get("ownerReferences") or () if one.get("controller")), None)
    if owner is not None and cluster["jobs.batch"].by_uid(owner["uid"]) is not None:
        return
    body = {"metadata": {"uid": uid_of(pod), "$deleteFromPrimitiveList/finalizers": [FINALIZER]}}
    try:
        cluster.patch(pod, body)
    except ApiError as error:
        if error.status not in (404, 422):
            raise


def _tracked_pods(cluster: Cluster, job: Object) -> list[str]:
    if cluster["jobs.batch"].by_uid(uid_of(job)) is not None:
        return []
    return [f"{namespace_of(pod)}/{name_of(pod)}" for pod in cluster["pods"].owned(uid_of(job)) if _is_tracked(pod)]


JOB = Controller(name="job", reconcile=_reconcile, watches={"jobs.batch": itself, "pods": owner_of_kind("Job")})
JOB_ORPHANS = Controller(
    name="job-orphans",
    reconcile=_release_orphan,
    watches={
        "jobs.batch": _tracked_pods,
        "pods": lambda cluster, pod: (f"{namespace_of(pod)}/{name_of(pod)}",) if is_deleted(pod) and _is_tracked(pod) else (),
    },
)
