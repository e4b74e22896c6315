"""Does chapter 4.1 name the cause: every scenario of the lab, shapes of broken manifests, and a healthy week.

    python benchmarks/diagnosis.py --seeds 10
    python benchmarks/diagnosis.py --only bad-deploy,dns --manifests FOLDER

Each scenario is played on an embedded lab of its own for each seed, and diagnosed as an operator would: chapter 4.1 for the whole cluster,
and no hint. Right is a finding about one of the scenario's subjects that says one of each list of its words. Prints the share for which the
first finding (top-1), or one of the first three (top-3), is right; findings in a healthy lab; seconds from question to answer. Scenarios
that were used to write the rules (tuning) and those that were not run while they were written (held out) are reported apart.

`--manifests FOLDER`: YAML manifests of workloads that cannot run, from a collection of your own. Each is applied to an empty lab; right is
a finding about an object of the file that is not merely "unknown". Without it, shapes of such manifests that stand in this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from opslib import environments
from opslib.chapters import pods
from opslib.errors import OpsError
from opslib.facts import Questions, measured
from opslib.facts import pods as reader
from opslib.facts.sources import Sources
from opslib.findings import Finding, Severity, finding_to_json
from opslib.lab import engines
from opslib.lab.api import Api
from opslib.lab.stage import control
from opslib.lab.world import scenarios

TUNING = frozenset(
    (
        *("alert-storm", "bad-deploy", "bad-setting", "cpu-throttling", "dns", "full-volume", "image-pull"),
        *("memory-leak", "no-endpoints", "node-not-ready", "quota", "unschedulable"),
    )
)
# Their causes are no trouble of pods or requests: other chapters look for them.
ELSEWHERE = frozenset(("backup-failing", "drain-blocked", "leaked-key", "vulnerable-image"))
SETTLE_SECONDS = 90  # controllers, probes and rules need a moment; on a busy machine several
PARTS = ("kubernetes", "prometheus", "alertmanager")

POD = {"containers": [{"name": "main", "image": "registry.example.com/shop/web:3.12.0"}]}
SHAPES: dict[str, dict[str, Any]] = {
    "secret in env, not there": {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "a"}}}]},
    "config map in envFrom, not there": {"envFrom": [{"configMapRef": {"name": "absent"}}]},
    "more cpu than any node has": {"resources": {"requests": {"cpu": "900"}}},
    "more memory than any node has": {"resources": {"requests": {"memory": "9000Gi"}}},
    "a device that no node has": {"resources": {"limits": {"example.com/device": "1"}}},
}
SPECS: dict[str, dict[str, Any]] = {
    "a node selector that no node has": {"nodeSelector": {"disk": "absent"}},
    "a claim that is not there": {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "absent"}}]},
    "a service account that is not there": {"serviceAccountName": "absent"},
}


@dataclass(frozen=True, slots=True)
class Result:
    """One scenario with one seed. `place`: of the first right finding, from 1; None: there is none."""

    name: str
    seed: int
    place: int | None
    seconds: float
    shown: tuple[str, ...]

    @property
    def group(self) -> str:
        """Which figures it counts for."""
        return "elsewhere" if self.name in ELSEWHERE else "tuning" if self.name in TUNING else "held out"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="seeds of the lab for each scenario (default: %(default)s)")
    parser.add_argument("--only", default="", help="these scenarios alone, with commas between")
    parser.add_argument("--skip-scenarios", action="store_true", help="the healthy week and the manifests alone")
    parser.add_argument("--manifests", type=Path, help="folder of YAML manifests that are broken, each on its own")
    parser.add_argument("--verbose", action="store_true", help="print the first findings of each")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else sorted(scenarios.names())
    results = []
    for name in () if arguments.skip_scenarios else names:
        for seed in range(1, arguments.seeds + 1):
            try:
                result = scenario(name, seed)
            except OpsError as error:  # the lab itself: no answer, neither right nor wrong
                print(f"no answer {name:20} seed {seed:<3} {error}", flush=True)
                continue
            results.append(result)
            print(f"{result.group:9} {name:20} seed {seed:<3} place {result.place or '-'!s:3} {result.seconds:5.1f} s", flush=True)
            if arguments.verbose or result.place != 1:
                print(*(f"            {line}" for line in result.shown[:4]), sep="\n", flush=True)
    shapes = {} if arguments.only else manifests(arguments.manifests)
    false = {} if arguments.only else healthy()
    report(results, shapes, false)


def scenario(name: str, seed: int) -> Result:
    """Break a fresh lab, and ask until the answer has settled: three times the same first three findings, whether right or not."""
    wanted = scenarios.load(name).diagnosis
    with lab(seed) as (folder, environment):
        control.ask(folder, "break", {"kind": "scenario", "name": name})
        give_up = time.monotonic() + SETTLE_SECONDS
        answers: list[list[str]] = []
        while True:
            found, seconds = diagnose(environment)
            answers.append([item.fingerprint for item in found[:3]])
            settled = bool(found) and len(answers) >= 3 and answers[-1] == answers[-2] == answers[-3]
            if settled or time.monotonic() > give_up or name in ELSEWHERE:
                place = next((number for number, item in enumerate(found, 1) if right(item, wanted)), None)
                return Result(name, seed, place, seconds, tuple(f"{item.check} {item.subject}: {item.title}" for item in found))
            time.sleep(5)


def right(item: Finding, wanted: Any) -> bool:
    """Whether a finding is about one of the subjects, and says one of each list of words."""
    said = json.dumps(finding_to_json(item, "en"), ensure_ascii=False).lower()
    named = {name(subject) for subject in (item.subject, *item.affected)}
    return bool(named & set(wanted.subjects)) and all(any(word.lower() in said for word in words) for words in wanted.words)


def name(subject: Any) -> str:
    return "/".join(part for part in (subject.kind, subject.namespace, subject.name) if part)


def diagnose(environment: str, namespace: str = "") -> tuple[list[Finding], float]:
    """The chapter's findings but for what it could not look at, and how long the answer took."""
    began = time.monotonic()
    parameters = pods.Parameters(namespace=namespace, grace_seconds=30)
    with ThreadPoolExecutor(16) as executor:
        facts = reader.read(Sources(environments.load(environment)), parameters, Questions(executor))
    found = pods.findings(facts, parameters)
    seconds = time.monotonic() - began
    return [item for item in found if not item.check.startswith("gap.") and item.severity >= Severity.WARNING], seconds


