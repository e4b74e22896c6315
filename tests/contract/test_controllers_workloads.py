"""What a change does to a workload is the same with our controllers as with the real ones, step by step to the same end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
from controller_engines import Engine, Engines, on_both
from controller_facts import difference, facts

from opslib.lab.api import ApiError, Object
from opslib.lab.kube.quantities import parse

pytestmark = [pytest.mark.compare, pytest.mark.timeout(300)]

_SECONDS = 60
_AT_A_TIME = 5
LABELS = {"app": "web"}
_ONE_BY_ONE = {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}  # else the steps depend on which pods are ready together


class Place:
    """A namespace of one cluster, for one test."""

    def __init__(self, engine: Engine, namespace: str) -> None:
        self.engine, self.api, self.namespace = engine, engine.api, namespace

    def make(self, kind: str, name: str, spec: Any = None, *, version: str = "apps/v1", **rest: Any) -> Object:
        """Create an object, as soon as the namespace can take it."""
        metadata = {"name": name, "namespace": self.namespace, "labels": LABELS, **rest.pop("metadata", {})}
        obj = {"apiVersion": version, "kind": kind, "metadata": metadata, **({"spec": spec} if spec is not None else {}), **rest}
        made: list[Object] = []

        def done() -> bool:
            try:
                made.append(self.api.create(obj))
            except ApiError as error:
                if error.status == 403 and "serviceaccount" in error.server_message:
                    return False
                raise
            return True

        self.until(done, f"{kind}/{name} is made")
        return made[0]

    def path(self, resource: str, name: str = "", *, base: str = "/apis/apps/v1") -> str:
        """A path in the namespace."""
        return f"{base}/namespaces/{self.namespace}/{resource}" + (f"/{name}" if name else "")

    def get(self, resource: str, name: str, *, base: str = "/apis/apps/v1") -> Object:
        return self.api.get(self.path(resource, name, base=base))

    def patch(self, resource: str, name: str, body: Any, *, base: str = "/apis/apps/v1") -> Object:
        return self.api.patch(self.path(resource, name, base=base), body)

    def kubectl(self, *words: str, check: bool = True) -> str:
        return self.engine.kubectl("-n", self.namespace, *words, check=check)

    def pods(self) -> list[Object]:
        return self.api.list(self.path("pods", base="/api/v1"))

    def until(self, condition: Callable[[], bool], what: str, *, seconds: float = _SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{self.engine.name}: {what}"
            time.sleep(0.1)


Scenario = Callable[[Place], None]


def emptied(engine: Engine) -> None:
    """Wait until no pods of the other scenarios are left: those that go give a waiting pod another try."""

    def gone() -> bool:
        return not any(pod["metadata"]["namespace"].startswith("c-") for pod in engine.api.list("/api/v1/pods"))

    Place(engine, "").until(gone, "pods go", seconds=120)


def compare(engines: Engines, scenario: Scenario) -> None:
    """Play the scenario on both, and wait until both show the same."""
    namespace = f"c-{scenario.__name__.replace('_', '-')}"

    def play(engine: Engine) -> None:
        place = Place(engine, namespace)
        place.until(lambda: made(engine, namespace), "the namespace of an earlier run is gone", seconds=120)
        scenario(place)

    try:
        on_both(engines, play)
        deadline = time.monotonic() + _SECONDS
        while found := difference(*on_both(engines, lambda engine: facts(engine.api, labels="", namespace=namespace))):
            if time.monotonic() > deadline:
                pytest.fail(found, pytrace=False)
            time.sleep(0.3)
    finally:
        on_both(engines, lambda engine: clear(engine, namespace))


def made(engine: Engine, namespace: str) -> bool:
    """Make a namespace; False where there is one that goes."""
    try:
        engine.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
        return False
    return True


def clear(engine: Engine, namespace: str) -> None:
    """Delete what the scenario made; nobody waits until it is gone."""
    engine.api.delete(f"/api/v1/namespaces/{namespace}")
    for resource in ("/api/v1/persistentvolumes", "/apis/storage.k8s.io/v1/storageclasses"):
        for obj in engine.api.list(resource):
            if namespace in obj["metadata"]["name"]:
                engine.api.delete(engine.api.path_of(obj))


@pytest.fixture(scope="module")
def compared(engines: Engines) -> Iterator[dict[str, Future[None]]]:
    """The comparisons that do not disturb each other, a few at a time: a controller spends most of it waiting."""
    executor = ThreadPoolExecutor(_AT_A_TIME)
    yield {one.__name__: executor.submit(compare, engines, one) for one in SCENARIOS}
    executor.shutdown(cancel_futures=True)


def template(image: str = "web:1", **spec: Any) -> Object:
    return {
        "metadata": {"labels": LABELS},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "web", "image": image}], **spec},
    }


def workload(replicas: int = 3, **spec: Any) -> Object:
    return {"replicas": replicas, "selector": {"matchLabels": LABELS}, "template": template(), **spec}


def image(name: str) -> Object:
    return {"spec": {"template": {"spec": {"containers": [{"name": "web", "image": name}]}}}}


def rolled_out(place: Place, kind: str = "deployment") -> None:
    place.kubectl("rollout", "status", f"{kind}/web", f"--timeout={_SECONDS}s")


# --- deployments ------------------------------------------------------------------------------------------------------------------------


# No scenario leads to ten different events about one object: from there on it is left to chance which of them are told one by one.


def rolling(place: Place) -> None:
    place.make("Deployment", "web", workload(2, strategy=_ONE_BY_ONE))
    rolled_out(place)
    place.kubectl("set", "image", "deployment/web", "web=web:2")
    rolled_out(place)
    place.kubectl("rollout", "undo", "deployment/web")
    rolled_out(place)


def history(place: Place) -> None:
    place.make("Deployment", "web", workload(1, strategy={"type": "Recreate"}, revisionHistoryLimit=1))
    rolled_out(place)
    for number in (2, 3, 4):
        place.kubectl("set", "image", "deployment/web", f"web=web:{number}")
        rolled_out(place)
    place.kubectl("rollout", "undo", "deployment/web")
    rolled_out(place)


def recreate(place: Place) -> None:
    place.make("Deployment", "web", workload(2, strategy={"type": "Recreate"}))
    rolled_out(place)
    place.kubectl("set", "image", "deployment/web", "web=web:2")
    rolled_out(place)


def paused(place: Place) -> None:
    place.make("Deployment", "web", workload(2, strategy=_ONE_BY_ONE))
    rolled_out(place)
    place.kubectl("rollout", "pause", "deployment/web")
    place.kubectl("set", "image", "deployment/web", "web=web:2")
    place.kubectl("scale", "deployment/web", "--replicas=3")
    place.until(lambda: place.get("deployments", "web")["status"].get("readyReplicas") == 3, "scaled while paused")
    place.kubectl("rollout", "resume", "deployment/web")
    rolled_out(place)


def stuck(place: Place) -> None:
    """A new release that never gets ready, scaled in the middle: in proportion."""
    place.make("Deployment", "web", workload(4, strategy={"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 1}}))
    rolled_out(place)
    body = image("web:2")
    body["spec"]["template"]["spec"]["nodeSelector"] = {"no": "node"}
    place.api.patch(place.path("deployments", "web"), body, "strategic")
    place.until(lambda: place.get("deployments", "web")["status"].get("updatedReplicas") == 3, "new pods")
    place.until(lambda: place.get("deployments", "web")["status"].get("replicas") == 6, "old pods go")
    place.kubectl("scale", "deployment/web", "--replicas=8")
    place.until(lambda: place.get("deployments", "web")["status"].get("replicas") == 10, "scaled")


def adoption(place: Place) -> None:
    """A pod that loses its label is let go, and another one made; a pod that has it is taken."""
    place.make("ReplicaSet", "web", workload(2))
    place.until(lambda: ready(place) == 2, "pods")
    first = min(place.pods(), key=lambda pod: str(pod["metadata"]["name"]))
    place.patch("pods", first["metadata"]["name"], {"metadata": {"labels": {"app": "else"}}}, base="/api/v1")
    place.until(lambda: ready(place) == 3, "another one")  # ready, so that of too many it is not the one that goes
    stray = {"containers": [{"name": "web", "image": "web:1"}], "nodeSelector": {"no": "node"}}
    place.make("Pod", "stray", stray, version="v1")
    place.until(lambda: len([pod for pod in place.pods() if not pod["metadata"].get("deletionTimestamp")]) == 3, "one too many goes")


def ready(place: Place) -> int:
    """How many pods are."""
    return sum(
        any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions") or ()) for pod in place.pods()
    )


# --- others -----------------------------------------------------------------------------------------------------------------------------


def stateful(place: Place) -> None:
    place.make("StatefulSet", "web", workload(3, serviceName="web"))
    rolled_out(place, "statefulset")
    place.patch("statefulsets", "web", {"spec": {"updateStrategy": {"rollingUpdate": {"partition": 1}}, **image("web:2")["spec"]}})
    place.until(lambda: place.get("statefulsets", "web")["status"].get("updatedReplicas") == 2, "two are new")
    place.until(lambda: place.get("statefulsets", "web")["status"].get("readyReplicas") == 3, "all are ready")
    place.kubectl("scale", "statefulset/web", "--replicas=1")
    place.until(lambda: len(place.pods()) == 1, "one is left")


def stateful_parallel(place: Place) -> None:
    claim = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
    place.make("StatefulSet", "web", workload(3, serviceName="web", podManagementPolicy="Parallel", volumeClaimTemplates=[claim]))
    place.until(lambda: len(place.pods()) == 3, "all at once")


def daemons(place: Place) -> None:
    spec = {"selector": {"matchLabels": LABELS}, "template": template()}
    place.make("DaemonSet", "web", spec)
    rolled_out(place, "daemonset")
    place.kubectl("set", "image", "daemonset/web", "web=web:2")
    rolled_out(place, "daemonset")


def jobs(place: Place) -> None:
    pods = template(restartPolicy="Never")
    pods["metadata"]["annotations"] = {"lab.opslib/run-seconds": "1"}
    place.make("Job", "web", {"completions": 3, "parallelism": 2, "template": pods}, version="batch/v1")
    place.make("Job", "indexed", {"completions": 3, "parallelism": 3, "completionMode": "Indexed", "template": pods}, version="batch/v1")
    place.make("Job", "waits", {"suspend": True, "template": pods}, version="batch/v1")
    place.make("Job", "short", {"ttlSecondsAfterFinished": 1, "template": pods}, version="batch/v1")
    for name in ("web", "indexed"):
        place.kubectl("wait", "--for=condition=complete", f"job/{name}", f"--timeout={_SECONDS}s")
    place.kubectl("wait", "--for=delete", "job/short", f"--timeout={_SECONDS}s")


def scheduled(place: Place) -> None:
    """A cron job's first run, at the next minute; then it is suspended."""
    pods = template(restartPolicy="Never")
    pods["metadata"]["annotations"] = {"lab.opslib/run-seconds": "1"}
    spec = {"schedule": "* * * * *", "jobTemplate": {"metadata": {"labels": LABELS}, "spec": {"template": pods}}}
    place.make("CronJob", "web", spec, version="batch/v1")
    jobs = place.path("jobs", base="/apis/batch/v1")

    def done() -> bool:
        return any(one["type"] == "Complete" for job in place.api.list(jobs) for one in job["status"].get("conditions") or ())

    place.until(done, "its job is done", seconds=90)
    place.patch("cronjobs", "web", {"spec": {"suspend": True}}, base="/apis/batch/v1")


