from __future__ import annotations

from typing import Any

import pytest

from opslib.chapters import Chapter
from opslib.errors import InputError
from opslib.running import parameters


def test_text_becomes_the_type_that_is_expected(sample_chapter: Chapter) -> None:
    words = ["namespace=shop", "count=5", "names=a, b,,c", "mode=full"]
    found = parameters.checked(sample_chapter, parameters.parse(words, sample_chapter))
    assert found.model_dump() == {"namespace": "shop", "count": 5, "names": ["a", "b", "c"], "mode": "full"}


def test_a_value_may_hold_anything(sample_chapter: Chapter) -> None:
    value = "a=b \"quoted\" 'and' \\ \n$(x) {y} 日本"
    assert parameters.parse([f"namespace={value}"], sample_chapter) == {"namespace": value}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["namespac=shop"], ["no parameter namespac", "Did you mean namespace?"]),
        (["zzz=1"], ["no parameter zzz", "It has namespace, count, names, mode"]),
        (["count=many"], ["The parameter count cannot be 'many'", "a whole number", "How many."]),
        (["count=-1"], ["The parameter count cannot be '-1'", "greater than or equal to 0"]),
        (["mode=slow"], ["The parameter mode cannot be 'slow'", "one of fast, full"]),
        (["namespace"], ["namespace is not a parameter", "name=value"]),
        (["=x"], ["=x is not a parameter"]),
        (["count=1", "count=2"], ["given twice"]),
    ],
)
def test_what_is_wrong_is_named(sample_chapter: Chapter, words: list[str], says: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSLIB_LANG", "en")
    with pytest.raises(InputError) as caught:
        parameters.checked(sample_chapter, parameters.parse(words, sample_chapter))
    for text in says:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, [], {}, object()])
def test_a_notebooks_wrong_value_is_named_too(sample_chapter: Chapter, value: Any) -> None:
    with pytest.raises(InputError, match="count"):
        parameters.checked(sample_chapter, {"count": value})
