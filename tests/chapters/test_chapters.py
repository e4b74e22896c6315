"""Chapters by section and slug."""

from __future__ import annotations

import pytest

from opslib import chapters
from opslib.errors import InputError


def test_a_slug_and_a_section_of_its_own_name_one_chapter() -> None:
    for chapter in chapters.CHAPTERS:
        assert chapters.find(chapter.slug) is chapter
        assert chapter in chapters.find_all(chapter.section)
    assert len({chapter.slug for chapter in chapters.CHAPTERS}) == len(chapters.CHAPTERS)
    assert chapters.find("4.1").slug == "pods"


def test_a_section_with_several_chapters_is_all_of_them_and_not_one() -> None:
    assert [chapter.slug for chapter in chapters.find_all("4.3")] == ["cpu", "memory", "disk"]
    with pytest.raises(InputError, match="cpu, memory, disk"):
        chapters.find("4.3")


@pytest.mark.parametrize("find", [chapters.find, chapters.find_all])
def test_what_is_not_there_is_named_with_the_nearest(find: object) -> None:
    assert callable(find)
    with pytest.raises(InputError, match="Did you mean memory"):
        find("memry")
    with pytest.raises(InputError, match=r"no chapter 9\.9"):
        find("9.9")