def resumed(place: Place) -> None:
    pods = template(restartPolicy="Never")
    pods["metadata"]["annotations"] = {"lab.opslib/run-seconds": "1"}
    place.make("Job", "web", {"suspend": True, "template": pods}, version="batch/v1")
    place.until(lambda: bool(place.get("jobs", "web", base="/apis/batch/v1").get("status", {}).get("conditions")), "suspended")
    place.patch("jobs", "web", {"spec": {"suspend": False}}, base="/apis/batch/v1")
    place.kubectl("wait", "--for=condition=complete", "job/web", f"--timeout={_SECONDS}s")


def services(place: Place) -> None:
    place.make("Deployment", "web", workload(2, template=template(readinessGates=[{"conditionType": "example.com/open"}])))
    place.make("Service", "web", {"selector": LABELS, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}, version="v1")
    place.make("Service", "headless", {"clusterIP": "None", "selector": LABELS, "ports": [{"port": 5432}]}, version="v1")
    place.make("Service", "named", {"selector": LABELS, "ports": [{"port": 80, "targetPort": "nothing"}]}, version="v1")
    place.until(lambda: all(pod["status"].get("podIP") for pod in place.pods()) and len(place.pods()) == 2, "addresses")
    conditions = [{"type": "example.com/open", "status": "True"}]
    pod = min(place.pods(), key=lambda one: str(one["metadata"]["name"]))
    path = place.path("pods", pod["metadata"]["name"], base="/api/v1")
    place.api.patch(path, {"status": {"conditions": conditions}}, "strategic", subresource="status")


