"""The controllers and the scheduler of an embedded lab: what a change of one object does to the others.

They talk to the cluster through its API alone, by watches, so they run on any API server: the lab's own, or a real one whose
controller-manager and scheduler do not run. Every one is written after its counterpart in Kubernetes 1.36 and compared with it by
``tests/contract/test_controllers*.py``: the same objects, names, conditions, and events with the same reasons and texts.

A controller is a file with a function that brings the state of one key nearer to what is wanted, and a `Controller` that says which
changes concern which keys. To add one, look at a neighbour (`cleaners.py` has the shortest), and put it into `controllers`.

What is covered
---------------
- **scheduler**: cordons, taints, node selectors and affinity, ports, resources, volumes and their limits, zones, topology spread, pod
  affinity; scores of the default plugins; preemption with disruption budgets; scheduling gates, nominated nodes, volumes that wait for
  a node.
- **Deployment, ReplicaSet, StatefulSet, DaemonSet**: adoption and release, rolling and recreating updates with surge and unavailability,
  pause, proportional scaling, history and rollback by template, progress deadlines, partitions, claims, retention of claims with their set.
- **Job, CronJob**: completions, parallelism, indexes, back-off, failure policies, deadlines, suspension; schedules with time zones,
  concurrency policies, history, missed starts.
- **Endpoints, EndpointSlice, PodDisruptionBudget, HorizontalPodAutoscaler** (resource metrics, behaviour), **ResourceQuota** use.
- **garbage collection** (background, foreground, orphan), **namespace** deletion, service accounts and the root certificate of namespaces.
- **nodes**: age of leases, conditions, taints, eviction after toleration, pods not ready, pods of nodes that are gone.
- **volumes**: binding at once or with the pod's node, attachments, lost claims, release, protection while in use, ephemeral claims, default
  class; and their driver, which no cluster brings along and which runs on real servers too: `storage`.
- time to live of finished jobs, aggregated cluster roles.

What is not
-----------
- No ReplicationController, no CertificateSigningRequest, no dynamic resource allocation, no node CIDRs, no load balancers, no mirrored
  slices. Volumes are attached, but pods do not wait for it.
- Jobs: success policies, pod groups. Autoscalers: metrics of pods, objects and external ones (their API is said to be missing).
- The garbage collector finds dependents among the kinds of `garbage.RESOURCES`; custom resources are not collected.
- One process runs them; there is no leader election.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from opslib.lab.api import Api
from opslib.lab.controllers.clock import Clock, WallClock
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.runner import Controller, Runner

__all__ = ["Clock", "Controller", "WallClock", "controllers", "run"]


def controllers(root_certificate: str | None = None) -> tuple[Controller, ...]:
    """All of them, new: some remember things.

    Parameters
    ----------
    root_certificate
        PEM of the authority that signed the API server's certificate, for the ConfigMap ``kube-root-ca.crt`` of every namespace; None:
        that is somebody else's business.
    """
    from opslib.lab.controllers import cleaners, endpoints, job, namespaces, nodes, storage, volumes
    from opslib.lab.controllers.attachments import attacher
    from opslib.lab.controllers.autoscaler import Autoscaler
    from opslib.lab.controllers.cronjob import CRON_JOB
    from opslib.lab.controllers.daemonset import DAEMON_SET
    from opslib.lab.controllers.deployment import DEPLOYMENT
    from opslib.lab.controllers.disruption import DISRUPTION
    from opslib.lab.controllers.garbage import GARBAGE
    from opslib.lab.controllers.quota import RESOURCE_QUOTA
    from opslib.lab.controllers.replicaset import REPLICA_SET
    from opslib.lab.controllers.scheduler import Scheduler
    from opslib.lab.controllers.statefulset import STATEFUL_SET

    return (
        Scheduler().controller(),
        DEPLOYMENT,
        REPLICA_SET,
        STATEFUL_SET,
        DAEMON_SET,
        job.JOB,
        job.JOB_ORPHANS,
        CRON_JOB,
        endpoints.ENDPOINTS,
        endpoints.ENDPOINT_SLICES,
        DISRUPTION,
        Autoscaler().controller(),
        RESOURCE_QUOTA,
        GARBAGE,
        namespaces.NAMESPACE,
        namespaces.SERVICE_ACCOUNT,
        *([namespaces.root_certificate(root_certificate)] if root_certificate else []),
        nodes.NodeLifecycle().controller(),
        nodes.TaintEviction().controller(),
        volumes.CLAIMS,
        volumes.VOLUMES,
        volumes.expander(),
        attacher(),
        volumes.CLAIM_PROTECTION,
        volumes.VOLUME_PROTECTION,
        volumes.EPHEMERAL,
        cleaners.PodCollector().controller(),
        cleaners.TTL_AFTER_FINISHED,
        cleaners.ROLE_AGGREGATION,
        *storage.drivers(),
    )


def run(
    api: Api,
    stop: threading.Event,
    *,
    clock: Clock | None = None,
    root_certificate: str | None = None,
    chosen: tuple[Controller, ...] | None = None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Run the controllers until `stop` is set.

    Parameters
    ----------
    clock
        The time they go by; None: the wall's.
    root_certificate
        See `controllers`.
    chosen
        Controllers to run instead of all.
    ready
        Called when they have seen the cluster and begin to work.
    """
    clock = clock or WallClock()
    wanted = controllers(root_certificate) if chosen is None else chosen
    cluster = Cluster(api, clock, (resource for one in wanted for resource in one.watches))
    runner = Runner(cluster, clock, wanted)
    runner.subscribe()
    caches = cluster.caches()
    for cache in caches:
        cache.start()
    try:
        for cache in caches:
            while not cache.wait(0.2):
                if stop.is_set():
                    return
        cluster.recorder.start()
        runner.start()
        ready()
        stop.wait()
    finally:
        runner.close()
        for cache in caches:
            cache.close()
        cluster.recorder.close()
