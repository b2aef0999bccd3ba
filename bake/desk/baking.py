"""Bakes from the desk: a dry run first, then the bake that it planned, in a thread of its own; one at a time."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..actions import commands
from ..core.progress import Advance
from ..errors import EmobakeError, InputError, OutputError
from .order import Bench, Order

_STEPS = 200
"""Reports of the progress of one task at most."""


@dataclass(frozen=True)
class Planned:
    """A dry run."""

    key: str
    """Names it, when the bake is asked for."""
    order: Order
    recipe: str
    lines: tuple[str, ...]
    """The plan in words: layers, stacks, bytes."""
    warnings: tuple[str, ...]
    """Everything that a user must not miss."""
    command: str
    python: str
    out: str
    """The place of the output, as the user names it."""


@dataclass(frozen=True)
class Job:
    """A bake that runs or has run."""

    state: Literal["running", "done", "failed", "cancelled"]
    planned: Planned
    task: str = ""
    done: int = 0
    total: int = 0
    """Bytes to carry over; 0 if unknown."""
    notices: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    """The result in words."""
    error: str = ""


class Baker:
    """The bakes of a desk."""

    def __init__(self, bench: Bench, changed: Callable[[], object] = lambda: None) -> None:
        self.bench, self._changed = bench, changed
        self.planned: Planned | None = None
        self.job: Job | None = None
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """True while a bake runs."""
        return self.job is not None and self.job.state == "running"

    def plan(self, order: Order) -> Planned:
        """Dry run of a bake; nothing is written.

        Raises:
            InputError: it cannot be carried out, or a bake is running. HubError: the Hub failed.
        """
        self._refuse_second()
        out = order.name if order.form == "hub" else str(self.bench.place(order.name))
        if order.form != "hub" and os.path.lexists(out) and not order.overwrite:
            # A dry run of the library would leave this to the bake.
            raise InputError(f"`out` {out}: exists already; choose another name or give `overwrite`")
        told: list[str] = []
        result = self._bake(order, dry_run=True, notice=told.append)
        plan = result.plan
        hub = result.pushed
        lines = [
            *commands.describe_plan(plan),
            f"{len(plan.files)} files: {plan.bytes_carried / 1e6:,.1f} MB of the base, {plan.bytes_written / 1e6:,.2f} "
            "MB written",
        ]
        if hub is not None:
            lines.append(f"to {hub.repo_id}, branch {hub.branch}, in one commit")
        beware = set(plan.beware)
        warnings = [*plan.effect.warnings, *plan.warnings, *told, *plan.beware]
        if order.setting.scope == "last":
            warnings.insert(0, "a bake acts at every position, not at the last as it is heard now")
        planned = Planned(
            secrets.token_urlsafe(8),
            order,
            commands.recipe(plan.steering),
            tuple(line for line in lines if line not in beware),
            tuple(dict.fromkeys(warnings)),
            order.command(self.bench),
            order.python(self.bench),
            out,
        )
        self.planned = planned
        return planned

    def start(self, key: str) -> Job:
        """Carry out the dry run that `key` names.

        Raises:
            InputError: it is not the last one, or a bake is running.
        """
        with self._lock:
            self._refuse_second()
            planned = self.planned
            if planned is None or not secrets.compare_digest(planned.key.encode(), key.encode()):
                raise InputError("make the dry run of this bake first; what was planned is another one")
            planned.order.arguments(self.bench)  # A link may lead out since.
            self.planned, self.job = None, Job("running", planned)
            self._cancelled.clear()
            self._thread = threading.Thread(target=self._run, args=(planned,), name="emobake-bake")
            self._thread.start()
        self._changed()
        return self.job

    def cancel(self) -> None:
        """End the bake that runs, at the next block of bytes that is carried over; nothing partial remains."""
        self._cancelled.set()

    def close(self) -> None:
        """End the bake that runs, and wait until it has cleaned up."""
        self.cancel()
        if self._thread is not None:
            self._thread.join()

    def _refuse_second(self) -> None:
        if self.is_running:
            raise InputError("a bake is running; wait for its end, or cancel it")

    def _bake(self, order: Order, **more: Any) -> Any:
        from ..actions.bake import bake

        return bake(self.bench.model, **order.arguments(self.bench), **more)

    def _run(self, planned: Planned) -> None:
        try:
            result = self._bake(planned.order, progress=self._progress, notice=self._notice)
            where = result.pushed.url if result.pushed is not None else planned.out
            self._end("done", lines=tuple(commands.describe_bake(result, where)))
        except KeyboardInterrupt:
            self._end("cancelled", error="cancelled; nothing was kept")
        except EmobakeError as error:
            self._end("failed", error=str(error))
        except Exception as error:  # Whatever else fails: the page must not wait for ever.
            self._end("failed", error=str(OutputError(f"unexpected {type(error).__name__}: {error}")))

    def _end(self, state: Literal["done", "failed", "cancelled"], **fields: Any) -> None:
        assert self.job is not None
        self.job = replace(self.job, state=state, **fields)
        self._changed()

    def _progress(self, task: str, done: int, total: int) -> Advance:
        self._update(task=task, done=done, total=total)
        step = max(1, total // _STEPS)
        so_far = told = done

        def advance(amount: int) -> None:
            nonlocal so_far, told
            so_far += amount
            if so_far - told >= step or so_far >= total or self._cancelled.is_set():
                told = so_far
                self._update(done=so_far)

        return advance

    def _notice(self, line: str) -> None:
        assert self.job is not None
        self._update(notices=(*self.job.notices, line))

    def _update(self, **fields: Any) -> None:
        """Tell how far the bake is.

        Raises:
            KeyboardInterrupt: it was cancelled; as a run in a terminal, it then cleans up.
        """
        if self._cancelled.is_set():
            raise KeyboardInterrupt
        assert self.job is not None
        self.job = replace(self.job, **fields)
        self._changed()
