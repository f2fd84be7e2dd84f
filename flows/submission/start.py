"""The first step of a job: check that every node runs this code with its requirements, and reaches the flow's places.

A place that a node cannot reach is reported before any work, with exit code 2; nodes that join later are not checked.
`mhim submit` and the manifests in deploy/ set the variable that requests the check (`flows.commands.IN_JOB`).
"""

import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

from cluster.nodes import NodeId, ask_every_node
from cluster.session import kept_alive, ray_session
from cluster.shipping import Requirements, installed_versions, requirements, source_digest, unmet
from cluster.storage import open_storage, read_bytes
from flows.config.flat import flat, keys_of
from flows.config.keys import RayKeys
from flows.config.roles import Role
from flows.runs.cohort import load_cohort, slide_hint
from flows.runs.folder import RUN
from mhim_core.errors import ConfigError, NotFoundError, SlideError, StorageError
from mhim_core.registry.names import is_reference
from mhim_core.storage import Storage, open_file

DISTRIBUTION = "mhim"
PACKAGES = ("flows", "mhim_core", "cluster")
_IN_EVERY_STORE = "feature_sets"
_PROBES, _LEFT_BEHIND_S = "probe", 3600.0
_ADVICE = "put them where every node sees them, or at s3://"
_MAX_SLIDE_FOLDERS, _SLIDES_PER_FOLDER = 8, 3


class Sight(Enum):
    """What a node finds at a slide's path."""

    SLIDE = 1
    FOLDER = 2
    """Only its folder, or a bucket that answers: the missing slide will fail by itself."""
    NOTHING = 3


class Question(NamedTuple):
    """What every node checks."""

    needed: Requirements
    files: tuple[tuple[str, str], ...] = ()
    """(key, address) of what must be readable."""
    local: tuple[tuple[str, str], ...] = ()
    """(key, path) of files and folders that must be readable on the node itself; they may be too large to be read
    whole."""
    folders: tuple[tuple[str, str, str], ...] = ()
    """(key, address, prefix) of places that must hold something below the prefix; "": they must be there."""
    outputs: tuple[tuple[str, str, str], ...] = ()
    """(key, address, probe) of the places that must hold the driver's probe and take another."""
    slides: tuple[str, ...] = ()


class NodeState(NamedTuple):
    """The answer of a node."""

    problem: str
    """The first place it cannot reach and why, or requirement it does not meet; empty: none."""
    versions: Mapping[str, str]
    code: str
    slides: tuple[Sight, ...]


@contextmanager
def first_step(config: Any) -> Iterator[None]:
    """Check the nodes before the block runs the flow, over the same connection to Ray. Raises ConfigError (2).

    For a flow without Ray, only the code's requirements are checked, on this machine.
    """
    needed = requirements(DISTRIBUTION, __package__ or "flows")
    if problem := unmet(needed):
        raise ConfigError(f"this job's machine has {problem}; change the cluster's image")
    ray: RayKeys | None = getattr(config, "ray", None)
    with kept_alive() if ray is not None else nullcontext():
        if ray is not None:
            with ray_session(ray.ray_address, ray.local_cpus):
                check_nodes(config, needed)
        yield


def check_nodes(config: Any, needed: Requirements) -> None:
    """Ask every node of the connected cluster. Raises ConfigError naming the place and the node."""
    outputs = tuple((key, uri, f"{_PROBES}/{uuid.uuid4().hex}") for key, uri in _named(config, Role.output))
    opened = [(key, open_storage(uri), probe) for key, uri, probe in outputs]
    folders = [(key, uri, "") for key, uri in _named(config, Role.place)]
    folders += [(key, uri, _IN_EVERY_STORE) for key, uri in _named(config, Role.features)]
    local = tuple(_named(config, Role.node_path))
    question = Question(needed, tuple(_files(config)), local, tuple(folders), outputs, _slides(config))
    try:
        for key, storage, probe in opened:
            _put(key, storage, probe)
            _sweep(storage, probe)
        answers = ask_every_node(partial(look, question))
    finally:
        for _, storage, probe in opened:
            _remove(storage, probe)
    require_able(answers, look_here(question), question.slides)


def look(question: Question) -> NodeState:
    """The answer of the node on which this runs."""
    seen: tuple[Sight, ...] = ()
    problem = unmet(question.needed)
    try:
        for key, uri in question.files:
            _read(key, uri)
        for key, path in question.local:
            _touch(key, path)
        for key, uri, prefix in question.folders:
            _enter(key, uri, prefix)
        for key, uri, probe in question.outputs:
            _share(key, uri, probe)
        seen = tuple(map(_sight, question.slides))
    except ConfigError as error:
        problem = problem or str(error)
    return look_here(question)._replace(problem=problem, slides=seen)


def look_here(question: Question) -> NodeState:
    """Versions and code of this process."""
    return NodeState("", installed_versions(question.needed), source_digest(PACKAGES), ())


