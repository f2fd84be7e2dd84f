"""The board of claims: every method on every set, with intervals, losses as large as gains.

    python benchmarks/board.py --data DIR [--out board] [--only SET:METHOD ...] [--seeds N] [--jobs 1]
        [--budget-minutes M]
    python benchmarks/board.py --write [--data DIR --out board] [--docs docs]

DIR holds tiles/kather_texture.npz (Kather 2016 as 80 texture features), bags/atlas (cohort.csv, and store/ as
`mhim embed encoder=efficientnet-lite0` makes it) and bags/classic/{UCSB,Musk1,Musk2,Elephant,Fox,Tiger}.npz.

A cell is one method on one fold of one set with one seed. Each is a file in --out as soon as it is done: run again, the
command goes on; --budget-minutes ends it after the cell under way. Cells go by worth: controls and ABMIL over all sets,
the other aggregators, more seeds. --only, which may be repeated, takes the cells of a set (or *) and a method: an
aggregator (abmil), one recipe of it (abmil/mhim), a control (simlp, max), or *. --seeds: instead of each set's own
number. Nothing is selected: every option was fixed beforehand, and every fit keeps its last epoch (ADR 31).

--write makes docs/board.json of the cells in --out and of those that it holds already, and of it docs/board.md and
docs/board.html, which name what is missing. Without --out it makes the pages anew of docs/board.json alone.
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from board_cells import Cell, Job, identity_of, missing, order_jobs, read_cells, run_job
from board_html import render_html
from board_markdown import render_markdown
from board_methods import Method, board_methods
from board_rows import Board, SetFacts, rows_of
from board_sets import BoardSet, board_sets

from mhim_core.errors import ConfigError, ConflictError, MhimError

DOCS = Path(__file__).parents[1] / "docs"


def chosen_jobs(jobs: Sequence[Job], only: Sequence[str]) -> list[Job]:
    """The jobs without what `only` (SET:METHOD) does not name. Raises ConfigError for a word that names nothing."""
    pairs = [(job.bags.name, method) for job in jobs for method in job.methods]
    for word in only:
        if not any(_names(word, *pair) for pair in pairs):
            raise ConfigError(f"--only {word}: no set and method of that name; it is SET:METHOD, * for all")
    chosen = []
    for job in jobs:
        methods = [own for own in job.methods if not only or any(_names(word, job.bags.name, own) for word in only)]
        chosen += [job._replace(methods=tuple(methods))] if methods else []
    return chosen


def _names(word: str, set_name: str, method: Method) -> bool:
    wanted_set, _, wanted = word.partition(":")
    return wanted_set in ("*", set_name) and wanted in ("*", method.aggregator, method.name)


def _wants(only: Sequence[str], set_name: str) -> bool:
    return not only or any(word.partition(":")[0] in ("*", set_name) for word in only)


def run_jobs(jobs: Sequence[Job], processes: int) -> Iterator[Cell]:
    """The cells that are missing, as they are done."""
    if processes == 1:
        for job in jobs:
            yield from run_job(job)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(run_job, job) for job in jobs]):
            yield from future.result()


def compute(options: argparse.Namespace, sets: Sequence[BoardSet], methods: Sequence[Method]) -> None:
    """The cells that are chosen and missing, until the time is up."""
    if options.seeds:
        sets = [dataclasses.replace(own, min_seeds=options.seeds, num_seeds=options.seeds) for own in sets]
    digests = {own.name: own.data_digest() if _wants(options.only, own.name) else "" for own in sets}
    until = time.time() + 60 * options.budget_minutes
    jobs = chosen_jobs(order_jobs(sets, methods, options.out, digests, until), options.only)
    total = sum(len(missing(job)) for job in jobs)
    print(f"{total} cells to do, of {sum(len(job.methods) for job in jobs)}", flush=True)
    for done, cell in enumerate(run_jobs(jobs, options.jobs), 1):
        figures = ", ".join(f"{model} {scores['all']:.3f}" for model, scores in cell.auroc.items())
        where = f"{cell.set}:{cell.method} seed {cell.seed} fold {cell.fold}"
        print(f"{done}/{total} {where}: {figures} ({cell.seconds:.0f} CPU s)", flush=True)


def gather(options: argparse.Namespace, sets: Sequence[BoardSet], methods: Sequence[Method]) -> Board:
    """The board of the cells in --out and, where these lack one, in docs/board.json.

    A cell of other options than today's is left out, and named. Raises ConflictError for cells of one set that were
    made of different data.
    """
    known = _read_board(options.docs)
    present = [*(known.cells if known else ()), *(read_cells(options.out) if options.out else ())]
    by_place = {(cell.set, cell.method, cell.place): cell for cell in present}
    identities = {(own.name, method.name): identity_of(own, method) for own in sets for method in methods}
    cells = []
    for (set_name, method, place), cell in sorted(by_place.items()):
        if identities.get((set_name, method)) == cell.identity:
            cells.append(cell)
        else:
            print(f"left out, of other options than today's: {set_name}:{method} {place}", file=sys.stderr)
    facts = [SetFacts.of(own, _one_digest([cell for cell in cells if cell.set == own.name])) for own in sets]
    return Board(tuple(facts), tuple(methods), tuple(cells))


def _read_board(docs: Path) -> Board | None:
    path = docs / "board.json"
    return Board.from_plain(json.loads(path.read_text())) if path.exists() else None


def _one_digest(cells: Sequence[Cell]) -> str:
    """Of the data of one set; empty: no cell."""
    digests = sorted({cell.data for cell in cells})
    if len(digests) > 1:
        raise ConflictError(f"cells of {cells[0].set} were made of different data: {', '.join(digests)}")
    return digests[0] if digests else ""


def dump(board: Board) -> str:
    """docs/board.json: a line a set, a method, a cell."""
    parts = []
    for name, rows in board.to_plain().items():
        lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
        parts.append(f'"{name}": [\n{lines}\n]')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def write(docs: Path, board: Board) -> None:
    """board.json and what is made of it alone."""
    results = rows_of(board)
    pages: Mapping[str, str] = {
        "board.json": dump(board),
        "board.md": render_markdown(board, results),
        "board.html": render_html(board, results),
    }
    for name, text in pages.items():
        (docs / name).write_text(text, encoding="utf-8")
    print(f"{len(results.rows)} rows of {len(board.cells)} cells, {len(results.gaps)} missing; {docs / 'board.md'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, help="where the cells are; default without --write: board")
    parser.add_argument("--only", action="append", default=[], metavar="SET:METHOD")
    parser.add_argument("--seeds", type=int, default=0, help="of every set; default: each set's own")
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--budget-minutes", type=float, default=math.inf)
    parser.add_argument("--write", action="store_true", help="write docs/board.md and the page instead")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where --write writes")
    options = parser.parse_args()
    sets, methods = list(board_sets(options.data).values()), list(board_methods().values())
    try:
        if options.write:
            write(options.docs, gather(options, sets, methods))
        else:
            options.out = options.out or Path("board")
            compute(options, sets, methods)
    except MhimError as error:
        print(f"board: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
