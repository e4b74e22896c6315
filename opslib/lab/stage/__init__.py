"""The stage: the world of now, what is broken in it, and who has to know when it becomes another one.

It lives in the supervisor. Other processes of the lab read the world from ``<folder>/data/world.json``, which is always whole:
``{"world": World.document(), "handover": Unix seconds}``. `opslib.lab.control` has what the command line asks it.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.errors import InputError, OpsError
from opslib.lab.rest import Rest
from opslib.lab.world.clock import Pace
from opslib.lab.world.model import World
from opslib.messages import _

if TYPE_CHECKING:
    from opslib.lab.api import Api
    from opslib.lab.informer import Informer
    from opslib.lab.kubelet import Kubelet
    from opslib.lab.world.scenarios import Asked, Scenario, Silence

Listener = Callable[[World], None]
_ASKED_EVERY = 3.0
_ROLLOUT_SECONDS, _ROLLOUT_SECONDS_A_POD, _MOST_ROLLOUT_SECONDS = 10.0, 0.5, 100.0


def read(folder: Path) -> tuple[World, float] | None:
    """The world of a lab's folder and its handover; None where there is none."""
    try:
        content = json.loads((folder / "data" / "world.json").read_text("utf-8"))
    except FileNotFoundError:
        return None
    return World.of(content["world"]), content["handover"]


@dataclass
class Broken:
    """A scenario or a fault that is, or was, on stage. Times are Unix seconds.

    Parameters
    ----------
    began
        When its timeline began.
    since, speed
        Its pace (`Pace`): from then on its time goes so many times as fast as the wall's.
    faults
        For each step of its timeline the place of its fault in the world's; -1 for what is none.
    met
        For each step the UIDs of the pods that its fault met when it was put on stage.
    due
        Steps that are still to come.
    open
        Ends that were seen not to be reached: a status may show for a moment longer what was before.
    ended
        When an accepted end was reached, and which.
    """

    name: str
    kind: str
    began: float
    faults: list[int] = field(default_factory=list)
    met: list[list[str]] = field(default_factory=list)
    due: list[int] = field(default_factory=list)
    since: float = 0.0
    speed: float = 1.0
    silences: list[str] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    ended: float | None = None
    end: int | None = None

    def at(self, seconds: float) -> float:
        """When, in Unix seconds, so many seconds of its own have passed since it began."""
        return Pace(self.since, self.speed).after(self.began, seconds)

    def passed(self, now: float) -> float:
        """The seconds of its own that have passed at a time in Unix seconds."""
        return Pace(self.since, self.speed).passed(self.began, now)


