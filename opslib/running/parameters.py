"""A chapter's parameters, checked before anything starts: from the command line's ``name=value`` or from a notebook's cell."""

from __future__ import annotations

import difflib
import importlib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from opslib.chapters import Chapter
from opslib.errors import InputError
from opslib.messages import Message, Text, _, one_line, text_of


def model(chapter: Chapter) -> type[BaseModel]:
    """The chapter's `Parameters`."""
    found: type[BaseModel] = importlib.import_module(f"opslib.chapters.{chapter.slug}").Parameters
    return found


def label(parameters: type[BaseModel], name: str) -> Text:
    """What the parameter is, for a reader: the chapter's own words where it has them in both languages, else the field's description."""
    labels: Mapping[str, Message] = getattr(parameters, "LABELS", {})
    return labels.get(name) or parameters.model_fields[name].description or ""


def parse(words: Iterable[str], chapter: Chapter) -> dict[str, Any]:
    """``name=value`` words as parameters that `checked` takes; a list's values are separated by commas.

    Raises
    ------
    InputError
        A word lacks its ``=``, or names the same parameter twice.
    """
    fields = model(chapter).model_fields
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.strip()
        if not equals or not name:
            raise InputError(_("{word} is not a parameter", word=one_line(word)), _("Write it as name=value"), "-p namespace=shop")
        if name in found:
            raise InputError(_("The parameter {name} is given twice", name=name), _("Give it once"))
        is_list = name in fields and _is_list(fields[name].annotation)
        found[name] = [item.strip() for item in value.split(",") if item.strip()] if is_list else value
    return found


def checked(chapter: Chapter, parameters: Mapping[str, Any]) -> BaseModel:
    """The chapter's parameters with the values given.

    Raises
    ------
    InputError
        A name is unknown (the nearest is named) or a value is not what is expected (both are named).
    """
    expected = model(chapter)
    for name in parameters:
        if name not in expected.model_fields:
            raise _unknown(chapter, expected, name)
    try:
        return expected.model_validate(dict(parameters))
    except ValidationError as error:
        raise _wrong(chapter, expected, error) from None


def shown_type(annotation: Any) -> Message | str:
    """What a field takes, in words."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return shown_type(typing.get_args(annotation)[0])
    if origin is typing.Literal:
        return _("one of {values}", values=[str(value) for value in typing.get_args(annotation)])
    if origin in (typing.Union, types.UnionType):
        return shown_type(next(part for part in typing.get_args(annotation) if part is not type(None)))
    if _is_list(annotation):
        return _("values separated by commas")
    names: dict[Any, Message] = {int: _("a whole number"), float: _("a number"), bool: _("true or false"), str: _("text")}
    return names.get(annotation) or str(getattr(annotation, "__name__", annotation))


def _is_list(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return any(_is_list(part) for part in typing.get_args(annotation) if part is not type(None))
    return (origin or annotation) in (list, tuple, set, frozenset)


def _unknown(chapter: Chapter, expected: type[BaseModel], name: str) -> InputError:
    names = list(expected.model_fields)
    near = difflib.get_close_matches(name, names, n=1)
    what = _("Chapter {section} has no parameter {name}", section=chapter.section, name=one_line(name, 60))
    if near:
        return InputError(what, _("Did you mean {near}? It has {names}", near=near[0], names=names))
    return InputError(what, _("It has {names}", names=names) if names else _("It has none"))


def _wrong(chapter: Chapter, expected: type[BaseModel], error: ValidationError) -> InputError:
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    value = one_line(first.get("input", ""), 60)
    if name not in expected.model_fields:
        # A rule about several parameters at once: only the model itself can say what it wants.
        return InputError(_("The parameters of chapter {section} do not fit: {why}", section=chapter.section, why=_why(first)))
    if first["type"] == "missing":
        return InputError(
            _("Chapter {section} needs the parameter {name} ({label})", section=chapter.section, name=name, label=label(expected, name)),
            _("Give it"),
            f"-p {name}=…",
        )
    kind = shown_type(expected.model_fields[name].annotation)
    return InputError(
        _("The parameter {name} cannot be {value}: {why}", name=name, value=repr(value), why=_why(first)),
        _("It takes {kind} ({label})", kind=kind, label=label(expected, name)),
    )


def _why(detail: Any) -> str:
    return one_line(text_of(detail["msg"]).removeprefix("Value error, "))
