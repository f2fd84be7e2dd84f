"""The keys about signatures in a registry. Light: `--help` reads this file."""

from dataclasses import dataclass, field

from flows.config.roles import by_hand
from mhim_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrustKeys:
    """Whose signatures a registry's promotions and cards need. Paths are those of the machine that runs the flow."""

    require_signed: bool = False
    """Refuse promotions and cards of the registry that no trusted key has signed (exit code 2); false: accept what
    anyone who can write the registry has put there."""
    trusted_keys: str = field(default="", metadata=by_hand())
    """With require_signed: a PEM file of public keys, or a folder of *.pub files; empty: none, with
    require_signed=false."""

    def __post_init__(self) -> None:
        if self.require_signed != bool(self.trusted_keys):
            raise ConfigError("require_signed=true and trusted_keys= belong together: give both, or neither")


@dataclass(frozen=True, kw_only=True)
class SigningKeys:
    """The key that signs what is written to a registry. The paths are those of the machine that runs the flow."""

    signing_key: str = field(default="", metadata=by_hand())
    """Sign promotions and cards with this private key (PEM, Ed25519; mhim model keygen makes one), or, with
    signing_command, the public key of the command's; empty: unsigned."""
    signing_command: str = field(default="", metadata=by_hand())
    """A command, such as a client of a key service, that is given what to sign on its standard input and prints the
    signature in base64; empty: signing_key is the private key."""

    def __post_init__(self) -> None:
        if self.signing_command and not self.signing_key:
            raise ConfigError("signing_command= needs signing_key=, the public key that it signs for")
