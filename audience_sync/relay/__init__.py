"""The door for Segment's own clients: every call is durable before it is answered, then forwarded through the outbox.

`http` takes a request, `bodies` unpacks it, `messages` reads it, `inbox` gathers what comes in at about the same time,
`store` keeps it in one transaction (with `identities` for who is who), and `couriers` deliver it.
"""

from typing import TYPE_CHECKING

from audience_sync.relay.counts import figures
from audience_sync.relay.forgetting import forget
from audience_sync.relay.opening import JOB

if TYPE_CHECKING:
    from audience_sync.relay.serving import RelayServer

__all__ = ["JOB", "RelayServer", "figures", "forget"]


def __getattr__(name: str) -> object:
    """The server is loaded only by those who serve: it costs `status` a tenth of a second."""
    if name == "RelayServer":
        from audience_sync.relay.serving import RelayServer

        return RelayServer
    raise AttributeError(name)
