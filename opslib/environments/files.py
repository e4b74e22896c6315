"""Reading and checking environments' files: every fault with its file, its line, its field and what is expected there."""

from __future__ import annotations

import difflib
import json
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from opslib.environments.model import Environment, EnvironmentVariable, HttpAddress
from opslib.errors import InputError
from opslib.messages import Message, Text, _, _n, one_line, text_of


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a file: where, in which field (dotted; empty for the file as a whole), and what is expected there."""

    file: Path
    line: int
    field: str
    what: Text

    def message(self) -> Message:
        """All of it on one line, beginning as compilers do, so that editors can jump there."""
        where = f"{_shown_path(self.file)}:{self.line}"
        if self.field:
            return _("{where}: {field}: {what}", where=where, field=one_line(self.field), what=self.what)
        return _("{where}: {what}", where=where, what=self.what)


def folder() -> Path:
    """Where environments' files are: $OPSLIB_PARAMETERS, else the folder `parameters` here or in the nearest folder above.

    Raises
    ------
    InputError
        There is no such folder.
    """
    named = os.environ.get("OPSLIB_PARAMETERS")
    if named:
        path = Path(named).expanduser()
        if not path.is_dir():
            raise InputError(_("OPSLIB_PARAMETERS names {folder}, which is not a folder", folder=named), _("Name the folder of dev.yaml"))
        return path
    here = Path.cwd()
    for above in (here, *here.parents):
        if any((above / "parameters").glob("*.yaml")):
            return above / "parameters"
    raise InputError(
        _("There is no folder parameters here or above"), _("Go to the project's folder, or name the folder"), "export OPSLIB_PARAMETERS=…"
    )


def names() -> list[str]:
    """The environments that there are, by name."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def load(name_or_path: str) -> Environment:
    """The environment with that name (``prod``), or in that file (``./my/prod.yaml``).

    Paths in the file are relative to it and come back absolute. Where the file names an ``addresses_file``, that one's values take
    precedence.

    Raises
    ------
    InputError
        There is no such environment; its file has faults, all of which are named, one a line; or its lab is not running.
    """
    path = _find(name_or_path)
    read = _read(path)
    if not read.faults and isinstance(read.content.get("addresses_file"), str):
        overlay = _addresses_file(path, read.content["addresses_file"])
        if not overlay.is_file():
            raise InputError(
                _("The lab of environment {name} is not running: {file} is not there", name=path.stem, file=_shown_path(overlay)),
                _("Start it"),
                "opslib lab up",
            )
        read = _merged(read, _read(overlay))
    environment, faults = _checked(read, path)
    if faults or environment is None:
        raise _refused(path, faults)
    return environment


def load_file(path: Path) -> Environment:
    """The environment in that file alone, without what a running lab would lay over it.

    Raises
    ------
    InputError
        The file has faults.
    """
    environment, faults = _checked(_read(path), path)
    if faults or environment is None:
        raise _refused(path, faults)
    return environment


def check(path: Path) -> list[Fault]:
    """Everything that is wrong with an environment's file, in its order; a lab need not be running."""
    return _checked(_read(path), path)[1]