def budgets(place: Place) -> None:
    other = {"app": "other"}
    place.make("Deployment", "web", workload(3))
    more = {"replicas": 2, "selector": {"matchLabels": other}, "template": {**template(), "metadata": {"labels": other}}}
    place.make("Deployment", "other", more)
    rolled_out(place)  # a budget that comes before its pods says so, if it is quick
    place.until(lambda: ready(place) == 5, "pods")
    # no pod has two budgets: which of them is meant then is left to chance
    place.make("PodDisruptionBudget", "some", {"selector": {"matchLabels": LABELS}, "maxUnavailable": 1}, version="policy/v1")
    place.make("PodDisruptionBudget", "share", {"selector": {"matchLabels": other}, "minAvailable": "100%"}, version="policy/v1")
    place.make("PodDisruptionBudget", "none", {"selector": {"matchLabels": {"app": "nothing"}}, "minAvailable": 1}, version="policy/v1")


def quotas(place: Place) -> None:
    hard = {
        "requests.cpu": "2",
        "limits.memory": "1Gi",
        "pods": "5",
        "count/deployments.apps": "3",
        "services": "2",
        "requests.storage": "5Gi",
    }
    place.make("ResourceQuota", "team", {"hard": hard}, version="v1")
    place.until(lambda: "hard" in place.get("resourcequotas", "team", base="/api/v1").get("status", {}), "heeded")
    containers = [{"name": "web", "image": "web:1", "resources": {"requests": {"cpu": "250m"}, "limits": {"memory": "128Mi"}}}]
    place.make("Deployment", "web", workload(2, template=template(containers=containers)))
    place.make("Service", "web", {"selector": LABELS, "ports": [{"port": 80}]}, version="v1")
    rolled_out(place)


