"""A client of an Atoll coordinator, as docs/protocol.md and docs/codec.md describe it.

Needs grpcio and cryptography; `codec` and `model` also numpy.
"""
from .client import Connection, Follower, Refused, admin, contribution, heartbeat, invite, join
from .client import patiently, send, snapshot, submit
from .identity import Site
from .ledger import Ledger
from .signed import Untrue

__all__ = ["Connection", "Follower", "Ledger", "Refused", "Site", "Untrue", "admin", "contribution",
           "heartbeat", "invite", "join", "patiently", "send", "snapshot", "submit"]