class Stage:
    """The world of now. May be used from several threads.

    Parameters
    ----------
    folder
        The lab's folder.
    handover
        Unix seconds: up to here what the lab shows is computed, from here on it is observed.
    """

    def __init__(self, folder: Path, world: World, handover: float) -> None:
        self.folder = folder
        self._file = folder / "data" / "world.json"
        self._lock = threading.RLock()
        self._listeners: list[Listener] = []
        self._world, self._handover = world, handover
        self._acting = threading.Lock()  # one acts at a time
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._api: Api | None = None
        self._kubelet: Kubelet | None = None
        self._addresses: Mapping[str, str] = {}
        self._platform = True
        self._informers: dict[tuple[str, str, str], Informer] = {}
        self._broken = [Broken(**one) for one in _document(folder / "data" / "broken.json", [])]
        self._write()

    # --- the world ---

    @property
    def world(self) -> World:
        """The world of now. A world never changes: when something breaks or ends, this is another one."""
        with self._lock:
            return self._world

    @property
    def handover(self) -> float:
        """Up to here the past is computed, in Unix seconds: when the lab came up, or the last break."""
        with self._lock:
            return self._handover

    def subscribe(self, listener: Listener) -> None:
        """Tell `listener` of every other world from now on; in the thread that makes it, so it should only take a note."""
        with self._lock:
            self._listeners.append(listener)

    def become(self, world: World, handover: float | None = None) -> None:
        """Put another world on stage; with `handover`, its past up to there is computed anew."""
        with self._lock:
            self._world = world
            if handover is not None:
                self._handover = handover
            self._write()
            listeners = list(self._listeners)
        for listener in listeners:
            listener(world)

    def _write(self) -> None:
        content = {"world": self._world.document(), "handover": self._handover}
        _put(self._file, content)

    # --- breaking ---

    def start(self, api: Api, kubelet: Kubelet | None, addresses: Mapping[str, str], *, platform: bool = True) -> None:
        """Begin to act on a cluster, whose kubelet is played here; `addresses` are those of the lab's servers, by part.

        Without the `platform` only faults can be played.
        """
        self._api, self._kubelet, self._addresses, self._platform = api, kubelet, addresses, platform
        threading.Thread(target=self._run, name="stage", daemon=True).start()

    def close(self) -> None:
        """Act no longer."""
        self._stop.set()
        self._wake.set()
        for informer in self._informers.values():
            informer.close()

    @property
    def is_acting(self) -> bool:
        """Whether something is being broken, followed or taken back at this moment."""
        return self._acting.locked()

    @property
    def broken(self) -> list[Broken]:
        """What was broken since the last reset, the first one first."""
        with self._lock:
            return [replace(one) for one in self._broken]

    def play(self, name: str, ago: float | None = None, speed: float = 1.0) -> Broken:
        """Break the lab with a scenario, as if it had begun `ago` seconds ago (None: as long as its file says).

        Its timeline and what develops in it go on `speed` times as fast as the wall's clock.

        Raises
        ------
        InputError
            There is no such scenario, or it is on already.
        OpsError
            The API server refused.
        """
        from opslib.lab.stage import ends
        from opslib.lab.world import scenarios

        scenario = scenarios.load(name)
        if not self._platform:
            raise InputError(_("A scenario needs the platform, which this lab does not have"), _("Start it whole"), "opslib lab up")
        with self._acting:
            if any(one.name == name and one.ended is None for one in self._broken):
                raise InputError(_("{name} is on already", name=name), _("Take it back first"), "opslib lab reset")
            now = time.time()
            began, pace = now - (scenario.seen_after if ago is None else ago), Pace(now, speed)
            with self._lock:
                first = len(self._world.faults)
                broken = scenario.broken(self._world, began, pace)
            places = iter(range(first, len(broken.faults)))
            faults = [next(places) if step.fault else -1 for step in scenario.timeline]
            steps = len(scenario.timeline)
            one = Broken(name, "scenario", began, faults, [[] for _step in range(steps)], list(range(steps)), pace.since, pace.speed)
            self._step(one, scenario, broken, now)
            if len(broken.faults) > first:
                self._wait_for_rollouts(broken, first)
                self.become(broken, time.time())
            one.open = [number for number, end in enumerate(scenario.accepted) if not ends.objects_fit(self._cluster, end)]
            with self._lock:
                self._broken.append(one)
            self._keep()
        self._wake.set()
        return replace(one)

    def _wait_for_rollouts(self, world: World, first: int) -> None:
        """Until the pods of a release are there, whose names the past is to have; not for long."""
        from opslib.lab.stage import acts

        changed = [timed for timed in world.faults[first:] if timed.fault.kind in acts.ROLLED_OUT and timed.start <= time.time()]
        services = [world.services[world.places[timed.service]] for timed in changed]
        pods = sum(service.replicas for service in services)
        deadline = time.monotonic() + min(_ROLLOUT_SECONDS + pods * _ROLLOUT_SECONDS_A_POD, _MOST_ROLLOUT_SECONDS)
        while not all(acts.rolled_out(self._cluster, service) for service in services) and time.monotonic() < deadline:
            self._stop.wait(0.1)

    def fault(self, name: str, namespace: str | None = None) -> Broken:
        """Break the cluster with a fault that the player plays.

        Raises
        ------
        InputError
            There is no such fault.
        OpsError
            The API server refused, or pods did not appear in time.
        """
        from opslib.lab import player

        with self._acting:
            player.apply_fault(self._cluster.api, name, namespace, logs=self.folder / "logs")
            now = time.time()
            one = Broken(name, "fault", now)
            with self._lock:
                self._broken.append(one)
            self._keep()
        return replace(one)

    def reset(self) -> int:
        """Take back everything; how many objects were deleted or put back.

        Raises
        ------
        OpsError
            The API server refused, or pods or nodes did not get well in time.
        """
        from opslib.lab import player
        from opslib.lab.stage import resetting
        from opslib.lab.velero import trouble
        from opslib.lab.world import scenarios

        with self._acting:
            cluster, before = self._cluster, self.world
            well = replace(before, faults=())
            for informer in self._informers.values():
                informer.close()
            self._informers.clear()
            self._lift([silence for one in self._broken for silence in one.silences])
            resetting.nodes(cluster, before)
            self._look_again()
            count = player.reset(cluster.api, logs=self.folder / "logs")
            count += resetting.leftovers(cluster, before)
            if self._platform:
                count += resetting.platform(cluster, well)
            if any(step.backups for one in self._broken if one.kind == "scenario" for step in scenarios.load(one.name).timeline):
                trouble.repair(cluster.api, self.folder)
            self._look_again()
            with self._lock:
                self._broken = []
            self._keep()
            if before.faults:
                self.become(well, time.time())
        return count

    @property
    def _cluster(self) -> Any:
        from opslib.lab.stage.acts import Cluster

        if self._api is None:
            raise OpsError(
                _("The lab has no cluster to break, or it is not up yet"), _("See which of its servers answer"), "opslib lab status"
            )
        return Cluster(self._api, self.folder)

    def _keep(self) -> None:
        with self._lock:
            _put(self.folder / "data" / "broken.json", [asdict(one) for one in self._broken])

    # --- while it is on ---

    def _run(self) -> None:
        """Do what is due, and see what has ended: whenever something that matters has changed, or its time has come."""
        rest = Rest()
        while not self._stop.is_set():
            wake = float("inf")
            try:
                with self._acting, rest.after():
                    for one in self._broken:
                        if one.kind == "scenario" and one.ended is None:
                            wake = min(wake, self._go_on(one))
            except Exception:  # the API server is away for a moment, an object went meanwhile, or worse: the stage goes on
                sys.stderr.write(f"stage: {traceback.format_exc()}")
                wake = time.time() + 1
            self._wake.wait(max(0.05, min(wake - time.time(), 3600)))
            self._wake.clear()
            self._stop.wait(max(0.05, rest.seconds))  # changes come in flocks, and in a big lab without end

    def _go_on(self, one: Broken) -> float:
        """Do what is due of a scenario, and see whether it has ended; when to look again at the latest, in Unix seconds."""
        from opslib.lab.stage import acts, ends
        from opslib.lab.world import scenarios

        scenario, cluster, now = scenarios.load(one.name), self._cluster, time.time()
        wake = self._step(one, scenario, self.world, now)
        for place, met in zip(one.faults, one.met, strict=True):
            if place < 0:
                continue
            timed = self.world.faults[place]
            if timed.start <= now < timed.end:
                if ends.by_nature(cluster, self.world, timed, met):
                    self._end_fault(place, now)
                else:
                    wake = min(wake, acts.show(cluster, self.world, timed, now, self.handover))
            elif now < timed.start:
                wake = min(wake, timed.start)
            elif acts.ended(cluster, timed):
                self._look_again()
            if now < timed.end < float("inf"):
                wake = min(wake, timed.end)
        self._watch(one, scenario)
        if one.due:
            return wake
        for number, end in enumerate(scenario.accepted):
            if not ends.reached(cluster, end, self._ask):
                one.open = sorted({*one.open, number})
                continue
            if end.objects and number not in one.open:
                continue
            places = [one.faults[step] for step in end.ends]
            for step, place in zip(end.ends, places, strict=True):
                timed = self.world.faults[place]
                if now < timed.end and ends.by_nature(cluster, self.world, timed, one.met[step]) is None:
                    self._end_fault(place, now)
            if all(self.world.faults[place].end <= now for place in places):
                one.ended, one.end = now, number
                cluster.holds.drop("lesson")
                self._look_again()
                self._keep()
                return float("inf")
        if any(end.asked for end in scenario.accepted):
            wake = min(wake, now + _ASKED_EVERY)
        return wake

    def _step(self, one: Broken, scenario: Scenario, world: World, now: float) -> float:
        """Take the steps of a scenario that are due; when the next one is. `world` is the one in which it happens."""
        from opslib.lab import player
        from opslib.lab.faults import holds_of
        from opslib.lab.stage import acts

        for number in list(one.due):
            step = scenario.timeline[number]
            if one.at(step.after) > now:
                continue
            if step.fault:
                timed = world.faults[one.faults[number]]
                if timed.service:
                    pods = self._cluster.pods(world.services[world.places[timed.service]])
                    one.met[number] = [pod["metadata"]["uid"] for pod in pods]
                if now < timed.end:
                    acts.begin(self._cluster, world, timed, now)
            elif step.silence:
                one.silences.append(self._silence(step.silence, one.at(step.after)))
            if step.backups:
                from opslib.lab.velero import trouble

                since = datetime.fromtimestamp(one.at(step.after), UTC)
                if not trouble.fail_backups(self._cluster.api, self.folder, since, step.backups.phase, step.backups.message):
                    continue  # Velero has not brought its backups yet
                trouble.break_location(self._cluster.api)
            if step.play is not None:  # its pods are held before they can come
                self._cluster.holds.add(*holds_of(step.played("lesson"), step.played("lesson").namespace))
            for patch in step.patches:
                self._cluster.patch(patch.object, patch.merge, by=patch.by, version=patch.api)
            if step.play is not None:
                player.apply_fault(self._cluster.api, step.played("lesson"), logs=self.folder / "logs")
            for obj in step.apply:
                self._cluster.apply(obj, by="kubectl-client-side-apply")
            one.due.remove(number)
        return min((max(one.at(scenario.timeline[number].after), now + 1) for number in one.due), default=float("inf"))

    def _end_fault(self, place: int, now: float) -> None:
        from opslib.lab.stage import acts

        timed = self.world.faults[place]
        self.become(self.world.ended(place, now))
        acts.ended(self._cluster, timed)
        self._look_again()

    def _look_again(self) -> None:
        """Let the kubelet look at pods that are held no longer."""
        if self._kubelet is not None:
            self._kubelet.look_again()

    def _watch(self, one: Broken, scenario: Scenario) -> None:
        """See that changes of what may end a scenario are noticed."""
        from opslib.lab.informer import Informer
        from opslib.lab.stage import ends

        api, cluster = self._api, self._cluster
        if api is None:
            return
        services = {self.world.faults[place].service for place in one.faults if place >= 0} - {""}
        for kind, namespace, name in ends.watched(scenario.accepted, [self.world.services[self.world.places[each]] for each in services]):
            if (kind, namespace, name) in self._informers:
                continue
            plain, _space, version = kind.partition(" ")
            path = cluster.path("/".join(part for part in (plain, namespace, name or "-") if part), version).rpartition("/")[0]
            fields = f"metadata.name={name}" if name else ""
            informer = Informer(api, path, lambda event, obj: self._wake.set(), fields=fields)
            self._informers[kind, namespace, name] = informer
            informer.start()

    # --- other systems ---

    def _ask(self, asked: Asked) -> Any:
        """What another system answers; None where it does not."""
        import urllib3

        if asked.part not in self._addresses:
            return None
        if asked.part == "aws":
            return _ask_aws(self._addresses["aws"], asked)
        try:
            answer = urllib3.request("GET", self._addresses[asked.part] + asked.get, timeout=3, retries=False)
        except urllib3.exceptions.HTTPError:
            return None
        return answer.json() if answer.status == 200 else None

    def _silence(self, silence: Silence, start: float) -> str:
        """Make a silence; its id, empty where the lab has no Alertmanager."""
        import urllib3

        from opslib.lab.world.changes import iso

        if "alertmanager" not in self._addresses:
            return ""
        matchers = [
            {"name": name, "value": value.removeprefix("=~"), "isRegex": value.startswith("=~"), "isEqual": True}
            for name, value in silence.matchers.items()
        ]
        body = {
            "matchers": matchers,
            "startsAt": iso(start),
            "endsAt": iso(time.time() + silence.hours * 3600),
            "createdBy": silence.by,
            "comment": silence.comment,
        }
        answer = urllib3.request("POST", self._addresses["alertmanager"] + "/api/v2/silences", json=body, timeout=5)
        if answer.status != 200:
            raise OpsError(_("Alertmanager refused a silence: {reason}", reason=answer.data.decode("utf-8", "replace")[:200]))
        return str(answer.json()["silenceID"])

    def _lift(self, silences: list[str]) -> None:
        import urllib3

        for silence in filter(None, silences):
            urllib3.request("DELETE", f"{self._addresses['alertmanager']}/api/v2/silence/{silence}", timeout=5)


def _ask_aws(address: str, asked: Asked) -> Any:
    """What the lab's AWS account answers; None where it does not."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    session = boto3.Session(aws_access_key_id="stage", aws_secret_access_key="stage", region_name="ap-northeast-1")  # noqa: S106
    try:
        client = session.client(asked.service, endpoint_url=address)
        return getattr(client, asked.call)(**asked.parameters)
    except (BotoCoreError, ClientError):
        return None


def _document(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return default


def _put(path: Path, content: Any) -> None:
    """Write a file whole: whoever reads it sees the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".json.new")
    temporary.write_text(json.dumps(content) + "\n", "utf-8")
    temporary.replace(path)
