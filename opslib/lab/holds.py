"""What the lab's kubelet leaves alone, since somebody else plays it: pods by their labels or uid, nodes by their name.

It is a file of the lab, so that nothing of it shows in the cluster.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

Object = dict[str, Any]
Rule = dict[str, Any]


class Holds:
    """The holds of one lab; several processes may have one each.

    A rule is a dict: ``by`` (who holds), and either ``node`` or ``namespace`` with ``labels`` or ``uid``; ``forever`` where the pod must
    not end either.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "data" / "held.json"
        self._lock = threading.Lock()
        self._known: tuple[int, list[Rule]] = (0, [])

    def add(self, *rules: Rule) -> None:
        """Hold what these rules are about."""
        self._write([*self.rules(), *rules])

    def drop(self, by: str | None = None, **rule: str) -> int:
        """Take back the rules of one who holds (None: of all), or those with these fields; how many they were."""
        before = self.rules()
        left = [one for one in before if (by is not None and one["by"] != by) or any(one.get(key) != rule[key] for key in rule)]
        if len(left) < len(before):
            self._write(left)
        return len(before) - len(left)

    def pod(self, pod: Object) -> str:
        """Whether a pod is held: "" or "true", or "forever" where it must not end either."""
        metadata = pod["metadata"]
        labels = metadata.get("labels") or {}
        found = ""
        for rule in self.rules():
            if rule.get("namespace") != metadata.get("namespace") or rule.get("uid", metadata.get("uid")) != metadata.get("uid"):
                continue
            if rule.get("labels", {}).items() <= labels.items():
                found = "forever" if rule.get("forever") or found == "forever" else "true"
        return found

    def node(self, name: str) -> bool:
        """Whether a node is held: it answers nothing."""
        return any(rule.get("node") == name for rule in self.rules())

    def rules(self) -> list[Rule]:
        """All rules."""
        try:
            changed = self._file.stat().st_mtime_ns
        except FileNotFoundError:
            return []
        with self._lock:
            if changed != self._known[0]:
                self._known = (changed, json.loads(self._file.read_text("utf-8")))
            return self._known[1]

    def _write(self, rules: list[Rule]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_suffix(".new")
        temporary.write_text(json.dumps(rules) + "\n", "utf-8")
        temporary.replace(self._file)
