"""A server with DICOMweb: QIDO-RS to find, WADO-RS to fetch, STOW-RS to store (PS3.18)."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pydicom
import requests
import retrying
from dicomweb_client import DICOMwebClient
from requests.auth import AuthBase, HTTPBasicAuth

from spineline.datasets.common.errors import SpinelineError, first_line
from spineline.datasets.dicom.header import quiet_pydicom
from spineline.pipeline.pacs.address import (
    NoServerError,
    PacsAccess,
    PacsAddress,
    PacsError,
    tls_context,
)
from spineline.pipeline.pacs.servers import RemoteInstance

_AS_STORED = (("application/dicom", "*"),)
"""Any transfer syntax; a server would otherwise decompress the data."""
_STUDY, _SERIES, _INSTANCE, _CLASS = "0020000D", "0020000E", "00080018", "00080016"
_REFUSED = {
    401: "user, password or token are missing or wrong; set SPINELINE_PACS_USER and _PASSWORD, or "
    "SPINELINE_PACS_TOKEN, or give credentials=FILE",
    403: "this user may not do that",
    404: "nothing is there; url=… has to be the root of the DICOMweb service, such as …/dicom-web",
    405: "no DICOMweb is there; url=… has to be the root of the service, such as …/dicom-web",
    413: "the object is too large for the server",
    507: "the server has no room left",
}
_ATTEMPTS = 3
_WAIT_MS = 200  # before the second; before each other twice as long


class WebServer:
    """See [spineline.pipeline.pacs.servers.PacsServer][]."""

    def __init__(self, address: PacsAddress, access: PacsAccess) -> None:
        self._address = address
        if address.tls:
            tls_context(access)  # reads its files, so that errors show at once
        session = _StarSession()
        if access.credentials.token:
            session.auth = _Bearer(access.credentials.token)
        elif access.credentials.user:
            given = access.credentials
            session.auth = HTTPBasicAuth(given.user.encode(), given.password.encode())
        if access.ca is not None:
            session.verify = str(access.ca)
            session.trust_env = False  # else REQUESTS_CA_BUNDLE takes precedence
        if access.cert is not None and access.key is not None:
            session.cert = (str(access.cert), str(access.key))
        self._client = DICOMwebClient(
            address.url, session, timeout=access.timeout, permissive_uid=True
        )
        self._client.set_http_retry_params(True, _ATTEMPTS, _WAIT_MS)

    def find_studies(self, filters: Mapping[str, str]) -> list[str]:
        """See [spineline.pipeline.pacs.servers.PacsServer.find_studies][]."""
        with self._explained():
            search = partial(self._client.search_for_studies, search_filters=dict(filters))
            return sorted({uid for (uid,) in _all_pages(search, (_STUDY,))})

    def list_instances(self, study_uid: str) -> list[RemoteInstance]:
        """See [spineline.pipeline.pacs.servers.PacsServer.list_instances][]."""
        with self._explained():
            search = partial(self._client.search_for_instances, study_uid)
            listed = _all_pages(search, (_SERIES, _INSTANCE, _CLASS))
        return [RemoteInstance(*each) for each in sorted(listed)]

    def fetch(
        self,
        study_uid: str,
        wanted: Sequence[RemoteInstance],
        whole: bool,
        keep: Callable[[bytes], None],
    ) -> None:
        """See [spineline.pipeline.pacs.servers.PacsServer.fetch][]."""
        with self._explained():
            if whole:
                series = self._client.iter_series(
                    study_uid, wanted[0].series_uid, media_types=_AS_STORED
                )
                for dataset in series:
                    keep(_bytes_as_sent(dataset))
                return
            for each in wanted:
                dataset = self._client.retrieve_instance(
                    study_uid, each.series_uid, each.instance_uid, media_types=_AS_STORED
                )
                keep(_bytes_as_sent(dataset))

    def store(self, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
        """See [spineline.pipeline.pacs.servers.PacsServer.store][]."""
        gone = ""
        for path in paths:
            if gone:  # requesting many one by one would take long
                yield path, gone
                continue
            try:
                with self._explained():
                    answer = self._client.store_instances([pydicom.dcmread(path)])
                    failed = list(answer.get("FailedSOPSequence") or ())
                    reasons = [int(each.get("FailureReason") or 0) for each in failed]
            except NoServerError as error:
                gone = str(error)
                yield path, gone
            except (PacsError, pydicom.errors.InvalidDicomError, OSError) as error:
                yield path, first_line(error)
            else:
                codes = ", ".join(f"{reason:04X}H" for reason in reasons)
                yield path, f"the server refused it, reason {codes}" if failed else ""

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Convert errors of connection and answers to PacsError, without values of the study."""
        try:
            with quiet_pydicom():
                yield
        except SpinelineError:  # such as a full disk
            raise
        except requests.exceptions.HTTPError as error:
            status = 0 if error.response is None else error.response.status_code
            raise self._refused(status) from None
        except retrying.RetryError as error:
            raise self._refused(_status_of(error)) from None
        except requests.exceptions.SSLError as error:
            msg = f"{self._address}: no TLS with it ({_deepest(error)}); see ca=, cert=, key="
            raise NoServerError(msg) from None
        except requests.exceptions.Timeout:
            msg = f"{self._address}: gave no answer in time; timeout=… waits longer"
            raise NoServerError(msg) from None
        except requests.exceptions.JSONDecodeError:
            raise self._no_web("no JSON") from None
        except (requests.exceptions.ConnectionError, OSError) as error:
            msg = f"{self._address}: cannot be reached ({_deepest(error)})"
            raise NoServerError(msg) from None
        except Exception as error:  # anything that the client and pydicom raise on odd answers
            raise self._no_web(type(error).__name__) from None

    def _no_web(self, found: str) -> PacsError:
        return PacsError(
            f"{self._address}: its answer is not that of a DICOMweb server ({found}); see url="
        )

    def _refused(self, status: int) -> PacsError:
        said = _REFUSED.get(status, "the server's own log says why")
        kind = NoServerError if status in (401, 403, 404, 405) else PacsError
        return kind(f"{self._address}: answered {status}: {said}")


