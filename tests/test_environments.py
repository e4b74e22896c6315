"""Environments: every fault of a file with its line, field and nearest name; what is right comes back typed."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opslib import environments
from opslib.environments import Environment, HttpSystem
from opslib.errors import InputError
from opslib.messages import use_language

PROJECT = Path(__file__).parent.parent
PARAMETERS = PROJECT / "parameters"
SHIPPED = sorted(PARAMETERS.glob("*.yaml"))


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPSLIB_PARAMETERS", "OPSLIB_LAB", "OPSLIB_LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C")


def write(folder: Path, text: str, name: str = "x") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text, "utf-8")
    return path


def faults(path: Path) -> list[str]:
    with use_language("en"):
        return [str(fault.message()).removeprefix(str(path)) for fault in environments.check(path)]


# --- what is shipped ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_are_right(path: Path) -> None:
    assert environments.check(path) == []
    environment = environments.load_file(path)
    assert environment.name == path.stem
    assert environment.language == "ja"
    assert environment.source == path
    assert path.read_text("utf-8").startswith("# yaml-language-server: $schema=schema.json\n")


def test_production_is_guarded() -> None:
    prod = environments.load_file(PARAMETERS / "prod.yaml")
    assert prod.production
    assert {"delete", "drain", "terraform", "rollback"} <= set(prod.approval.required_for)
    assert prod.approval.other_than_requester
    assert len(prod.approval.approvers) >= 2
    assert [path.stem for path in SHIPPED if environments.load_file(path).production] == ["prod"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_schema_accepts_what_is_shipped(path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text("utf-8")), environments.schema())


def test_the_shipped_schema_is_current() -> None:
    assert (PARAMETERS / "schema.json").read_text("utf-8") == environments.schema_text()
    jsonschema.Draft202012Validator.check_schema(environments.schema())


def test_every_field_is_described_in_both_languages() -> None:
    content = environments.schema()
    for section in (content, *content["$defs"].values()):
        for name, described in section["properties"].items():
            english, _newline, japanese = described["description"].partition("\n")
            assert english, name
            assert japanese or english in ("Prometheus.", "Alertmanager."), name


BROKEN = [
    ("name: x\ntitel: y\n", ":2: titel: there is no such field; the nearest is title"),
    ("name: x\nkubernetes:\n  contxt: y\n", ":3: kubernetes.contxt: there is no such field; the nearest is context"),
    ("name: x\nzzz: 1\n", ":2: zzz: there is no such field; there are name, title, production"),
    ("name: x\nproduction: 'no'\n", ':2: production: expected: true or false; found: "no"'),
    ("name: x\nkubernetes:\n  deadline_seconds: '10'\n", ':3: kubernetes.deadline_seconds: expected: a number; found: "10"'),
    ("name: x\nkubernetes:\n  deadline_seconds: 0\n", ":3: kubernetes.deadline_seconds: expected: a number greater than 0"),
    ("name: x\nlanguage: jp\n", ":2: language: jp is none of ja, en; the nearest is ja"),
    ("name: x\nalertmanager: hello\n", ":2: alertmanager: expected: fields with values, indented below"),
    ("name: x\nalertmanager: {}\n", ":2: alertmanager.url: missing: Base address"),
    ("name: x\nprometheus:\n  url: prometheus:9090\n", ":3: prometheus.url: expected: an address that begins with http:// or https://"),
    ("name: x\nelasticsearch:\n  url: http://e\n  error_levels: error\n", ":4: elasticsearch.error_levels: expected: a list"),
    (
        "name: x\napproval:\n  approvers: [a, b]\n  required_for:\n    - drain\n    - restrt\n",
        ":6: approval.required_for.1: restrt is none of",
    ),
    ("name: x\naws:\n  region: Tokyo\n", ":3: aws.region: expected: a region, such as ap-northeast-1"),
    ("name: x\naws:\n  region: eu-west-1\n  account: 123456789012\n", ":4: aws.account: expected: text, in quotes"),
    ("name: x\naws:\n  region: eu-west-1\n  account: '42'\n", ":4: aws.account: expected: an account's twelve digits"),
    ("name: x\naws:\n  region: eu-west-1\n  role: operations\n", ":4: aws.role: expected: the ARN of a role"),
    ("name: x\naws:\n  profile: dev\n", ":2: aws.region: missing: Region of the cluster"),
    ("name: x\nvelero:\n  namespace: Velero\n", ":3: velero.namespace: expected: a namespace's name"),
    ("name: x\nterraform: {}\n", ":2: terraform.folder: missing: Folder of this environment's root module"),
    ("{}\n", ":1: name: missing: Short name"),
    ("name: X\n", ":1: name: expected: a short name in lower case"),
]


@pytest.mark.parametrize(("text", "expected"), BROKEN, ids=[expected.split(": ")[1] for _text, expected in BROKEN])
def test_a_wrong_field_is_named_with_its_line_by_us_and_refused_by_the_schema(text: str, expected: str, tmp_path: Path) -> None:
    found = faults(write(tmp_path, text))
    assert len(found) == 1
    assert found[0].startswith(expected)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), environments.schema())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: y\n", ":1: name: the file is called x.yaml: the name must be x"),
        ("name: x\ntimezone: Asia/Tokio\n", ":2: timezone: Asia/Tokio is not a time zone; the nearest is Asia/Tokyo"),
        ("name: x\ntimezone: ../../etc/passwd\n", ":2: timezone: ../../etc/passwd is not a time zone"),
        ("name: x\nname: x\n", ":2: name: given twice, first in line 1"),
        ("name: x\nlinks:\n  kibana: http://a\n  kibana: http://b\n", ":4: links.kibana: given twice, first in line 3"),
        ("name: x\nlinks:\n\tkibana: http://a\n", ":3: a tab stands where spaces are expected"),
        ("name: x\nlinks: [\n", ": it is not YAML: "),
        ("name: x\n---\nname: x\n", ": it is not YAML: "),
        ("name: x\nlinks: !!python/object:os.system {}\n", ": it is not YAML: "),
        ("name: x\ntitle: 2024-13-45\n", ": it is not YAML: "),
        ("name: &a x\ntitle: *a\n", ":1: anchors and aliases"),
        ("- name\n", ":1: fields with values are expected"),
        ("", ":1: fields with values are expected"),
        ("1: x\n", ":1: 1: a field's name is expected"),
        (
            "name: x\nprometheus:\n  url: http://p\n  username: u\n",
            ":2: prometheus: username and password_env belong together",
        ),
        (
            "name: x\nprometheus:\n  url: http://p\n  client_key: k.pem\n",
            ":2: prometheus: client_certificate and client_key belong together",
        ),
        ("name: x\napproval:\n  required_for: [drain]\n", ":2: approval: required_for is set, but approvers names nobody"),
        ("name: x\napproval:\n  required_for: [drain]\n  approvers: [a, a]\n", ":2: approval: other_than_requester needs at least two"),
    ],
)
def test_other_faults_are_named_too(text: str, expected: str, tmp_path: Path) -> None:
    found = faults(write(tmp_path, text))
    assert len(found) == 1
    assert expected in found[0]


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"name: \xff\xfe\n")
    assert faults(path) == [":1: it is not text in UTF-8"]


@pytest.mark.parametrize(
    "field",
    ["password: hunter2", "token: hunter2", "api_key: hunter2", "password_env: hunter2!", "headers: {Authorization: Basic hunter2}"],
)
def test_a_secret_in_a_file_is_refused_and_not_repeated(field: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"name: x\nprometheus:\n  url: http://p\n  {field}\n")
    found = faults(path)
    assert ":4: prometheus." in found[0]
    assert "secret" in found[0]
    assert "hunter2" not in "".join(found)


def test_a_password_in_an_address_is_refused_and_not_repeated(tmp_path: Path) -> None:
    found = faults(write(tmp_path, "name: x\nprometheus:\n  url: https://u:hunter2@p\n"))
    assert "without a user name or password in it" in found[0]
    assert "hunter2" not in found[0]


def test_all_faults_at_once_in_the_file_s_order(tmp_path: Path) -> None:
    path = write(tmp_path, "name: x\ntitel: y\nprometheus:\n  urll: http://p\nlanguage: jp\n")
    with use_language("en"), pytest.raises(InputError) as caught:
        environments.load(str(path))
    lines = str(caught.value).splitlines()
    assert [line.removeprefix(f"{path}:").split(":")[0] for line in lines] == ["2", "3", "4", "5"]
    assert lines[-1].endswith(f"Correct it, then check it: opslib environment check {path}")
    assert "Traceback" not in str(caught.value)


def test_faults_are_in_the_reader_s_language(tmp_path: Path) -> None:
    fault = environments.check(write(tmp_path, "name: x\ntitel: y\n"))[0]
    assert "一番近いのは title" in fault.message().text("ja")


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
    | st.builds("name: x\n{}: {}".format, st.text(max_size=8), st.text(max_size=8))
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_text_crashes_the_reader(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for fault in environments.check(path):
        assert fault.line >= 1
        assert len(str(fault.message()).splitlines()) == 1


# --- finding and merging --------------------------------------------------------------------------------------------------------------


def test_an_environment_is_found_from_below_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "parameters").mkdir()
    (tmp_path / "notebooks").mkdir()
    write(tmp_path / "parameters", "name: mine\n", "mine")
    monkeypatch.chdir(tmp_path / "notebooks")
    assert environments.names() == ["mine"]
    assert environments.load("mine").source == tmp_path / "parameters" / "mine.yaml"


def test_the_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "name: mine\n", "mine")
    monkeypatch.setenv("OPSLIB_PARAMETERS", str(tmp_path))
    assert environments.names() == ["mine"]
    monkeypatch.setenv("OPSLIB_PARAMETERS", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="is not a folder"):
        environments.names()


def test_an_unknown_environment_is_answered_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    with use_language("en"), pytest.raises(InputError, match=r"There is no environment prd in parameters\. The nearest is prod"):
        environments.load("prd")
    with use_language("en"), pytest.raises(InputError, match="There is no file"):
        environments.load("./nowhere.yaml")


def test_no_parameters_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with use_language("en"), pytest.raises(InputError, match="There is no folder parameters here or above"):
        environments.load("dev")


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "name: x\nkubernetes:\n  kubeconfig: ../k\nprometheus:\n  url: http://p\n  ca_file: ca.pem\n")
    monkeypatch.chdir("/")
    environment = environments.load(str(path))
    assert environment.kubernetes.kubeconfig == tmp_path.parent / "k"
    assert environment.prometheus
    assert environment.prometheus.ca_file == tmp_path / "ca.pem"


def lab(folder: Path, addresses: str | None) -> Path:
    (folder / "state").mkdir()
    if addresses is not None:
        write(folder / "state", addresses, "environment")
    return write(folder, "name: x\naddresses_file: state/environment.yaml\nprometheus:\n  url: http://old\n")


def test_a_lab_that_does_not_run_is_said_to_with_the_command(tmp_path: Path) -> None:
    path = lab(tmp_path, None)
    with use_language("en"), pytest.raises(InputError) as caught:
        environments.load(str(path))
    assert "The lab of environment x is not running" in str(caught.value)
    assert caught.value.command == "opslib lab up"
    assert environments.check(path) == []


def test_a_lab_s_addresses_lie_over_the_file(tmp_path: Path) -> None:
    path = lab(tmp_path, "kubernetes:\n  kubeconfig: kubeconfig\n  context: lab\nprometheus:\n  url: http://127.0.0.1:9\n")
    environment = environments.load(str(path))
    assert environment.prometheus
    assert environment.prometheus.url == "http://127.0.0.1:9"
    assert environment.prometheus.requests_metric == "http_requests_total"
    assert environment.kubernetes.kubeconfig == tmp_path / "state" / "kubeconfig"
    assert environment.source == path


def test_a_fault_in_a_lab_s_addresses_is_named_there(tmp_path: Path) -> None:
    path = lab(tmp_path, "prometheus:\n  url: 127.0.0.1:9\n")
    with use_language("en"), pytest.raises(InputError) as caught:
        environments.load(str(path))
    assert str(caught.value).startswith(f"{tmp_path / 'state' / 'environment.yaml'}:2: prometheus.url: ")


def test_another_state_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lab(tmp_path, None)
    (tmp_path / "other").mkdir()
    write(tmp_path / "other", "prometheus:\n  url: http://127.0.0.1:8\n", "environment")
    monkeypatch.setenv("OPSLIB_LAB", str(tmp_path / "other"))
    prometheus = environments.load(str(path)).prometheus
    assert prometheus
    assert prometheus.url == "http://127.0.0.1:8"


# --- the model ------------------------------------------------------------------------------------------------------------------------


def test_a_secret_comes_from_its_variable_and_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    system = HttpSystem(url="http://p", token_env="THE_TOKEN")
    monkeypatch.setenv("THE_TOKEN", "hunter2")
    secret = system.secret(system.token_env)
    assert secret
    assert secret.get_secret_value() == "hunter2"
    assert "hunter2" not in f"{secret} {secret!r} {system!r}"
    monkeypatch.delenv("THE_TOKEN")
    with use_language("en"), pytest.raises(InputError, match="The environment variable THE_TOKEN is not set"):
        system.secret(system.token_env)


def test_an_environment_cannot_be_changed() -> None:
    environment = Environment(name="x")
    with pytest.raises(ValueError, match="frozen"):
        environment.production = True  # type: ignore[misc]


def test_every_field_is_shown(tmp_path: Path) -> None:
    shown = {name: value for name, value, _description in environments.fields(environments.load_file(PARAMETERS / "prod.yaml"))}
    assert shown["production"] == "true"
    assert json.loads(shown["approval.approvers"])
    assert shown["kubernetes.expected_server"] == ""
