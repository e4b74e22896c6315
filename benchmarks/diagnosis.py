"""Does chapter 4.1 name the cause: every scenario of the lab, shapes of broken manifests, and a healthy week.

    python benchmarks/diagnosis.py --seeds 10 --results results.jsonl
    python benchmarks/diagnosis.py --only bad-deploy,dns
    python benchmarks/diagnosis.py --only image-pull,dns --pods 5000
    python benchmarks/diagnosis.py --manifests FOLDER

**Scenarios.** One embedded lab a seed plays all of them in an order of its own, reset in between. Before each, chapter 4.1 must find
nothing in the whole cluster; a lab that stays ill after a reset is told, and another one takes its place. Each scenario is diagnosed as an
operator would: chapter 4.1 for the whole cluster, no hint, again until it answers twice the same. Right is a finding about one of the
scenario's subjects that says one of each list of its words. Scenarios that taught the rules something (tuning) and those that were not run
while the rules were written (held out) are reported apart, and so are those that are no trouble of pods or requests.

**Shapes.** `benchmarks/shapes.yaml` has broken workloads, each with what must be named. They stand side by side in one cluster a
seed, set up in an order of its own. `--manifests FOLDER` takes those of a collection instead: FOLDER/shapes.yaml is in
the same format, where `files` names its manifests.

**A healthy week.** Findings in a lab where nothing is broken, by the metrics of its past week at all hours of the day, and while it is busy
with what is no trouble: rollouts, jobs, autoscaling, the upgrade of a node.

`--pods COUNT` makes the labs of the scenarios so big: it shows how long an answer takes in a large cluster.

`--results FILE` keeps each answer as a line of JSON, and what stands there is not asked again: a run that was cut goes on. `--jobs` labs
run side by side; each takes about 0.6 GB and one core.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
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
from opslib.lab import control, engines, faults, player
from opslib.lab.api import Api, ApiError
from opslib.lab.world import scenarios
from opslib.messages import _

TUNING = frozenset(
    (
        *("alert-storm", "bad-deploy", "bad-setting", "cpu-throttling", "dns", "full-volume", "image-pull", "init-container"),
        *("memory-leak", "no-endpoints", "node-not-ready", "pending-claim", "quota", "unschedulable"),
    )
)
# Their causes are no trouble of pods or requests: other chapters look for them.
ELSEWHERE = frozenset(("backup-failing", "drain-blocked", "leaked-key", "vulnerable-image"))
SETTLE_SECONDS = 120  # controllers, probes and rules need a moment; on a busy machine several
PAUSE_SECONDS = 3
PARTS = ("kubernetes", "prometheus", "alertmanager")


@dataclass(frozen=True, slots=True)
class Result:
    """One scenario with one seed.

    Parameters
    ----------
    place
        Of the first right finding, from 1; None: there is none.
    seconds
        From question to answer.
    waited
        From the break to the answer that did not change any more.
    shown
        The first findings, in words.
    """

    name: str
    seed: int
    place: int | None
    seconds: float
    waited: float
    shown: tuple[str, ...]

    @property
    def group(self) -> str:
        """Which figures it counts for."""
        return "elsewhere" if self.name in ELSEWHERE else "tuning" if self.name in TUNING else "held out"


@dataclass(slots=True)
class Named:
    """One broken workload: what must be named, and what is. `place` as in `Result`."""

    subjects: list[str]
    words: list[list[str]]
    place: int | None = None
    shown: tuple[str, ...] = ()


class Results:
    """The answers so far, in a file where there is one. May be used from several threads."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.kept: list[Result] = []
        self.left: list[tuple[str, int]] = []  # scenarios, by seed, after which the lab stayed ill
        lines = file.read_text("utf-8").splitlines() if file is not None and file.exists() else []
        for line in map(json.loads, lines):
            if "left" in line:
                self.left.append((line["left"], line["seed"]))
            else:
                self.kept.append(Result(**{**line, "shown": tuple(line["shown"])}))

    def add(self, result: Result) -> None:
        self._write(asdict(result))
        self.kept.append(result)
        print(
            f"{result.group:9} {result.name:20} seed {result.seed:<3} place {result.place or '-'!s:3} {result.seconds:5.1f} s", flush=True
        )
        if result.place != 1 and result.group != "elsewhere":
            print(*(f"            {line}" for line in result.shown[:4]), sep="\n", flush=True)

    def stayed_ill(self, name: str, seed: int, found: Iterable[Finding]) -> None:
        self._write({"left": name, "seed": seed})
        self.left.append((name, seed))
        print(f"not healthy after {name} seed {seed}:", *(f"            {said(item)}" for item in found), sep="\n", flush=True)

    def missing(self, names: Iterable[str], seed: int) -> list[str]:
        there = {result.name for result in self.kept if result.seed == seed}
        return [name for name in names if name not in there]

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is not None:
            with self._lock, self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="labs, each with all scenarios (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=1, help="their first seed (default: %(default)s)")
    parser.add_argument("--only", default="", help="these scenarios alone, with commas between")
    parser.add_argument("--skip", default="", help="leave out: scenarios, shapes, healthy, with commas between")
    parser.add_argument("--manifests", type=Path, help="folder of a collection of broken manifests with a shapes.yaml")
    parser.add_argument(
        "--pods", type=int, default=0, help="about so many pods in the labs of the scenarios (default: as many as a lab has)"
    )
    parser.add_argument("--results", type=Path, help="file of answers; what it has already is not asked again")
    parser.add_argument("--jobs", type=int, default=1, help="labs side by side (default: %(default)s)")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else scenarios.names()
    skipped = {*arguments.skip.split(","), *(("shapes", "healthy") if arguments.only else ())}
    results = Results(arguments.results)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    if "scenarios" not in skipped and arguments.manifests is None:
        with ThreadPoolExecutor(arguments.jobs) as executor:
            list(executor.map(lambda seed: play(names, seed, results, arguments.pods), seeds))
    shapes = [] if "shapes" in skipped else [broken(arguments.manifests or Path(__file__).parent, seed) for seed in seeds]
    false = {} if "healthy" in skipped or arguments.manifests is not None else healthy()
    report(results, shapes, false)


