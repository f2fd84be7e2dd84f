"""mhim doctor [store=./features] [cohort=my.csv] [encoder=…] [ray_address=…]: what a first run needs, a line each.

Inputs: this machine, and the places that are named. Outputs: a line a check, `ok` or `problem` with what to do; an
object that is written to the store is deleted again, and so is a tiny slide in the temporary folder. Cost: 5 to 10 s,
most of it to load torch and the encoder, and about as much again to start Ray (`start_ray=false` leaves it out). Exit
code: 0, 2 (a problem of this machine's setup, a table or an encoder), 6 (only storage, a cluster or the machine's
resources).
"""

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cluster.machine import check_threads, memory_bytes, ray_folder
from cluster.session import ray_session, usable_cpus
from cluster.storage import open_storage, supports_put_if_absent
from flows.config.doctor import DoctorConfig
from flows.config.keys import EncoderKeys
from flows.engine.machine_errors import machine_error
from flows.engine.result import FlowResult
from flows.engine.state_folder import private_folder, state_folder
from flows.runs.cohort import load_cohort
from mhim_core.errors import ConfigError, ConflictError, MachineError, MhimError
from mhim_core.printable import one_line
from mhim_core.storage import prune
from mhim_core.types import ExitCode

_MIN_FREE_BYTES = 2**30
"""In the temporary folder, for the copy of a slide."""


class Check(NamedTuple):
    """One thing that is looked at. `look` says what was found; it raises an error that says what to do."""

    name: str
    look: Callable[[], str]


def run(config: DoctorConfig) -> FlowResult:
    """Never raises for what a check finds: it is printed, and decides the exit code."""
    codes = set()
    for check in _checks(config):
        try:
            print(one_line(f"ok       {check.name}: {check.look()}"), flush=True)
        except Exception as error:
            known = error if isinstance(error, MhimError) else machine_error(error)
            said = str(known) if known is not None else f"{type(error).__name__}: {error}"
            print(one_line(f"problem  {check.name}: {said}"), flush=True)
            is_outside = known is not None and known.exit_code is ExitCode.STORAGE
            codes.add(ExitCode.STORAGE if is_outside else ExitCode.BAD_INPUT)
    return FlowResult(exit_code=min(codes, default=ExitCode.OK), recomputed=False)


def _checks(config: DoctorConfig) -> Iterator[Check]:
    yield Check("python", _python)
    yield Check("packages", _packages)
    yield Check("machine", _machine)
    yield Check("state folder", _state_folder)
    yield Check("temporary folder", _temporary_folder)
    yield Check("sockets", _sockets)
    yield Check("slides", _slides)
    yield Check("gpu", _gpu)
    for keys in config.encoder.each():
        yield Check("encoder", partial(_encoder, config, keys))
    if config.store:
        yield Check("store", lambda: _store(config.store))
    if config.cohort:
        yield Check("cohort", lambda: _cohort(config))
    if config.start_ray:
        yield Check("ray", lambda: _ray(config))


def _python() -> str:
    from packaging.specifiers import SpecifierSet

    wanted = importlib.metadata.metadata("mhim")["Requires-Python"]
    if platform.python_version() not in SpecifierSet(wanted):
        raise ConfigError(f"this is {platform.python_version()}; make the environment anew with Python {wanted}")
    return f"{platform.python_version()} ({wanted})"


def _packages() -> str:
    """Required packages must be there; those of extras, if they are there, of a version that was tested."""
    from packaging.requirements import Requirement

    num_fitting, unfit = 0, []
    for requirement in map(Requirement, importlib.metadata.requires("mhim") or []):
        of_extra = requirement.marker is not None and "extra" in str(requirement.marker)
        try:
            present = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            if not of_extra:
                unfit.append(f"{requirement.name}{requirement.specifier} is not installed")
            continue
        if requirement.specifier.contains(present, prereleases=True):
            num_fitting += 1
        else:
            unfit.append(f"{requirement.name} is {present}, needed is {requirement.specifier}")
    if unfit:
        raise ConfigError(f"{'; '.join(sorted(set(unfit)))}: run `make install`, or pip install with constraints.txt")
    return f"{num_fitting} of the versions that were tested"


def _machine() -> str:
    num_cpus, num_bytes = usable_cpus(), memory_bytes()
    if num_bytes < 2 * 2**30:
        raise MachineError(f"{num_bytes / 2**30:.1f} GiB of memory; Ray and one encoder take 2: give it more")
    check_threads()
    return f"{num_cpus} CPUs, {num_bytes / 2**30:.1f} GiB of memory for this process"


