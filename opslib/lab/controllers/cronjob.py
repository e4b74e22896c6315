"""CronJobs: a job at each time of a schedule (pkg/controller/cronjob)."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers.clock import stamp
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.objects import (
    controller_of,
    created,
    is_deleted,
    is_terminating,
    itself,
    name_of,
    namespace_of,
    owner_reference,
    quoted,
    split,
    uid_of,
)
from opslib.lab.controllers.runner import Controller

SOURCE = "cronjob-controller"
_SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"
_LATE_SECONDS = 0.1  # so much after a scheduled time it is looked at


class _Schedule:
    """Times of a schedule."""

    def __init__(self, text: str, zone: ZoneInfo | None) -> None:
        from croniter import croniter

        every, _space, duration = text.partition(" ")
        self._seconds = _seconds(duration) if every == "@every" else 0.0
        self._text, self._zone = text, zone or UTC
        if not self._seconds and not croniter.is_valid(text):
            raise ValueError(text)

    def next(self, after: datetime) -> datetime:
        """The first time after `after`."""
        from croniter import croniter

        if self._seconds:
            return after.replace(microsecond=0) + timedelta(seconds=self._seconds)
        found: datetime = croniter(self._text, after.astimezone(self._zone)).get_next(datetime)
        return found.astimezone(UTC)


def _seconds(text: str) -> float:
    import re

    units = {"h": 3600, "m": 60, "s": 1}
    return max(1.0, float(sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", text))))


def finished(job: Object) -> str:
    """ "Complete" or "Failed"; "" for a job that has not ended."""
    for one in job.get("status", {}).get("conditions") or ():
        if one["type"] in ("Complete", "Failed") and one["status"] == "True":
            return str(one["type"])
    return ""


class _Round:
    """One round for one cron job."""

    def __init__(self, cluster: Cluster, cron: Object) -> None:
        self.cluster = cluster
        self.cron = cron
        self.spec: Object = cron["spec"]
        self.status: Object = copy.deepcopy(cron.get("status", {}))
        self.jobs = cluster["jobs.batch"].owned(uid_of(cron))

    def event(self, kind: str, reason: str, message: str) -> None:
        self.cluster.event(SOURCE, self.cron, "Normal" if kind == "Normal" else "Warning", reason, message)

    def run(self) -> float | None:
        self._clean()
        self._take_stock()
        seconds = self._start() if not is_deleted(self.cron) else None
        self.status = {name: value for name, value in self.status.items() if value}
        self.cluster.write_status(self.cron, self.status)
        return seconds

    def _active(self) -> list[Object]:
        active: list[Object] = self.status.setdefault("active", [])
        return active

    def _take_stock(self) -> None:
        """Note the jobs that ended, and those that are gone."""
        active = self._active()
        known = {one["uid"] for one in active}
        for job in self.jobs:
            end = finished(job)
            if not end and uid_of(job) not in known:
                self.event("Warning", "UnexpectedJob", f"Saw a job that the controller did not create or forgot: {name_of(job)}")
            if not end:
                continue
            if uid_of(job) in known:
                active[:] = [one for one in active if one["uid"] != uid_of(job)]
                self.event("Normal", "SawCompletedJob", f"Saw completed job: {name_of(job)}, condition: {end}")
            done = job.get("status", {}).get("completionTime")
            if end == "Complete" and done and done > self.status.get("lastSuccessfulTime", ""):
                self.status["lastSuccessfulTime"] = done
        there = {uid_of(job) for job in self.jobs}
        for one in list(active):
            if one["uid"] not in there and self.cluster["jobs.batch"].by_uid(one["uid"]) is None:
                self.event("Normal", "MissingJob", f"Active job went missing: {one['name']}")
                active.remove(one)

    def _start(self) -> float | None:
        """Start the job that is due; seconds until the next one."""
        zone_name = self.spec.get("timeZone")
        try:
            zone = ZoneInfo(zone_name) if zone_name else None
        except (ZoneInfoNotFoundError, ValueError):
            self.event("Warning", "UnknownTimeZone", f"invalid timeZone: {quoted(zone_name)}: unknown time zone {zone_name}")
            return None
        if self.spec.get("suspend"):
            return None
        text = self.spec["schedule"]
        try:
            schedule = _Schedule(text, zone)
        except ValueError as error:
            self.event("Warning", "UnparseableSchedule", f"unparseable schedule: {quoted(text)} : {error}")
            return None
        now = self.cluster.now()
        due = self._due(schedule, now)
        seconds = (schedule.next(now) - now).total_seconds() + _LATE_SECONDS
        if due is None:
            return seconds
        deadline = self.spec.get("startingDeadlineSeconds")
        if deadline is not None and due + timedelta(seconds=deadline) < now:
            self.event("Warning", "MissSchedule", f"Missed scheduled time to start a job: {format_datetime(due).replace('+0000', 'UTC')}")
            return seconds
        name = f"{name_of(self.cron)}-{int(due.timestamp()) // 60}"
        if any(one["name"] == name for one in self._active()) or self.status.get("lastScheduleTime") == stamp(due):
            return seconds
        policy = self.spec.get("concurrencyPolicy", "Allow")
        if policy == "Forbid" and self._active():
            message = "Not starting job because prior execution is running and concurrency policy is Forbid"
            self.event("Normal", "JobAlreadyActive", message)
            return seconds
        if policy == "Replace":
            for job in [one for one in self.jobs if any(other["uid"] == uid_of(one) for other in self._active())]:
                self._delete(job)
        return seconds if self._create(name, due) else None

    def _due(self, schedule: _Schedule, now: datetime) -> datetime | None:
        """The last time of the schedule for which there was no job yet."""
        since = datetime.fromisoformat(self.status.get("lastScheduleTime") or created(self.cron))
        deadline = self.spec.get("startingDeadlineSeconds")
        if deadline is not None:
            since = max(since, now - timedelta(seconds=deadline))
        first = schedule.next(since)
        if first > now:
            return None
        step = max(1.0, (schedule.next(first) - first).total_seconds())
        missed = int((now - first).total_seconds() / step) + 1
        if missed > 100:
            message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
            self.event("Warning", "TooManyMissedTimes", message)
        found, moment = first, first + timedelta(seconds=max(0, missed - 2) * step)
        while (moment := schedule.next(moment)) <= now:
            found = moment
        return found

    def _create(self, name: str, due: datetime) -> bool:
        template = self.spec["jobTemplate"]
        metadata = {
            "name": name,
            "namespace": namespace_of(self.cron),
            "labels": dict((template.get("metadata") or {}).get("labels") or {}),
            "annotations": {**((template.get("metadata") or {}).get("annotations") or {}), _SCHEDULED: self._local(due)},
            "ownerReferences": [owner_reference(self.cron)],
        }
        body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": copy.deepcopy(template["spec"])}
        try:
            job = self.cluster.create(body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                if not is_terminating(error):
                    self.event("Warning", "FailedCreate", f"Error creating job: {error.server_message}")
                raise
            job = self.cluster.api.get(self.cluster.path(body))
            owner = controller_of(job)
            if owner is None or owner["uid"] != uid_of(self.cron) or any(one["uid"] == uid_of(job) for one in self._active()):
                return False
        else:
            self.event("Normal", "SuccessfulCreate", f"Created job {name}")
        reference = {"apiVersion": "batch/v1", "kind": "Job", "namespace": namespace_of(job), "name": name, "uid": uid_of(job)}
        self._active().append(reference | {"resourceVersion": job["metadata"]["resourceVersion"]})
        self.status["lastScheduleTime"] = stamp(due)
        return True

    def _local(self, due: datetime) -> str:
        zone = self.spec.get("timeZone")
        return due.astimezone(ZoneInfo(zone)).isoformat() if zone else stamp(due)

    def _delete(self, job: Object) -> None:
        try:
            self.cluster.delete(job, propagation="Background")
        except ApiError as error:
            self.event("Warning", "FailedDelete", f"Deleted job: {error.server_message}")
            raise
        active = self._active()
        active[:] = [one for one in active if one["uid"] != uid_of(job)]
        self.event("Normal", "SuccessfulDelete", f"Deleted job {name_of(job)}")

    def _clean(self) -> None:
        for end, field, default in (("Complete", "successfulJobsHistoryLimit", 3), ("Failed", "failedJobsHistoryLimit", 1)):
            ended = sorted(
                (job for job in self.jobs if finished(job) == end and not is_deleted(job)), key=lambda job: (_started(job), name_of(job))
            )
            limit = self.spec.get(field, default)
            for job in ended[: max(0, len(ended) - limit)]:
                self._delete(job)
                self.jobs = [one for one in self.jobs if one is not job]


def _started(job: Object) -> str:
    return str(job.get("status", {}).get("startTime") or created(job))


def _reconcile(cluster: Cluster, key: str) -> float | None:
    cron = cluster["cronjobs.batch"].get(*split(key))
    return _Round(cluster, cron).run() if cron is not None else None


def _of_job(_cluster: Cluster, job: Object) -> list[str]:
    owner = controller_of(job)
    return [f"{namespace_of(job)}/{owner['name']}"] if owner is not None and owner["kind"] == "CronJob" else []


CRON_JOB = Controller(name="cronjob", reconcile=_reconcile, watches={"cronjobs.batch": itself, "jobs.batch": _of_job})