# --- scenarios --------------------------------------------------------------------------------------------------------------------------


def play(names: Iterable[str], seed: int, results: Results, count: int = 0) -> None:
    """All scenarios that have no answer yet with this seed, on one lab as long as it gets healthy in between."""
    open_ = sorted(results.missing(names, seed))
    random.Random(seed).shuffle(open_)
    while open_:
        with lab(seed, count=count) as (folder, environment):
            if found := until_healthy(environment):
                print(f"seed {seed}: not healthy from the beginning:", *map(said, found), sep="\n  ", flush=True)
                return
            while open_:
                name = open_.pop()
                try:
                    results.add(scenario(name, seed, folder, environment))
                    control.ask(folder, "reset", {})
                    found = until_healthy(environment)
                except OpsError as error:  # the lab itself: no answer, neither right nor wrong
                    print(f"no answer {name:20} seed {seed:<3} {error}", flush=True)
                    break
                if found:
                    results.stayed_ill(name, seed, found)
                    break


def scenario(name: str, seed: int, folder: Path, environment: str) -> Result:
    """Break the lab, and ask until two answers in a row have the same first three findings, right or not."""
    wanted = scenarios.load(name).diagnosis
    control.ask(folder, "break", {"kind": "scenario", "name": name})
    began = time.monotonic()
    before: list[str] = []
    while True:
        found, seconds, whole = diagnose(environment)
        first = [item.fingerprint for item in found[:3]]
        waited = time.monotonic() - began
        if whole and ((first and first == before) or waited > SETTLE_SECONDS or name in ELSEWHERE):
            place = next((number for number, item in enumerate(found, 1) if right(item, wanted.subjects, wanted.words)), None)
            return Result(name, seed, place, round(seconds, 2), round(waited, 1), tuple(map(said, found[:6])))
        if waited > 3 * SETTLE_SECONDS:
            raise OpsError(_("Part of the cluster could not be looked at"))
        before = first
        time.sleep(PAUSE_SECONDS)


def until_healthy(environment: str) -> list[Finding]:
    """What chapter 4.1 still finds after a while; empty as soon as it finds nothing."""
    give_up = time.monotonic() + SETTLE_SECONDS
    while True:
        found, _seconds, whole = diagnose(environment)
        if (whole and not found) or time.monotonic() > give_up:
            return found
        time.sleep(PAUSE_SECONDS)


def diagnose(environment: str, grace_seconds: int = 30) -> tuple[list[Finding], float, bool]:
    """The chapter's findings, how long the answer took, and whether all could be looked at."""
    began = time.monotonic()
    parameters = pods.Parameters(grace_seconds=grace_seconds)
    with ThreadPoolExecutor(16) as executor:
        facts = reader.read(Sources(environments.load(environment)), parameters, Questions(executor))
    found = pods.findings(facts, parameters)
    seconds = time.monotonic() - began
    told = [item for item in found if not item.check.startswith("gap.") and item.severity >= Severity.WARNING]
    return told, seconds, not facts.gaps


