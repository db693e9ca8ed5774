"""A client's connection, which ends when what was sent to it is left unread; else it would last as long as the client.

Deadlines end the work on an answer. Whatever is written by then lies in the connection's buffer until the client takes
it, and nobody but the connection itself knows that it does not.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def connections(unread_seconds: float) -> type[asyncio.Protocol]:
    """Uvicorn's protocol, as its configuration takes it.

    Args:
        unread_seconds: after which a connection is broken off of whose buffer the client has taken nothing.
    """

    class Connection(H11Protocol):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._patience: asyncio.TimerHandle | None = None

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._forget()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.transport.is_closing():  # it does so only when its buffer is empty
                self._watch()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._forget()

        def _watch(self) -> None:
            self._forget()
            left = self.transport.get_write_buffer_size()
            if left:
                self._patience = self.loop.call_later(unread_seconds, self._look, left)

        def _look(self, before: int) -> None:
            """Nothing is added to a buffer that is watched: it is full, or the connection is closing."""
            if self.transport.get_write_buffer_size() >= before:
                self.transport.abort()
            else:
                self._watch()

        def _forget(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

    return Connection
