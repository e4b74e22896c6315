"""Each cause of chapter 4.1, from the least that shows it, in the words of the kubelet, the scheduler, the runtimes and the registries."""

from __future__ import annotations

import dataclasses
import time
from datetime import timedelta

import pytest
import yaml
from pod_facts import NOW, ago, container, crashed, event, facts, only, pod, waiting, words, workload

from opslib.diagnosis.pods import diagnose
from opslib.diagnosis.pods.facts import Facts, Log, Measured
from opslib.diagnosis.pods.words import last_words
from opslib.findings import Severity, Subject
from opslib.sources import objects
from opslib.sources.objects import convert

WEB = Subject("Deployment", "web", "shop")

PULL = 'Failed to pull image "shop/web:1.2": failed to pull and unpack image "docker.io/shop/web:1.2": '
IMAGES = {
    "image.not_found": PULL + 'failed to resolve reference "docker.io/shop/web:1.2": docker.io/shop/web:1.2: not found',
    "image.unauthorised": PULL + "failed to authorize: failed to fetch anonymous token: unexpected status: 401 Unauthorized",
    "image.rate_limit": PULL + "429 Too Many Requests - Server message: toomanyrequests: You have reached your pull rate limit.",
    "image.architecture": PULL + "no match for platform in manifest: not found",
    "image.registry_unreachable": PULL + 'Head "https://r/v2/": dial tcp: lookup r on 10.0.0.2:53: no such host',
    "image.pull": PULL + "something that nobody has seen before",
}


@pytest.mark.parametrize("check", IMAGES)
def test_an_image_that_cannot_be_pulled(check: str) -> None:
    # An older kubelet says why in the event only.
    loop = pod(status=waiting("ImagePullBackOff", 'Back-off pulling image "shop/web:1.2"'))
    found = only(diagnose(facts(loop, events=(event("Failed", IMAGES[check]), event("Failed", "Error: ErrImagePull")))))
    assert (found.check, found.subject, found.severity) == (check, WEB, Severity.CRITICAL)
    assert IMAGES[check] in [item.quote for item in found.evidence[:2]]
    # A newer one repeats it in the waiting message.
    assert only(diagnose(facts(pod(status=waiting("ErrImagePull", IMAGES[check]))))).check == check


def test_docker_hub_says_denied_of_a_repository_that_does_not_exist() -> None:
    message = PULL + "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope"
    found = only(diagnose(facts(pod(status=waiting("ErrImagePull", message)))))
    assert found.check == "image.unauthorised"
    assert "does not exist" in words(found)


def test_a_missing_pull_secret_is_named() -> None:
    denied = pod(status=waiting("ErrImagePull", PULL + "403 Forbidden"), spec="imagePullSecrets: [{name: regcred}]")
    found = only(diagnose(facts(denied, missing=frozenset({("Secret", "shop", "regcred")}))))
    assert found.check == "image.unauthorised"
    assert "regcred does not exist" in words(found)


@pytest.mark.parametrize(
    ("reason", "message", "check"),
    [
        (
            "InvalidImageName",
            'Failed to apply default image tag "Shop/web": couldn\'t parse image name: invalid reference format',
            "image.invalid_name",
        ),
        ("ErrImageNeverPull", 'Container image "shop/web:1.2" is not present with pull policy of Never', "image.never_pulled"),
        ("CreateContainerConfigError", 'configmap "settings" not found', "config.config_map_missing"),
        ("CreateContainerConfigError", 'secret "db" not found', "config.secret_missing"),
        ("CreateContainerConfigError", "couldn't find key url in ConfigMap shop/settings", "config.key_missing"),
        ("CreateContainerConfigError", "couldn't find key password in Secret shop/db", "config.key_missing"),
        (
            "CreateContainerConfigError",
            "container has runAsNonRoot and image will run as root (pod: ..., container: app)",
            "config.invalid",
        ),
        ("RunContainerError", 'exec: "serve": executable file not found in $PATH: unknown', "container.command_not_found"),
        ("CreateContainerError", "failed to reserve container name", "container.cannot_start"),
    ],
)
def test_a_container_that_waits(reason: str, message: str, check: str) -> None:
    found = only(diagnose(facts(pod(status=waiting(reason, message)))))
    assert (found.check, found.subject) == (check, WEB)
    assert message in [item.quote for item in found.evidence]


def test_a_missing_key_is_named_with_its_object() -> None:
    found = only(diagnose(facts(pod(status=waiting("CreateContainerConfigError", "couldn't find key url in ConfigMap shop/settings")))))
    assert "ConfigMap settings has no key url" in words(found)