def right(item: Finding, subjects: Iterable[str], words: Iterable[Iterable[str]]) -> bool:
    """Whether a finding is about one of the subjects, and says one of each list of words."""
    text = json.dumps(finding_to_json(item, "en"), ensure_ascii=False).casefold()
    named = {name(subject) for subject in (item.subject, *item.affected)}
    return bool(named & set(subjects)) and all(any(word.casefold() in text for word in group) for group in words)


def name(subject: Any) -> str:
    return "/".join(part for part in (subject.kind, subject.namespace, subject.name) if part)


def said(item: Finding) -> str:
    return f"{item.check} {item.subject}: {item.title}"


# --- broken workloads -------------------------------------------------------------------------------------------------------------------


def broken(folder: Path, seed: int) -> dict[str, Named]:
    """What is named first of each shape in FOLDER/shapes.yaml: all of them side by side in a cluster without anything else."""
    shapes = yaml.safe_load((folder / "shapes.yaml").read_text("utf-8"))
    found: dict[str, Named] = {}
    with lab(seed, platform=False) as (place, environment):
        api = Api.from_kubeconfig(place / "kubeconfig")
        for title in random.Random(seed).sample(sorted(shapes), len(shapes)):
            shape = shapes[title]
            found[title] = Named([f"{kind}/{title}/{name}" for kind, name in map(_pair, shape.pop("subjects"))], shape.pop("words"))
            objects = [*shape.pop("objects", ()), *(item for file in shape.pop("files", ()) for item in manifests(folder / file))]
            fault = faults.Fault.model_validate({**shape, "objects": objects, "name": title, "title": title, "namespace": title})
            player.apply_fault(api, fault, logs=place / "logs")
        give_up = time.monotonic() + SETTLE_SECONDS
        while not all(shape.place == 1 for shape in found.values()):
            answer, _seconds, whole = diagnose(environment)
            for title, shape in found.items():
                mine = [item for item in answer if item.subject.namespace == title]
                shape.place = next((number for number, item in enumerate(mine, 1) if right(item, shape.subjects, shape.words)), None)
                shape.shown = tuple(map(said, mine))
            if whole and time.monotonic() > give_up:
                break
            time.sleep(PAUSE_SECONDS)
    for title, shape in found.items():
        print(f"shape     {title:44} seed {seed:<3} place {shape.place or '-'}", flush=True)
        if shape.place != 1 or len(shape.shown) > 1:
            print(*(f"            {line}" for line in shape.shown[:4]), sep="\n", flush=True)
    return found


def _pair(subject: str) -> list[str]:
    return subject.split("/")


def manifests(file: Path) -> Iterator[dict[str, Any]]:
    """A file's objects, but for namespaces: each shape stands in one of its own."""
    for item in yaml.safe_load_all(file.read_text("utf-8")):
        if item and item["kind"] != "Namespace":
            item["metadata"].pop("namespace", None)
            yield item


# --- a healthy week ---------------------------------------------------------------------------------------------------------------------


def healthy() -> dict[str, int]:
    """Findings in a healthy lab: now, by the metrics of its past week at all hours of the day, and while it is busy with no trouble."""
    counts = {"questions": 0, "findings": 0}

    def count(when: str, found: Iterable[str]) -> None:
        named = list(found)
        counts["questions"] += 1
        counts["findings"] += len(named)
        print(*(f"  false, {when}: {one}\n" for one in named), sep="", end="", flush=True)

    with lab(1) as (folder, environment):
        count("at first", map(said, until_healthy(environment)))
        sources = Sources(environments.load(environment))
        for hours in range(5, 7 * 24, 5):
            then = datetime.now(UTC) - timedelta(hours=hours)
            with ThreadPoolExecutor(8) as executor:
                asked = measured.ask(sources, Questions(executor), "", then)
                items = measured.read(asked, sources.environment.prometheus, "", then).get("measured")
            if items is None:
                raise SystemExit("Prometheus did not answer")
            count(f"{hours} h ago", (f"{item.kind} {item.namespace}/{item.name} {item.value:.3g}" for item in items))
        api = Api.from_kubeconfig(folder / "kubeconfig")
        for what, act in ACTIVITIES.items():
            act(api)
            for _question in range(3):
                found, _seconds, _whole = diagnose(environment, grace_seconds=60)
                count(f"during {what}", map(said, found))
    return counts


DEPLOYMENTS = "/apis/apps/v1/namespaces/shop/deployments"


