"""Addresses, credentials and TLS of servers.

An address is the root of a DICOMweb service, ``https://HOST[:PORT]/PATH``, or an application entity
of the older protocol (DIMSE). The latter is ``dicom://AET@HOST:PORT``, with TLS
``dicoms://AET@HOST:PORT``.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from spineline.datasets.common.errors import ConfigError, SpinelineError, first_line
from spineline.datasets.common.yaml_files import YamlError, read_yaml

_VARIABLES = {
    "user": "SPINELINE_PACS_USER",
    "password": "SPINELINE_PACS_PASSWORD",
    "token": "SPINELINE_PACS_TOKEN",
}
_FORMS = "http(s)://HOST[:PORT]/PATH of a DICOMweb service, or dicom(s)://AET@HOST:PORT"
_AE_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e](?:[\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class PacsError(SpinelineError):
    """A server cannot be reached, refuses a request, or gives an invalid answer."""


class NoServerError(PacsError):
    """A server that will refuse further requests too: unreachable, or it denies access."""


@dataclass(frozen=True, slots=True)
class PacsAddress:
    """A server.

    Attributes:
        protocol: ``web`` (DICOMweb) or ``dimse``.
        url: as given; only for ``web``, without a slash at the end.
        host, port: where it listens.
        aet: its AE title; only for ``dimse``.
        tls: whether the connection is encrypted.
    """

    protocol: Literal["web", "dimse"]
    url: str
    host: str
    port: int
    aet: str = ""
    tls: bool = False

    def __str__(self) -> str:
        name = f"{self.aet} at " if self.aet else ""
        return f"{name}{self.host}:{self.port}"

    @property
    def is_here(self) -> bool:
        """Whether the server is on this machine, so that no data pass over a network."""
        return self.host in _LOOPBACK


def parse_address(url: str, key: str = "url") -> PacsAddress:
    """The server at a URL.

    >>> str(parse_address("dicom://ORTHANC@127.0.0.1:4242"))
    'ORTHANC at 127.0.0.1:4242'
    >>> parse_address("https://pacs.example/dicom-web/").port
    443

    Args:
        url: in the form that the module describes.
        key: of the command, for messages.

    Raises:
        ConfigError: it is not such an address, or contains a password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{key}=…: is not an address ({error}); wanted {_FORMS}") from None
    if parts.password is not None or (parts.username and parts.scheme in ("http", "https")):
        msg = (
            f"{key}=…: holds a user or password, which other users of this machine can read; set "
            f"{_VARIABLES['user']} and {_VARIABLES['password']}, or give credentials=FILE"
        )
        raise ConfigError(msg)
    if parts.scheme in ("http", "https") and parts.hostname:
        if parts.query or parts.fragment:
            raise ConfigError(f"{key}=…: ends with ?… or #…; wanted only the root of the service")
        tls = parts.scheme == "https"
        return PacsAddress(
            "web", url.rstrip("/"), parts.hostname, port or (443 if tls else 80), tls=tls
        )
    if parts.scheme in ("dicom", "dicoms") and parts.hostname:
        aet = check_ae_title(unquote(parts.username or ""), key)
        if port is None or parts.path.strip("/") or parts.query:
            raise ConfigError(f"{key}={url}: wanted dicom://AET@HOST:PORT and nothing else")
        return PacsAddress("dimse", url, parts.hostname, port, aet, parts.scheme == "dicoms")
    raise ConfigError(f"{key}={url}: is not an address of a PACS; wanted {_FORMS}")


def check_ae_title(title: str, key: str) -> str:
    r"""Check and return a title: 1 to 16 ASCII characters without ``\`` (PS3.5 6.2, AE).

    Raises:
        ConfigError: it is invalid.
    """
    if not _AE_TITLE.fullmatch(title):
        msg = (
            f"{key}=…: {title!r} is not an AE title; wanted 1 to 16 characters of ASCII, without \\"
        )
        raise ConfigError(msg)
    return title


@dataclass(frozen=True, slots=True)
class Credentials:
    """Credentials of a DICOMweb service: user and password, a bearer token, or nothing."""

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.user or self.token)


