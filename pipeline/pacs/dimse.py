"""A server with DIMSE (PS3.7): C-FIND, C-GET or C-MOVE, and C-STORE, each in an association."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom import sop_class as kinds
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from spineline.datasets.common.errors import SpinelineError, first_line
from spineline.datasets.dicom.header import quiet_pydicom
from spineline.pipeline.pacs.address import PacsAccess, PacsAddress, PacsError, tls_context
from spineline.pipeline.pacs.servers import RemoteInstance

_FIND = kinds.StudyRootQueryRetrieveInformationModelFind
_GET = kinds.StudyRootQueryRetrieveInformationModelGet
_MOVE = kinds.StudyRootQueryRetrieveInformationModelMove
_PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_SYNTAXES: tuple[Sequence[str], ...] = (
    _PLAIN,
    (JPEG2000Lossless,),
    (JPEG2000,),
    (JPEGLosslessSV1,),
    (JPEGLSLossless,),
    (RLELossless,),
    (JPEGBaseline8Bit,),
    (DeflatedExplicitVRLittleEndian,),
    (ExplicitVRBigEndian,),
)
"""A context each, so that a server need not decompress anything; the first has both plain ones."""
_STORED_SYNTAXES = (
    *_PLAIN, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEGBaseline8Bit,
    JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless,
    JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K,
)  # fmt: skip
_USUAL = tuple(
    getattr(kinds, f"{name}ImageStorage")
    for name in (
        "MR", "EnhancedMR", "EnhancedMRColor", "CT", "SecondaryCapture",
        "MultiFrameGrayscaleByteSecondaryCapture", "MultiFrameGrayscaleWordSecondaryCapture",
    )
)  # fmt: skip
"""Classes to request if the server does not report those of its instances."""
_STORED = (*_USUAL, *(
    getattr(kinds, f"{name}Storage")
    for name in (
        "LegacyConvertedEnhancedMRImage", "EnhancedCTImage", "LegacyConvertedEnhancedCTImage",
        "MultiFrameSingleBitSecondaryCaptureImage", "MultiFrameTrueColorSecondaryCaptureImage",
        "ComputedRadiographyImage",
        "MRSpectroscopy", "RawData", "ParametricMap", "Segmentation", "SpatialRegistration",
        "GrayscaleSoftcopyPresentationState", "ColorSoftcopyPresentationState",
        "KeyObjectSelectionDocument", "BasicTextSR", "EnhancedSR", "ComprehensiveSR",
        "Comprehensive3DSR", "EncapsulatedPDF",
    )
))  # fmt: skip
_MOST_CONTEXTS = 128
_PENDING = (0xFF00, 0xFF01)
_DUPLICATE = 0x0111
_WARNINGS = range(0xB000, 0xC000)
_STATUS = {
    0x0117: "its UID is not valid",
    0x0122: "the server does not store this kind of object",
    0x0124: "we may not store there",
    0xA700: "the server has no room left",
    0xA801: "the server does not know spineline's AE title as a C-MOVE destination",
}


class DimseServer:
    """See [spineline.pipeline.pacs.servers.PacsServer][]."""

    def __init__(self, address: PacsAddress, access: PacsAccess) -> None:
        self._address, self._access = address, access
        self._tls = tls_context(access) if address.tls else None
        self._entity = entity_of(access)

    def find_studies(self, filters: Mapping[str, str]) -> list[str]:
        """See [spineline.pipeline.pacs.servers.PacsServer.find_studies][]."""
        with self._associated([build_context(_FIND)]) as line:
            found = self._find(line, "STUDY", dict(filters), ("StudyInstanceUID",))
        return sorted({uid for (uid,) in found})

    def list_instances(self, study_uid: str) -> list[RemoteInstance]:
        """See [spineline.pipeline.pacs.servers.PacsServer.list_instances][]."""
        listed = set()
        with self._associated([build_context(_FIND)]) as line:
            study = {"StudyInstanceUID": study_uid}
            for (uid,) in sorted(set(self._find(line, "SERIES", study, ("SeriesInstanceUID",)))):
                series = study | {"SeriesInstanceUID": uid}
                names = ("SOPInstanceUID", "SOPClassUID")
                listed |= {(uid, *each) for each in self._find(line, "IMAGE", series, names)}
        return [RemoteInstance(*each) for each in sorted(listed)]

    def fetch(
        self,
        study_uid: str,
        wanted: Sequence[RemoteInstance],
        whole: bool,
        keep: Callable[[bytes], None],
    ) -> None:
        """See [spineline.pipeline.pacs.servers.PacsServer.fetch][]."""
        asked = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": wanted[0].series_uid}
        level = "SERIES"
        if not whole:
            level = "IMAGE"
            asked["SOPInstanceUID"] = "\\".join(each.instance_uid for each in wanted)
        refusals: list[SpinelineError] = []

        def received(event: evt.Event) -> int:
            try:
                keep(event.encoded_dataset())
            except SpinelineError as error:
                refusals.append(error)
                return 0xA700
            return 0x0000

        handlers: list[Any] = [(evt.EVT_C_STORE, received)]
        query = _query(level, asked)
        if self._access.port is None:
            contexts, roles = _contexts_to_get(each.sop_class_uid for each in wanted)
            with self._associated([build_context(_GET), *contexts], roles, handlers) as line:
                self._transfer(line.send_c_get(query, _GET), "C-GET")
        else:
            with self._receiving(handlers), self._associated([build_context(_MOVE)]) as line:
                self._transfer(line.send_c_move(query, self._access.aet, _MOVE), "C-MOVE")
        if refusals:
            raise refusals[0]

    def store(self, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
        """See [spineline.pipeline.pacs.servers.PacsServer.store][]."""
        datasets: dict[Path, Dataset] = {}
        for path in paths:
            try:
                with quiet_pydicom():
                    datasets[path] = pydicom.dcmread(path)
            except (pydicom.errors.InvalidDicomError, OSError) as error:
                yield path, f"cannot be read as DICOM ({first_line(error)})"
        pairs = {(each.SOPClassUID, each.file_meta.TransferSyntaxUID) for each in datasets.values()}
        contexts = [build_context(kind, syntax) for kind, syntax in sorted(pairs)][:_MOST_CONTEXTS]
        left = dict(datasets)
        try:
            if datasets:
                with self._associated(contexts) as line:
                    for path, dataset in datasets.items():
                        reason = self._stored(line, dataset)
                        del left[path]
                        yield path, reason
        except PacsError as error:
            for path in left:
                yield path, str(error)

    def _stored(self, line: Association, dataset: Dataset) -> str:
        """Store an object; return the reason if that fails, else an empty text."""
        try:
            with quiet_pydicom():
                answer = line.send_c_store(dataset)
        except ValueError:
            return f"{self._address} does not store this kind of object"
        status = answer.get("Status")
        if status in (0, _DUPLICATE) or status in _WARNINGS:
            return ""
        return f"{self._address}: {_words(status)}"

    def _find(
        self, line: Association, level: str, asked: Mapping[str, str], names: Sequence[str]
    ) -> list[tuple[str, ...]]:
        rows = []
        query = _query(level, dict.fromkeys(names, "") | dict(asked))
        for answer, found in line.send_c_find(query, _FIND):
            status = answer.get("Status")
            if status in _PENDING and found is not None:
                with quiet_pydicom():
                    rows.append(tuple(str(found.get(name) or "") for name in names))
            elif status != 0:
                raise PacsError(f"{self._address}: C-FIND failed: {_words(status)}")
        return rows

    def _transfer(self, answers: Iterator[tuple[Dataset, Dataset | None]], what: str) -> None:
        """Follow a transfer to its end.

        Failures of single instances are detected by what did not arrive.

        Raises:
            PacsError: the whole transfer failed.
        """
        for answer, _ in answers:
            status = answer.get("Status")
            if status not in _PENDING and status != 0 and status not in _WARNINGS:
                raise PacsError(f"{self._address}: {what} failed: {_words(status)}")

    @contextmanager
    def _receiving(self, handlers: list[Any]) -> Iterator[None]:
        """Listen for the images sent by C-MOVE."""
        entity = entity_of(self._access)
        entity.supported_contexts = storage_contexts()
        entity.require_called_aet = True
        where = (self._access.host, self._access.port or 0)
        tls = tls_context(self._access, server=True) if self._access.cert is not None else None
        try:
            server = entity.start_server(
                where, block=False, evt_handlers=handlers, ssl_context=tls if self._tls else None
            )
        except OSError as error:
            msg = f"port={where[1]}: cannot listen at {where[0]} ({first_line(error)})"
            raise PacsError(msg) from error
        try:
            yield
        finally:
            if server is not None:
                server.shutdown()

    @contextmanager
    def _associated(
        self,
        contexts: Sequence[PresentationContext],
        roles: Sequence[Any] = (),
        handlers: Sequence[Any] = (),
    ) -> Iterator[Association]:
        """Open an association and release it at the end.

        Raises:
            PacsError: it was not established, with the reason.
        """
        address = self._address
        try:
            line = self._entity.associate(
                address.host,
                address.port,
                contexts=list(contexts),
                ae_title=address.aet,
                ext_neg=list(roles) or None,
                evt_handlers=list(handlers) or None,
                tls_args=None if self._tls is None else (self._tls, address.host),
            )
        except (OSError, ValueError) as error:  # such as an unknown host
            raise PacsError(f"{address}: cannot be reached ({first_line(error)})") from None
        if not line.is_established:
            raise PacsError(f"{address}: {self._why_not(line)}")
        try:
            if contexts[0].abstract_syntax not in {
                c.abstract_syntax for c in line.accepted_contexts
            }:
                name = contexts[0].abstract_syntax
                raise PacsError(f"{address}: does not offer {pydicom.uid.UID(str(name)).name}")
            yield line
        except RuntimeError:  # from pynetdicom, if the peer is gone
            raise PacsError(f"{address}: ended the connection") from None
        finally:
            if line.is_established:
                line.release()

    def _why_not(self, line: Association) -> str:
        if line.is_rejected:
            answer = line.acceptor.primitive
            reason = getattr(answer, "reason_str", "")
            return (
                f"refused the association ({reason}); is its AE title right, and does it "
                f"know spineline's?"
            )
        try:
            with socket.create_connection(
                (self._address.host, self._address.port), timeout=self._access.timeout
            ) as plain:
                if self._tls is not None:
                    with self._tls.wrap_socket(plain, server_hostname=self._address.host):
                        pass
        except ssl.SSLError as error:
            return f"no TLS with it ({first_line(error)}); see ca=, cert=, key="
        except OSError as error:
            return f"cannot be reached ({first_line(error)})"
        return (
            "did not answer in DICOM; is this its DIMSE port rather than HTTP, and does it use TLS?"
        )


def entity_of(access: PacsAccess) -> AE:
    """The local application entity, with all timeouts set."""
    entity = AE(ae_title=access.aet)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = access.timeout
    entity.connection_timeout = access.timeout
    return entity


def storage_contexts() -> list[PresentationContext]:
    """The kinds of objects in a spine study, in the transfer syntaxes they are stored in.

    It is not all of DICOM: pynetdicom copies each context for each association, which takes
    seconds.
    """
    return [build_context(str(kind), list(_STORED_SYNTAXES)) for kind in _STORED]


def _contexts_to_get(told_kinds: Iterable[str]) -> tuple[list[PresentationContext], list[Any]]:
    """Contexts for a server to send instances of some kinds, with the local role in them."""
    told = sorted({kind for kind in told_kinds if kind})
    known = told or [str(kind) for kind in _USUAL]
    contexts = [build_context(kind, list(syntaxes)) for syntaxes in _SYNTAXES for kind in known]
    roles = [build_role(kind, scp_role=True) for kind in known]
    return contexts[: _MOST_CONTEXTS - 1], roles


def _query(level: str, keys: Mapping[str, str]) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    with quiet_pydicom():
        for keyword, value in keys.items():
            setattr(query, keyword, value.split("\\") if "\\" in value else value)
        if not all(value.isascii() for value in keys.values()):
            query.SpecificCharacterSet = "ISO_IR 192"
    return query


def _words(status: int | None) -> str:
    if status is None:
        return "the connection ended, or there was no answer in time"
    known = _STATUS.get(status)
    return f"status {status:04X}H" + (f", {known}" if known else "")
