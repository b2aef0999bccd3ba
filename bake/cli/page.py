"""Printing an answer as it comes."""

from __future__ import annotations

import re
import sys

from ..core.text import printable


class Page:
    """Prints pieces of text; on a terminal, breaks lines between words instead of at the edge."""

    def __init__(self, width: int | None) -> None:
        """Print on a terminal of `width` columns; None: not a terminal."""
        self.width = width
        self.column = 0
        self.space = ""
        """White space that is printed once a word follows it on the same line."""

    def __call__(self, piece: str) -> None:
        """Print the next piece."""
        if self.width is None:
            sys.stdout.write(piece)
        else:
            for part in re.findall(r"\n|[^\S\n]+|\S+", printable(piece)):
                self._print(part, self.width)
        sys.stdout.flush()

    def _print(self, part: str, width: int) -> None:
        from rich.cells import cell_len

        if part == "\n":
            sys.stdout.write(part)
            self.column, self.space = 0, ""
        elif part.isspace():
            self.space += part
        else:
            length = cell_len(self.space + part)
            if self.column and self.column + length > width:
                self.column, self.space, length = 0, "", cell_len(part)
                sys.stdout.write("\n")
            sys.stdout.write(self.space + part)
            self.column, self.space = self.column + length, ""