def schema() -> dict[str, Any]:
    """The JSON schema of an environment's file, for editors: descriptions in both languages."""
    content = Environment.model_json_schema()
    content["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    _describe(content)
    return content


def schema_text() -> str:
    """The same as the text of parameters/schema.json."""
    return json.dumps(schema(), ensure_ascii=False, indent=2) + "\n"


# --- finding and reading a file -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _File:
    """A file's content, and where each field of it stands: dotted path to file and line."""

    path: Path
    content: dict[str, Any] = field(default_factory=dict)
    places: dict[tuple[str, ...], tuple[Path, int]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def _find(name_or_path: str) -> Path:
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise InputError(_("There is no file {file}", file=name_or_path), _("All environments"), "opslib environment list")
        return path
    path = folder() / f"{name_or_path}.yaml"
    if path.is_file():
        return path
    what = _("There is no environment {name} in {folder}", name=name_or_path, folder=_shown_path(path.parent))
    near = difflib.get_close_matches(name_or_path, names(), n=1)
    if near:
        raise InputError(what, _("The nearest is {near}. All of them", near=near[0]), "opslib environment list")
    raise InputError(what, _("All of them"), "opslib environment list")


def _addresses_file(path: Path, named: str) -> Path:
    # A lab that was started with another state folder says so with the same variable to both sides.
    state = os.environ.get("OPSLIB_LAB")
    return Path(state).expanduser() / "environment.yaml" if state else _absolute(path, named)


def _absolute(file: Path, named: str) -> Path:
    return Path(os.path.abspath(file.parent / Path(named).expanduser()))  # noqa: PTH100 - resolve() would follow links, which are the user's own names


def _read(path: Path) -> _File:
    read = _File(path)
    try:
        text = path.read_text("utf-8-sig")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            read.faults.append(Fault(path, 1, "", _("anchors and aliases (& and *) are not understood here; write the values out")))
            return read
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            read.faults.append(Fault(path, 1, "", _("fields with values are expected, such as name: dev")))
            return read
        _note_places(read, node, ())
        if not read.faults:
            read.content = loader.construct_document(node)
    except OSError as error:
        raise InputError(_("{file} cannot be read: {reason}", file=_shown_path(path), reason=error.strerror or str(error))) from None
    except UnicodeDecodeError:
        read.faults.append(Fault(path, 1, "", _("it is not text in UTF-8")))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        read.faults.append(_not_yaml(path, error))
    _resolve_paths(read.content, Environment, path)
    return read


def _not_yaml(path: Path, error: Exception) -> Fault:
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or error)
    line = mark.line + 1 if mark else 1
    if r"'\t'" in problem:
        return Fault(path, line, "", _("a tab stands where spaces are expected; YAML is indented with spaces"))
    return Fault(path, line, "", _("it is not YAML: {problem}", problem=one_line(problem)))


def _note_places(read: _File, node: yaml.MappingNode, above: tuple[str, ...]) -> None:
    """Where every field stands; a field that is given twice is a fault, since YAML would drop one in silence."""
    for key, value in node.value:
        name = str(key.value)
        place = (*above, name)
        line = key.start_mark.line + 1
        if key.tag != "tag:yaml.org,2002:str":
            what = _("a field's name is expected, in quotes where it looks like a number, a date or true and false")
            read.faults.append(Fault(read.path, line, ".".join(place), what))
        elif place in read.places:
            first = read.places[place][1]
            read.faults.append(Fault(read.path, line, ".".join(place), _("given twice, first in line {line}", line=first)))
        else:
            read.places[place] = (read.path, line)
        if isinstance(value, yaml.MappingNode):
            _note_places(read, value, place)
        elif isinstance(value, yaml.SequenceNode):
            for index, item in enumerate(value.value):
                read.places[(*place, str(index))] = (read.path, item.start_mark.line + 1)


def _resolve_paths(content: dict[str, Any], model: type[BaseModel], file: Path) -> None:
    for name, info in model.model_fields.items():
        value = content.get(name)
        if isinstance(value, str) and Path in _types(info.annotation):
            content[name] = str(_absolute(file, value))
        for kind in _types(info.annotation):
            if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, BaseModel):
                _resolve_paths(value, kind, file)


def _types(annotation: Any) -> tuple[Any, ...]:
    """`X | None` as (X, None)."""
    return typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, types.UnionType) else (annotation,)


def _merged(file: _File, overlay: _File) -> _File:
    return _File(file.path, _over(file.content, overlay.content), {**file.places, **overlay.places}, [*file.faults, *overlay.faults])


def _over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        merged[name] = _over(under, value) if isinstance(under, dict) and isinstance(value, Mapping) else value
    return merged


# --- checking it ----------------------------------------------------------------------------------------------------------------------


