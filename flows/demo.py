"""mhim demo out=demo: takes a painted cohort from slides to report and prediction, on this machine.

Outputs, in out: `slides/` (H&E-like slides with tumour foci at known places), `features/`, `run/` with its page,
`predictions/` for slides of patients that training never saw, and `foci.html`, which compares heat maps and foci. Cost:
under 3 minutes on two cores; run again, it finds everything done and does not start Ray. Exit code: 0, or that of the
first command that fails.
"""

import importlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cluster.session import kept_alive
from cluster.storage import open_storage
from flows.commands import FLOWS, config_class
from flows.config.commands import DemoConfig
from flows.config.files import write_resolved
from flows.config.keys import Method
from flows.config.words import parse
from flows.engine.result import FlowResult
from flows.runs.demo_foci import PAGE, SUMMARY, foci_lines, judge_foci
from flows.runs.folder import read_run
from mhim_core.demo.slide import TILE_PX
from mhim_core.errors import ConfigError
from mhim_core.storage import Storage
from mhim_core.types import ExitCode


class DemoStep(NamedTuple):
    """One step of the demo, and the place of its result."""

    name: str
    place: str
    run: Callable[[], FlowResult]


def run(config: DemoConfig) -> FlowResult:
    """Run the steps in order; the first that does not end with 0 ends the demo."""
    if "://" in config.out:
        raise ConfigError(f"out={config.out}: the demo needs a local folder")
    out = open_storage(config.out)
    lines: list[str] = []
    outputs: dict[str, str] = {}
    with kept_alive():  # starting a Ray costs five seconds: the first step that needs it leaves it to the next
        for step in _steps(config, out):
            print(f"── {step.name}", flush=True)
            start_s = time.monotonic()
            result = step.run()
            outputs |= result.outputs
            lines.append(f"{step.name:<9} {time.monotonic() - start_s:6.1f} s  {step.place}")
            if result.exit_code is not ExitCode.OK:
                return FlowResult(exit_code=result.exit_code, outputs=outputs)
    write_resolved(out, config, "demo")
    print("\n".join(["──", *lines, *_evidence(config), "Research use only, not for diagnosis."]))
    return FlowResult(outputs=outputs)


def _steps(config: DemoConfig, storage: Storage) -> Iterator[DemoStep]:
    """All steps; all but the first and the last are commands that a person could type."""
    out = Path(config.out).expanduser()
    cohort, store, trained = f"cohort={out}/slides/cohort.csv", f"store={out}/features", f"{out}/run"
    ray = [
        f"ray_address={config.ray.ray_address}",
        *([f"local_cpus={config.ray.local_cpus}"] if config.ray.local_cpus else []),
    ]
    yield DemoStep("slides", f"{out}/slides", lambda: _write_slides(config))
    # torch wherever it runs: what README says of the demo was measured on its features
    tiles = [f"encoder={config.encoder}", "encoder_runtime=torch", "gpus_per_actor=0", f"tile_px={TILE_PX}"]
    yield _command("embed", f"{out}/features", [cohort, store, *tiles, *ray])
    learning = [f"{key}={getattr(config, key)}" for key in ("method", "aggregator", "epochs", "seed")]
    if config.method is Method.mhim:
        learning.append(f"full_view_weight={config.full_view_weight}")
    yield _command("train", trained, [cohort, store, f"encoder={config.encoder}", *learning, f"out={trained}", *ray])
    yield _command("evaluate", f"{trained}/evaluation", [f"run={trained}"])
    new = [f"run={trained}", f"cohort={out}/slides/new.csv", f"out={out}/predictions", *ray]
    yield _command("predict", f"{out}/predictions/report.html", new)
    yield _command("report", f"{trained}/report.html", [f"run={trained}"])
    yield DemoStep("foci", f"{out}/foci.html", lambda: _judge_foci(out, storage))


def _command(name: str, place: str, words: list[str]) -> DemoStep:
    command = FLOWS[name]

    def run_command() -> FlowResult:
        print(f"mhim {name} {' '.join(words)}", flush=True)
        parsed: Any = parse(config_class(name), words, command=name)
        result: FlowResult = importlib.import_module(f"flows.{command.module}").run(parsed)
        return result

    return DemoStep(name, place, run_command)


def _write_slides(config: DemoConfig) -> FlowResult:
    folder = Path(config.out, "slides").expanduser()
    if not (folder / "demo.json").exists():
        print(f"painting {config.num_slides} + {config.num_new} slides", flush=True)
    from mhim_core.demo.cohort import write_demo_cohort

    made = write_demo_cohort(folder, num_slides=config.num_slides, num_new=config.num_new, seed=config.demo_seed)
    return FlowResult(outputs={"cohort": str(made.cohort_csv), "truth": str(made.truth_json)})


def _judge_foci(out: Path, storage: Storage) -> FlowResult:
    """Compare the run's heat maps with the painted foci, which no model has seen."""
    judged = judge_foci(read_run(f"{out}/run"), (out / "slides/truth.json").read_bytes(), storage)
    print(f"foci: {out}/{PAGE}")
    return FlowResult(outputs={"foci": f"{out}/{PAGE}"}, recomputed=judged.recomputed)


def _evidence(config: DemoConfig) -> list[str]:
    """The figures of the last step, to be printed again at the end."""
    out = Path(config.out).expanduser()
    summary = json.loads((out / SUMMARY).read_bytes())["summary"]
    return ["──", *foci_lines(summary), "──"]
