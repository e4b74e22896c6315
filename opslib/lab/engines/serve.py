"""One server of the embedded engine: ``python -m opslib.lab.engines.serve NAME PORT PATH``.

NAME is "kube-apiserver" (PATH is the lab's folder), "controllers" (its kubeconfig), "prometheus" or "alertmanager" (its configuration), or
"elasticsearch" (its folder for snapshots). It ends with SIGTERM.
"""

from __future__ import annotations

import csv
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.lab import processes
from opslib.lab.engines.servers import LOOPBACK, SELF_SCRAPED, SERVICE_RANGE

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from opslib.lab.prometheus import Rules, Store
    from opslib.lab.prometheus.labels import Labels

_LOOK_SECONDS = 0.05
_COMING_UP_SECONDS = 300.0
_MOST_BYTES = 384 * 2**20  # of samples: half a day of 5,000 pods
_REMEMBERED_SECONDS, _REMEMBERED_STEP = 3 * 3600.0, 30.0  # so far back it is computed what rules would have given

# two that empty a namespace would disturb each other: the slower one may meet the next namespace of the same name
_DONE_BY_THE_API_SERVER = frozenset({"namespace", "serviceaccount"})


def kube_apiserver(port: int, folder: Path) -> None:
    """The Kubernetes API, over TLS, with the lab's certificates and tokens; it begins with the state that it finds in the folder."""
    from opslib.lab.kube.access import User
    from opslib.lab.kube.server import Settings, app, server
    from opslib.lab.kube.state import path
    from opslib.lab.kube.streams import Kubelets

    path(folder).parent.mkdir(exist_ok=True)
    pki = folder / "pki"
    with (pki / "tokens.csv").open(encoding="utf-8", newline="") as file:
        tokens = {token: User(name, tuple(groups.split(",")), uid) for token, name, uid, groups in csv.reader(file)}
    certificate = (str(pki / "kubelet-client.crt"), str(pki / "kubelet-client.key"))
    settings = Settings(
        tokens=tokens,
        signing_key=(pki / "sa.key").read_text("ascii"),
        root_certificate=(pki / "ca.crt").read_text("ascii"),
        port=port,
        state=path(folder),
        service_range=SERVICE_RANGE,
        kubelets=Kubelets(certificate, addresses=("ExternalIP", "InternalIP")),
    )
    server(
        app(settings),
        host="127.0.0.1",
        port=port,
        certificate=pki / "apiserver.crt",
        key=pki / "apiserver.key",
        client_authority=pki / "ca.crt",
    ).run()


def all_controllers(port: int, kubeconfig: Path) -> None:
    """All controllers and the scheduler."""
    from opslib.lab.api import Api
    from opslib.lab.controllers import controllers, run
    from opslib.lab.serving import tell_health

    stop, ready = threading.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_ignored: stop.set())

    tell_health(port, ready)
    chosen = tuple(one for one in controllers() if one.name not in _DONE_BY_THE_API_SERVER)
    run(Api.from_kubeconfig(kubeconfig), stop, chosen=chosen, ready=ready.set)


def prometheus(port: int, config: Path) -> None:
    """Prometheus: it scrapes, evaluates rules and hands alerts over as its configuration says."""
    import yaml
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from opslib.lab.alertmanager.metrics import series, text
    from opslib.lab.engines.scraping import Scraper
    from opslib.lab.prometheus import Engine, Rules, Store
    from opslib.lab.prometheus.api import Settings, app
    from opslib.lab.prometheus.parse import duration
    from opslib.lab.prometheus.rules import run

    sys.setswitchinterval(0.001)  # a query must not wait five milliseconds for a scrape each time that numpy let it go on
    content = yaml.safe_load(config.read_text("utf-8"))
    interval = duration(content["global"]["evaluation_interval"])
    store = Store(retention_seconds=8 * 86400, retention_bytes=_MOST_BYTES)
    engine = Engine(store, default_step=interval)
    address = f"http://127.0.0.1:{port}"
    rules = Rules(engine, default_interval=interval / 1000, external_url=address)
    for pattern in content.get("rule_files", []):
        for file in sorted(Path(pattern).parent.glob(Path(pattern).name)):
            rules.load(yaml.safe_load(file.read_text("utf-8")), str(file))
    scraper = Scraper(store, content)
    alertmanagers = [
        f"http://{target}/api/v2/alerts"
        for one in content.get("alerting", {}).get("alertmanagers", [])
        for group in one["static_configs"]
        for target in group["targets"]
    ]
    sent: dict[str, list[int]] = {url: [0, 0] for url in alertmanagers}
    shown = Settings(
        targets=scraper.targets,
        alertmanagers=lambda: alertmanagers,
        metadata=scraper.metadata,
        config=yaml.safe_dump(content, sort_keys=False),
        flags={"config.file": str(config), "web.listen-address": f"127.0.0.1:{port}", "web.external-url": address},
    )
    application = app(engine, rules, shown)

    def own() -> str:
        values: dict[Any, float] = {
            series("prometheus_build_info", version="3.16.0"): 1.0,
            series("prometheus_tsdb_head_series"): float(len(store)),
            series("prometheus_tsdb_wal_corruptions_total"): 0.0,
        }
        for url, (good, bad) in sent.items():
            values[series("prometheus_notifications_sent_total", alertmanager=url)] = float(good)
            values[series("prometheus_notifications_errors_total", alertmanager=url)] = float(bad)
        return text(values)

    application.router.routes.append(Route("/metrics", lambda request: PlainTextResponse(own(), media_type="text/plain; version=0.0.4")))
    stop, begun = threading.Event(), threading.Event()
    posters = [_poster(url, sent[url]) for url in alertmanagers]

    def work() -> None:
        """Scrape and evaluate as soon as there is something to: not while the lab comes up, when its exporter cannot answer yet."""
        scraper.start(stop, lambda job: job in SELF_SCRAPED)
        if any(job["job_name"] not in SELF_SCRAPED for job in content["scrape_configs"]):
            begun.wait(_COMING_UP_SECONDS)
        scraper.start(stop, lambda job: job not in SELF_SCRAPED)
        if not stop.wait(1):  # Alertmanager starts at the same moment, and the first alert should get there
            run(rules, time.time, posters, stop)

    threading.Thread(target=work, name="rules", daemon=True).start()
    follow = (config.parent / "past.json", store, rules, begun, stop)
    threading.Thread(target=_follow_past, args=follow, name="past", daemon=True).start()
    _serve(application, port)
    stop.set()


