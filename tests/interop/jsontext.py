"""The JSON form. Bodies and metadata keep their text: `json` alone would lose how it was written."""

import json

from bincode import Text

_SPACE = " \t\r\n"
_VERBATIM = ("body", "metadata")


def encode(message):
    """`Text` values are put in as they are, everything else as JSON."""
    fields = []
    for name, value in message.items():
        if value is None:
            continue
        written = value if isinstance(value, Text) else json.dumps(value, ensure_ascii=False)
        fields.append(f"{json.dumps(name)}:{written}")
    return "{" + ",".join(fields) + "}"


def _skip(text, at):
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _fields(text, at):
    """The fields of the object at `at`: name, value, the value's text."""
    decoder = json.JSONDecoder()
    if text[at] != "{":
        raise ValueError("not an object")
    at = _skip(text, at + 1)
    while text[at] != "}":
        name, at = decoder.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)
        value, end = decoder.raw_decode(text, at)
        yield name, value, text[at:end]
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def decode(text):
    message = {}
    for name, value, written in _fields(text, _skip(text, 0)):
        message[name] = Text(written) if name in _VERBATIM else value
    for member in message.get("members", []):
        member["metadata"] = Text(json.dumps(member["metadata"], separators=(",", ":")))
    return message