@pytest.mark.parametrize(
    ("reason", "message", "check"),
    [
        ("FailedMount", 'MountVolume.SetUp failed for volume "conf" : configmap "settings" not found', "config.config_map_missing"),
        ("FailedMount", 'MountVolume.SetUp failed for volume "conf" : references non-existent config key: app.yaml', "config.key_missing"),
        ("FailedMount", 'MountVolume.SetUp failed for volume "nfs" : mount failed: exit status 32', "storage.mount"),
        (
            "FailedAttachVolume",
            'Multi-Attach error for volume "pvc-1" Volume is already exclusively attached to one node',
            "storage.multi_attach",
        ),
        ("FailedAttachVolume", 'AttachVolume.Attach failed for volume "pvc-1" : rpc error: code = Internal', "storage.attach"),
        (
            "FailedCreatePodSandBox",
            'plugin type="aws-cni" name="aws-cni" failed (add): add cmd: failed to assign an IP address to container',
            "network.sandbox",
        ),
    ],
)
def test_a_pod_that_is_not_made(reason: str, message: str, check: str) -> None:
    making = pod(
        status="phase: Pending\n" + waiting("ContainerCreating"),
        spec="volumes: [{name: conf, configMap: {name: settings}}]\nnodeName: node-1\ncontainers: [{name: app}]",
    )
    found = only(diagnose(facts(making, events=(event(reason, message),))))
    assert found.check == check
    assert message in [item.quote for item in found.evidence]


def test_what_the_api_server_does_not_have_is_missing_even_without_an_event() -> None:
    making = pod(status="phase: Pending\n" + waiting("ContainerCreating"), spec="volumes: [{name: conf, configMap: {name: settings}}]")
    assert only(diagnose(facts(making, missing=frozenset({("ConfigMap", "shop", "settings")})))).check == "config.config_map_missing"
    # Not known is not missing.
    assert only(diagnose(facts(making))).check == "pod.unknown"


def test_a_crash_loop_shows_code_and_last_lines() -> None:
    found = only(diagnose(facts(pod(status=crashed(3)), logs={"web-1": "starting\nno database url given\n"})))
    assert (found.check, found.severity) == ("container.crash_loop", Severity.CRITICAL)
    assert "exit code 3" in words(found)
    assert "starting\nno database url given" in [item.quote for item in found.evidence]


def test_of_a_stack_trace_what_it_is_about_is_quoted() -> None:
    frames = "".join(f"\tat org.apache.catalina.Valve.invoke(Valve.java:{number})\n" for number in range(30))
    cause = "Caused by: java.io.IOException: disk full\n\tat shop.Store.save(Store.java:7)\n"
    log = f"starting\njava.lang.IllegalStateException: not saved\n{frames}{cause}{frames}"
    found = only(diagnose(facts(pod(status=crashed(3)), logs={"web-1": log})))
    (quote,) = (item.quote for item in found.evidence if "starting" in item.quote)
    assert quote.splitlines() == [
        "starting",
        "java.lang.IllegalStateException: not saved | java.io.IOException: disk full | shop.Store.save (Store.java:7)",
    ]


@pytest.mark.parametrize(
    ("code", "reason", "check"),
    [
        (0, "Completed", "container.clean_exit"),
        (139, "Error", "container.signal"),
        (137, "Error", "container.signal"),
        (134, "Error", "container.signal"),
        (127, "Error", "container.command_not_found"),
        (126, "Error", "container.command_not_found"),
        (128, "StartError", "container.cannot_start"),
        (255, "Error", "container.crash_loop"),
    ],
)
def test_how_it_ends_says_why(code: int, reason: str, check: str) -> None:
    assert only(diagnose(facts(pod(status=crashed(code, reason))))).check == check


def test_a_start_error_that_names_the_executable() -> None:
    message = 'failed to create containerd task: exec: "serve": executable file not found in $PATH: unknown'
    assert only(diagnose(facts(pod(status=crashed(128, "StartError", message))))).check == "container.command_not_found"


def test_an_executable_for_another_architecture() -> None:
    found = only(diagnose(facts(pod(status=crashed(255)), logs={"web-1": "exec /app/server: exec format error\n"})))
    assert found.check == "image.architecture"


LIMITED = "containers: [{name: app, image: x, resources: {limits: {memory: 256Mi}, requests: {memory: 128Mi}}}]"


def test_memory_at_its_own_limit() -> None:
    found = only(diagnose(facts(pod(status=crashed(137, "OOMKilled"), spec=LIMITED))))
    assert found.check == "memory.limit"
    assert "256Mi" in words(found)


def test_memory_of_the_node() -> None:
    assert only(diagnose(facts(pod(status=crashed(137, "OOMKilled"))))).check == "memory.node"
    node = convert({"metadata": {"name": "node-1", "uid": "uid-node-1"}}, objects.Node)
    oom = event("SystemOOM", "System OOM encountered, victim process: java, pid: 17", "Node/node-1", lastTimestamp=ago(minutes=1))
    found = only(diagnose(facts(pod(status=crashed(137, "OOMKilled"), spec=LIMITED), events=(oom,), nodes={"node-1": node})))
    assert found.check == "memory.node"
    assert "victim process: java" in words(found)


PROBES = """
containers:
- name: app
  image: shop/web:1.2
  ports: [{containerPort: 8080}]
  livenessProbe: {httpGet: {path: /healthz, port: 8081}, periodSeconds: 10, failureThreshold: 3}
  readinessProbe: {httpGet: {path: /ready, port: 8080}, timeoutSeconds: 2}
  startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 10, failureThreshold: 6}
"""
RUNNING = container(f"{{running: {{startedAt: '{ago(minutes=9)}'}}}}")


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("Readiness probe failed: HTTP probe failed with statuscode: 503", "503"),
        (
            'Readiness probe failed: Get "http://10.0.0.1:8080/ready": dial tcp 10.0.0.1:8080: connect: connection refused',
            "listens on port 8080",
        ),
        ('Readiness probe failed: Get "http://10.0.0.1:8080/ready": context deadline exceeded (Client.Timeout exceeded)', "within 2 s"),
    ],
)
def test_a_readiness_probe_that_fails(message: str, says: str) -> None:
    found = only(diagnose(facts(pod(status=RUNNING, spec=PROBES), events=(event("Unhealthy", message),))))
    assert found.check == "probe.readiness"
    assert says in words(found)
    assert "http-get http://:8080/ready" in words(found)


