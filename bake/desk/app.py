"""The desk over HTTP: a page, its requests as JSON, and answers as server-sent events. Needs FastAPI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from importlib import resources
from typing import Any

from ..actions import commands
from ..core.packages import require
from ..core.text import one_line
from ..errors import EmobakeError, InputError, spell_arguments, without_secrets
from .access import Access, App, Guard
from .baking import Job, Planned
from .bodies import KeyIn, LineIn, NothingIn, OrderIn, PersonaIn, QuestionIn, SamplingIn, SettingsIn
from .costs import cost_in_json
from .pictures import Theme, cosine_picture, dose_picture
from .reply import Reply
from .session import DeskSession

PAGE = {
    "": ("index.html", "text/html; charset=utf-8"),
    "desk.css": ("desk.css", "text/css; charset=utf-8"),
    "desk.js": ("desk.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Path -> file of the page, and its type."""
_SPOKEN = {"out": "name", "push": "repository", "overwrite": "Replace", "mix": "the sliders", "model": "another model"}
"""Argument of the library -> its name on the page."""
_ALIVE = 15.0
"""Seconds after which a stream without events says that it lives."""
_LOOK = 0.1
"""Seconds between two looks for changes, which take no thread from the answers."""


def spelled(text: str) -> str:
    """A message of the library as the page says it."""
    return one_line(without_secrets(spell_arguments(text, lambda name: _SPOKEN.get(name, name.replace("_", " ")))))


def make_app(desk: DeskSession, access: Access) -> App:
    """Make the web application of a desk.

    Raises:
        MissingPackageError: FastAPI is not installed.
    """
    fastapi = require("fastapi", extra="desk", purpose="the desk")
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _handle_errors(app)
    _add_page(app)
    _add_talk(app, desk)
    _add_bakes(app, desk)
    _add_pictures(app, desk)
    _add_personas(app, desk)
    return Guard(app, access)


