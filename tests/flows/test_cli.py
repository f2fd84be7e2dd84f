"""The command line: help is instant and complete, every way to end has its exit code and its sentence."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.commands import FLOWS, config_class
from flows.config.flat import keys_of
from flows.engine.state_folder import state_folder
from mhim_core.errors import (
    CohortError,
    ConfigError,
    ConflictError,
    EncoderError,
    InputError,
    IntegrityError,
    MhimError,
    NotFoundError,
    SplitError,
    StorageError,
)
from mhim_core.types import ExitCode

Mhim = Callable[..., Any]
HEAVY = (
    "torch",
    "ray",
    "hydra",
    "omegaconf",
    "pyarrow",
    "numpy",
    "skimage",
    "sklearn",
    "matplotlib",
    "timm",
    "botocore",
)


def mhim_process(*words: str, before: str = "pass", **options: Any) -> subprocess.CompletedProcess[str]:
    code = f"import sys; from flows.cli import main; code = main({list(words)!r}); {before}; sys.exit(code)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in FLOWS)], ids="-".join)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    process = mhim_process(*words, before=f"print('heavy:', sorted({set(HEAVY)!r} & set(sys.modules)))")
    assert process.returncode == ExitCode.OK, process.stderr
    assert process.stdout.endswith("heavy: []\n")


@pytest.mark.parametrize("name", FLOWS)
def test_help_of_a_command_says_what_each_key_means(mhim: Mhim, name: str) -> None:
    ended = mhim(name, "--help")
    assert ended.code == ExitCode.OK
    text = " ".join(ended.out.split())
    for key in keys_of(config_class(name)).values():
        assert key.doc
        assert f" {key.name}{'' if key.required else '='}" in text
        assert key.doc in text
        if hasattr(key.kind, "__members__"):
            assert " | ".join(key.kind.__members__) in text
    assert f"mhim {name} {FLOWS[name].example}" in text


def test_help_lists_an_aggregator_and_its_own_options_once_their_files_are_there(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(
        "import torch\nfrom mhim_core.mil.aggregators.toy_options import ToyOptions\n"
        "@register_aggregator('toy', mining=True, options=ToyOptions)\nclass Toy: ...\n"
    )
    (tmp_path / "toy_options.py").write_text(
        "from dataclasses import dataclass, field\n@dataclass(frozen=True, kw_only=True)\nclass ToyOptions:\n"
        "    toy_size: int = field(default=3, metadata={'neutral': 3})\n    '''Heads of a toy.'''\n"
    )
    code = (
        f"import sys; import mhim_core.mil.aggregators as package; package.__path__.append({str(tmp_path)!r})\n"
        "from flows.cli import main; main(['train', '--help']); assert 'torch' not in sys.modules\n"
        "from flows.config.commands import TrainConfig; from flows.config.flat import flat, from_keys, keys_of\n"
        "assert 'toy' in keys_of(TrainConfig)['aggregator'].choices\n"
        "config = from_keys(TrainConfig, cohort='c', store='s', out='o', aggregator='toy', toy_size=5)\n"
        "assert config.model.toy_size == flat(config)['toy_size'] == 5\n"
        "from mhim_core.errors import ConfigError\n"
        "try: from_keys(TrainConfig, cohort='c', store='s', out='o', aggregator='abmil', toy_size=5)\n"
        "except ConfigError as error: assert 'toy_size' in str(error) and 'abmil' in str(error)\n"
        "else: raise AssertionError('an option of another aggregator was dropped without a word')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "toy_size=3 Heads of a toy." in " ".join(ended.stdout.split())


def test_help_names_every_command_and_every_exit_code(mhim: Mhim) -> None:
    text = mhim("--help").out
    for name in FLOWS:
        assert f"mhim {name}" in text
    for code in set(ExitCode) - {ExitCode.DRIFT}:  # no command of these watches for drift
        assert f"{code.value} " in text


@pytest.mark.parametrize("word", sorted({name.split()[0] for name in FLOWS if " " in name}))
def test_help_of_a_group_lists_its_commands(mhim: Mhim, word: str) -> None:
    ended = mhim(word, "--help")
    assert ended.code == ExitCode.OK
    listed = [line for line in ended.out.splitlines() if line.startswith("  mhim ")]
    # below the help of a command of that name, which shows an example
    assert len(listed) == sum(name.startswith(f"{word} ") for name in FLOWS) + (word in FLOWS)


def test_help_may_be_asked_for_in_any_usual_way(mhim: Mhim) -> None:
    whole, train = mhim("--help"), mhim("train", "--help")
    assert mhim("-h") == mhim("help") == whole
    usual = ["help train", "train help", "--help train", "train -h", "train cohort=x bad --help"]
    for words in usual:
        assert mhim(*words.split()) == train
    assert mhim("store", "help") == mhim("store", "--help")
    assert mhim("model", "register", "help") == mhim("model", "register", "--help")
    assert mhim("train", "cohort=x", "help").code == ExitCode.BAD_INPUT
    assert mhim() == whole._replace(code=ExitCode.BAD_INPUT)


def test_the_version_is_one_line(mhim: Mhim) -> None:
    ended = mhim("--version")
    assert ended.code == ExitCode.OK
    assert ended.out.startswith("mhim ")
    assert ended.out.count("\n") == 1


def test_an_unknown_command_is_refused_with_a_suggestion(refused: Callable[..., str]) -> None:
    assert "'trian' (did you mean 'train'?)" in refused("trian", "cohort=x")


def test_a_mistyped_second_word_is_named_with_those_that_exist(refused: Callable[..., str]) -> None:
    message = refused("export", "geojsn", "run=x", "out=y")
    assert all(word in message for word in ("'geojsn'", "geojson", "heatmap"))
    assert "'geojsn'" not in refused("export", "form=clam")
    assert ", ".join(FLOWS) in refused("frobnicate")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("why"), 2),
        (ConfigError("why"), 2),
        (CohortError("why"), 2),
        (SplitError("why"), 2),
        (EncoderError("why"), 2),
        (ConflictError("why"), 5),
        (StorageError("why"), 6),
        (NotFoundError("why"), 6),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_on_purpose_is_its_sentence_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, mhim: Mhim, tmp_path: Path, error: MhimError, code: int
) -> None:
    monkeypatch.setattr("flows.check.run", _raises(error))
    assert mhim("check", "cohort=x") == (code, "", "mhim: why\n")
    assert not (tmp_path / "state").exists()
    debugged = mhim("check", "--debug", "cohort=x")
    assert debugged.code == code
    assert debugged.err.startswith("Traceback")
    assert debugged.err.endswith("mhim: why\n")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ZeroDivisionError("a bug\nof two lines"), "unexpected ZeroDivisionError: a bug"),
        (IntegrityError("x.parquet is damaged"), "x.parquet is damaged"),  # foreseen: named by its own words
        (MhimError("a node was lost"), "a node was lost"),
    ],
)
def test_an_unexpected_error_is_one_sentence_and_a_log_with_the_traceback(
    monkeypatch: pytest.MonkeyPatch, mhim: Mhim, tmp_path: Path, error: Exception, sentence: str
) -> None:
    monkeypatch.setattr("flows.check.run", _raises(error))
    ended = mhim("check", "cohort=x")
    (log,) = (tmp_path / "state/mhim").iterdir()
    assert ended == (1, "", f"mhim: {sentence}; the traceback is in {log}\n")
    assert "Traceback" in log.read_text()
    assert type(error).__name__ in log.read_text()


def test_warnings_of_other_libraries_go_to_a_log_and_not_to_the_terminal(tmp_path: Path) -> None:
    code = (
        "import logging, sys, warnings, flows.check, flows.cli\n"
        "def run(config):\n"
        "    warnings.warn('from a library')\n"
        "    logging.getLogger('some.library').warning('line of %s', 'another')\n"
        "    raise KeyboardInterrupt\n"
        "flows.check.run = run\n"
        "sys.exit(flows.cli.main(['check', 'cohort=x']))"
    )
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr.count("\n") == 1, "only the command's own line"
    log = tmp_path / "mhim/warnings.log"
    first, second = log.read_text().splitlines()
    assert "UserWarning: from a library" in first
    assert "WARNING some.library: line of another" in second
    assert log.stat().st_mode & 0o777 == 0o600


def test_where_no_state_folder_can_be_made_the_log_lies_in_the_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, mhim: Mhim, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr("flows.check.run", _raises(RuntimeError("a bug")))
    assert f"the traceback is in {tmp_path / 'tmp'}" in mhim("check", "cohort=x").err
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    assert mhim("check", "cohort=x").err.endswith("no log could be written: --debug prints the traceback\n")


def test_without_a_state_folder_of_its_own_the_user_s_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder() == tmp_path / ".local/state/mhim"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    assert state_folder() == tmp_path / "elsewhere/mhim"


def test_a_user_without_a_home_has_a_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", no_home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert state_folder().parent == tmp_path


@pytest.mark.fault(50)
def test_sigterm_ends_with_143_after_the_cleanup_which_a_second_one_does_not_cut_off(
    monkeypatch: pytest.MonkeyPatch, mhim: Mhim
) -> None:
    cleaned = []

    def terminate(config: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append(True)

    monkeypatch.setattr("flows.check.run", terminate)
    before = signal.getsignal(signal.SIGTERM)
    ended = mhim("check", "cohort=x")
    assert ended.code == 143
    assert "what was committed is kept; run the same command again" in ended.err
    assert ended.err.count("\n") == 1
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) is before


HANGING = """
import os, signal, sys, time
import flows.check, flows.cli, flows.engine.signals