@pytest.mark.parametrize("kind", ["liveness", "startup"])
def test_a_probe_that_kills(kind: str) -> None:
    events = (
        event("Unhealthy", f"{kind.title()} probe failed: dial tcp 10.0.0.1:8081: connect: connection refused"),
        event("Killing", f"Container app failed {kind} probe, will be restarted"),
    )
    found = only(diagnose(facts(pod(status=crashed(143), spec=PROBES), events=events)))
    assert found.check == f"probe.{kind}"
    # It ran for a minute, and the probe gives it no longer: that may be the whole trouble.
    assert "if the application needs longer to start" in words(found)
    assert ("the probe asks the wrong port" in words(found)) is (kind == "liveness")  # which asks another one than is declared


UNSCHEDULED = "phase: Pending\nconditions: [{{type: PodScheduled, status: 'False', reason: Unschedulable, message: '{}'}}]"
SCHEDULER = {
    "scheduling.cpu": "0/5 nodes are available: 1 node(s) had untolerated taint {node-role/control-plane: }, 4 Insufficient cpu.",
    "scheduling.memory": "0/3 nodes are available: 3 Insufficient memory. preemption: 0/3 nodes are available: 3 No victims.",
    "scheduling.resources": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    "scheduling.pod_limit": "0/3 nodes are available: 3 Too many pods.",
    "scheduling.taints": "0/3 nodes are available: 3 node(s) had untolerated taint(s).",
    "scheduling.cordoned": "0/3 nodes are available: 3 node(s) were unschedulable.",
    "scheduling.node_selector": "0/3 nodes are available: 3 node(s) didn''t match Pod''s node affinity/selector.",
    "scheduling.affinity": "0/3 nodes are available: 3 node(s) didn''t match pod affinity rules.",
    "scheduling.anti_affinity": "0/3 nodes are available: 3 node(s) didn''t match pod anti-affinity rules.",
    "scheduling.spread": "0/3 nodes are available: 3 node(s) didn''t match pod topology spread constraints.",
    "scheduling.volumes": "0/3 nodes are available: 3 node(s) had volume node affinity conflict.",
    "scheduling.ports": "0/3 nodes are available: 3 node(s) didn''t have free ports for the requested pod ports.",
    "scheduling.no_nodes": "no nodes available to schedule pods",
    "scheduling.other": "0/3 nodes are available: 3 node(s) had a reason of their own.",
    "storage.claim_missing": '0/3 nodes are available: persistentvolumeclaim "data" not found.',
    "storage.claim_pending": "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
}


@pytest.mark.parametrize("check", SCHEDULER)
def test_a_pod_that_no_node_takes(check: str) -> None:
    # Told at once: once the scheduler has said so, there is nothing to wait for.
    young = f"creationTimestamp: '{ago(seconds=2)}'"
    found = only(diagnose(facts(pod(status=UNSCHEDULED.format(SCHEDULER[check]), spec="nodeName: ''", meta=young))))
    assert (found.check, found.subject) == (check, WEB)
    assert SCHEDULER[check].replace("''", "'") in [item.quote for item in found.evidence]


def test_nodes_that_are_not_meant_do_not_name_the_cause() -> None:
    message = "0/4 nodes are available: 1 node(s) had untolerated taint(s), 3 node(s) didn''t match Pod''s node affinity/selector."
    waits = pod(status=UNSCHEDULED.format(message), spec="{nodeName: '', nodeSelector: {pool: batch}}")
    meant = convert({"metadata": {"name": "n1", "labels": {"pool": "batch"}}, "spec": {"taints": [{"key": "own"}]}}, objects.Node)
    other = convert({"metadata": {"name": "n2"}}, objects.Node)
    assert only(diagnose(facts(waits, nodes={"n1": meant, "n2": other}))).check == "scheduling.taints"
    assert only(diagnose(facts(waits, nodes={"n2": other}))).check == "scheduling.node_selector"


def test_a_pod_that_no_scheduler_looks_at() -> None:
    alone = pod(status="phase: Pending", spec="{nodeName: '', schedulerName: spot}")
    found = only(diagnose(facts(alone)))
    assert found.check == "scheduling.no_scheduler"
    assert "spot" in words(found)
    # Where the events could not be read, the scheduler may have spoken.
    assert only(diagnose(dataclasses.replace(facts(alone), events=None))).check == "scheduling.other"


def test_a_gated_pod() -> None:
    gated = pod(
        status="phase: Pending\nconditions: [{type: PodScheduled, status: 'False', reason: SchedulingGated}]",
        spec="{nodeName: '', schedulingGates: [{name: example.com/quota}]}",
    )
    assert only(diagnose(facts(gated))).check == "scheduling.gated"


CLAIMED = "{nodeName: '', volumes: [{name: d, persistentVolumeClaim: {claimName: data}}]}"
UNBOUND = UNSCHEDULED.format("0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.")


