"""The command as a user meets it: a process of its own, what it prints, its exit status, and that bad input writes nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

ENVIRONMENT = """
name: {name}
language: en
kubernetes:
  kubeconfig: {kubeconfig}
  deadline_seconds: 2
"""
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: one
contexts: [{{name: one, context: {{cluster: one, user: me}}}}]
clusters: [{{name: one, cluster: {{server: "{server}"}}}}]
users: [{{name: me, user: {{token: expired}}}}]
"""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def opslib(tmp_path: Path) -> Command:
    """Runs the command in an empty folder, in English."""

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("OPSLIB", "LC_", "LANG", "KUBECONFIG"))}
        return subprocess.run(
            [sys.executable, "-c", "import sys; from opslib.cli import main; sys.exit(main())", *words],
            cwd=tmp_path,
            env=clean | {"OPSLIB_LANG": "en", "HOME": str(tmp_path)} | variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def _environment(folder: Path, server: str = "https://127.0.0.1:1", kubeconfig: str = KUBECONFIG, more: str = "") -> str:
    (folder / "kubeconfig").write_text(kubeconfig.format(server=server) if "{server}" in kubeconfig else kubeconfig)
    path = folder / "mine.yaml"
    path.write_text(ENVIRONMENT.format(name="mine", kubeconfig="kubeconfig") + more)
    return str(path)


def _refused(answer: subprocess.CompletedProcess[str], folder: Path, *says: str) -> None:
    """One line on stderr that says it, an exit status, no traceback, nothing written."""
    assert answer.returncode == 3, answer
    assert answer.stdout == ""
    lines = answer.stderr.strip().splitlines()
    assert len(lines) == 1, answer.stderr
    assert lines[0].startswith("opslib: ")
    for text in says:
        assert text in lines[0]
    assert not (folder / "outputs").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "4.9"], ["no chapter 4.9", "opslib list"]),
        (["run", "pod"], ["no chapter pod", "Did you mean pods?"]),
        (["run"], ["--all"]),
        (["run", "4.1", "--all"], ["--all"]),
        (["run", "4.1", "-p", "namespac=shop"], ["no parameter namespac", "namespace"]),
        (["run", "4.1", "-p", "log_lines=many"], ["log_lines", "'many'", "a whole number"]),
        (["run", "4.1", "-p", "namespace"], ["namespace", "name=value"]),
        (["run", "--all", "-p", "nothing=1"], ["No chapter has a parameter nothing"]),
        (["run", "4.3", "-p", "nothing=1"], ["No chapter has a parameter nothing"]),
        (["open", "4.3"], ["several chapters: cpu, memory, disk", "Name one of them"]),
        (["run", "4.1", "--fail-on", "sometimes"], ["--fail-on", "sometimes"]),
        (["run", "4.1", "--no-html", "--open"], ["--open"]),
        (["rnu"], ["rnu", "run"]),
        (["run", "4.1", "--evn", "lab"], ["--evn", "--env"]),
    ],
)
def test_wrong_words_are_one_line(opslib: Command, tmp_path: Path, words: list[str], says: list[str]) -> None:
    if words[0] == "run" and "--fail-on" not in words and "--evn" not in words:
        words = [*words, "--env", _environment(tmp_path)]
    _refused(opslib(*words), tmp_path, *says)


def test_an_unknown_environment_is_one_line(opslib: Command, tmp_path: Path) -> None:
    (tmp_path / "parameters").mkdir()
    Path(_environment(tmp_path / "parameters")).rename(tmp_path / "parameters" / "mine.yaml")
    _refused(opslib("run", "4.1", "--env", "mein"), tmp_path, "mein", "mine")