def healthy() -> dict[str, int]:
    """Findings in a healthy lab: now, and by the metrics of its past week, every four hours."""
    counts = {"questions": 0, "findings": 0}
    with lab(1) as (_folder, environment):
        time.sleep(10)
        found, _seconds = diagnose(environment)
        counts = {"questions": 1, "findings": len(found)}
        print(*(f"  false: {item.check} {item.subject}: {item.title}" for item in found), sep="\n", end="")
        sources = Sources(environments.load(environment))
        metrics = sources.environment.prometheus
        for hours in range(4, 7 * 24, 4):
            then = datetime.now(UTC) - timedelta(hours=hours)
            with ThreadPoolExecutor(8) as executor:
                items = measured.read(measured.ask(sources, Questions(executor), "", then), metrics, "", then).get("measured")
            if items is None:
                raise SystemExit("Prometheus did not answer")
            counts["questions"] += 1
            counts["findings"] += len(items)
            print(
                *(f"  false, {hours} h ago: {item.kind} {item.namespace}/{item.name} {item.value:.3g}\n" for item in items), sep="", end=""
            )
    return counts


def manifests(folder: Path | None) -> dict[str, bool]:
    """Whether each broken manifest's object is named with a cause."""
    found: dict[str, bool] = {}
    with lab(1, platform=False) as (place, environment):
        api = Api.from_kubeconfig(place / "kubeconfig")
        for number, (title, objects) in enumerate(broken(folder)):
            namespace = f"broken-{number}"
            api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
            for item in objects:
                item.setdefault("metadata", {})["namespace"] = namespace
                api.apply(item)
            give_up = time.monotonic() + SETTLE_SECONDS
            while not found.get(title) and time.monotonic() < give_up:
                named = {item["metadata"].get("name") for item in objects}
                answer, _seconds = diagnose(environment, namespace)
                first = answer[0] if answer else None
                found[title] = first is not None and first.subject.name in named and first.check not in ("pod.unknown", "owner.no_progress")
                if not found[title]:
                    time.sleep(2)
            print(f"manifest  {title}: {'named' if found[title] else 'not named'}", flush=True)
    return found


def broken(folder: Path | None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Titles and objects: the shapes, else the files of a folder."""
    if folder is not None:
        for file in sorted((*folder.rglob("*.yaml"), *folder.rglob("*.yml"))):
            yield file.name, [item for item in yaml.safe_load_all(file.read_text("utf-8")) if isinstance(item, dict)]
        return
    for title, more in {**SHAPES, **SPECS}.items():
        container = {**POD["containers"][0], **(more if title in SHAPES else {})}
        if "volumes" in more:
            container["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
        spec = {**(more if title in SPECS else {}), "containers": [container]}
        template = {"metadata": {"labels": {"app": "case"}}, "spec": spec}
        yield (
            title,
            [
                {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "metadata": {"name": "case"},
                    "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "case"}}, "template": template},
                }
            ],
        )


@contextmanager
def lab(seed: int, platform: bool = True) -> Iterator[tuple[Path, str]]:
    """An embedded lab for the time of the block: its folder, and the file of its environment."""
    with tempfile.TemporaryDirectory(prefix="opslib-diagnosis-") as place:
        folder = Path(place) / "lab"
        running = engines.up(folder, engine="embedded", parts=PARTS if platform else ("kubernetes",), seed=seed, platform=platform)
        try:
            addresses = yaml.safe_load(running.environment.read_text("utf-8"))
            file = Path(place) / "bench.yaml"
            file.write_text(yaml.safe_dump({"name": "bench", "language": "en", "timezone": "UTC", **addresses}), "utf-8")
            yield folder, str(file)
        finally:
            engines.down(folder)


def report(results: list[Result], shapes: dict[str, bool], false: dict[str, int]) -> None:
    """The figures as a table, and last as one line of JSON."""
    figures: dict[str, Any] = {}
    for group in ("tuning", "held out", "elsewhere"):
        mine = [result for result in results if result.group == group]
        if mine:
            top1 = sum(result.place == 1 for result in mine) / len(mine)
            top3 = sum(result.place is not None and result.place <= 3 for result in mine) / len(mine)
            seconds = statistics.median(result.seconds for result in mine)
            figures[group] = {"runs": len(mine), "top1": round(top1, 3), "top3": round(top3, 3), "seconds": round(seconds, 2)}
            print(f"{group:10} runs {len(mine):3}  top-1 {top1:4.0%}  top-3 {top3:4.0%}  median {seconds:.1f} s to the answer")
    if shapes:
        figures["manifests"] = {"runs": len(shapes), "named": sum(shapes.values())}
        print(f"manifests  {sum(shapes.values())} of {len(shapes)} named")
    if false:
        figures["healthy week"] = false
        print(f"healthy    {false['findings']} findings in {false['questions']} questions over a simulated week")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
