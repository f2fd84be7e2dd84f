"""A registry whose promotions and cards count only if a trusted key has signed them, as a storage around its storage.

Every reader of promotions and cards passes through `get`, so none can forget to ask. The signature of a record lies at
`models/<name>/signatures/<sha256 of the record>-<key id>.json`: versions of mhim without signatures find a registry as
ever, and nobody's signature takes the place of another's.

A promotion's signature is written after the promotion, for which it competes with others'; a card's before it, since
the card is what makes a folder a model.
"""

import builtins
import re
from collections.abc import Iterator
from typing import Any, Protocol

from mhim_core.errors import IntegrityError, NotFoundError, TrustError
from mhim_core.fingerprint import sha256
from mhim_core.json_files import read_json
from mhim_core.registry.card import RegistryCard
from mhim_core.registry.names import CARD, model_prefix, numbered, promotions_prefix
from mhim_core.registry.promotions import Promotion, history
from mhim_core.registry.signatures import Signature, Signer, TrustedKeys
from mhim_core.storage import Entry, Storage

_PROMOTIONS = re.compile(r"models/([^/]+)/promotions")
_PROMOTION = re.compile(r"models/([^/]+)/promotions/([0-9]{6,})\.json")
_CARD = re.compile(r"models/([^/]+)/([^/]+)/card\.json")


class Memory(Protocol):
    """What this reader saw of each name before: without it, deleting the newest promotions would bring back an old
    champion, whose signature is as good as ever."""

    def newest(self, name: str) -> tuple[int, str]:
        """Number and digest of the newest promotion seen; (0, ""): none yet."""
        ...

    def keep(self, name: str, number: int, digest: str) -> None: ...


