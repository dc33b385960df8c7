"""Settings of ``spineline pacs pull | push | listen``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydicom.datadict import tag_for_keyword

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.settings import Settings
from spineline.datasets.common.settings import key as _key
from spineline.pipeline.inference.settings import ModelSettings
from spineline.pipeline.outputs.registry import check_packages
from spineline.pipeline.outputs.settings import SALT_HELP, check_salt
from spineline.pipeline.pacs.address import (
    PacsAccess,
    check_ae_title,
    check_tls_files,
    parse_address,
    read_credentials,
)

_URL = "DICOMweb service http(s)://HOST[:PORT]/PATH, or dicom(s)://AET@HOST:PORT (s: TLS)"
_CREDENTIALS = (
    "YAML file with user: and password:, or token:, readable only by you; none: the"
    " variables SPINELINE_PACS_USER, SPINELINE_PACS_PASSWORD, SPINELINE_PACS_TOKEN"
)
_CA = "PEM file of the trusted certificates; none: the system's"
_CERT = "PEM file of the client certificate, for servers that ask for one"
_TIMEOUT = "seconds to wait for an answer"
_QUERY = (
    "instead of study: KEYWORD=VALUE,… such as "
    "PatientID=…,StudyDate=20260101-20260131; * and ? are wildcards"
)
_PORT = "port that the PACS has registered for aet, to fetch images by C-MOVE; none: by C-GET"
_NAMES = "name studies and files by a salted hash of their UIDs, or by the UIDs themselves"
_ALLOW = "AE titles that may send; none: any, if host is this machine only"
_QUIET = "seconds without a new image after which a study counts as complete"
_MAX_GB = "size limit of out, in GB; beyond it, images are refused with Out of Resources"
_MEMORY = "memory limit for images in transit, in MB; beyond it, their connection is closed"
_TLS = "encrypt connections with cert and key; with ca, senders have to show a certificate"

_DICOM_OUTPUTS = ("sr", "pr", "sc")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings(Settings):
    """The keys of the server and its connection."""

    url: str = _key(_URL)
    aet: str = _key("spineline's own AE title", default="SPINELINE")
    credentials: Path | None = _key(_CREDENTIALS, default=None)
    ca: Path | None = _key(_CA, default=None)
    cert: Path | None = _key(_CERT, default=None)
    key: Path | None = _key("PEM file of the key of cert, without a password", default=None)
    timeout: float = _key(_TIMEOUT, default=60.0, minimum=0.1, maximum=86400)

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        parse_address(self.url)
        check_ae_title(self.aet, "aet")
        check_tls_files(self.ca, self.cert, self.key)

    def access(self) -> PacsAccess:
        """The parameters of the connection.

        Raises:
            SpinelineError: the credentials cannot be read.
        """
        return _access_by(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PacsPull(ServerSettings):
    """Keys of ``pacs pull``."""

    out: Path = _key("folder to write studies to, or an earlier pull to resume")
    study: tuple[str, ...] = _key("UIDs of studies", default=())
    query: tuple[str, ...] = _key(_QUERY, default=())
    most: int = _key("largest number of studies that a query may find", default=100, minimum=1)
    port: int | None = _key(_PORT, default=None, minimum=1, maximum=65535)
    host: str = _key("address to listen on for C-MOVE", default="127.0.0.1")
    names: str = _key(_NAMES, default="hash", choices=("hash", "uid"))
    salt: str | None = _key(SALT_HELP, default=None)
    overwrite: bool = _key("start from scratch instead of resuming an earlier pull", default=False)

    def __post_init__(self) -> None:
        ServerSettings.__post_init__(self)
        check_salt(self.salt, self.names)
        if bool(self.study) == bool(self.query):
            raise ConfigError("study=… and query=…: give only one")
        for uid in self.study:
            if not is_plain_uid(uid):
                raise ConfigError(f"study={uid[:64]}: is no UID; wanted numbers with dots between")
        if self.port is not None and parse_address(self.url).protocol != "dimse":
            raise ConfigError("port=…: is of dicom://…, which can send by C-MOVE; leave it out")
        self.filters()

    def access(self) -> PacsAccess:
        """The parameters of the connection, with the destination for C-MOVE.

        Raises:
            SpinelineError: the credentials cannot be read.
        """
        return replace(_access_by(self), port=self.port, host=self.host)

    def filters(self) -> Mapping[str, str]:
        """The query as keywords and values.

        Raises:
            ConfigError: a part of it is not ``KEYWORD=VALUE``.
        """
        found = {}
        for part in self.query:
            keyword, sign, value = part.partition("=")
            if not sign or not value.strip("*? "):
                msg = f"query={keyword}=…: wanted KEYWORD=VALUE,… with a value, such as PatientID=…"
                raise ConfigError(msg)
            if keyword == "Modality":
                raise ConfigError("query=Modality=…: is of series; of studies, ModalitiesInStudy=…")
            if tag_for_keyword(keyword) is None:
                msg = f"query={keyword}=…: no keyword of DICOM; such as PatientID, AccessionNumber"
                raise ConfigError(msg)
            found[keyword] = value
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PacsPush(ServerSettings):
    """Keys of ``pacs push``."""

    source: Path = _key("results of pipeline predict to=sr,pr,sc, or one study of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class PacsListen(ModelSettings):
    """Keys of ``pacs listen``, in addition to those of the models."""

    out: Path = _key(
        "folder for received studies and their results, or an earlier listener's to resume"
    )
    port: int = _key("TCP port to listen on", default=11112, minimum=1, maximum=65535)
    host: str = _key(
        "address to listen on; 0.0.0.0: all addresses of this machine", default="127.0.0.1"
    )
    aet: str = _key("spineline's own AE title, which senders have to address", default="SPINELINE")
    allow: tuple[str, ...] = _key(_ALLOW, default=())
    quiet: float = _key(_QUIET, default=30.0, minimum=0.1, maximum=86400)
    to: tuple[str, ...] = _key(
        "DICOM results to write: sr (structured report), pr (presentation state), sc "
        "(secondary capture)",
        default=_DICOM_OUTPUTS,
        choices=_DICOM_OUTPUTS,
    )
    push: str | None = _key(
        f"destination of the results: {_URL}; none: they are not sent", default=None
    )
    max_gb: float = _key(_MAX_GB, default=50.0, minimum=1e-6, maximum=1e6)
    max_memory: int = _key(_MEMORY, default=2048, minimum=1, maximum=1 << 20)
    retry: bool = _key("repeat studies that failed earlier", default=False)
    credentials: Path | None = _key(f"credentials for push: {_CREDENTIALS}", default=None)
    tls: bool = _key(_TLS, default=False)
    ca: Path | None = _key(_CA, default=None)
    cert: Path | None = _key("PEM file of the server certificate", default=None)
    key: Path | None = _key("PEM file of the key of cert, without a password", default=None)
    timeout: float = _key(_TIMEOUT, default=60.0, minimum=0.1, maximum=86400)
    salt: str | None = _key(
        "salt for the names of studies; none: a random one, which is stored", default=None
    )
    overwrite: bool = _key("delete an earlier listener's studies and results", default=False)

    def __post_init__(self) -> None:
        ModelSettings.__post_init__(self)
        check_ae_title(self.aet, "aet")
        for title in self.allow:
            check_ae_title(title, "allow")
        check_tls_files(self.ca, self.cert, self.key)
        check_salt(self.salt, "hash")
        check_packages(self.to)
        if self.push is not None:
            parse_address(self.push, "push")
        if self.tls and self.cert is None:
            raise ConfigError("tls=true: needs cert=… and key=… of this machine")
        if not self.allow and self.host not in ("127.0.0.1", "localhost", "::1"):
            msg = f"host={self.host}: others can reach it; name those that may send by allow=AET,…"
            raise ConfigError(msg)

    def access(self) -> PacsAccess:
        """The parameters of the connection to the server of ``push``.

        Raises:
            SpinelineError: the credentials cannot be read.
        """
        return _access_by(self)

    def model_keys(self) -> dict[str, Any]:
        """The keys and values of the models."""
        return {spec.name: getattr(self, spec.name) for spec in fields(ModelSettings)}


def _access_by(settings: ServerSettings | PacsListen) -> PacsAccess:
    return PacsAccess(
        aet=settings.aet,
        credentials=read_credentials(settings.credentials),
        ca=settings.ca,
        cert=settings.cert,
        key=settings.key,
        timeout=settings.timeout,
    )


def is_plain_uid(uid: str) -> bool:
    """Whether a text has only digits and dots as UIDs do, so it is safe in an address or a name.

    >>> is_plain_uid("1.2.840"), is_plain_uid("../1"), is_plain_uid("..")
    (True, False, False)
    """
    parts = uid.split(".")
    return len(uid) <= 64 and all(part.isascii() and part.isdigit() for part in parts)
