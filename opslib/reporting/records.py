"""A run's folder, ``outputs/<environment>/<UTC time>-<section>_<slug>/``: run.json, notebook.ipynb, findings.json and report.html.

run.json is there from the first moment, and says "running" until the run has said otherwise. While a run lives it holds a lock in its
folder, which the system releases however it ends: a run that says "running" and holds no lock did not finish.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opslib.chapters import Chapter
from opslib.errors import InputError
from opslib.findings import Finding, Severity, finding_from_json, finding_to_json, worst
from opslib.messages import Text, _, from_json, text_of, to_json

FORMAT = 1
STATES = ("running", "finished", "failed", "interrupted", "unfinished")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one run was.

    Parameters
    ----------
    chosen
        Names of the parameters that were given; the others have their defaults.
    state
        "running"; "finished": the notebook came to its end; "failed": a cell failed; "interrupted"; "unfinished": it was killed.
    severity
        The worst of its findings; UNKNOWN where the notebook did not come to its end and nothing worse is known; None while it runs.
    failure
        Why it failed; empty where it did not.
    """

    folder: Path
    section: str
    slug: str
    environment: str
    language: str = "en"
    timezone: str = "UTC"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()
    state: str = "running"
    started: datetime
    finished: datetime | None = None
    severity: Severity | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    failure: Text = ""

    @property
    def findings(self) -> list[Finding] | None:
        """Its findings, worst first; None where they cannot be read."""
        try:
            content = json.loads((self.folder / "findings.json").read_text(encoding="utf-8"))
            return [finding_from_json(item) for item in content["findings"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None


def new_folder(outputs: Path, environment: str, chapter: Chapter, started: datetime) -> Path:
    """A folder for one run. Two that start in the same second get different ones.

    Raises
    ------
    InputError
        It cannot be made.
    """
    base = outputs / environment / f"{started.astimezone(UTC):%Y%m%dT%H%M%SZ}-{chapter.section}_{chapter.slug}"
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise InputError(
            _("Cannot write to {folder}: {why}", folder=str(base.parent), why=error.strerror or str(error)),
            _("Name another folder"),
            "--outputs …",
        ) from None
    raise InputError(_("There are too many runs in {folder}", folder=str(base.parent)), _("Name another folder"), "--outputs …")


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Held while the run in `folder` lives."""
    path = folder / ".lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all: a reader sees the old one or the new one."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        # A surrogate from a broken byte must not cost the whole file.
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_record(record: Record) -> None:
    """Write run.json."""
    content = asdict(record) | {
        "format": FORMAT,
        "started": record.started.isoformat(),
        "finished": record.finished.isoformat() if record.finished else None,
        "severity": record.severity.name.lower() if record.severity is not None else None,
        "failure": to_json(record.failure),
    }
    del content["folder"]
    write(record.folder / "run.json", json.dumps(content, ensure_ascii=False, indent=1, default=str) + "\n")


def write_findings(record: Record, findings: list[Finding]) -> None:
    """Write findings.json: the run, its verdict, and every finding with its texts in the run's language."""
    content = {
        "format": FORMAT,
        "section": record.section,
        "slug": record.slug,
        "environment": record.environment,
        "parameters": dict(record.parameters),
        "language": record.language,
        "started": record.started.isoformat(),
        "finished": record.finished.isoformat() if record.finished else None,
        "state": record.state,
        "failure": text_of(record.failure, record.language),
        "severity": record.severity.name.lower() if record.severity is not None else None,
        "counts": dict(record.counts),
        "findings": [finding_to_json(finding, record.language) for finding in findings],
    }
    write(record.folder / "findings.json", json.dumps(content, ensure_ascii=False, indent=1, default=str) + "\n")


def closed(record: Record, state: str, findings: list[Finding], failure: Text = "") -> Record:
    """The record of a run that has ended so."""
    severity = worst(findings) if state == "finished" else max(worst(findings), Severity.UNKNOWN)
    counts = {
        severity.name.lower(): sum(finding.severity is severity for finding in findings)
        for severity in sorted(Severity, reverse=True)
        if any(finding.severity is severity for finding in findings)
    }
    return replace(record, state=state, finished=datetime.now(UTC), severity=severity, counts=counts, failure=failure)


def read(folder: Path) -> Record | None:
    """The record of the run in `folder`; None where there is none, or it cannot be read."""
    try:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        record = Record(
            folder=folder,
            section=str(content["section"]),
            slug=str(content["slug"]),
            environment=str(content["environment"]),
            language=str(content["language"]),
            timezone=str(content["timezone"]),
            parameters=dict(content["parameters"]),
            chosen=tuple(content.get("chosen", content["parameters"])),
            state=content["state"] if content["state"] in STATES else "unfinished",
            started=datetime.fromisoformat(content["started"]),
            finished=datetime.fromisoformat(content["finished"]) if content["finished"] else None,
            severity=Severity[content["severity"].upper()] if content["severity"] else None,
            counts={str(name): int(count) for name, count in content["counts"].items()},
            failure=from_json(content["failure"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if record.started.tzinfo is None:
        return None
    if record.state == "running" and not _is_locked(folder):
        return replace(record, state="unfinished", severity=Severity.UNKNOWN)
    return record


def read_all(outputs: Path) -> list[Record]:
    """All runs below `outputs`, newest first. What is no run, or a broken one, is left out."""
    found = [record for path in outputs.glob("*/*/run.json") if (record := read(path.parent))]
    return sorted(found, key=lambda record: (record.started, record.folder.name), reverse=True)


def _is_locked(folder: Path) -> bool:
    try:
        with (folder / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