def claim(phase: str, storage_class: str | None = "fast") -> objects.Claim:
    content = {
        "metadata": {"name": "data", "namespace": "shop", "uid": "uid-data"},
        "spec": {
            "storageClassName": storage_class,
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "10Gi"}},
            "volumeName": "pv-1",
        },
        "status": {"phase": phase},
    }
    return convert(content, objects.Claim)


@pytest.mark.parametrize(
    ("phase", "classes", "volumes", "check", "says"),
    [
        ("Lost", [], [], "storage.claim_lost", "pv-1"),
        ("Pending", [], [], "storage.claim_pending", "The storage class fast does not exist"),
        ("Pending", [{"metadata": {"name": "fast"}, "provisioner": "ebs.csi.aws.com"}], [], "storage.claim_pending", "ebs.csi.aws.com"),
        (
            "Pending",
            [],
            [{"metadata": {"name": "other"}, "spec": {"storageClassName": "slow", "capacity": {"storage": "50Gi"}}}],
            "storage.claim_pending",
            "The storage class fast does not exist",
        ),
        (
            "Pending",
            [{"metadata": {"name": "fast"}, "provisioner": "kubernetes.io/no-provisioner"}],
            [
                {
                    "metadata": {"name": "small"},
                    "spec": {"storageClassName": "fast", "accessModes": ["ReadWriteMany"], "capacity": {"storage": "5Gi"}},
                }
            ],
            "storage.claim_mismatch",
            "5Gi instead of 10Gi",
        ),
    ],
)
def test_a_claim_that_is_not_bound(phase: str, classes: list[object], volumes: list[dict[str, object]], check: str, says: str) -> None:
    found = only(
        diagnose(
            facts(
                pod(status=UNBOUND, spec=CLAIMED),
                claims={("shop", "data"): claim(phase)},
                storage_classes=tuple(convert(item, objects.StorageClass) for item in classes),
                volumes=tuple(convert({**item, "status": {"phase": "Available"}}, objects.PersistentVolume) for item in volumes),
            )
        )
    )
    assert found.check == check
    assert says in words(found)


def test_a_claim_that_was_made_after_the_scheduler_looked() -> None:
    status = UNSCHEDULED.format('0/3 nodes are available: persistentvolumeclaim "data" not found.')
    known = {"claims": {("shop", "data"): claim("Pending")}, "storage_classes": (), "volumes": ()}
    assert only(diagnose(facts(pod(status=status, spec=CLAIMED), **known))).check == "storage.claim_pending"


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi.", "short of memory"),
        ("The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 50Mi.", "short of disk space"),
        ("The node was low on resource: inodes.", "inodes"),
        ("The node had condition: [PIDPressure].", "process ids"),
        ("Pod ephemeral local storage usage exceeds the total limit of containers 1Gi.", "ephemeral-storage limit"),
        ('Usage of EmptyDir volume "cache" exceeds the limit "1Gi".', "emptyDir"),
    ],
)
def test_an_evicted_pod_and_which_pressure(message: str, says: str) -> None:
    found = only(diagnose(facts(pod(status=f"{{phase: Failed, reason: Evicted, message: {message!r}}}".replace("\\'", "''")))))
    assert found.check == "node.evicted"
    assert says in words(found)


@pytest.mark.parametrize(
    ("reason", "check"),
    [
        ("Terminated", "node.shutdown"),
        ("NodeShutdown", "node.shutdown"),
        ("Preempting", "node.preempted"),
        ("OutOfcpu", "node.refused"),
        ("NodeAffinity", "node.refused"),
        ("UnexpectedAdmissionError", "node.refused"),
        ("Brandnew", "pod.unknown"),
    ],
)
def test_a_pod_that_its_node_ended(reason: str, check: str) -> None:
    assert only(diagnose(facts(pod(status=f"{{phase: Failed, reason: {reason}}}")))).check == check


def node(ready: str, since: str = "") -> dict[str, objects.Node]:
    condition = {
        "type": "Ready",
        "status": ready,
        "lastTransitionTime": since or None,
        "reason": "NodeStatusUnknown",
        "message": "Kubelet stopped posting node status.",
    }
    return {"node-1": convert({"metadata": {"name": "node-1"}, "status": {"conditions": [condition]}}, objects.Node)}


def test_a_lost_node() -> None:
    # The node controller marks the pod not ready; its containers still look well.
    status = container(f"{{running: {{startedAt: '{ago(days=1)}'}}}}", ready=True) + (
        f"\nconditions: [{{type: Ready, status: 'False', lastTransitionTime: '{ago(minutes=5)}'}}]"
    )
    found = only(diagnose(facts(pod(status=status), nodes=node("Unknown"))))
    assert (found.check, found.since) == ("node.lost", NOW.replace(hour=11, minute=55))
    assert "Kubelet stopped posting node status." in words(found)
    assert found.subject == WEB
    # The node controller has waited already; a kubelet that is only not ready yet has the same time as everybody.
    fresh = pod(status=status.replace(ago(minutes=5), ago(seconds=5)))
    assert only(diagnose(facts(fresh, nodes=node("Unknown")))).check == "node.lost"
    assert diagnose(facts(fresh, nodes=node("False"))) == []
    # Where the owners serve from elsewhere, the node is told once, with all its pods.
    serving = (
        workload("Deployment", "web", "status: {readyReplicas: 1}"),
        workload("ReplicaSet", "web-5d9", owner="Deployment/web"),
        workload("DaemonSet", "agent", "status: {numberReady: 3}"),
    )
    two = (pod(status=status), pod("agent-x", "DaemonSet/agent", status=status))
    found = only(diagnose(facts(*two, nodes=node("Unknown"), workloads=serving)))
    assert (found.subject, found.severity, len(found.affected)) == (Subject("Node", "node-1"), Severity.WARNING, 2)
    # The node is known to be lost before its pods are.
    found = only(diagnose(facts(*two, nodes=node("Unknown", since=ago(minutes=30)), workloads=serving)))
    assert found.since == NOW - timedelta(minutes=30)