def test_a_server_that_is_not_there_is_one_line(opslib: Command, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    started = time.monotonic()
    answer = opslib("run", "4.1", "--env", _environment(tmp_path, f"https://127.0.0.1:{port}"))
    _refused(answer, tmp_path, f"127.0.0.1:{port}", "does not answer")
    assert time.monotonic() - started < 30


def test_a_server_that_never_answers_is_one_line(opslib: Command, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        answer = opslib("run", "4.1", "--env", _environment(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}"))
    _refused(answer, tmp_path, "does not answer")


def test_an_expired_token_is_one_line(opslib: Command, tmp_path: Path) -> None:
    class Unauthorized(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(
                {"kind": "Status", "status": "Failure", "message": "Unauthorized", "reason": "Unauthorized", "code": 401}
            ).encode()
            self.send_response(401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Unauthorized) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        answer = opslib("run", "4.1", "--env", _environment(tmp_path, f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()
    _refused(answer, tmp_path, "does not accept the credentials", "log in again")


@pytest.mark.parametrize("content", ["{not yaml", "\x00\x01", "- a list", "just text", ""])
def test_a_kubeconfig_that_is_none_is_one_line(opslib: Command, tmp_path: Path, content: str) -> None:
    for chapter in ("4.1", "3.1"):
        _refused(opslib("run", chapter, "--env", _environment(tmp_path, kubeconfig=content)), tmp_path, "kubeconfig")


def test_a_wrong_context_is_one_line(opslib: Command, tmp_path: Path) -> None:
    environment = _environment(tmp_path, more="  context: two\n")
    _refused(opslib("run", "4.1", "--env", environment), tmp_path, "two", "one")


def test_another_cluster_than_expected_is_one_line(opslib: Command, tmp_path: Path) -> None:
    environment = _environment(tmp_path, more="  expected_server: https://prod.example.com\nproduction: true\n")
    _refused(opslib("run", "3.1", "--env", environment), tmp_path, "https://prod.example.com", "https://127.0.0.1:1")


def test_nothing_that_answers_is_one_line(opslib: Command, tmp_path: Path) -> None:
    environment = _environment(tmp_path, more="prometheus:\n  url: http://127.0.0.1:1\n  deadline_seconds: 2\n")
    _refused(opslib("run", "3.1", "--env", environment), tmp_path, "None of Kubernetes, Prometheus", "answers")


def test_help_shows_examples(opslib: Command) -> None:
    answer = opslib("--help")
    assert answer.returncode == 0
    assert "opslib run 4.1 --env lab -p namespace=shop" in answer.stdout


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from opslib.cli import main; main(['run', '--help']); print(sorted(set(sys.modules) & HEAVY), file=sys.stderr)"
    names = "pandas numpy matplotlib kubernetes boto3 papermill nbconvert nbclient pydantic jinja2 IPython msgspec"
    heavy = set(names.split())
    words = [sys.executable, "-c", f"HEAVY = {heavy!r}\n{code}"]
    answer = subprocess.run(words, capture_output=True, text=True, check=True)
    assert answer.stderr.strip() == "[]"


@pytest.mark.parametrize("command", [[], ["run"], ["list"], ["index"], ["open"], ["environment", "show"], ["lab"]])
def test_every_command_has_help_with_examples_in_both_languages(opslib: Command, command: list[str]) -> None:
    texts = {language: opslib(*command, "--help", "--lang", language).stdout for language in ("en", "ja")}
    assert "Usage:" in texts["en"]
    assert "--lang" in texts["en"]
    # Once in the usage, once and more in the examples.
    assert texts["en"].count(" ".join(["opslib", *command])) >= 2
    assert texts["ja"] != texts["en"]
    assert "使い方" in texts["ja"] or "使用" in texts["ja"]


def test_the_language_of_a_report_may_stand_before_the_command(opslib: Command, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    environment = _environment(tmp_path, f"https://127.0.0.1:{port}")
    assert "確認できませんでした" in opslib("--lang", "ja", "run", "access", "--env", environment, "--no-html").stdout


def test_list_names_chapters_parameters_and_defaults(opslib: Command) -> None:
    answer = opslib("list")
    assert answer.returncode == 0
    assert "4.1   pods" in answer.stdout
    assert "-p namespace=" in answer.stdout
    assert "-p log_lines=100" in answer.stdout
    # The option counts wherever it stands.
    japanese = opslib("list", "--lang=ja").stdout
    assert japanese == opslib("--lang", "ja", "list").stdout
    assert "Pod障害" in japanese


def test_an_index_of_nothing(opslib: Command, tmp_path: Path) -> None:
    answer = opslib("index", "--outputs", "there")
    assert answer.returncode == 0
    assert (tmp_path / "there" / "index.html").is_file()


def test_debug_shows_where(opslib: Command) -> None:
    answer = opslib("run", "9.9", "--debug")
    assert answer.returncode != 0
    assert "Traceback" in answer.stderr


def test_version(opslib: Command) -> None:
    import opslib as package

    assert opslib("--version").stdout.strip() == package.__version__


def test_a_reader_that_goes_away_is_no_error(opslib: Command, tmp_path: Path) -> None:
    code = "import sys; from opslib.cli import main; sys.exit(main(['list']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.wait(timeout=60)
    assert "Traceback" not in errors
