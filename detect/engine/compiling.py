"""``compile=true``: check that torch.compile works here, and compile a network."""

from __future__ import annotations

from typing import Any

from spineline.datasets.common.devices import device_name
from spineline.datasets.common.errors import ConfigError

BACKEND = "inductor"


def check_compile(device: str) -> None:
    """Compile and train a single layer, so that a failure shows before the run begins.

    Args:
        device: device of the run.

    Raises:
        ConfigError: torch.compile does not work here; the message gives the reason.
    """
    import torch

    where = device_name(device)
    with torch.random.fork_rng():
        layer = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU()).to(where)

        def loss(image: torch.Tensor) -> torch.Tensor:  # torch 2.10 leaves its own layers alone
            return layer(image).sum()

        try:
            torch.compile(loss, backend=BACKEND)(torch.ones(1, 1, 8, 8, device=where)).backward()
        except Exception as error:  # compilers raise many kinds
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = " ".join(lines[:2])[:300]
            msg = (
                f"compile=true: torch.compile does not work on device={device} here ({reason}); "
                "install what it asks for (a C++ compiler; for CUDA, Triton), or leave compile= out"
            )
            raise ConfigError(msg) from error


def compile_backbone(network: Any) -> None:
    """Compile a Faster R-CNN's backbone on first use, in place.

    The names of its weights do not change. Changing image sizes are compiled once, with free sizes.
    """
    network.backbone.compile(backend=BACKEND)