def _state_folder() -> str:
    try:
        folder = private_folder()
        with tempfile.NamedTemporaryFile(dir=folder):
            return str(folder)
    except OSError as error:
        raise ConfigError(
            f"{state_folder()} cannot be written ({error.strerror}), so logs go to the temporary folder and no "
            "schedule can be allowed: set XDG_STATE_HOME to a folder of yours"
        ) from error


def _temporary_folder() -> str:
    try:
        folder = tempfile.gettempdir()
        with tempfile.NamedTemporaryFile(dir=folder):
            num_free = shutil.disk_usage(folder).free
    except OSError as error:
        raise ConfigError(f"no temporary folder can be written ({error.strerror}): set TMPDIR to one") from error
    if num_free < _MIN_FREE_BYTES:
        raise MachineError(f"{folder} has {num_free / 1e9:.2f} GB free: free space, or set TMPDIR (and staging_dir=)")
    return f"{folder}, {num_free / 1e9:.1f} GB free"


def _sockets() -> str:
    with ray_folder() as folder:
        return "Ray's own folder" if folder is None else f"shortened by way of {folder}"


def _slides() -> str:
    """A painted slide is written and read back by the decoders that are used for such files."""
    import numpy as np

    from mhim_core.demo.pyramid import write_pyramid
    from mhim_core.slides.inspection import inspect_slide
    from mhim_core.slides.spec import DIRECT, OPENSLIDE, SlidePolicy, TileSpec
    from mhim_core.types import SlideId, SlideTask

    pixels = np.full((512, 512, 3), 240, np.uint8)
    pixels[56:456, 56:456] = np.random.default_rng(0).integers(120, 200, (400, 400, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "painted.tiff")
        write_pyramid(path, pixels, mpp=(0.5, 0.5))
        for backend in (OPENSLIDE, DIRECT):
            spec = TileSpec(min_tissue=0, backend=backend)
            slide = inspect_slide(path, SlideTask(SlideId("painted"), str(path)), spec=spec, policy=SlidePolicy())
            if slide.num_tiles != 4:
                raise ConfigError(f"{backend} reads {slide.num_tiles} of 4 tiles: run `make install` again")
    return f"{OPENSLIDE} and {DIRECT} (libjpeg-turbo) read a painted slide"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"none is seen by torch {torch.__version__}: everything runs on the CPU"
    return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}, seen by torch {torch.__version__}"


def _encoder(config: DoctorConfig, keys: EncoderKeys) -> str:
    """The one that embed would take with these keys, on a CPU."""
    from flows.runs.tiling import settled_card
    from mhim_core.embed.registry import load_encoder_for
    from mhim_core.slides.spec import TileSpec

    with tempfile.TemporaryDirectory() as no_store:
        card = settled_card(keys, TileSpec(), open_storage(config.store or no_store), on_gpu=False)
    load_encoder_for(card, weights=keys.weights_of(keys.encoder))
    return f"{card.id} (D={card.dim}) is loaded, by {card.runtime}"


def _store(uri: str) -> str:
    storage = open_storage(uri)
    if "://" not in storage.uri and not os.path.isdir(storage.uri):
        parent = next(place for place in Path(storage.uri).parents if place.exists())
        if not os.access(parent, os.W_OK | os.X_OK):
            raise ConfigError(f"{storage.uri} is not there, and {parent} cannot be written: name another store=")
        return f"{storage.uri} is not there yet; {parent} can be written"
    has_condition = supports_put_if_absent(storage)
    prune(storage, "probe")
    if not has_condition:
        raise ConflictError(
            f"{storage.uri} ignores `If-None-Match: *` on PUT, so two commands at once could overwrite each other's "
            "work: use a store with conditional PUT (AWS S3, MinIO, Ceph)"
        )
    return f"{storage.uri} is written, on condition too, read and deleted"


def _cohort(config: DoctorConfig) -> str:
    table = load_cohort(config.cohort, options=config.table)
    num_slides, num_there = len(table.cohort.rows), len(table.hints)
    found = f"{num_slides} slides, {len(table.warnings)} warnings"
    if num_there < num_slides:
        raise ConfigError(f"{found}; {num_slides - num_there} files are not there: mhim check names them")
    return f"{found}, all files are there (mhim check opens them)"


def _ray(config: DoctorConfig) -> str:
    with ray_session(config.session.ray_address, config.session.local_cpus) as cluster:
        where = "started here" if cluster.is_local else f"at {config.session.ray_address}"
        return f"{where}, {cluster.num_cpus:g} CPUs, {cluster.num_gpus:g} GPUs"