# --- deletion ---------------------------------------------------------------------------------------------------------------------------


def orphans(place: Place) -> None:
    place.make("Deployment", "web", workload(2))
    rolled_out(place)
    place.kubectl("delete", "deployment", "web", "--cascade=orphan")
    place.until(lambda: not place.get("replicasets", replica_set(place))["metadata"].get("ownerReferences"), "set free")


def replica_set(place: Place) -> str:
    (found,) = place.api.list(place.path("replicasets"))
    return str(found["metadata"]["name"])


def foreground(place: Place) -> None:
    place.make("Deployment", "web", workload(2))
    rolled_out(place)
    place.kubectl("delete", "deployment", "web", "--cascade=foreground", f"--timeout={_SECONDS}s")
    assert place.pods() == []


def background(place: Place) -> None:
    place.make("Deployment", "web", workload(2))
    place.make("Service", "web", {"selector": LABELS, "ports": [{"port": 80}]}, version="v1")
    rolled_out(place)
    place.kubectl("delete", "deployment,service", "web")
    place.until(lambda: place.pods() == [], "pods go")


# --- volumes ----------------------------------------------------------------------------------------------------------------------------


def volumes(place: Place) -> None:
    place.api.apply(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": f"late-{place.namespace}"},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        }
    )
    for name, size, kind in (("small", "1Gi", "now"), ("big", "10Gi", "now"), ("late", "2Gi", f"late-{place.namespace}")):
        spec = {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": kind, "hostPath": {"path": "/data"}}
        place.api.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"{place.namespace}-{name}", "labels": LABELS},
                "spec": spec,
            }
        )
    for name, size, kind in (("one", "2Gi", "now"), ("waits", "1Gi", f"late-{place.namespace}"), ("classless", "1Gi", "")):
        spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": kind, "resources": {"requests": {"storage": size}}}
        place.make("PersistentVolumeClaim", name, spec, version="v1")
    place.until(lambda: bound(place, "one"), "bound at once")
    volume = [{"name": "data", "persistentVolumeClaim": {"claimName": "waits"}}]
    place.make("Pod", "user", {"containers": [{"name": "web", "image": "web:1"}], "volumes": volume}, version="v1")
    place.until(lambda: bound(place, "waits"), "bound with its pod")
    place.until(lambda: bool(place.pods()[0]["spec"].get("nodeName")), "the pod has a node")
    place.kubectl("delete", "pvc", "one", "waits", "--wait=false")
    place.until(lambda: len(place.api.list(place.path("persistentvolumeclaims", base="/api/v1"))) == 2, "the one in use stays")