@pytest.mark.parametrize(
    ("meta", "events", "nodes", "missing", "check"),
    [
        ("", (), node("Unknown"), frozenset(), "lifecycle.terminating_node"),
        ("", (), {}, frozenset({("Node", "", "node-1")}), "lifecycle.terminating_node"),
        ("finalizers: [example.com/drain]", (), node("True"), frozenset(), "lifecycle.terminating_finalizer"),
        (
            "",
            (event("FailedUnMount", "UnmountVolume.TearDown failed for volume pvc-1: device is busy"),),
            None,
            frozenset(),
            "lifecycle.terminating_volume",
        ),
        ("", (), None, frozenset(), "lifecycle.terminating"),
    ],
)
def test_a_pod_that_does_not_end(
    meta: str, events: tuple[objects.Event, ...], nodes: object, missing: frozenset[object], check: str
) -> None:
    stuck = pod(status=RUNNING, meta=f"deletionTimestamp: '{ago(minutes=5)}'\ndeletionGracePeriodSeconds: 30\n{meta}")
    found = only(diagnose(facts(stuck, events=events, nodes=nodes, missing=missing)))
    assert (found.check, found.severity) == (check, Severity.WARNING)


INIT = "initContainers: [{name: wait, image: x}, {name: migrate, image: x}]\ncontainers: [{name: app, image: x}]\nnodeName: node-1"


def init_status(state: str, last: str = "{}", restarts: int = 0) -> str:
    waits = "{name: app, state: {waiting: {reason: PodInitializing}}}"
    first = f"{{name: wait, restartCount: {restarts}, state: {state}, lastState: {last}}}"
    return f"phase: Pending\ninitContainerStatuses: [{first}]\ncontainerStatuses: [{waits}]"


def test_an_init_container_that_fails() -> None:
    status = init_status("{waiting: {reason: CrashLoopBackOff}}", "{terminated: {exitCode: 2, reason: Error}}", 4)
    log = {("shop", "web-1", "wait"): Log("", "no route to the database")}
    found = only(diagnose(dataclasses.replace(facts(pod(status=status, spec=INIT)), logs=log)))
    assert found.check == "init.failing"
    assert "no route to the database" in words(found)


def test_an_init_container_that_waits() -> None:
    found = only(diagnose(facts(pod(status=init_status(f"{{running: {{startedAt: '{ago(minutes=9)}'}}}}"), spec=INIT))))
    assert found.check == "init.waiting"
    assert "Init container 1 of 2" in words(found)


def test_a_name_that_is_not_resolved() -> None:
    log = 'level=error msg="dial tcp: lookup cart.shop.svc.cluster.local on 10.0.0.10:53: no such host"\n'
    service = convert({"metadata": {"name": "carts", "namespace": "shop"}}, objects.Service)
    found = only(diagnose(facts(pod(status=crashed(1)), logs={"web-1": log}, services=(service,), endpoint_slices=())))
    assert found.check == "network.dns"
    assert "cart.shop.svc.cluster.local" in words(found)
    assert "There is no Service of that name" in words(found)


def test_a_readiness_gate() -> None:
    status = container(f"{{running: {{startedAt: '{ago(minutes=9)}'}}}}", ready=True) + (
        f"\nconditions: [{{type: Ready, status: 'False', reason: ReadinessGatesNotReady, lastTransitionTime: '{ago(minutes=9)}'}}]"
    )
    found = only(diagnose(facts(pod(status=status, spec="readinessGates: [{conditionType: lb/healthy}]"))))
    assert found.check == "pod.readiness_gate"


def test_what_no_rule_explains_is_not_dropped() -> None:
    found = only(diagnose(facts(pod(status=waiting("SomethingNew", "never seen")), events=(event("Odd", "very odd"),))))
    assert found.check == "pod.unknown"
    assert {"never seen", "very odd"} <= {item.quote for item in found.evidence}


def test_running_well_after_a_restart() -> None:
    ended = f"{{terminated: {{exitCode: 1, reason: Error, finishedAt: '{ago(minutes=20)}'}}}}"
    back = pod(status=container(f"{{running: {{startedAt: '{ago(minutes=19)}'}}}}", ended, restarts=1, ready=True))
    found = only(diagnose(facts(back)))
    assert (found.check, found.severity) == ("container.restarts", Severity.WARNING)


# --- owners, jobs -----------------------------------------------------------------------------------------------------------------------

