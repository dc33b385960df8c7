"""The receiving port of a listener: C-ECHO and C-STORE, from allowed senders."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from spineline.datasets.common.errors import SpinelineError, first_line
from spineline.datasets.common.log import LOG
from spineline.pipeline.pacs.address import PacsError, tls_context
from spineline.pipeline.pacs.dimse import entity_of, storage_contexts
from spineline.pipeline.pacs.inbox import Inbox, NoRoomError
from spineline.pipeline.pacs.received import received_header
from spineline.pipeline.pacs.settings import PacsListen

_SUCCESS, _NO_ROOM, _NOT_UNDERSTOOD, _OTHER_CLASS = 0x0000, 0xA700, 0xC000, 0xA900
_MOST_ASSOCIATIONS = 8
_PDU = 1 << 18


@contextmanager
def receiving(settings: PacsListen, inbox: Inbox) -> Iterator[int]:
    """Receive images in the background; yields the port.

    Raises:
        SpinelineError: the port is taken, or a certificate cannot be read.
    """
    receiver = _Receiver(inbox, settings.max_memory << 20)
    handlers: list[Any] = [
        (evt.EVT_C_ECHO, lambda _: _SUCCESS),
        (evt.EVT_C_STORE, receiver.stored),
        (evt.EVT_DATA_RECV, receiver.data_came),
        (evt.EVT_DIMSE_RECV, receiver.message_came),
        (evt.EVT_CONN_CLOSE, receiver.message_came),
        (evt.EVT_REJECTED, receiver.rejected),
    ]
    context = tls_context(settings.access(), server=True) if settings.tls else None
    try:
        server = _entity(settings).start_server(
            (settings.host, settings.port),
            block=False,
            evt_handlers=handlers,
            ssl_context=context,
        )
    except OSError as error:
        msg = f"port={settings.port}: cannot listen at {settings.host} ({first_line(error)})"
        raise PacsError(msg) from error
    assert server is not None
    try:
        yield settings.port
    finally:
        server.shutdown()


def _entity(settings: PacsListen) -> AE:
    entity = entity_of(settings.access())
    entity.require_called_aet = True
    entity.require_calling_aet = list(settings.allow)
    entity.maximum_associations = _MOST_ASSOCIATIONS
    entity.maximum_pdu_size = _PDU
    entity.supported_contexts = storage_contexts()
    entity.add_supported_context(Verification)
    return entity


class _Receiver:
    """Handles received events; called from a thread of each connection."""

    def __init__(self, inbox: Inbox, max_bytes: int) -> None:
        self._inbox, self._max_bytes = inbox, max_bytes
        self._under_way: dict[int, int] = {}
        self._lock = threading.Lock()
        self._full = False

    def stored(self, event: evt.Event) -> int:
        """Store an object; return the status of the answer."""
        try:
            data = event.encoded_dataset()
            header = received_header(data)
            if header.instance_uid != str(event.request.AffectedSOPInstanceUID):
                LOG.warning("an object refused: it has another UID than the request for it")
                return _OTHER_CLASS
            if header.is_ours:  # sent back by the PACS; processing it would create an endless loop
                LOG.info(
                    "%s: a result of spineline came back; it is not kept",
                    self._inbox.name_of(header),
                )
                return _SUCCESS
            self._inbox.keep(header, data)
        except PacsError as error:
            LOG.warning("an object refused: %s", error)
            return _NOT_UNDERSTOOD
        except SpinelineError as error:
            if not (self._full and isinstance(error, NoRoomError)):
                LOG.error("error: an object refused: %s", error)
            self._full = isinstance(error, NoRoomError)
            return _NO_ROOM
        self._full = False
        return _SUCCESS

    def data_came(self, event: evt.Event) -> None:
        """Count the bytes in transfer, and abort a connection that would need too much memory."""
        with self._lock:
            key = id(event.assoc)
            self._under_way[key] = self._under_way.get(key, 0) + len(event.data)
            too_much = sum(self._under_way.values()) > self._max_bytes
        if too_much:
            LOG.error("error: a connection ended: images under way take more than max_memory=")
            event.assoc.acse.send_abort(0x00)
            self.message_came(event)

    def message_came(self, event: evt.Event) -> None:
        """End the count of a message, because it is complete or its connection is gone."""
        with self._lock:
            self._under_way.pop(id(event.assoc), None)

    def rejected(self, _: evt.Event) -> None:
        """Log that a sender was refused, without the names that were sent."""
        text = "an association refused: its AE titles are not those of aet= and allow=, "
        text += "or %d are open"
        LOG.warning(text, _MOST_ASSOCIATIONS)
