"""Text of others (names, messages, answers) made harmless for the place where it is shown.

Names of files, fields of a vector set and a server's words are chosen by strangers. `printable` is for a terminal,
`markdown` and `code` are for a page. Nothing else escapes.
"""

from __future__ import annotations

import re

# Control characters move a terminal's cursor and change its title; the marks of direction make a reader see another
# text than the one that is there; halves of surrogate pairs cannot be encoded. Tab and newline are neither.
_BREAK = re.compile("\\s*[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]\\s*")
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# An underline within a word, and a # within a line, are themselves: names and addresses stay readable.
_MARKDOWN = re.compile(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)|^#|^[+-](?= )")


def printable(text: str) -> str:
    r"""`text` with unsafe characters as escapes: ``\x1b`` as four visible characters."""
    return _UNSAFE.sub(lambda match: _escape(ord(match[0])), text)


def one_line(text: object) -> str:
    """`text` on one line, printable. What follows a line break could be taken for a line of ours."""
    return printable(_BREAK.sub(" ", str(text)))


def markdown(text: object) -> str:
    """`text` on one line, with Markdown and HTML escaped; also for a cell of a table."""
    html = one_line(text).strip().replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(lambda match: "\\" + match[0], html)


def code(text: object) -> str:
    """`text` on one line as inline code of Markdown; not for a cell of a table, where a bar would end it."""
    line = one_line(text)
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    space = " " * (len(fence) > 1)
    return f"{fence}{space}{line}{space}{fence}"


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