def read_credentials(path: Path | None) -> Credentials:
    """Credentials from a YAML file with ``user`` and ``password``, or ``token``.

    Without a file, they come from the environment variables ``SPINELINE_PACS_USER``, ``_PASSWORD``
    and ``_TOKEN``.

    Raises:
        SpinelineError: the file cannot be read, is not such a file, or is readable by every user.
    """
    if path is None:
        where = ", ".join(_VARIABLES.values())
        values = {name: os.environ.get(variable, "") for name, variable in _VARIABLES.items()}
    else:
        where = f"credentials={path}"
        values = _of_file(path, where)
    if values["token"] and values["user"]:
        raise SpinelineError(f"{where}: give user and password, or a token, not both")
    if bool(values["user"]) != bool(values["password"]):
        raise SpinelineError(f"{where}: a user and a password belong together, and one is missing")
    try:
        "".join(values.values()).encode("latin-1" if values["token"] else "utf-8")
    except UnicodeEncodeError:
        raise SpinelineError(f"{where}: the token holds characters that no header can") from None
    return Credentials(**values)


def _of_file(path: Path, where: str) -> dict[str, str]:
    try:
        mode = path.stat().st_mode
        if os.name == "posix" and mode & 0o007:
            msg = f"{where}: all users of this machine may read or change it; chmod 600 it"
            raise SpinelineError(msg)
        content = read_yaml(path)
    except OSError as error:
        raise SpinelineError(f"{where}: cannot be read ({first_line(error)})") from error
    except YamlError:  # which would quote the line
        content = None
    known = isinstance(content, dict) and set(content) <= set(_VARIABLES)
    if not known or not all(isinstance(value, (str, int)) for value in content.values()):
        raise SpinelineError(f"{where}: wanted YAML with user: … and password: …, or token: …")
    return {name: str(content.get(name, "")) for name in _VARIABLES}


@dataclass(frozen=True, slots=True)
class PacsAccess:
    """Parameters of a connection.

    Attributes:
        aet: the local AE title.
        credentials: for DICOMweb.
        ca: trusted certificates, PEM; None for the system's.
        cert, key: the local certificate and its key, PEM; None for none.
        timeout: seconds to wait for an answer.
        port: the local port for images sent by C-MOVE; None requests them by C-GET.
        host: the local address for C-MOVE.
    """

    aet: str = "SPINELINE"
    credentials: Credentials = Credentials()
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    timeout: float = 60.0
    port: int | None = None
    host: str = "127.0.0.1"


def check_tls_files(ca: Path | None, cert: Path | None, key: Path | None) -> None:
    """Refuse certificate files that cannot be used, or a certificate without its key.

    Raises:
        ConfigError: names the file.
    """
    for name, path in {"ca": ca, "cert": cert, "key": key}.items():
        if path is not None and not path.is_file():
            raise ConfigError(f"{name}={path}: no such file; wanted a PEM file")
    if (cert is None) != (key is None):
        raise ConfigError("cert=… and key=…: a certificate and its key belong together")
    if ca is not None or cert is not None:
        tls_context(PacsAccess(ca=ca, cert=cert, key=key))


def tls_context(access: PacsAccess, *, server: bool = False) -> ssl.SSLContext:
    """The TLS context of a client or a ``server``.

    A server requires a client certificate if ``ca`` names the trusted ones.

    Raises:
        ConfigError: a file holds no certificate or key, or they do not match.
    """
    purpose = ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH
    with _named(f"ca={access.ca}: cannot be read as PEM certificates"):
        context = ssl.create_default_context(purpose, cafile=access.ca)
    if access.cert is not None:
        with _named(f"cert={access.cert}: cannot be read as a PEM certificate"):
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(access.cert)
        no_key = f"key={access.key}: cannot be read as the PEM key of cert={access.cert}, without"
        with _named(f"{no_key} a password"):
            # An empty password: openssl would otherwise prompt on the terminal.
            context.load_cert_chain(access.cert, access.key, password="")
    if server and access.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # with those of ssl
        raise ConfigError(f"{what} ({first_line(error)})") from error
