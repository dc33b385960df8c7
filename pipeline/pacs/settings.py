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
    "YAML file with user: and password:, or token:, that you alone can read; none: the variables "
    "SPINELINE_PACS_USER, SPINELINE_PACS_PASSWORD, SPINELINE_PACS_TOKEN"
)
_CA = "PEM file of the certificates that are trusted; none: the system's"
_CERT = "PEM file of our own certificate, for servers that want one"
_TIMEOUT = "seconds without an answer after which the other side is given up"
_QUERY = (
    "or which studies: KEYWORD=VALUE,… such as PatientID=…,StudyDate=20260101-20260131; * and ?"
)
_PORT = "our port, at which the PACS knows aet: images come by C-MOVE; none: by C-GET"
_NAMES = "studies and files by a salted hash of their UIDs, or by the UIDs themselves"
_ALLOW = "AE titles that may send; none: any, where host is this machine alone"
_QUIET = "seconds without a new image after which a study is taken as whole"
_MAX_GB = "GB that out may hold; then images are refused with Out of Resources"
_MEMORY = "MB that images under way may take together; then their connection is ended"
_TLS = "connections are encrypted, by cert and key; with ca, senders have to show a certificate"

_DICOM_OUTPUTS = ("sr", "pr", "sc")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings(Settings):
    """The keys that say which server is talked to, and how."""

    url: str = _key(_URL)
    aet: str = _key("our own AE title", default="SPINELINE")
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
        """How the server is talked to.

        Raises:
            SpinelineError: the credentials cannot be read.
        """
        return _access_by(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PacsPull(ServerSettings):
    """Keys of ``pacs pull``."""

    out: Path = _key("folder to write studies to, or of a pull to continue")
    study: tuple[str, ...] = _key("UIDs of studies", default=())
    query: tuple[str, ...] = _key(_QUERY, default=())
    most: int = _key("a query that finds more studies is refused", default=100, minimum=1)
    port: int | None = _key(_PORT, default=None, minimum=1, maximum=65535)
    host: str = _key("address that we listen at for C-MOVE", default="127.0.0.1")
    names: str = _key(_NAMES, default="hash", choices=("hash", "uid"))
    salt: str | None = _key(SALT_HELP, default=None)
    overwrite: bool = _key("start anew instead of continuing an earlier pull", default=False)

    def __post_init__(self) -> None:
        ServerSettings.__post_init__(self)
        check_salt(self.salt, self.names)
        if bool(self.study) == bool(self.query):
            raise ConfigError("study=… and query=…: give one of both")
        for uid in self.study:
            if not is_plain_uid(uid):
                raise ConfigError(f"study={uid[:64]}: is no UID; wanted numbers with dots between")
        if self.port is not None and parse_address(self.url).protocol != "dimse":
            raise ConfigError("port=…: is of dicom://…, which can send by C-MOVE; leave it away")
        self.filters()

    def access(self) -> PacsAccess:
        """How the server is talked to, and where it sends to by C-MOVE.

        Raises:
            SpinelineError: the credentials cannot be read.
        """
        return replace(_access_by(self), port=self.port, host=self.host)

    def filters(self) -> Mapping[str, str]:
        """The query as keywords and values.

        Raises:
            ConfigError: a part of it is no ``KEYWORD=VALUE``.
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

    source: Path = _key("results of pipeline predict to=sr,pr,sc, or of one study of it")


@dataclass(frozen=True, slots=True, kw_only=True)
class PacsListen(ModelSettings):
    """Keys of ``pacs listen``, beside those of the models."""

    out: Path = _key(
        "folder of what arrives and of its results, or of an earlier listener to continue"
    )
    port: int = _key("TCP port to listen at", default=11112, minimum=1, maximum=65535)
    host: str = _key("address to listen at; 0.0.0.0: all of this machine", default="127.0.0.1")
    aet: str = _key("our own AE title, which senders have to call", default="SPINELINE")
    allow: tuple[str, ...] = _key(_ALLOW, default=())
    quiet: float = _key(_QUIET, default=30.0, minimum=0.1, maximum=86400)
    to: tuple[str, ...] = _key(
        "results as DICOM: sr (structured report), pr (presentation state), sc (picture)",
        default=_DICOM_OUTPUTS,
        choices=_DICOM_OUTPUTS,
    )
    push: str | None = _key(f"where results are sent: {_URL}; none: nowhere", default=None)
    max_gb: float = _key(_MAX_GB, default=50.0, minimum=1e-6, maximum=1e6)
    max_memory: int = _key(_MEMORY, default=2048, minimum=1, maximum=1 << 20)
    retry: bool = _key("try studies again that failed earlier", default=False)
    credentials: Path | None = _key(f"of push: {_CREDENTIALS}", default=None)
    tls: bool = _key(_TLS, default=False)
    ca: Path | None = _key(_CA, default=None)
    cert: Path | None = _key("PEM file of our own certificate", default=None)
    key: Path | None = _key("PEM file of the key of cert, without a password", default=None)
    timeout: float = _key(_TIMEOUT, default=60.0, minimum=0.1, maximum=86400)
    salt: str | None = _key("of the names of studies; none: made at random, kept", default=None)
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
        """How the server of ``push`` is talked to.

        Raises:
            SpinelineError: the credentials cannot be read.
        """
        return _access_by(self)

    def model_keys(self) -> dict[str, Any]:
        """The keys of the models with their values."""
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
    """Whether a text holds digits and dots as UIDs do, and may stand in an address or a name.

    >>> is_plain_uid("1.2.840"), is_plain_uid("../1"), is_plain_uid("..")
    (True, False, False)
    """
    parts = uid.split(".")
    return len(uid) <= 64 and all(part.isascii() and part.isdigit() for part in parts)