class SignedRegistry:
    """A `Storage`. With `trusted`, promotions and cards are read only if signed; with `signer`, they are signed when
    written. Raises TrustError (exit code 2) naming the record."""

    def __init__(
        self,
        storage: Storage,
        *,
        trusted: TrustedKeys | None = None,
        signer: Signer | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.uri = storage.uri
        self._storage = storage
        self._trusted = trusted
        self._signer = signer
        self._memory = memory
        self._digests: dict[str, str] = {}
        """Of promotions, by key: each names all before it, and a history reads them one by one."""
        self._vouched_for: set[tuple[str, bytes]] = set()
        """Promotions whose signature was found, by key and content."""

    def get(self, key: str) -> bytes:
        data = self._storage.get(key)
        if self._trusted is None:
            return data
        if (card := _CARD.fullmatch(key)) is not None:
            self._require(key, data, self._card_statement(card[1], card[2], data))
        elif (promotion := _PROMOTION.fullmatch(key)) is not None:
            self._check_promotion(promotion[1], int(promotion[2]), data)
        return data

    def put(self, key: str, data: bytes) -> None:
        self._storage.put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self._signer is None:
            return self._storage.put_if_absent(key, data)
        if (card := _CARD.fullmatch(key)) is not None:
            self._sign(key, data, self._card_statement(card[1], card[2], data))
            return self._storage.put_if_absent(key, data)
        is_ours = self._storage.put_if_absent(key, data)
        promotion = _PROMOTION.fullmatch(key)
        # run again after it was cut off, the same bytes are there and may lack their signature
        if promotion is not None and (is_ours or self._storage.get(key) == data):
            self._sign(key, data, self._promotion_statement(promotion[1], int(promotion[2]), data))
        return is_ours

    def list(self, prefix: str) -> Iterator[Entry]:
        entries = self._storage.list(prefix)
        match = _PROMOTIONS.fullmatch(prefix)
        if match is None or self._trusted is None or self._memory is None:
            return entries
        present = list(entries)
        newest, _ = self._memory.newest(match[1])
        if newest and numbered(prefix, newest) not in {entry.key for entry in present}:
            raise TrustError(
                f"{self.locate(numbered(prefix, newest))} was seen here before and is gone: what is left is older"
            )
        return iter(present)

    def delete(self, key: str) -> None:
        self._storage.delete(key)

    def locate(self, key: str) -> str:
        return self._storage.locate(key)

    def sign_name(self, name: str) -> builtins.list[str]:
        """Sign every promotion of a name, and every card that one of them names, as they lie there; their keys.

        For a registry that was not signed from the beginning: whoever calls it vouches for what is there.
        """
        assert self._signer is not None
        signed = []
        for record in history(self._storage, name):
            key = numbered(promotions_prefix(name), record.number)
            data = self._storage.get(key)
            self._sign(key, data, self._promotion_statement(name, record.number, data), again=True)
            signed += [key, *self.sign_card(name, record.version)]
        return list(dict.fromkeys(signed))

    def sign_card(self, name: str, version: str) -> builtins.list[str]:
        """Sign one version's card as it lies there; its key. Raises NotFoundError."""
        key = f"{model_prefix(name, version)}/{CARD}"
        data = self._storage.get(key)
        self._sign(key, data, self._card_statement(name, version, data), again=True)
        return [key]

    def _check_promotion(self, name: str, number: int, data: bytes) -> None:
        prefix = promotions_prefix(name)
        for earlier in range(1, number):  # one of them was a champion that others were judged against
            self._require_promotion(name, earlier, self._earlier(numbered(prefix, earlier)))
        self._require_promotion(name, number, data)
        if self._memory is None:
            return
        newest, digest = self._memory.newest(name)
        if 0 < newest <= number:
            key = numbered(prefix, newest)
            if (sha256(data) if number == newest else self._digest(key)) != digest:
                raise TrustError(f"{self.locate(key)} is another promotion than was seen here under this number before")
        if number > newest:
            self._memory.keep(name, number, sha256(data))

    def _require_promotion(self, name: str, number: int, data: bytes) -> None:
        key = numbered(promotions_prefix(name), number)
        if (key, data) not in self._vouched_for:
            self._require(key, data, self._promotion_statement(name, number, data))
            self._vouched_for.add((key, data))

    def _promotion_statement(self, name: str, number: int, data: bytes) -> dict[str, Any]:
        key = numbered(promotions_prefix(name), number)
        version = Promotion.from_bytes(data, self.locate(key), 0.0).version
        before = [self._digest(numbered(promotions_prefix(name), earlier)) for earlier in range(1, number)]
        card_key = f"{model_prefix(name, version)}/{CARD}"
        try:
            card = self._storage.get(card_key)
        except NotFoundError as error:
            raise IntegrityError(f"{self.locate(key)} names version {version}, which has no card") from error
        own = {"what": "promotion", "key": key, "number": number, "record": sha256(data), "before": before}
        return self._card_statement(name, version, card) | own

    def _digest(self, key: str) -> str:
        if key not in self._digests:
            self._digests[key] = sha256(self._earlier(key))
        return self._digests[key]

    def _earlier(self, key: str) -> bytes:
        try:
            return self._storage.get(key)
        except NotFoundError as error:
            raise IntegrityError(f"{self.locate(key)} is missing among the promotions before others") from error

    def _card_statement(self, name: str, version: str, data: bytes) -> dict[str, Any]:
        key = f"{model_prefix(name, version)}/{CARD}"
        card = RegistryCard.from_bytes(data, self.locate(key), name)
        return {
            "what": "card",
            "key": key,
            "name": name,
            "version": version,
            "card": sha256(data),
            "files": card.files,
        }

    def _sign(self, key: str, data: bytes, statement: dict[str, Any], *, again: bool = False) -> None:
        assert self._signer is not None
        signature = self._signer.sign(statement)
        write = self._storage.put if again else self._storage.put_if_absent
        write(_signature_key(key, data, signature.key_id), signature.to_bytes())

    def _require(self, key: str, data: bytes, statement: dict[str, Any]) -> None:
        """Raises TrustError unless a trusted key says of this record what the registry says."""
        assert self._trusted is not None
        wrong = ""
        for key_id in self._trusted.ids:
            place = _signature_key(key, data, key_id)
            try:
                raw = read_json(self._storage, place)
                if raw is None:
                    continue
                signature = Signature.from_record(raw, self.locate(place))
            except IntegrityError as error:
                wrong = str(error)
                continue
            if signature.key_id == key_id and signature.statement == statement and self._trusted.verifies(signature):
                return
            wrong = f"{self.locate(place)} is a signature of something else, or was changed"
        raise TrustError(
            f"{self.locate(key)} is not signed by a trusted key"
            + (f": {wrong}" if wrong else "")
            + "; if you know it to be right: mhim model sign"
        )


def _signature_key(key: str, data: bytes, key_id: str) -> str:
    models, name, *_ = key.split("/")
    return f"{models}/{name}/signatures/{sha256(data)}-{key_id}.json"
