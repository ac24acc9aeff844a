"""The errors that Telefabric raises, grouped by whose fault they are.

    TelefabricError
    ├── UsageError        the caller's fault: a malformed setting, a value out of range        (exit code 2)
    │   └── ClosedError   the caller's fault: a worker that is closed already
    ├── EnvironmentProblem  the machine's fault: a port in use, a full disk, a missing file    (exit code 1)
    │   ├── SpoolError    the spool cannot be written or read
    │   │   └── SpoolFull  the spool has no room, and its setting forbids dropping older events
    │   ├── StoreError    the store file cannot be opened, read or written
    │   │   ├── OlderStore  the store is of a version that does not know a question
    │   │   └── StoreReplaced  the store file was removed or replaced while it was open
    │   ├── PartFailed    a child process ended before it was ready, and has printed the reason itself
    │   └── Unreachable   nothing answers at an address
    │       ├── Foreign   something answers there, but not in this version's protocol
    │       └── NotAdmitted  the broker does not let this side in: it has no key, or one that is refused
    └── WireError         the peer's fault: bytes that are foreign, damaged, or of another version

Every message is one sentence with the figure and the remedy; the CLI prints it unchanged.
"""

from __future__ import annotations


class TelefabricError(Exception):
    """Root of all errors of this package."""

    exit_code = 1


class UsageError(TelefabricError):
    """The caller asked for something impossible."""

    exit_code = 2


class ClosedError(UsageError):
    """The object is closed already."""


class EnvironmentProblem(TelefabricError):
    """The machine lacks something that is needed: a port, a file, room, a right."""


class SpoolError(EnvironmentProblem):
    """The spool cannot be written or read."""


class SpoolFull(SpoolError):
    """The spool has no room for an event, and its setting forbids dropping older ones; the event was not emitted."""


class StoreError(EnvironmentProblem):
    """The store file cannot be opened, read or written."""


class OlderStore(StoreError):
    """The store is of a version that does not know a question."""


class StoreReplaced(StoreError):
    """The store file was removed or replaced while it was open."""


class PartFailed(EnvironmentProblem):
    """A child process ended before it was ready. It has printed the reason on standard error; the CLI adds nothing."""


class Unreachable(EnvironmentProblem):
    """Nothing answers at an address."""


class Foreign(Unreachable):
    """Something answers at an address, but not in this version's protocol."""


class NotAdmitted(Unreachable):
    """The broker does not let this side in: it has no key, or one that is refused.

    `reason` is a short word for it, the name of a `telefabric.keys.handshake.Handshake`.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class WireError(TelefabricError):
    """Bytes from outside are foreign, damaged, or of another version. `reason` is a short word for counters.

    Where they are known, `about` names the message, `field` its faulty item, and `stream` the stream of the batch.
    """

    def __init__(self, reason: str, message: str, *, about: str = "", field: str = "", stream: bytes = b"") -> None:
        super().__init__(message)
        self.reason = reason
        self.about = about
        self.field = field
        self.stream = stream