def require_able(answers: Mapping[NodeId, NodeState], driver: NodeState, slides: tuple[str, ...]) -> None:
    """Raises ConfigError naming the first problem that keeps a node from working."""
    for node, state in answers.items():
        if state.problem:
            raise ConfigError(f"node {node}: {state.problem}")
        if state.code != driver.code:
            raise ConfigError(f"node {node} imports other code of {DISTRIBUTION} than the job's driver; use one image")
        for name, version in state.versions.items():
            if version != driver.versions[name]:
                others = driver.versions[name]
                raise ConfigError(f"node {node} has {name} {version} and the job's driver {others}; use one image")
    for index, uri in enumerate(slides):
        seeing = [node for node, state in answers.items() if state.slides[index] is Sight.SLIDE]
        for node, state in answers.items():
            if seeing and state.slides[index] is not Sight.SLIDE:
                raise ConfigError(f"node {node}: {_absent(uri)}, though node {seeing[0]} sees them; {_ADVICE}")
    if slides and all(sight is Sight.NOTHING for state in answers.values() for sight in state.slides):
        raise ConfigError(f"node {next(iter(answers))}: {_absent(slides[0])}, nor on any other node; {_ADVICE}")


def _absent(uri: str) -> str:
    return f"slides of {os.path.dirname(uri)} are not there"


def _files(config: Any) -> Iterator[tuple[str, str]]:
    yield from _named(config, Role.file)
    for key, uri in (*_named(config, Role.run), *_named(config, Role.model)):
        if keys_of(type(config))[key].role is Role.model and is_reference(uri):
            continue  # a model of registry=, which is looked at as a place
        yield key, f"{uri.rstrip('/')}/{RUN}"


def _named(config: Any, role: Role) -> list[tuple[str, str]]:
    """(key, address) of everything that the config's keys of this role name."""
    values = flat(config)
    return [
        (name, uri)
        for name, key in keys_of(type(config)).items()
        if key.role is role
        for uri in key.values(values[name])
    ]


def _slides(config: Any) -> tuple[str, ...]:
    """A few slides of each of the first few folders; none for a flow that reads only features."""
    if not hasattr(config, "decode"):
        return ()
    folders: dict[str, list[str]] = {}
    for row in load_cohort(config.data.cohort, with_files=False, options=config.table).cohort.rows:
        folder = os.path.dirname(row.uri)
        if folder in folders or len(folders) < _MAX_SLIDE_FOLDERS:
            folders.setdefault(folder, []).append(row.uri)
    return tuple(uri for slides in folders.values() for uri in slides[:_SLIDES_PER_FOLDER])


def _put(key: str, storage: Storage, probe: str) -> None:
    try:
        storage.put(probe, b"probe")
    except StorageError as error:
        host = socket.gethostname()
        raise ConfigError(f"the job's driver on {host} cannot use {key}={storage.uri}: {error}") from error


def _remove(storage: Storage, probe: str) -> None:
    with suppress(StorageError):  # it could not be written either, and that is told
        storage.delete(probe)


def _sweep(storage: Storage, probe: str) -> None:
    """Remove old probes of first steps that were killed; ages are measured by the store's clock."""
    with suppress(StorageError):  # without the right to list or delete here, the flow may still run
        written_s = {entry.key: entry.modified_s for entry in storage.list(_PROBES)}
        now_s = written_s.get(probe, 0.0)
        for key, modified_s in written_s.items():
            if now_s - modified_s > _LEFT_BEHIND_S:
                storage.delete(key)


def _touch(key: str, path: str) -> None:
    try:
        if os.path.isdir(path):
            os.listdir(path)
        else:
            with open_file(path) as file:
                file.read(1)
    except OSError as error:
        raise ConfigError(
            f"{key}={path} cannot be read here: {error.strerror}; put it at the same path of every node"
        ) from error


def _read(key: str, uri: str) -> None:
    try:
        read_bytes(uri)
    except StorageError as error:
        raise ConfigError(f"{key}: {error}; put it where every node sees it, or at s3://") from error


def _enter(key: str, uri: str, prefix: str) -> None:
    try:
        by_name = not prefix and "://" not in uri  # listing a folder would walk all of it
        exists = os.path.isdir(uri) if by_name else next(open_storage(uri).list(prefix), None) is not None
    except StorageError as error:
        raise ConfigError(f"{key}={uri} cannot be used: {error}") from error
    if not exists:
        raise ConfigError(f"{key}={uri} is not there; {_ADVICE}")


def _share(key: str, uri: str, probe: str) -> None:
    """Raises ConfigError unless the place is the same as the driver's and this node can write to it."""
    storage = open_storage(uri)
    mine = f"{probe}-{uuid.uuid4().hex}"
    try:
        storage.get(probe)
        storage.put(mine, b"probe")
        storage.delete(mine)
    except NotFoundError:
        raise ConfigError(
            f"{key}={uri} is not the driver's: put it where every node sees the same folder, or at s3://"
        ) from None
    except StorageError as error:
        raise ConfigError(f"{key}={uri} cannot be used: {error}") from error


def _sight(uri: str) -> Sight:
    try:
        slide_hint(uri)
    except (SlideError, NotFoundError):
        return Sight.FOLDER if "://" in uri or os.path.isdir(os.path.dirname(uri)) else Sight.NOTHING
    except StorageError as error:
        raise ConfigError(f"slides of {os.path.dirname(uri)}: {error}") from error
    return Sight.SLIDE
