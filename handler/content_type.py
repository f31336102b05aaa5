"""The content types and content codings of request bodies."""

import re
from collections.abc import Mapping
from email.message import Message
from typing import Literal

from handler.http import Refused, Request

type Form = Literal["json", "ndjson"]

_FORMS: Mapping[str, Form] = {
    "application/json": "json",
    "text/json": "json",
    "application/x-json": "json",
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "application/x-jsonl": "ndjson",
    "application/jsonlines": "ndjson",
    "application/x-jsonlines": "ndjson",
}
# UTF-8 under its names, and its subset ASCII. (Encoding Standard: "Names and labels"; IANA: "Character Sets".)
_CHARSETS = frozenset(["utf-8", "utf8", "csutf8", "unicode-1-1-utf-8", "us-ascii", "ascii", "csascii"])
_LIST_MEMBERS = re.compile(r'(?:"(?:[^"\\]++|\\.)*+"?|[^",])+', re.DOTALL)


def form_of(request: Request) -> Form:
    """Return the body format that the content type names, or JSON if there is no content type.

    Raises Refused (415) for an unsupported type, charset or content coding. Names are case-insensitive, and parameters
    may be quoted. (RFC 9110, sections 5.6.6 and 8.3.) A header that was sent twice arrives as a list, whose members
    must name the same format.
    """
    given = request.headers.get("content-type", "").strip() or "application/json"
    form = _FORMS.get(given)
    if form is None:
        forms = {_form_of_one(each) for each in _LIST_MEMBERS.findall(given.lower()) if each.strip()}
        form = forms.pop() if len(forms) == 1 else None
    if form is None:
        detail = "Send application/json or application/x-ndjson, in UTF-8."
        raise Refused(415, "unsupported_media_type", detail)
    if request.codings not in ([], ["gzip"]):
        detail = "Send the body uncompressed, or gzip it and set Content-Encoding: gzip."
        raise Refused(415, "unsupported_encoding", detail)
    return form


def _form_of_one(content_type: str) -> Form | None:
    header = Message()
    # `Message` would apply RFC 2231 to parameter names with an asterisk, but Content-Type in HTTP does not use it.
    header["content-type"] = content_type.replace("*", "_")
    (media_type, _), *parameters = header.get_params([("", "")])
    charsets = {value.strip("'\"").replace("\\", "") for name, value in parameters if name == "charset"}
    # Every type that ends with +json is JSON. (MIME Sniffing Standard: "JSON MIME type".)
    form = _FORMS.get(media_type) or ("json" if media_type.endswith("+json") else None)
    return form if charsets <= _CHARSETS else None
