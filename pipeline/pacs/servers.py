"""The common interface of servers, independent of their protocol."""

from __future__ import annotations

import importlib.util
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.log import LOG
from spineline.pipeline.pacs.address import PacsAccess, PacsAddress, parse_address

_CLASSES = {"web": "web:WebServer", "dimse": "dimse:DimseServer"}
_PACKAGES = {"web": "dicomweb_client", "dimse": "pynetdicom"}


@dataclass(frozen=True, slots=True)
class RemoteInstance:
    """An instance of a study on a server."""

    series_uid: str
    instance_uid: str
    sop_class_uid: str = ""


class PacsServer(Protocol):
    """A PACS. All methods raise PacsError if the server fails or refuses."""

    def find_studies(self, filters: Mapping[str, str]) -> list[str]:
        """UIDs of the studies that match all of the keywords, sorted."""

    def list_instances(self, study_uid: str) -> list[RemoteInstance]:
        """Instances of a study, in order of series and instance; () if the study is unknown."""

    def fetch(
        self,
        study_uid: str,
        wanted: Sequence[RemoteInstance],
        whole: bool,
        keep: Callable[[bytes], None],
    ) -> None:
        """Fetch instances, each as the bytes of a DICOM file.

        Args:
            study_uid: of all instances.
            wanted: the instances to fetch, of one series.
            whole: whether they are all instances of the series on the server.
            keep: called with each; a PacsError from it ends the transfer.
        """

    def store(self, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
        """Send files; yields each with the reason why it was not stored, or an empty text."""


def connect_to(url: str, access: PacsAccess) -> PacsServer:
    """The server at an address; nothing is sent yet.

    Raises:
        ConfigError: the address is invalid, or the package of its protocol is not installed.
        SpinelineError: a certificate cannot be read.
    """
    address = parse_address(url)
    check_pacs_package(_PACKAGES[address.protocol])
    if access.credentials and address.protocol == "dimse":
        LOG.warning("%s: a user, password or token is only for DICOMweb; not used", address)
    elif access.credentials and not (address.tls or address.is_here):
        LOG.warning("%s: http sends the password in the clear; use https", address)
    made: Callable[[PacsAddress, PacsAccess], PacsServer] = pkgutil.resolve_name(
        f"spineline.pipeline.pacs.{_CLASSES[address.protocol]}"
    )
    return made(address, access)


def check_pacs_package(name: str) -> None:
    """Refuse to continue without a package of the extra ``pacs``.

    Raises:
        ConfigError: tells how to install it.
    """
    if importlib.util.find_spec(name) is None:
        wanted = name.replace("_", "-")
        msg = f"needs the package {wanted}, which is not installed; pip install 'spineline[pacs]'"
        raise ConfigError(msg)
