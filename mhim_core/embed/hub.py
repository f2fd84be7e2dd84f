"""Encoder files from the Hugging Face hub: one pinned commit, from the cache where it is there, else downloaded.

A repository holds `config.json` (architecture, arguments, transform) beside `model.safetensors` or `pytorch_model.bin`.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from mhim_core.errors import EncoderError

HUB = "https://huggingface.co/"
CONFIG_NAME = "config.json"
WEIGHT_NAMES = ("model.safetensors", "pytorch_model.bin")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_TIMEOUT_S = 10.0


class HubFiles(NamedTuple):
    """Where one commit's files lie in the local cache."""

    config: Path
    weights: Path
    commit: str
    licence: str


class _Commit(NamedTuple):
    commit: str
    files: frozenset[str]
    licence: str


def fetch(repo: str, revision: str | None) -> HubFiles:
    """The files of `repo` at `revision` (a commit, tag or branch; None: what the cache has, else the main branch).

    A branch or tag is resolved to its commit once, and the commit is what the card keeps. Raises EncoderError, within
    seconds, if the repository is gated, absent or out of reach.
    """
    if (cached := _cached(repo, revision or "main")) is not None:
        return cached
    resolved = _resolve(repo, revision)
    weights = next((name for name in WEIGHT_NAMES if name in resolved.files), None)
    if weights is None or CONFIG_NAME not in resolved.files:
        raise EncoderError(
            f"the hub's repository {repo} at {resolved.commit} has no {CONFIG_NAME} with {' or '.join(WEIGHT_NAMES)}: "
            "it is not a timm model; give the weights as a file with encoder_weights="
        )
    return HubFiles(
        _download(repo, CONFIG_NAME, resolved.commit),
        _download(repo, weights, resolved.commit),
        resolved.commit,
        resolved.licence,
    )


def find_cached(repo: str, revision: str) -> Path:
    """The weights' file in this machine's cache. Raises EncoderError where it is not there."""
    cached = _cached(repo, revision)
    if cached is None:
        raise EncoderError(f"{repo} at {revision} is not in the local cache")
    return cached.weights


def _cached(repo: str, revision: str) -> HubFiles | None:
    hub = _import_hub()
    config = hub.try_to_load_from_cache(repo, CONFIG_NAME, revision=revision)
    if not isinstance(config, str):
        return None
    for name in WEIGHT_NAMES:
        weights = hub.try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(weights, str):
            commit = Path(config).parent.name  # the cache's layout: snapshots/<commit>/<file>
            return HubFiles(Path(config), Path(weights), commit, "") if _COMMIT.match(commit) else None
    return None


def _resolve(repo: str, revision: str | None) -> _Commit:
    """One request; unlike a download it is not retried, so a machine without network is told so at once."""
    hub = _import_hub()
    try:
        info = hub.HfApi().model_info(repo, revision=revision, timeout=_TIMEOUT_S)
    except Exception as error:  # the client's errors have no common base across its HTTP libraries; none is swallowed
        raise _refusal(repo, revision, error) from error
    licence = getattr(info.card_data, "license", None) if info.card_data is not None else None
    files = frozenset(sibling.rfilename for sibling in info.siblings or ())
    return _Commit(str(info.sha), files, str(licence or ""))


def _download(repo: str, name: str, commit: str) -> Path:
    hub = _import_hub()
    try:
        return Path(hub.hf_hub_download(repo, name, revision=commit, etag_timeout=_TIMEOUT_S))
    except Exception as error:  # see _resolve
        raise _refusal(repo, commit, error) from error


def _refusal(repo: str, revision: str | None, error: Exception) -> EncoderError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return EncoderError(
            f"the hub gates {repo} behind its licence: accept it at https://huggingface.co/{repo} and set HF_TOKEN, "
            "or give the weights as a file with encoder_weights="
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return EncoderError(f"the hub's repository {repo} has no revision {revision!r}; give a commit of it")
    if isinstance(error, errors.RepositoryNotFoundError):
        return EncoderError(
            f"the hub has no repository {repo}, or this machine may not see it (HF_TOKEN); check the encoder's name"
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return EncoderError(
            f"{repo} is not in the local cache and HF_HUB_OFFLINE forbids asking the hub; download it beforehand, "
            "or give the weights as a file or folder with encoder_weights="
        )
    if isinstance(error, OSError) or "httpx" in type(error).__module__ or isinstance(error, errors.HfHubHTTPError):
        return EncoderError(
            f"cannot reach the hub for {repo} ({type(error).__name__}); check the network, "
            "or give the weights as a file or folder with encoder_weights="
        )
    raise error


def _import_hub() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise EncoderError("encoders from the hub need huggingface_hub: pip install 'mhim[encoders]'") from None
    return huggingface_hub