def _handle_errors(app: Any) -> None:
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse

    def refuse(_request: Any, error: EmobakeError) -> JSONResponse:
        status = 400 if isinstance(error, InputError) else 500
        return JSONResponse({"error": spelled(str(error))}, status)

    def malformed(_request: Any, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return JSONResponse({"error": one_line(f"{place[:200]}: {first['msg']}")}, 422)

    def unexpected(_request: Any, error: Exception) -> JSONResponse:
        return JSONResponse({"error": spelled(f"unexpected {type(error).__name__}: {error}")}, 500)

    app.add_exception_handler(EmobakeError, refuse)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(Exception, unexpected)


def _add_page(app: Any) -> None:
    folder = resources.files("emobake.desk") / "page"
    for path, (name, kind) in PAGE.items():
        serve = _file((folder / name).read_bytes(), kind)
        app.add_api_route(f"/{path}", serve, methods=["GET"], include_in_schema=False)


def _file(content: bytes, kind: str) -> Callable[[], Any]:
    from fastapi.responses import Response

    def serve() -> Any:
        return Response(content, media_type=kind)

    return serve


def _add_talk(app: Any, desk: DeskSession) -> None:
    def state() -> dict[str, Any]:
        return state_of(desk)

    def events(known: int = -1) -> Any:
        return _streamed(_changes(desk, known))

    def settings(body: SettingsIn) -> dict[str, Any]:
        desk.set(body.settings)
        return state_of(desk)

    def sampling(body: SamplingIn) -> dict[str, Any]:
        kept = desk.conversation.sampling
        desk.set_sampling(replace(kept, max_new_tokens=body.max_new_tokens, temperature=body.temperature), body.system)
        return state_of(desk)

    def ask(body: QuestionIn) -> Any:
        return _streamed(_answers(desk.ask(body.question)))

    def stop(body: NothingIn) -> dict[str, Any]:
        desk.stop()
        return {}

    def command(body: LineIn) -> dict[str, Any]:
        return {"lines": [one_line(line) for line in desk.command(body.line.strip())]}

    def reset(body: NothingIn) -> dict[str, Any]:
        desk.reset()
        return state_of(desk)

    _get(app, "state", state)
    _get(app, "events", events)
    for name, answer in (
        ("settings", settings),
        ("sampling", sampling),
        ("ask", ask),
        ("stop", stop),
        ("command", command),
        ("reset", reset),
    ):
        _post(app, name, answer)


def _add_bakes(app: Any, desk: DeskSession) -> None:
    def plan(body: OrderIn) -> dict[str, Any]:
        planned = desk.plan(body.side, body.form, body.name, overwrite=body.overwrite, private=body.private)
        return _planned(planned) | {"key": planned.key}

    def start(body: KeyIn) -> dict[str, Any]:
        return _job(desk.baker.start(body.key)) or {}

    def cancel(body: NothingIn) -> dict[str, Any]:
        desk.baker.cancel()
        return {}

    _post(app, "bake/plan", plan)
    _post(app, "bake/start", start)
    _post(app, "bake/cancel", cancel)


def _add_pictures(app: Any, desk: DeskSession) -> None:
    from fastapi.responses import Response

    def dose(number: int, theme: Theme = "light") -> Any:
        exchanges = desk.exchanges
        cost = exchanges[number].cost if 0 <= number < len(exchanges) else None
        if cost is None:
            raise InputError("no cost was measured for this answer")
        return Response(dose_picture(cost, theme), media_type="image/svg+xml")

    def cosines(theme: Theme = "light") -> Any:
        if not desk.sets:
            raise InputError("a GGUF file has no vectors to show: they are baked in")
        return Response(cosine_picture(desk.sets, theme), media_type="image/svg+xml")

    def sets() -> list[dict[str, Any]]:
        return [one.as_json() for one in desk.sets]

    _get(app, "dose.svg", dose)
    _get(app, "cosines.svg", cosines)
    _get(app, "sets", sets)


def _add_personas(app: Any, desk: DeskSession) -> None:
    def load(body: PersonaIn) -> dict[str, Any]:
        desk.load_persona(body.name)
        return state_of(desk)

    def save(body: PersonaIn) -> dict[str, Any]:
        desk.save_persona(body.name, overwrite=body.overwrite)
        return state_of(desk)

    _post(app, "personas/load", load)
    _post(app, "personas/save", save)


def _get(app: Any, name: str, function: Callable[..., Any]) -> None:
    app.add_api_route(f"/api/{name}", function, methods=["GET"], response_model=None)


def _post(app: Any, name: str, function: Callable[..., Any]) -> None:
    app.add_api_route(f"/api/{name}", function, methods=["POST"], response_model=None)


def state_of(desk: DeskSession) -> dict[str, Any]:
    """Everything that the page shows, as JSON data."""
    talk, steered, settings = desk.conversation, desk.steered, desk.settings
    sampling = talk.sampling
    return {
        "revision": desk.revision,
        "model": talk.model.name,
        "description": talk.model.description,
        "note": spelled(talk.model.note),
        "can_steer": steered is not None,
        "fixed_mood": "" if steered is not None else "\n".join(commands.describe_mood(talk)),
        "vectors": "" if steered is None else steered.vectors.name,
        "emotions": [] if steered is None else list(steered.vectors.emotions),
        "layers": 0 if steered is None else steered.live.layers,
        "settings": asdict(settings),
        "recipes": desk.recipes,
        "cautions": {side: list(map(spelled, lines)) for side, lines in desk.cautions.items()},
        "sampling": {
            "max_new_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "system": talk.system,
        },
        "exchanges": [asdict(one) | {"cost": cost_in_json(one.cost)} for one in desk.exchanges],
        "answering": desk.is_answering,
        "folder": desk.baker.bench.folder,
        "job": _job(desk.baker.job),
        "personas": desk.persona_names,
    }


def _planned(planned: Planned) -> dict[str, Any]:
    return {
        "recipe": planned.recipe,
        "form": planned.order.form,
        "out": planned.out,
        "lines": list(map(spelled, planned.lines)),
        "warnings": list(map(spelled, planned.warnings)),
        "command": planned.command,
        "python": planned.python,
    }


def _job(job: Job | None) -> dict[str, Any] | None:
    if job is None:
        return None
    return {
        "state": job.state,
        "task": job.task,
        "done": job.done,
        "total": job.total,
        "notices": list(map(spelled, job.notices)),
        "lines": list(map(spelled, job.lines)),
        "error": spelled(job.error),
        "planned": _planned(job.planned),
    }


def _streamed(events: AsyncIterator[bytes]) -> Any:
    from fastapi.responses import StreamingResponse

    return StreamingResponse(events, media_type="text/event-stream")


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


async def _answers(reply: Reply) -> AsyncIterator[bytes]:
    """The events of a reply; where nobody listens any more, it is stopped."""
    from fastapi.concurrency import iterate_in_threadpool

    try:
        async for event in iterate_in_threadpool(iter(reply)):
            told = event | {"error": spelled(event["error"])} if event["type"] == "error" else event
            yield _event(told)
        yield _event({"type": "end"})
    finally:
        reply.stop()


async def _changes(desk: DeskSession, known: int) -> AsyncIterator[bytes]:
    """Revisions of the state, as they change."""
    silent = 0.0
    while not desk.is_closing:
        if desk.revision != known:
            known, silent = desk.revision, 0.0
            yield _event({"revision": known})
        elif silent > _ALIVE:
            silent = 0.0
            yield b": alive\n\n"
        await asyncio.sleep(_LOOK)
        silent += _LOOK
