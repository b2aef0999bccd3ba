"""Answers and errors of the HTTP library that huggingface_hub uses: requests in its versions below 1, httpx later."""

from __future__ import annotations

import sys
from typing import Any

from huggingface_hub.utils import get_session

LIBRARY: Any = sys.modules[type(get_session()).__module__.partition(".")[0]]
NETWORK_ERRORS: tuple[Exception, ...] = (
    (LIBRARY.ConnectionError("x"), LIBRARY.ReadTimeout("x"), LIBRARY.exceptions.ChunkedEncodingError("x"))
    if LIBRARY.__name__ == "requests"
    else (LIBRARY.ConnectError("x"), LIBRARY.ReadTimeout("x"), LIBRARY.RemoteProtocolError("x"))
)


def response(status: int, method: str, url: str, headers: dict[str, str]) -> Any:
    """The library's answer to a request."""
    if LIBRARY.__name__ != "requests":
        return LIBRARY.Response(status, request=LIBRARY.Request(method, url), headers=headers)
    answer = LIBRARY.Response()
    answer.status_code, answer.request = status, LIBRARY.Request(method, url).prepare()
    answer.headers.update(headers)
    return answer