def grows(place: Place) -> None:
    """A volume made for a claim, attached for its pod, and grown with the claim."""
    metadata = {"name": f"grows-{place.namespace}"}
    more = {"provisioner": "ebs.csi.aws.com", "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": True}
    place.api.apply({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": metadata, **more})
    size = {"requests": {"storage": "1Gi"}}
    claim = {"accessModes": ["ReadWriteOnce"], "storageClassName": metadata["name"], "resources": size}
    place.make("PersistentVolumeClaim", "data", claim, version="v1")
    events = place.path("events", base="/api/v1")
    place.until(lambda: bool(place.api.list(events, fields="reason=WaitForFirstConsumer")), "it waits")  # else it waits for the pod
    volume = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    place.make("Pod", "user", {"containers": [{"name": "web", "image": "web:1"}], "volumes": volume}, version="v1")
    place.until(lambda: ready(place) == 1, "the pod runs")
    place.patch("persistentvolumeclaims", "data", {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}, base="/api/v1")

    def grown() -> bool:
        found = place.get("persistentvolumeclaims", "data", base="/api/v1")["status"]
        return bool(found["capacity"]["storage"] == "2Gi" and not found.get("conditions"))

    place.until(grown, "it has grown")


def bound(place: Place, name: str) -> bool:
    return bool(place.get("persistentvolumeclaims", name, base="/api/v1").get("status", {}).get("phase") == "Bound")


# --- the scheduler ----------------------------------------------------------------------------------------------------------------------


def preempts(place: Place) -> None:
    name = f"high-{place.namespace}"
    place.api.apply({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": 1000})
    nodes = place.api.list("/api/v1/nodes")
    cores = parse(nodes[0]["status"]["allocatable"]["cpu"])  # of all alike; two such pods do not fit on one
    containers = [{"name": "web", "image": "web:1", "resources": {"requests": {"cpu": str(int(cores * 3 / 4))}}}]
    place.make("ReplicaSet", "web", workload(len(nodes), template=template(containers=containers)))
    place.until(lambda: all(pod["spec"].get("nodeName") for pod in place.pods()) and len(place.pods()) == len(nodes), "the nodes are full")
    labels = {"labels": {"app": "critical"}}
    place.make("Pod", "critical", {"containers": containers, "priorityClassName": name}, version="v1", metadata=labels)
    place.until(lambda: bool(place.get("pods", "critical", base="/api/v1")["spec"].get("nodeName")), "it got a node")
    place.until(
        lambda: len(place.pods()) == len(nodes) + 1 and not any(pod["metadata"].get("deletionTimestamp") for pod in place.pods()),
        "victims are gone",
    )


SCENARIOS: tuple[Scenario, ...] = (
    scheduled,  # waits for the minute
    rolling,
    history,
    recreate,
    paused,
    stuck,
    adoption,
    stateful,
    stateful_parallel,
    daemons,
    jobs,
    resumed,
    services,
    budgets,
    quotas,
    orphans,
    foreground,
    background,
    volumes,
    grows,
)


@pytest.mark.parametrize("name", [one.__name__ for one in SCENARIOS])
def test_scenario(name: str, compared: dict[str, Future[None]]) -> None:
    compared[name].result()


def test_a_critical_pod_gets_the_place_of_lesser_ones(engines: Engines, compared: dict[str, Future[None]]) -> None:
    wait(compared.values())  # it fills the nodes
    on_both(engines, emptied)
    compare(engines, preempts)


def test_a_deleted_namespace_takes_all_with_it_and_says_what_holds_it(engines: Engines) -> None:
    def play(engine: Engine) -> list[tuple[str, str, str, str]]:
        engine.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "c-held"}})
        place = Place(engine, "c-held")
        place.make("Deployment", "web", workload(2))
        rolled_out(place)
        place.make("ConfigMap", "held", version="v1", metadata={"finalizers": ["example.com/keep"]})
        engine.api.delete("/api/v1/namespaces/c-held")
        found: list[tuple[str, str, str, str]] = []

        def only_held() -> bool:
            status = engine.api.get("/api/v1/namespaces/c-held")["status"]
            found[:] = [(one["type"], one["status"], one["reason"], one["message"]) for one in status.get("conditions") or []]
            return any(one[0] == "NamespaceContentRemaining" and "configmaps. has 1" in one[3] for one in found)

        place.until(only_held, "only the held one is left")
        place.patch("configmaps", "held", {"metadata": {"finalizers": None}}, base="/api/v1")
        place.kubectl("wait", "--for=delete", "namespace/c-held", f"--timeout={_SECONDS}s")
        return found

    mine, theirs = on_both(engines, play)
    assert mine == theirs