REFUSED = {
    "owner.quota": 'pods "web-5d9-x" is forbidden: exceeded quota: q, requested: limits.cpu=1, used: limits.cpu=2, limited: limits.cpu=2',
    "config.service_account_missing": 'pods "web-5d9-" is forbidden: error looking up service account shop/a: serviceaccount "a" not found',
    "owner.pod_security": 'pods "web-5d9-x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true',
    "owner.limit_range": 'pods "web-5d9-x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi',
    "owner.webhook": 'admission webhook "policy.example.com" denied the request: no latest tags',
    "owner.admission": 'pods "web-5d9-" is forbidden: no PriorityClass with name gold was found',
}


@pytest.mark.parametrize("check", REFUSED)
@pytest.mark.parametrize("from_event", [True, False])
def test_an_owner_whose_pods_are_refused_without_any_pod(check: str, from_event: bool) -> None:
    condition = f"status: {{conditions: [{{type: ReplicaFailure, status: 'True', reason: FailedCreate, message: {REFUSED[check]!r}}}]}}"
    deployment = workload("Deployment", "web", "" if from_event else condition)
    created = (event("FailedCreate", "Error creating: " + REFUSED[check], "ReplicaSet/web-5d9"),) if from_event else ()
    found = only(diagnose(facts(events=created, workloads=(deployment, workload("ReplicaSet", "web-5d9", owner="Deployment/web")))))
    assert (found.check, found.subject, found.severity) == (check, WEB, Severity.CRITICAL)
    assert REFUSED[check] in words(found).replace("\\'", "'")


def test_a_refusal_that_is_over_is_no_finding() -> None:
    full = (
        workload("Deployment", "web", "status: {readyReplicas: 2}"),
        workload("ReplicaSet", "web-5d9", "status: {replicas: 2}", owner="Deployment/web"),
    )
    created = (event("FailedCreate", REFUSED["owner.quota"], "ReplicaSet/web-5d9"),)
    assert diagnose(facts(events=created, workloads=full)) == []
    gone = frozenset({("ReplicaSet", "shop", "web-5d9")})
    assert diagnose(facts(events=created, workloads=(workload("Deployment", "other"),), missing=gone)) == []


def test_a_rollout_that_does_not_go_on() -> None:
    condition = "{type: Progressing, status: 'False', reason: ProgressDeadlineExceeded, message: has timed out progressing}"
    found = only(diagnose(facts(workloads=(workload("Deployment", "web", f"status: {{conditions: [{condition}], readyReplicas: 1}}"),))))
    assert (found.check, found.severity) == ("owner.no_progress", Severity.WARNING)


@pytest.mark.parametrize(
    ("reason", "check"),
    [("BackoffLimitExceeded", "job.backoff_limit"), ("DeadlineExceeded", "job.deadline"), ("PodFailurePolicy", "job.failed")],
)
def test_a_job_that_failed(reason: str, check: str) -> None:
    job = workload("Job", "load-1", f"status: {{conditions: [{{type: Failed, status: 'True', reason: {reason}}}]}}", owner="CronJob/load")
    tried = pod(
        "load-1-x",
        "Job/load-1",
        status="phase: Failed\n" + container("{terminated: {exitCode: 1, reason: Error}}"),
        spec="restartPolicy: Never",
    )
    found = only(diagnose(facts(tried, workloads=(job, workload("CronJob", "load")))))
    assert (found.check, found.subject, found.severity) == (check, Subject("CronJob", "load", "shop"), Severity.CRITICAL)
    assert Subject("Pod", "load-1-x", "shop") in found.affected


def test_a_cron_job_that_has_succeeded_since_is_only_told() -> None:
    failed = f"status: {{conditions: [{{type: Failed, status: 'True', reason: DeadlineExceeded, lastTransitionTime: '{ago(hours=2)}'}}]}}"
    cron = workload("CronJob", "load", f"status: {{lastSuccessfulTime: '{ago(hours=1)}'}}")
    found = only(diagnose(facts(workloads=(workload("Job", "load-1", failed, owner="CronJob/load"), cron))))
    assert found.severity is Severity.INFO


def test_the_failed_tries_of_a_job_that_succeeded_are_no_finding() -> None:
    job = workload("Job", "load-1", "status: {conditions: [{type: Complete, status: 'True'}]}")
    tried = pod(
        "load-1-x",
        "Job/load-1",
        status="phase: Failed\n" + container("{terminated: {exitCode: 1, reason: Error}}"),
        spec="restartPolicy: Never",
    )
    assert diagnose(facts(tried, workloads=(job,))) == []


# --- services, ingresses, autoscalers ---------------------------------------------------------------------------------------------------


def service(text: str = "app: web", target: object = 8080) -> objects.Service:
    spec = {"selector": yaml.safe_load(text), "ports": [{"name": "http", "port": 80, "targetPort": target}]}
    return convert({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec}, objects.Service)


