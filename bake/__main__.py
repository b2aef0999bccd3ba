"""``python -m emobake``."""

from .cli import main

main()