def _rollouts(api: Api) -> None:
    """Every Deployment of the shop gets a new template, as a release of all does."""
    template = {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": datetime.now(UTC).isoformat()}}}
    for item in api.list(DEPLOYMENTS):
        api.patch(f"{DEPLOYMENTS}/{item['metadata']['name']}", {"spec": {"template": template}})


def _scaling(api: Api) -> None:
    """An autoscaler wants more, and then fewer."""
    for bounds in ({"minReplicas": 6, "maxReplicas": 12}, {"minReplicas": 2, "maxReplicas": 12}):
        api.patch("/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers/web", {"spec": bounds})
        time.sleep(PAUSE_SECONDS)


def _jobs(api: Api) -> None:
    """Jobs run, several pods at once; one is still at work."""
    for number, seconds in enumerate((1, 5, 600)):
        pod = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "registry.example.com/shop/export:1"}]}
        template = {"metadata": {"annotations": {"lab.opslib/run-seconds": str(seconds)}}, "spec": pod}
        spec = {"parallelism": 3, "completions": 3, "template": template}
        api.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": f"export-{number}", "namespace": "shop"}, "spec": spec})


def _node_upgrade(api: Api) -> None:
    """A node is cordoned and its pods are evicted, as far as their budgets let them; then it takes pods again."""
    node = max(item["metadata"]["name"] for item in api.list("/api/v1/nodes"))
    api.patch(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": True}})
    for pod in api.list("/api/v1/pods", fields=f"spec.nodeName={node}"):
        metadata = pod["metadata"]
        if any(owner["kind"] == "ReplicaSet" for owner in metadata.get("ownerReferences", ())):
            eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {key: metadata[key] for key in ("name", "namespace")}}
            with suppress(ApiError):  # its budget does not let it go now
                api.request("POST", f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/eviction", eviction)
    time.sleep(PAUSE_SECONDS)
    api.patch(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": None}})


ACTIVITIES = {"rollouts": _rollouts, "scaling": _scaling, "jobs": _jobs, "the upgrade of a node": _node_upgrade}


def patient(addresses: dict[str, Any]) -> dict[str, Any]:
    """The addresses with deadlines for a machine that is busy with other work: what could not be looked at is no answer."""
    return {name: {**value, "deadline_seconds": 90} if name in PARTS else value for name, value in addresses.items()}


@contextmanager
def lab(seed: int, platform: bool = True, count: int = 0) -> Iterator[tuple[Path, str]]:
    """An embedded lab, of about `count` pods, for the time of the block: its folder, and the file of its environment."""
    with tempfile.TemporaryDirectory(prefix="opslib-diagnosis-") as place:
        folder = Path(place) / "lab"
        parts = PARTS if platform else ("kubernetes",)
        running = engines.up(folder, engine="embedded", parts=parts, seed=seed, platform=platform, pods=count)
        try:
            addresses = yaml.safe_load(running.environment.read_text("utf-8"))
            file = Path(place) / "bench.yaml"
            file.write_text(yaml.safe_dump({"name": "bench", "language": "en", "timezone": "UTC", **patient(addresses)}), "utf-8")
            yield folder, str(file)
        finally:
            engines.down(folder)


# --- the figures ------------------------------------------------------------------------------------------------------------------------


def report(results: Results, shapes: Iterable[Mapping[str, Named]], false: Mapping[str, int]) -> None:
    """The figures as tables, and last as one line of JSON."""
    figures: dict[str, Any] = {}
    by_name: dict[str, list[Result]] = {}
    for result in sorted(results.kept, key=lambda result: (result.group, result.name, result.seed)):
        by_name.setdefault(result.name, []).append(result)
    for title, mine in by_name.items():
        first, three = sum(result.place == 1 for result in mine), sum((result.place or 9) <= 3 for result in mine)
        print(f"{mine[0].group:10} {title:20} {first:3} of {len(mine)} first, {three} among three")
    for group in ("tuning", "held out", "elsewhere"):
        mine = [result for result in results.kept if result.group == group]
        if mine:
            top1 = sum(result.place == 1 for result in mine) / len(mine)
            top3 = sum((result.place or 9) <= 3 for result in mine) / len(mine)
            seconds = statistics.median(result.seconds for result in mine)
            figures[group] = {"runs": len(mine), "top1": round(top1, 3), "top3": round(top3, 3), "seconds": round(seconds, 2)}
            print(f"{group:10} runs {len(mine):3}  top-1 {top1:4.0%}  top-3 {top3:4.0%}  median {seconds:.1f} s to the answer")
    if results.left:
        figures["not healthy after"] = len(results.left)
        print("not healthy after", *(f"{title} (seed {seed})" for title, seed in results.left))
    every = [shape for one in shapes for shape in one.values()]
    if every:
        named = sum(shape.place == 1 for shape in every)
        figures["shapes"] = {"runs": len(every), "top1": named}
        print(f"shapes     {named} of {len(every)} named first")
    if false:
        figures["healthy week"] = dict(false)
        print(f"healthy    {false['findings']} findings in {false['questions']} questions: a simulated week, and harmless activity")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