def _checked(read: _File, path: Path) -> tuple[Environment | None, list[Fault]]:
    if read.faults:
        return None, read.faults
    try:
        # By way of JSON, where strict means what a reader of the file expects: "10" is no number, yet a path is text.
        environment = Environment.model_validate_json(json.dumps(read.content, default=str), strict=True)
    except ValidationError as error:
        faults = dict.fromkeys(_fault(read, detail) for detail in error.errors(include_url=False))
        return None, sorted(faults, key=lambda fault: (fault.file != path, fault.line, fault.field))
    if environment.name != path.stem:
        what = _("the file is called {file}: the name must be {name}", file=path.name, name=path.stem)
        return None, [Fault(*_place(read, ("name",)), "name", what)]
    environment._source = Path(os.path.abspath(path))  # noqa: PTH100 - as above
    return environment, []


def _place(read: _File, where: tuple[str, ...]) -> tuple[Path, int]:
    """File and line of a field, or of the nearest one above it that stands in a file."""
    while where and where not in read.places:
        where = where[:-1]
    return read.places.get(where, (read.path, 1))


def _fault(read: _File, detail: Any) -> Fault:
    where = tuple(str(part) for part in detail["loc"])
    file, line = _place(read, where)
    return Fault(file, line, ".".join(where), _what(where, detail))


def _what(where: tuple[str, ...], detail: Any) -> Text:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    name = where[-1] if where else ""
    if kind == "extra_forbidden":
        return _unknown_field(where)
    if kind == "missing":
        return _("missing: {description}", description=Message(_description(where)))
    if kind == "value_error":
        words = context["error"].args[0] if context["error"].args else ""
        return words if isinstance(words, Message) else one_line(words)
    if kind == "literal_error":
        allowed = _literals(where)
        near = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.5)
        if near:
            return _("{value} is none of {allowed}; the nearest is {near}", value=one_line(value), allowed=allowed, near=near[0])
        return _("{value} is none of {allowed}", value=one_line(value), allowed=allowed)
    expected = _expected(kind, context, name)
    # What stands in a field for a secret's name may be the secret itself.
    if name.endswith("_env") or (isinstance(value, str) and "@" in value):
        return _("expected: {expected}", expected=expected)
    return _("expected: {expected}; found: {value}", expected=expected, value=one_line(json.dumps(value, ensure_ascii=False), 80))


def _unknown_field(where: tuple[str, ...]) -> Message:
    model = _model(where[:-1])
    fields = tuple(model.model_fields) if model else ()
    name = where[-1]
    if _SECRET_NAME.search(name):
        secrets = tuple(known for known in fields if known.endswith("_env"))
        if secrets:
            return _("secrets are not written in files: {fields} name the environment variables that hold them", fields=secrets)
        return _("secrets are not written in files")
    near = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
    if near:
        return _("there is no such field; the nearest is {near}", near=near[0])
    return _("there is no such field; there are {fields}", fields=fields)


_SECRET_NAME = re.compile(r"(?i)(pass(word|wd|phrase)?|token|secret|api_?key|credential|private_?key)(?!.*_env$)")


def _expected(kind: str, context: Mapping[str, Any], name: str) -> Message:
    """What pydantic's error means, in words for a reader (https://docs.pydantic.dev/latest/errors/validation_errors/)."""
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(context["pattern"], _("text of the form {pattern}", pattern=context["pattern"]))
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        limit = next(iter(context.values()))
        return {
            "greater_than": _("a number greater than {limit}", limit=limit),
            "greater_than_equal": _("a number not less than {limit}", limit=limit),
            "less_than": _("a number less than {limit}", limit=limit),
            "less_than_equal": _("a number not greater than {limit}", limit=limit),
        }[kind]
    return _KINDS.get(kind, _("another kind of value ({kind})", kind=kind))