def hang(config):
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        time.sleep(60)

flows.engine.signals.GRACE_S = 0.5
flows.check.run = hang
sys.exit(flows.cli.main(["check", "cohort=x"]))
"""


@pytest.mark.fault(50)
def test_a_cleanup_that_hangs_does_not_outlast_the_grace_period() -> None:
    child = subprocess.Popen([sys.executable, "-c", HANGING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child:
        assert child.stdout.readline() == "begun\n"
        child.terminate()
        _, message = child.communicate(timeout=30)
    assert child.returncode == 143
    assert message.startswith("mhim: ended by SIGTERM; what was committed is kept")


@pytest.mark.parametrize(("ignored", "code"), [(False, 130), (True, 143)])
def test_ctrl_c_is_obeyed_unless_the_parent_ignores_it_and_sigterm_always(ignored: bool, code: int) -> None:
    patient = HANGING.replace("    finally:\n        time.sleep(60)", "    finally:\n        pass")
    kind = signal.SIG_IGN if ignored else signal.SIG_DFL
    with _sigint(kind):
        child = subprocess.Popen([sys.executable, "-c", patient], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout is not None
    with child:
        assert child.stdout.readline() == b"begun\n"
        child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=0.5 if ignored else 30)
        child.terminate()
        assert child.wait(timeout=30) == code


@contextlib.contextmanager
def _sigint(kind: signal.Handlers) -> Iterator[None]:
    """What children that are started in the block do with SIGINT, whoever started the tests."""
    before = signal.signal(signal.SIGINT, kind)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_with_130_and_says_that_nothing_is_lost(monkeypatch: pytest.MonkeyPatch, mhim: Mhim) -> None:
    monkeypatch.setattr("flows.check.run", _raises(KeyboardInterrupt()))
    ended = mhim("check", "cohort=x")
    assert ended.code == 130
    assert "what was committed is kept" in ended.err
    assert ended.err.count("\n") == 1


def test_a_pipe_broken_elsewhere_is_no_interrupt(monkeypatch: pytest.MonkeyPatch, mhim: Mhim) -> None:
    monkeypatch.setattr("flows.check.run", _raises(BrokenPipeError("a socket")))
    assert mhim("check", "cohort=x").code == ExitCode.BUG


def test_a_reader_who_leaves_early_sees_no_traceback() -> None:
    code = "import sys, time; from flows.cli import main; time.sleep(0.5); sys.exit(main(['train', '--help']))"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    with child.stderr:
        assert child.stderr.read() == ""
    assert child.wait(timeout=30) == ExitCode.INTERRUPTED


def test_a_terminal_that_knows_ascii_alone_gets_help_and_errors() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    assert mhim_process("train", "--help", env=environment).returncode == ExitCode.OK
    process = mhim_process("check", "cohort=hôpital.csv", env=environment)
    assert process.returncode == ExitCode.BAD_INPUT
    assert process.stderr.endswith("h\\xf4pital.csv: there is no such file\n")


def _raises(error: BaseException) -> Callable[[Any], None]:
    def run(config: Any) -> None:
        raise error

    return run
