"""pika's asyncio connection, with one write where it makes three for each message."""

from __future__ import annotations

from typing import Any

from pika.adapters.asyncio_connection import AsyncioConnection

_FLUSH_AT_BYTES = 256 * 1024


class CoalescingConnection(AsyncioConnection):  # type: ignore[misc]
    """Sends what one round of the loop has produced in one system call, at the round's end.

    pika writes method, header and body of each message by itself: three system calls and three packets. In a
    burst that is a third of the client's time, and more of the broker's.
    """

    def _init_connection_state(self) -> None:
        super()._init_connection_state()
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def _on_connection_workflow_done(self, conn_or_exc: Any) -> None:
        # where we are closed while still connecting, pika hands over the exception's class, and stumbles over it
        super()._on_connection_workflow_done(conn_or_exc() if isinstance(conn_or_exc, type) else conn_or_exc)

    def _adapter_emit_data(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes >= _FLUSH_AT_BYTES:
            self._flush()
        elif len(self._pending) == 1:
            self._nbio.get_native_ioloop().call_soon(self._flush)

    def _adapter_disconnect_stream(self) -> None:
        self._flush()  # our last word, Connection.CloseOk perhaps
        super()._adapter_disconnect_stream()

    def _flush(self) -> None:
        pending: Any = self._pending
        self._pending, self._pending_bytes = [], 0
        if pending and self._transport is not None:
            super()._adapter_emit_data(b"".join(pending))
