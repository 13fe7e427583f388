"""What the server says where it does not answer with rewards.

    {"error": {"message": "...", "type": "BadRequestError", "param": "messages", "code": 400}}

as OpenAI and vLLM have it. A message is read by the client whose request it is about, and is never logged: it may hold
words of the request.
"""

import traceback
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from starlette.responses import JSONResponse

TYPES = {
    HTTPStatus.BAD_REQUEST: "BadRequestError",
    HTTPStatus.UNAUTHORIZED: "AuthenticationError",
    HTTPStatus.NOT_FOUND: "NotFoundError",
    HTTPStatus.METHOD_NOT_ALLOWED: "MethodNotAllowedError",
    HTTPStatus.REQUEST_TIMEOUT: "RequestTimeoutError",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "RequestTooLargeError",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "UnsupportedMediaTypeError",
    HTTPStatus.SERVICE_UNAVAILABLE: "ServiceUnavailableError",
}
INNERMOST = 4  # frames of an error that are logged
QUOTED = 100  # characters of a request that a message repeats
LONGEST = 1000  # of a message


class ApiError(Exception):
    """A request that gets no rewards.

    Args:
        param: the field of the request that it is about.
        headers: of the response.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None
    ):
        super().__init__(message)
        self.status = status
        self.message = shortened(message, LONGEST)
        self.param = None if param is None else shortened(param)
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        kind = TYPES.get(HTTPStatus(self.status), "InternalServerError")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.status}
        return JSONResponse({"error": error}, self.status, self.headers)


def shortened(text: str, most: int = QUOTED) -> str:
    """Its beginning, where a request may have made it as long as it likes."""
    return text if len(text) <= most else f"{text[:most]}..."


def bad_request(message: str, param: str | None = None) -> ApiError:
    return ApiError(HTTPStatus.BAD_REQUEST, message, param=param)


def unavailable(message: str, seconds: int) -> ApiError:
    """A request that may succeed in some seconds."""
    return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, message, headers={"Retry-After": str(seconds)})


def internal_error(message: str) -> ApiError:
    return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, message)


def whereabouts(error: BaseException) -> str:
    """The kind of an error and where it came up, for the log: not what it says, which may quote a request."""
    frames = traceback.extract_tb(error.__traceback__)[-INNERMOST:]
    places = " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
    return f"{type(error).__name__} at {places or 'an unknown place'}"
