"""kubectl exec, top and logs on a lab of each engine, with the real kubectl; and the shell that commands run in, by itself."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from opslib.lab import build
from opslib.lab.holds import Holds
from opslib.lab.shell import grammar
from tests.waiting import until

if TYPE_CHECKING:
    from tests.conftest import RealLab


# --- the grammar ----------------------------------------------------------------------------------------------------------------------


def words(text: str, **variables: str) -> list[list[list[str]]]:
    """Pipelines, commands, words."""
    return [[[word.filled(variables) for word in command.words] for command in one.commands] for one in grammar.parse(text)]


def test_quotes_variables_and_pipes() -> None:
    assert words("""echo 'a $X' "b $X" c$X\\ d | wc -l; ls""", X="1") == [[["echo", "a $X", "b 1", "c1 d"], ["wc", "-l"]], [["ls"]]]
    assert words("echo ${X:-none} $Y end", Y="") == [[["echo", "none", "", "end"]]]
    assert words("a # b\nc") == [[["a"]], [["c"]]]
    assert [one.after for one in grammar.parse("a && b || c; d")] == [";", "&&", "||", ";"]


def test_redirections() -> None:
    [[command]] = [one.commands for one in grammar.parse("curl x > /dev/null 2>&1 < in")]
    assert (command.output, command.error, command.input) == ("/dev/null", "&1", "in")
    [[appends]] = [one.commands for one in grammar.parse("echo x >> f 2>/dev/null")]
    assert (appends.output, appends.appends, appends.error) == ("f", True, "/dev/null")


@pytest.mark.parametrize("text", ["a |", "| a", "a &&", "echo 'x", "for i in 1 2; do ls; done", "echo $(date)", "a >"])
def test_what_is_not_in_the_grammar_is_a_syntax_error(text: str) -> None:
    with pytest.raises(grammar.Wrong, match="syntax error"):
        grammar.parse(text)


# --- with kubectl ---------------------------------------------------------------------------------------------------------------------


class Shop:
    """The lab with its kubectl."""

    def __init__(self, lab: RealLab) -> None:
        self.lab = lab

    def pod(self, app: str, namespace: str = "shop") -> dict[str, Any]:
        """A running pod of a service."""
        found: dict[str, Any] = self.lab.api.list(
            f"/api/v1/namespaces/{namespace}/pods", labels=f"app={app}", fields="status.phase=Running"
        )[0]
        return found

    def run(self, *arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
        """Exit status and outputs of kubectl."""
        program = build.program("kubectl")
        if not build.is_built(build.find("kubernetes")):
            pytest.skip("no kubectl: `opslib lab build` builds it")
        command = [str(program), "--kubeconfig", str(self.lab.kubeconfig), *arguments]
        answer = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        return answer.returncode, answer.stdout, answer.stderr

    def inside(self, app: str, *arguments: str, stdin: str | None = None, namespace: str = "shop") -> tuple[int, str, str]:
        """The same of a command in a pod of a service."""
        name = self.pod(app, namespace)["metadata"]["name"]
        flags = ["-i"] if stdin is not None else []
        return self.run("exec", *flags, "-n", namespace, name, "--", *arguments, stdin=stdin)


@pytest.fixture(scope="module")
def shop(any_lab: RealLab) -> Shop:
    return Shop(any_lab)


def test_a_container_knows_itself(shop: Shop) -> None:
    pod = shop.pod("catalog")
    name = pod["metadata"]["name"]
    assert shop.inside("catalog", "hostname") == (0, f"{name}\n", "")
    code, output, _error = shop.inside("catalog", "sh", "-c", "env; id; cat /etc/hosts; ps; df -h /; free -m; nproc; date +%Y")
    assert code == 0
    assert f"HOSTNAME={name}\n" in output and "KUBERNETES_SERVICE_HOST=10.96.0.1\n" in output
    assert "CATALOG_DB_URL=postgres://catalog-db.data.svc:5432\n" in output  # from its ConfigMap
    assert "uid=1000(app)" in output and f"{pod['status']['podIP']}\t{name}\n" in output
    assert "java -XX:MaxRAMPercentage=75.0 -jar /app/catalog.jar" in output and "\n8\n" in output
    assert output.endswith(f"{time.gmtime().tm_year}\n")
    limit = shop.inside("catalog", "cat", "/sys/fs/cgroup/memory.max")[1]
    assert int(limit) == 1024 * 2**20


def test_pipes_input_and_exit_status(shop: Shop) -> None:
    assert shop.inside("web", "sh", "-c", "echo 'b\na\nb' | sort | uniq -c | head -1; exit 7") == (
        7,
        "      1 a\n",
        "command terminated with exit code 7\n",
    )
    assert shop.inside("web", "grep", "-c", "o", stdin="one\ntwo\nthree\n") == (0, "2\n", "")
    assert shop.inside("web", "sh", stdin="echo $((1\nX=5\necho $X\nexit 4\n")[0] == 4
    code, output, error = shop.inside("web", "sh", "-c", "nope || echo rescued; ls /nowhere")
    assert (code, output) == (2, "rescued\n") and "sh: nope: not found" in error and "cannot access '/nowhere'" in error


def test_programs_that_are_not_there(shop: Shop) -> None:
    """As containerd says it; an image without a shell has none."""
    code, _output, error = shop.inside("web", "vim")
    assert code == 1 and 'exec: "vim": executable file not found in $PATH' in error and "OCI runtime exec failed" in error
    code, _output, error = shop.inside("coredns", "sh", namespace="kube-system")
    assert code == 1 and 'exec: "sh": executable file not found in $PATH' in error
    name = shop.pod("web")["metadata"]["name"]
    code, _output, error = shop.run("exec", "-n", "shop", name, "-c", "nope", "--", "ls")
    assert code == 1 and "container nope is not valid for pod" in error
    code, _output, error = shop.run("exec", "-n", "shop", "no-such-pod", "--", "ls")
    assert code == 1 and 'pods "no-such-pod" not found' in error


def test_services_answer_and_names_are_found(shop: Shop) -> None:
    code, output, _error = shop.inside("web", "nslookup", "catalog")
    assert code == 0 and "Name:\tcatalog.shop.svc.cluster.local" in output
    assert shop.inside("web", "nslookup", "nobody")[0] == 1
    code, output, _error = shop.inside("web", "wget", "-qO-", "http://catalog:8080/live")
    assert code == 0 and json.loads(output)["service"] == "catalog"
    code, output, _error = shop.inside(
        "web", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://payment-api.payments:8080/live"
    )
    assert (code, output) == (0, "200")
    code, _output, error = shop.inside("web", "curl", "http://catalog.nowhere:8080/")
    assert code == 6 and "Could not resolve host" in error
    code, _output, error = shop.inside("web", "nc", "-zv", "session-store-0.session-store.data", "6379")
    assert code == 1 or "open" in error


def test_files_are_copied_both_ways(shop: Shop, tmp_path: Any) -> None:
    name = shop.pod("cart")["metadata"]["name"]
    (tmp_path / "in").write_text("something\n", "utf-8")
    code, _output, error = shop.run("cp", str(tmp_path / "in"), f"shop/{name}:/tmp/copied")
    assert code == 0, error
    assert shop.run("exec", "-n", "shop", name, "--", "cat", "/tmp/copied") == (0, "something\n", "")
    code, _output, error = shop.run("cp", f"shop/{name}:/etc/hostname", str(tmp_path / "out"))
    assert code == 0 and (tmp_path / "out").read_text("utf-8") == f"{name}\n", error


def test_a_container_whose_first_process_ends_begins_again(shop: Shop) -> None:
    pod = shop.pod("review")
    name, before = pod["metadata"]["name"], pod["status"]["containerStatuses"][0]
    assert shop.run("exec", "-n", "shop", name, "--", "kill", "-9", "1")[0] == 0  # which the kernel does not let through
    assert shop.run("exec", "-n", "shop", name, "--", "kill", "1")[0] == 0
    path = f"/api/v1/namespaces/shop/pods/{name}"
    until(lambda: shop.lab.api.get(path)["status"]["containerStatuses"][0]["restartCount"] == before["restartCount"] + 1)
    state = shop.lab.api.get(path)["status"]["containerStatuses"][0]
    assert state["lastState"]["terminated"]["exitCode"] == 143 and state["containerID"] != before["containerID"]
    until(lambda: "Container started" in shop.run("events", "-n", "shop", "--for", f"pod/{name}")[1])
    code, output, _error = shop.run("logs", "-n", "shop", name)
    assert code == 0 and "started, listening on :8080" in output.splitlines()[0]
    code, output, error = shop.run("logs", "-n", "shop", name, "--previous", "--tail=5")
    assert code == 0, error


def test_debug_containers_run_and_are_attached_to(shop: Shop) -> None:
    name = shop.pod("cart")["metadata"]["name"]
    path = f"/api/v1/namespaces/shop/pods/{name}"

    def state(container: str) -> dict[str, Any]:
        states = shop.lab.api.get(path)["status"].get("ephemeralContainerStatuses") or []
        return next((one["state"] for one in states if one["name"] == container), {})

    code, _output, error = shop.run("debug", "-n", "shop", name, "--image=busybox", "-c", "alone", "--", "sh", "-c", "hostname; exit 3")
    assert code == 0, error
    until(lambda: state("alone").get("terminated", {}).get("exitCode") == 3)
    assert shop.run("logs", "-n", "shop", name, "-c", "alone")[1] == f"{name}\n"
    arguments = ("debug", "-i", "-n", "shop", name, "--image=busybox", "-c", "talks", "--", "sh")
    code, output, error = shop.run(*arguments, stdin="echo hello $HOSTNAME\nexit 5\n")
    assert code == 0 and output == f"hello {name}\n", error
    until(lambda: state("talks").get("terminated", {}).get("exitCode") == 5)


def test_a_pod_of_tools_is_run_and_taken_away(shop: Shop) -> None:
    arguments = ("run", "tools", "-n", "shop", "-i", "--rm", "--restart=Never", "--image=busybox", "--", "sh")
    code, output, error = shop.run(*arguments, stdin="wget -qO- http://web:8080/live; exit 4\n")
    assert code == 4 and json.loads(output.splitlines()[0])["service"] == "web", error
    until(lambda: not shop.lab.api.list("/api/v1/namespaces/shop/pods", fields="metadata.name=tools"))


def test_a_node_that_is_lost_answers_nothing(shop: Shop) -> None:
    pod = shop.pod("search")
    holds = Holds(shop.lab.folder)
    holds.add({"by": "test", "node": pod["spec"]["nodeName"]})
    try:
        code, _output, error = shop.run("logs", "-n", "shop", pod["metadata"]["name"])
        assert code == 1 and f"dial tcp {pod['status']['hostIP']}:10250: i/o timeout" in error
        code, _output, error = shop.run("exec", "-n", "shop", pod["metadata"]["name"], "--", "ls")
        assert code == 1 and "i/o timeout" in error
    finally:
        holds.drop("test")
    assert shop.run("logs", "-n", "shop", pod["metadata"]["name"], "--tail=1")[0] == 0


def test_top_says_what_pods_and_nodes_use(shop: Shop) -> None:
    code, output, error = shop.run("top", "pods", "-n", "shop", "--no-headers")
    assert code == 0, error
    running = {one["metadata"]["name"] for one in shop.lab.api.list("/api/v1/namespaces/shop/pods", fields="status.phase=Running")}
    rows = {row.split()[0]: row.split()[1:] for row in output.splitlines()}
    assert running <= rows.keys()
    assert all(cores.endswith("m") and int(memory.removesuffix("Mi")) > 10 for cores, memory in rows.values())
    code, output, error = shop.run("top", "nodes", "--no-headers")
    nodes = shop.lab.api.list("/api/v1/nodes")
    assert code == 0 and len(output.splitlines()) == len(nodes), error
    code, output, _error = shop.run("top", "pod", "-n", "shop", "-l", "app=gateway", "--containers", "--no-headers")
    assert code == 0 and {row.split()[1] for row in output.splitlines()} == {"gateway"}
    assert (
        shop.lab.api.get("/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io")["status"]["conditions"][0]["status"]
        == "True"
    )


def test_autoscalers_know_the_load(shop: Shop) -> None:
    def known() -> bool:
        found = shop.lab.api.list("/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers")
        return bool(found) and all(
            ((one.get("status", {}).get("currentMetrics") or [{}])[0].get("resource") or {}).get("current", {}).get("averageUtilization", 0)
            > 0
            for one in found
        )

    until(known, seconds=90)


def test_logs_of_services_follow_and_stop(shop: Shop) -> None:
    name = shop.pod("gateway")["metadata"]["name"]
    code, output, error = shop.run("logs", "-n", "shop", name, "--tail=20", "--timestamps")
    assert code == 0, error
    for line in output.splitlines():
        stamp, _space, text = line.partition(" ")
        assert json.loads(text)["time"][:23] == stamp[:23]
    code, output, _error = shop.run("logs", "-n", "shop", "deploy/gateway", "--limit-bytes=50")
    assert code == 0 and len(output.encode()) <= 50
    command = [str(build.program("kubectl")), "--kubeconfig", str(shop.lab.kubeconfig), "logs", "-f", "-n", "shop", name, "--tail=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["msg"]
        process.terminate()