def _follow_past(file: Path, store: Store, rules: Rules, begun: threading.Event, stop: threading.Event) -> None:
    """Keep a store's past as the lab's supervisor says that it was. When it says otherwise, what was recorded of that time is forgotten.

    `begun` is set when it has said something, if only that there is none.
    """
    from opslib.lab.world import past

    shown, seen = past.Shown(store), 0
    while not stop.wait(_LOOK_SECONDS):
        try:
            changed = file.stat().st_mtime_ns
        except FileNotFoundError:
            continue
        if changed == seen:
            continue
        seen = changed
        layers = past.read(file)
        if layers:
            handover = max(layer["end"] for layer in layers)
            with store.lock:
                since = shown.show(layers)
                store.erase(int(since * 1000), int(handover * 1000), keep=_is_own)
            begun.set()
            rules.remember(max(since, handover - _REMEMBERED_SECONDS), handover, _REMEMBERED_STEP)
        begun.set()


def _is_own(labels: Labels) -> bool:
    """Whether a series is of the servers' own numbers: the lab's exporter gives its targets the instances of a cluster."""
    return dict(labels).get("instance", "").startswith(LOOPBACK)


def _poster(url: str, counts: list[int]) -> Callable[[Sequence[Mapping[str, Any]]], None]:
    """Hands alerts to an Alertmanager; counts those that it took, and those that did not get there."""
    import urllib3

    pool = urllib3.PoolManager(retries=False, timeout=5)

    def post(alerts: Sequence[Mapping[str, Any]]) -> None:
        try:
            answer = pool.request("POST", url, json=list(alerts))
        except urllib3.exceptions.HTTPError:
            counts[1] += len(alerts)
            return
        counts[0 if answer.status < 300 else 1] += len(alerts)

    return post


def alertmanager(port: int, config: Path) -> None:
    """Alertmanager: it groups, silences and inhibits, and sends nothing anywhere."""
    from opslib.lab.alertmanager import Alertmanager, Config, app

    manager = Alertmanager(Config.load(config.read_text("utf-8")), time.time)
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.5):
            manager.tick()

    threading.Thread(target=tick, name="groups", daemon=True).start()
    _serve(app(manager), port)
    stop.set()


def elasticsearch(port: int, snapshots: Path) -> None:
    """The Elasticsearch subset; repositories for snapshots are below `snapshots`."""
    from opslib.lab.elasticsearch import Cluster, app

    _serve(app(Cluster(repositories=snapshots)), port)


def _serve(application: Starlette, port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    import uvicorn

    config = uvicorn.Config(
        application,
        host="127.0.0.1",
        port=port,
        loop="asyncio",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=90,
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    uvicorn.Server(config).run()


SERVERS: Mapping[str, Callable[[int, Path], None]] = {
    "kube-apiserver": kube_apiserver,
    "controllers": all_controllers,
    "prometheus": prometheus,
    "alertmanager": alertmanager,
    "elasticsearch": elasticsearch,
}


def main() -> None:
    """Serve what the command line names."""
    name, port, path = sys.argv[1:]
    processes.give_back()
    SERVERS[name](int(port), Path(path))


if __name__ == "__main__":
    main()
