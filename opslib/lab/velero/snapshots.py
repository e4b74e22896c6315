"""Elasticsearch's snapshots of the last days: a repository, and a snapshot of each day's logs, taken through its API."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from opslib.lab.world.account import SNAPSHOT_BUCKET

REPOSITORY = "daily"
_DAYS, _HISTORY_SECONDS, _QUIET_SECONDS = 7, 300.0, 4.0
_TAKEN = timedelta(days=1, minutes=10)  # after the day's beginning


def take(url: str, folder: Path, stop: threading.Event) -> None:
    """Register the repository, and take what snapshots of the last days there are not yet, when the days' logs are written.

    On the embedded engine their times are then set to the days' (`folder` holds its repositories); the real server keeps when it took them.
    """
    import urllib3

    pool = urllib3.PoolManager(retries=False, timeout=120)

    def ask(method: str, path: str, body: object = None) -> Any:
        answer = pool.request(method, f"{url}{path}", body=json.dumps(body) if body is not None else None, headers=_JSON)
        return json.loads(answer.data) if answer.status < 300 else None

    try:
        ask("PUT", f"/_snapshot/{REPOSITORY}", {"type": "fs", "settings": {"location": SNAPSHOT_BUCKET}})
        _wait_for_history(ask, stop)
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        taken: dict[str, datetime] = {}
        for day in (today - timedelta(days=number) for number in range(_DAYS, 0, -1)):
            if stop.is_set() or day + _TAKEN > datetime.now(UTC):
                continue
            name = f"daily-{day:%Y.%m.%d}"
            body = {"indices": f"logs-{day:%Y.%m.%d}", "include_global_state": False, "metadata": {"policy": "daily"}}
            if ask("PUT", f"/_snapshot/{REPOSITORY}/{name}?wait_for_completion=true", body):
                taken[name] = day + _TAKEN
        _date(folder / SNAPSHOT_BUCKET / "index-0", taken)
    except urllib3.exceptions.HTTPError:
        return  # Elasticsearch has ended: so does the lab


_JSON = {"Content-Type": "application/json"}


def _wait_for_history(ask: Any, stop: threading.Event) -> None:
    """Until no lines of earlier days are added any more."""
    deadline, before, since = time.monotonic() + _HISTORY_SECONDS, "", time.monotonic()
    while time.monotonic() < deadline and not stop.wait(1):
        today = f"{datetime.now(UTC):%Y.%m.%d}"
        rows = ask("GET", "/_cat/indices/logs-*?format=json&h=index,docs.count") or []
        found = json.dumps(sorted((one["index"], one["docs.count"]) for one in rows if not one["index"].endswith(today)))
        if found != before:
            before, since = found, time.monotonic()
        elif len(rows) > 1 and time.monotonic() - since > _QUIET_SECONDS:
            return


def _date(file: Path, taken: dict[str, datetime]) -> None:
    """Set when snapshots were taken, in the list as the embedded server keeps it."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):  # another server's list
        return
    for one in content["snapshots"]:
        start = taken.get(one.get("snapshot"))  # of the real server's list: None
        if start is not None:
            took = one["duration_in_millis"]
            for name, moment in (("start", start), ("end", start + timedelta(milliseconds=took))):
                one[f"{name}_time"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
                one[f"{name}_time_in_millis"] = int(moment.timestamp() * 1000)
    temporary = file.with_suffix(".dated")
    temporary.write_text(json.dumps(content, indent=1), "utf-8")
    temporary.replace(file)
