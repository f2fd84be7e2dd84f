"""mhim demo out=demo: a made cohort through every station, on this machine alone.

Outputs, in out: `slides/` (H&E-like slides with tumour foci of known place), `features/`, `run/` with its page,
`predictions/` for slides of patients that training never saw. Cost: under 3 minutes on two cores; run again, it finds
everything done and starts no Ray.
"""

import importlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cluster.session import kept_alive
from flows.commands import FLOWS, config_class
from flows.config.commands import DemoConfig
from flows.config.words import parse
from flows.engine.result import FlowResult
from mhim_core.errors import ConfigError
from mhim_core.types import ExitCode


class Station(NamedTuple):
    """One stage of the demo, and where its result lies."""

    name: str
    place: str
    run: Callable[[], FlowResult]


def run(config: DemoConfig) -> FlowResult:
    """Each station is the flow that its own command runs; the first that does not end with 0 ends the demo."""
    if "://" in config.out:
        raise ConfigError(f"out={config.out}: the demo lives in a local folder")
    lines: list[str] = []
    outputs: dict[str, str] = {}
    with kept_alive():  # starting a Ray costs five seconds: the first station that needs it leaves it to the next
        for station in _stations(config):
            print(f"── {station.name}", flush=True)
            start_s = time.monotonic()
            result = station.run()
            outputs |= result.outputs
            lines.append(f"{station.name:<9} {time.monotonic() - start_s:6.1f} s  {station.place}")
            if result.exit_code is not ExitCode.OK:
                return FlowResult(exit_code=result.exit_code, outputs=outputs)
    print("\n".join(["──", *lines, "Research use only, not for diagnosis."]))
    return FlowResult(outputs=outputs)


def _stations(config: DemoConfig) -> Iterator[Station]:
    """Every station but the first is a command that a person could type."""
    out = Path(config.out).expanduser()
    cohort, store, trained = f"cohort={out}/slides/cohort.csv", f"store={out}/features", f"{out}/run"
    ray = [f"ray_address={config.ray_address}", *([f"local_cpus={config.local_cpus}"] if config.local_cpus else [])]
    yield Station("slides", f"{out}/slides", lambda: _write_slides(config))
    yield _command("embed", f"{out}/features", [cohort, store, f"encoder={config.encoder}", *ray])
    learning = [f"{key}={getattr(config, key)}" for key in ("method", "aggregator", "folds", "epochs", "seed")]
    yield _command("train", trained, [cohort, store, f"encoder={config.encoder}", *learning, f"out={trained}", *ray])
    yield _command("evaluate", f"{trained}/evaluation", [f"run={trained}"])
    new = [f"run={trained}", f"cohort={out}/slides/new.csv", f"out={out}/predictions", *ray]
    yield _command("predict", f"{out}/predictions/report.html", new)
    yield _command("report", f"{trained}/report.html", [f"run={trained}"])


def _command(name: str, place: str, words: list[str]) -> Station:
    command = FLOWS[name]

    def run_command() -> FlowResult:
        print(f"mhim {name} {' '.join(words)}", flush=True)
        parsed: Any = parse(config_class(name), words, preset=name)
        result: FlowResult = importlib.import_module(f"flows.{command.module}").run(parsed)
        return result

    return Station(name, place, run_command)


def _write_slides(config: DemoConfig) -> FlowResult:
    folder = Path(config.out, "slides").expanduser()
    if not (folder / "demo.json").exists():
        print(f"{config.num_slides} + {config.num_new} slides are painted")
    from mhim_core.demo.cohort import write_demo_cohort

    made = write_demo_cohort(folder, num_slides=config.num_slides, num_new=config.num_new, seed=config.demo_seed)
    return FlowResult(outputs={"cohort": str(made.cohort_csv), "truth": str(made.truth_json)})