_KINDS = {
    "bool_type": _("true or false"),
    "bool_parsing": _("true or false"),
    "int_type": _("a whole number"),
    "int_parsing": _("a whole number"),
    "int_from_float": _("a whole number"),
    "float_type": _("a number"),
    "float_parsing": _("a number"),
    "finite_number": _("a number"),
    "string_type": _("text, in quotes where it looks like a number, a date or true and false"),
    "path_type": _("a file's path"),
    "list_type": _("a list, one item a line, each beginning with a dash"),
    "dict_type": _("fields with values, indented below"),
    "model_type": _("fields with values, indented below"),
    "model_attributes_type": _("fields with values, indented below"),
}
_PATTERNS = {
    typing.get_args(HttpAddress)[1].metadata[0].pattern: _(
        "an address that begins with http:// or https://, without a user name or password in it"
    ),
    typing.get_args(EnvironmentVariable)[1].metadata[0].pattern: _("the name of an environment variable, not the secret itself"),
    r"^[a-z0-9][a-z0-9-]{0,30}$": _("a short name in lower case letters, digits and dashes"),
    r"^[a-z]{2}(-[a-z]+)+-\d$": _("a region, such as ap-northeast-1"),
    r"^\d{12}$": _("an account's twelve digits, in quotes"),
    r"^arn:aws[a-z-]*:iam::\d{12}:role/\S+$": _("the ARN of a role, such as arn:aws:iam::123456789012:role/operations"),
    r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$": _("a namespace's name"),
}


def _model(where: tuple[str, ...]) -> type[BaseModel] | None:
    model: type[BaseModel] = Environment
    for name in where:
        info = model.model_fields.get(name)
        sections = [kind for kind in _types(info.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)] if info else []
        if not sections:
            return None
        model = sections[0]
    return model


def _description(where: tuple[str, ...]) -> str:
    model = _model(where[:-1])
    return (model.model_fields[where[-1]].description or "") if model and where[-1] in model.model_fields else ""


def _literals(where: tuple[str, ...]) -> tuple[str, ...]:
    """The values that a field, or the items of a list, may have."""
    names_ = where[:-1] if where[-1].isdigit() else where
    model = _model(names_[:-1])
    annotation = model.model_fields[names_[-1]].annotation if model else None
    if typing.get_origin(annotation) is list:
        annotation = typing.get_args(annotation)[0]
    return tuple(str(value) for value in typing.get_args(annotation))


def _refused(path: Path, faults: list[Fault]) -> InputError:
    what = faults[0].message()
    for fault in faults[1:50]:
        what = _("{faults}\n{fault}", faults=what, fault=fault.message())
    if len(faults) > 50:
        what = _n("{faults}\nand {count} more fault", "{faults}\nand {count} more faults", len(faults) - 50, faults=what)
    return InputError(what, _("Correct it, then check it"), f"opslib environment check {_shown_path(path)}")


def _shown_path(path: Path) -> str:
    """As short as it can be named from here."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - as above
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def _describe(content: dict[str, Any]) -> None:
    """Descriptions in both languages; pydantic's own titles (field names again) and the classes' docstrings are left out."""
    for section in (content, *content.get("$defs", {}).values()):
        section.pop("title", None)
        section.pop("description", None)
        for described in section["properties"].values():
            described.pop("title", None)
            words = Message(described["description"])
            described["description"] = "\n".join(dict.fromkeys(text_of(words, language) for language in ("en", "ja")))


def fields(environment: Environment) -> Iterator[tuple[str, str, str]]:
    """Every field as (dotted name, value as YAML shows it, description), in the file's order; of secrets only the variables' names."""
    yield from _fields(environment, "")


def _fields(section: BaseModel, above: str) -> Iterator[tuple[str, str, str]]:
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _fields(value, f"{above}{name}.")
        else:
            shown = "" if value is None else json.dumps(value, ensure_ascii=False) if not isinstance(value, str | Path) else str(value)
            yield f"{above}{name}", shown, str(Message(info.description or ""))
