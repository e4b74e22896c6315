"""One self-contained HTML page: nothing is loaded from anywhere, and no script runs but ours.

Two fences stand between a cluster's text and the reader's browser: every fragment is cleaned with an allow-list, and the page's
Content-Security-Policy names the hashes of the one script and the one style that may apply.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from opslib.messages import Message, _, printable, text_of

if TYPE_CHECKING:
    import jinja2

TAGS = frozenset(
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em h1 h2 h3 h4 h5 h6 hr i kbd li mark ol p pre s samp small "  # noqa: SIM905
    "span strong sub summary sup table tbody td tfoot th thead tr u ul var".split()
)
ATTRIBUTES = {
    "*": {"class", "title", "lang"},
    "a": {"href", "target"},
    "div": {"id"},
    "details": {"open"},
    "ol": {"start"},
    "table": {"data-name"},
    "td": {"colspan", "rowspan", "data-s", "data-v"},
    "th": {"colspan", "rowspan", "scope"},
}
_ANCHOR = re.compile(r"#?f-[0-9a-f]{16}|#?cell-\d{1,5}")
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


def clean(html: str) -> Markup:
    """`html` with nothing in it but what the allow-list has: no script, style, image, form, frame, handler, or address but http(s)."""
    import nh3

    return Markup(  # noqa: S704 - what the cleaner lets through is what Markup means
        nh3.clean(
            printable(html),
            tags=set(TAGS),
            attributes={tag: set(names) for tag, names in ATTRIBUTES.items()},
            attribute_filter=_attribute,
            url_schemes={"http", "https"},
            link_rel="noopener noreferrer",
            clean_content_tags={"script", "style", "iframe", "object", "template", "noscript", "textarea", "title", "svg", "math"},
        )
    )


def _attribute(_tag: str, name: str, value: str) -> str | None:
    if name == "id":
        return value if _ANCHOR.fullmatch(value) and not value.startswith("#") else None
    if name == "href":
        return value if _ADDRESS.match(value) or (value.startswith("#") and _ANCHOR.fullmatch(value)) else None
    if name == "target":
        return "_blank"
    return value


def page(template: str, title: str, language: str, content: Mapping[str, Any], footer: Message) -> str:
    """The page that `template` makes of `content`; every value in it that is not Markup is escaped."""
    style = own("fragments.css") + own("report.css")
    script = own("fragments.js") + own("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        _templates()
        .get_template(template)
        .render(
            {name: text_of(value, language) if isinstance(value, Message) else value for name, value in content.items()},
            title=title,
            language=language,
            policy=policy,
            style=Markup(style),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            words=script_words(language),
            footer=footer.text(language),
        )
    )


def script_words(language: str) -> Markup:
    """The attributes of the script element: what `fragments.js` says."""
    words = {"csv": _("Save as CSV"), "copy": _("Copy"), "copied": _("Copied")}
    attribute = Markup(' data-{}="{}"').format
    return attribute("lang", language) + Markup("").join(attribute(name, text.text(language)) for name, text in words.items())


@functools.cache
def own(name: str) -> str:
    """One of our own files: styles, scripts, templates."""
    return files("opslib.reporting").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@functools.cache
def _templates() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(own), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
