"""What a server answers where it does not answer the question, in OpenAI's shape of an error."""

from typing import Any


class RefusedError(Exception):
    """One request's refusal: HTTP status, a message for people, the field at fault and a code for programs."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def headers(self) -> dict[str, str]:
        headers = {503: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(self.status, {})
        # after 413 the connection stays: closed, it would be reset while the client sends, and the answer lost
        return headers | ({"Connection": "close"} if self.status == 408 else {})

    @property
    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def overloaded(message: str) -> RefusedError:
    return RefusedError(503, message, code="overloaded")


def bad_field(param: str, message: str, code: str | None = None) -> RefusedError:
    """400 for a field of the request, which the message names as well."""
    return RefusedError(400, f"{param}: {message}", param, code)