class _StarSession(requests.Session):
    """Sends ``*`` unescaped, which a query may contain (RFC 3986, 3.4).

    dicomweb-client writes ``%2A``, which Orthanc's DICOMweb 1.7 takes literally.
    """

    def get(self, url: str | bytes, **keys: Any) -> requests.Response:
        """See [requests.Session.get][]."""
        return super().get(str(url).replace("%2A", "*"), **keys)


class _Bearer(AuthBase):
    """A bearer token; a ``.netrc`` would override it as a header of the session."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _all_pages(
    search: Callable[..., Sequence[Mapping[str, Any]]], tags: Sequence[str]
) -> set[tuple[str, ...]]:
    """The values of elements in all results of a search, page by page.

    It ends at a page without new results: some servers return the first page for every offset, and
    dicomweb-client's own ``get_remaining`` then never ends.
    """
    rows: set[tuple[str, ...]] = set()
    count = 0
    while True:
        page = search(offset=count) if count else search()
        found = {tuple(_value(each, tag) for tag in tags) for each in page or ()}
        if not all(first for first, *_ in found):
            raise ValueError("a study or series without a UID")
        if found <= rows:
            return rows
        rows |= found
        count += len(page)


def _value(found: Mapping[str, Any], tag: str) -> str:
    """The text of an element of DICOM JSON; empty if absent."""
    values = found.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _bytes_as_sent(dataset: Any) -> bytes:
    """The file as the server sent it, not as pydicom would write it."""
    sent: io.BytesIO = dataset.buffer
    return sent.getvalue()


def _status_of(error: retrying.RetryError) -> int:
    attempt = error.last_attempt
    return 0 if attempt.has_exception else int(getattr(attempt.value, "status_code", 0))


def _deepest(error: BaseException) -> str:
    """The innermost error of a requests exception, which wraps it several times."""
    while True:
        wrapped = (*error.args, getattr(error, "reason", None), error.__cause__)
        inner = next((each for each in wrapped if isinstance(each, BaseException)), None)
        if inner is None:
            return first_line(error)
        error = inner
