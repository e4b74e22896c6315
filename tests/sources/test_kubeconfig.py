"""How a cluster is reached: every way in a kubeconfig, and every way in which one is broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from opslib.environments import Environment
from opslib.environments import Kubernetes as Settings
from opslib.errors import InputError, Unauthenticated
from opslib.sources.kubeconfig import authorization_of, configuration_of
from opslib.sources.kubernetes import Kubernetes


def write(folder: Path, user: dict[str, Any], cluster: dict[str, Any] | None = None) -> Path:
    path = folder / "config"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "shop-prod",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1", **(cluster or {})}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "shop-prod", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_a_token(tmp_path: Path) -> None:
    configuration, context = configuration_of(write(tmp_path, {"token": "abc"}), None)
    assert (configuration.host, context) == ("https://127.0.0.1:1", "shop-prod")
    assert authorization_of(configuration)() == {"authorization": "Bearer abc"}


def test_an_exec_plugin(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "from-plugin"}}
    plugin.write_text(f"import json; print(json.dumps({credential!r}))", encoding="utf-8")
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": [str(plugin)],
            "interactiveMode": "Never",
        }
    }
    configuration, _context = configuration_of(write(tmp_path, user), None)
    assert authorization_of(configuration)() == {"authorization": "Bearer from-plugin"}


def test_an_exec_plugin_that_fails_is_named(tmp_path: Path) -> None:
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-plugin", "interactiveMode": "Never"}}
    with pytest.raises(Unauthenticated, match="no-such-plugin"):
        configuration_of(write(tmp_path, user), None)


def test_the_service_account_of_a_pod_is_asked_for_only_where_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    with pytest.raises(InputError, match="service account"):
        configuration_of(None, None)
    with pytest.raises(InputError, match="no kubeconfig"):
        configuration_of(tmp_path / "none", None)


def test_the_files_of_kubeconfig_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path, {"token": "abc"})
    second = tmp_path / "second"
    second.write_text(
        yaml.safe_dump({"contexts": [{"name": "other", "context": {"cluster": "c", "user": "u"}}], "clusters": [], "users": []})
    )
    monkeypatch.setenv("KUBECONFIG", f"{first}:{second}:{tmp_path / 'none'}")
    assert configuration_of(None, "other")[1] == "other"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1", "not YAML"),
        ("just text", "no contexts"),
        ("contexts: []\n", "no current context"),
        ("\x00\x01", "not YAML"),
    ],
)
def test_a_file_that_is_no_kubeconfig(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "config"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=says) as error:
        configuration_of(path, None)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_context_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shop-prod") as error:
        configuration_of(write(tmp_path, {"token": "abc"}), "shop-prd")
    assert "shop-prd" in str(error.value)


@pytest.mark.parametrize("missing", ["clusters", "users"])
def test_a_context_that_leads_nowhere(tmp_path: Path, missing: str) -> None:
    path = write(tmp_path, {"token": "abc"})
    content = yaml.safe_load(path.read_text())
    content[missing] = []
    path.write_text(yaml.safe_dump(content))
    if missing == "clusters":
        with pytest.raises(InputError, match="shop-prod"):
            configuration_of(path, None)
    else:  # kubectl takes a context without a user as anonymous, and so do we: the server will say what it thinks of that
        assert authorization_of(configuration_of(path, None)[0])() == {}


def test_another_address_than_the_environment_expects_is_refused(tmp_path: Path) -> None:
    settings = Settings(kubeconfig=write(tmp_path, {"token": "abc"}), expected_server="https://api.prod.example.com")
    with pytest.raises(InputError, match=r"api\.prod\.example\.com"):
        Kubernetes.connect(Environment(name="prod", kubernetes=settings))


def test_a_proxy_that_the_kubeconfig_names(tmp_path: Path, server: Any) -> None:
    server.answers = [server.says(200, b'{"gitVersion": "v1.36.3"}')]
    path = write(tmp_path, {"token": "abc"}, {"server": "http://api.example.com", "proxy-url": server.url})
    assert Kubernetes.connect(Environment(name="lab", kubernetes=Settings(kubeconfig=path))).version() == "v1.36.3"
    _method, target, headers = server.seen[0]
    assert target == "http://api.example.com/version"
    assert headers["authorization"] == "Bearer abc"


IN_A_POD = """
import os
import shutil
import subprocess
import sys
from opslib.sources.kubeconfig import authorization_of, configuration_of
configuration, context = configuration_of(None, None)
print(configuration.host, repr(context), authorization_of(configuration)()["authorization"], configuration.ssl_ca_cert)
"""


def test_the_service_account_of_a_pod(tmp_path: Path) -> None:
    """In a mount namespace of its own, in which the files stand where a kubelet puts them."""
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    script = (
        f"mount -t tmpfs none /var/run && mkdir -p {folder} && echo -n pod-token > {folder}/token && echo certificate > {folder}/ca.crt"
        f' && exec "$0" -c "$1"'
    )
    environment = {**os.environ, "KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443", "HOME": str(tmp_path)}
    environment.pop("KUBECONFIG", None)
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, sys.executable, IN_A_POD]
    if not shutil.which("unshare"):
        pytest.skip("no unshare here")
    run = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if "unshare failed" in run.stderr or "permission denied" in run.stderr.lower():
        pytest.skip(f"no mount namespace here: {run.stderr.strip()}")
    assert run.stdout.split() == ["https://10.0.0.1:443", "''", "bearer", "pod-token", f"{folder}/ca.crt"], run.stderr
