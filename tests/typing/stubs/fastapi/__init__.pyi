# What programs/p02_service.py uses of FastAPI, so that checking it does not need FastAPI.
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

class HTTPException(Exception):
    def __init__(self, status_code: int, detail: Any = ...) -> None: ...

class FastAPI:
    state: Any
    def __init__(self, *, lifespan: Callable[[FastAPI], Any]) -> None: ...
    def get(self, path: str) -> Callable[[F], F]: ...
    def post(self, path: str) -> Callable[[F], F]: ...

class Request:
    app: FastAPI
    async def is_disconnected(self) -> bool: ...