def endpoints(*ready: bool) -> objects.EndpointSlice:
    content = {
        "metadata": {"name": "web-abc", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": item}} for item in ready],
    }
    return convert(content, objects.EndpointSlice)


def ingress(text: str) -> objects.Ingress:
    return convert({"metadata": {"name": "shop", "namespace": "shop"}, "spec": yaml.safe_load(text)}, objects.Ingress)


def network(*services: objects.Service, **more: object) -> Facts:
    return facts(**{"services": services, "endpoint_slices": (endpoints(),), **more})  # type: ignore[arg-type]


def test_a_selector_that_matches_nothing_and_what_it_means() -> None:
    found = only(diagnose(network(service("{app: web, tier: front}"))))
    assert (found.check, found.severity, found.subject) == ("service.no_pods", Severity.CRITICAL, Subject("Service", "web", "shop"))
    assert "Deployment web nearly matches, but differs in tier=front (its pods have no such label)" in words(found)
    assert only(diagnose(network(service("{who: knows}"), workloads=(workload("Deployment", "x"),)))).severity is Severity.WARNING


def test_no_store_is_suspected_where_the_service_in_front_selects_no_pods() -> None:
    web = workload("Deployment", "web", "spec: {template: {metadata: {labels: {app: web}}}}")
    failing = Measured(kind="errors", namespace="shop", name="web", value=0.9, since=NOW - timedelta(minutes=20))
    known = {
        "workloads": (web, workload("StatefulSet", "db")),
        "calls": ((Subject("Deployment", "web", "shop"), ("shop", "db")),),
        "measured": (failing,),
        "busy": {("shop", "web"): (5.0, 5.0)},
    }
    answer = diagnose(network(service("{app: web, tier: front}"), **known))
    assert [(item.check, item.subject.kind) for item in answer] == [("service.no_pods", "Service"), ("traffic.errors", "Service")]
    fine = {**known, "endpoint_slices": (endpoints(True),)}
    assert diagnose(network(service(), **fine))[0].check == "dependency.failing"


def test_a_service_of_a_workload_that_is_scaled_to_zero_is_only_told() -> None:
    found = only(diagnose(network(service(), workloads=(workload("Deployment", "web", "spec: {replicas: 0}"),))))
    assert (found.check, found.severity) == ("service.scaled_to_zero", Severity.INFO)


def test_a_service_that_an_owner_explains_is_its_evidence() -> None:
    found = only(diagnose(facts(pod(status=crashed()), services=(service(),), endpoint_slices=(endpoints(False),))))
    assert found.check == "container.crash_loop"
    assert "Service web has no ready endpoint" in words(found)


def test_a_service_whose_pods_are_not_ready_without_a_reason() -> None:
    assert only(diagnose(network(service()))).check == "service.pods_not_ready"
    assert diagnose(network(service(), endpoint_slices=(endpoints(True),))) == []
    for minutes, told in ((5, True), (0, False)):
        since = f"{{type: Available, status: 'False', lastTransitionTime: '{ago(minutes=minutes)}'}}"
        moved = workload("Deployment", "web", f"status: {{conditions: [{since}]}}")
        assert bool(diagnose(network(service(), workloads=(moved,)))) is told


def test_where_endpoints_could_not_be_read_nothing_is_claimed() -> None:
    assert diagnose(network(service("{who: knows}"), endpoint_slices=None)) == []


def test_a_port_that_the_pods_do_not_have() -> None:
    with_ports = workload(
        "Deployment",
        "web",
        "spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: app, ports: [{name: http, containerPort: 8080}]}]}}}",
    )
    up = (endpoints(True),)
    assert only(diagnose(network(service(target="htpp"), endpoint_slices=up, workloads=(with_ports,)))).check == "service.port_mismatch"
    assert only(diagnose(network(service(target=9090), endpoint_slices=up, workloads=(with_ports,)))).severity is Severity.WARNING
    for right in ("http", 8080, "8080"):
        assert diagnose(network(service(target=right), endpoint_slices=up, workloads=(with_ports,))) == []


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("{ingressClassName: nginx-internal, defaultBackend: {service: {name: web, port: {number: 80}}}}", "ingress.class_missing"),
        ("{defaultBackend: {service: {name: web, port: {number: 80}}}}", "ingress.no_class"),
        (
            "{ingressClassName: nginx, rules: [{http: {paths: [{backend: {service: {name: wbe, port: {number: 80}}}}]}}]}",
            "ingress.service_missing",
        ),
        (
            "{ingressClassName: nginx, rules: [{http: {paths: [{backend: {service: {name: web, port: {number: 81}}}}]}}]}",
            "ingress.port_missing",
        ),
        (
            "{ingressClassName: nginx, rules: [{http: {paths: [{backend: {service: {name: web, port: {name: htpp}}}}]}}]}",
            "ingress.port_missing",
        ),
        ("{ingressClassName: nginx, tls: [{secretName: cert}]}", "ingress.tls_secret_missing"),
        ("{ingressClassName: nginx, tls: [{secretName: other}], defaultBackend: {service: {name: web, port: {name: http}}}}", ""),
    ],
)
def test_an_ingress(text: str, check: str) -> None:
    known = (convert({"metadata": {"name": "nginx"}}, objects.Object),)
    found = diagnose(
        network(
            service(),
            endpoint_slices=(endpoints(True),),
            ingresses=(ingress(text),),
            ingress_classes=known,
            missing=frozenset({("Secret", "shop", "cert")}),
        )
    )
    assert [item.check for item in found] == ([check] if check else [])


NO_METRICS = "'unable to get metrics for resource cpu: no metrics returned from resource metrics API'"


@pytest.mark.parametrize(
    ("condition", "check"),
    [
        ("{type: ScalingLimited, status: 'True', reason: TooManyReplicas}", "scaling.at_limit"),
        ("{type: ScalingActive, status: 'False', reason: FailedGetResourceMetric}", "scaling.no_metrics"),
        (f"{{type: ScalingActive, status: 'False', message: {NO_METRICS}, lastTransitionTime: '{ago(minutes=4)}'}}", "scaling.no_metrics"),
        (f"{{type: ScalingActive, status: 'False', message: {NO_METRICS}, lastTransitionTime: '{ago(minutes=1)}'}}", ""),
        ("{type: AbleToScale, status: 'False', reason: FailedGetScale}", "scaling.target_missing"),
        ("{type: ScalingActive, status: 'False', reason: ScalingDisabled}", ""),
        ("{type: ScalingLimited, status: 'True', reason: TooFewReplicas}", ""),
    ],
)
def test_an_autoscaler(condition: str, check: str) -> None:
    content = {
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"maxReplicas": 5, "scaleTargetRef": {"kind": "Deployment", "name": "web"}},
        "status": {"currentReplicas": 5, "conditions": [yaml.safe_load(condition)]},
    }
    found = diagnose(facts(autoscalers=(convert(content, objects.Autoscaler),)))
    assert [item.check for item in found] == ([check] if check else [])


LAST_WORDS = {
    "OSError: [Errno 28] No space left on device": "no space left",
    'pods is forbidden: User "system:serviceaccount:shop:reader" cannot list resource "pods" in API group ""': "reader may not list pods",
    "Error: listen EADDRINUSE: address already in use 0.0.0.0:8080": "Port 8080 is in use already",
    "panic: listen tcp :9090: bind: address already in use": "Port 9090 is in use already",
    'nginx: [emerg] mkdir() "/var/cache/nginx" failed (30: Read-only file system)': "/var/cache/nginx, which is read-only",
    '"root" execution of the PostgreSQL server is not permitted.': "refuses to run as root",
    'FATAL:  password authentication failed for user "orders"': "refuses its user name or password",
    "PermissionError: [Errno 13] Permission denied: '/data/index'": "no permission for /data/index",
    "java.lang.OutOfMemoryError: Java heap space": "heap is full",
    "Environment variable PORT is undefined": "PORT, which it needs, is not set",
    "KeyError: 'DATABASE_URL'": "DATABASE_URL, which it needs, is not set",
    "sh: 1: DB_HOST: parameter not set": "DB_HOST, which it needs, is not set",
    'nginx: [emerg] unknown directive "proxy_passs" in /etc/nginx/nginx.conf:1': "its configuration /etc/nginx/nginx.conf",
    "panic: failed to load configuration: yaml: line 3: mapping values are not allowed": "cannot read its configuration",
    "x509: certificate signed by unknown authority": "certificate is not trusted",
    "dial tcp 10.0.3.4:5432: connect: connection refused": "10.0.3.4:5432 (connection refused)",
    "java.net.ConnectException: Connection refused (prod-db:3333)": "prod-db:3333 (connection refused)",
    "dial tcp 10.0.3.4:443: i/o timeout": "no answer from 10.0.3.4:443",
    "ModuleNotFoundError: No module named 'flask'": "The image lacks flask",
    'ERROR:  relation "users" does not exist': "this release expects (users)",
    "FATAL:  database files are incompatible with server": "of another version of the server",
    "failed to acquire the lock on /data": "Its data are locked",
    "open /etc/app/config.yml: no such file or directory": "/etc/app/config.yml is not there",
}


@pytest.mark.parametrize("line", LAST_WORDS)
def test_what_a_program_says_before_it_ends_is_the_cause(line: str) -> None:
    log = f"starting\n{line}\n    at com.example.Main.main(Main.java:31)\n"
    found = only(diagnose(facts(pod(status=crashed()), logs={"web-1": log})))
    assert LAST_WORDS[line] in str(found.cause)
    assert line in [item.quote for item in found.evidence]


@pytest.mark.parametrize("line", ["GET /missing 404 not found", "INFO HTTP not found", "listening on :8080", "", "ERROR required"])
def test_what_says_nothing_of_a_cause(line: str) -> None:
    assert last_words(line) is None


def test_the_later_of_two_causes_counts() -> None:
    said = last_words('dial tcp 10.0.0.9:53: i/o timeout\nretrying\npassword authentication failed for user "x"\n')
    assert said is not None
    assert said.kind == "credentials"


@pytest.mark.parametrize("piece", ["a/b.c:1 ", "A_B_C_", ":1:2:3a", "//", "missing "])
def test_a_line_that_is_made_to_be_slow_is_not(piece: str) -> None:
    begun = time.process_time()
    last_words("\n".join([piece * 4000] * 100))
    assert time.process_time() - begun < 2


def test_a_right_that_is_missing_can_be_asked_for() -> None:
    line = 'User "system:serviceaccount:shop:reader" cannot list resource "pods"'
    found = only(diagnose(facts(pod(status=crashed()), logs={"web-1": line})))
    assert "auth can-i list pods --as=system:serviceaccount:shop:reader" in found.steps[0].command


def test_a_hook_that_fails_is_no_kill_from_outside() -> None:
    hooked = event("FailedPostStartHook", "PostStartHook failed: exec: /warm-up.sh: no such file or directory")
    found = only(diagnose(facts(pod(status=crashed(137)), events=(hooked,))))
    assert found.check == "container.post_start"
