"""`mhim encoders`, the documents' tables of encoders, and `encoder=` of a published name or of one's own file."""

import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.config.flat import from_keys, keys_of
from flows.config.keys import EncoderFiles, EncoderKeys
from mhim_core.embed.listing import HEADINGS, markdown_lines, rows
from mhim_core.embed.own_file import OwnFile
from mhim_core.embed.preset import all_presets
from mhim_core.embed.registry import ENCODER_NAMES
from mhim_core.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_every_encoder_is_listed_once_with_what_it_needs(mhim: Callable[..., Any]) -> None:
    ended = mhim("encoders")
    assert ended.code == 0, ended
    lines = ended.out.splitlines()
    assert lines[0].split() == [word for heading in HEADINGS for word in heading.split()]
    assert sorted(line.split()[0] for line in lines[1 : 1 + len(rows())]) == sorted(ENCODER_NAMES)
    (uni2,) = [line.split() for line in lines if line.startswith("uni2-h ")]
    assert uni2[1:4] == ["1536", "0.5", "256"]
    assert "CC-BY-NC-ND-4.0" in uni2
    assert uni2[-1] == "no"


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_the_detail_of_an_encoder_names_it(mhim: Callable[..., Any], name: str) -> None:
    ended = mhim("encoders", name)
    assert (ended.code, ended.out.startswith(name)) == (0, True)
    if name in all_presets():
        preset = all_presets()[name]
        for fact in (preset.page, preset.licence, preset.revision, preset.timm_model, f"{preset.num_params:,}"):
            assert fact in ended.out
        assert ("HF_TOKEN" in ended.out) == preset.gated


def test_an_unknown_name_is_exit_2(mhim: Callable[..., Any]) -> None:
    for name, hint in (
        ("uni2h", "did you mean uni2-h?"),
        ("resnet", "timm/resnet"),
        ("UNI2-H", "did you mean uni2-h?"),
    ):
        ended = mhim("encoders", name)
        assert ended.code == 2
        assert hint in ended.err


def test_the_list_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from flows.cli import main\n"
        "assert main(['encoders']) == 0 and main(['encoders', 'virchow2']) == 0\n"
        "heavy = {'torch', 'timm', 'numpy', 'ray', 'openvino'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)


def test_the_table_of_the_page_is_that_of_the_registry() -> None:
    page = (ROOT / "docs/encoders.md").read_text(encoding="utf-8")
    assert "\n".join(markdown_lines()) in page


def test_the_readme_names_every_encoder_and_no_other() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("\n## Encoders\n")[2].partition("\n## ")[0]
    table = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`([^`]+)`", "".join(table))) == sorted(ENCODER_NAMES)


def test_a_file_that_is_run_can_be_named_by_hand_alone() -> None:
    for kind in (EncoderFiles, EncoderKeys):
        keys = keys_of(kind)
        assert keys["encoder_file"].harmless == ()
        assert keys["encoder_weights"].harmless is None
    assert from_keys(EncoderFiles, encoder_file="a.ts").weights_of("own") == OwnFile(path="a.ts")
    words = {"encoder": "own", "encoder_file": "a.ts", "own_input_px": 96, "own_mean": "0,0,0", "own_std": "1,1,1"}
    expected = OwnFile(path="a.ts", input_px=96, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert from_keys(EncoderKeys, **words).weights_of("own") == expected


@pytest.mark.parametrize(
    "words",
    [
        {"encoder": "own"},
        {"encoder_file": "a.ts"},
        {"encoder": "own", "encoder_file": "a.ts", "encoder_weights": "w.pth"},
        {"encoder": "own", "encoder_file": "a.ts", "own_mean": "0.5"},
        {"encoder": "own", "encoder_file": "a.ts", "own_std": "1,1,0"},
        {"encoder": "own", "encoder_file": "a.ts", "own_std": "1,1,nan"},
        {"encoder": "own", "encoder_file": "a.ts", "own_input_px": 0},
    ],
)
def test_keys_of_an_own_file_that_do_not_fit_are_refused(words: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        from_keys(EncoderKeys, **words)


def test_an_own_file_is_loaded_and_tried_out(mhim: Callable[..., Any], tmp_path: Path) -> None:
    import torch
    from torch import nn

    network = nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own older formats
        torch.jit.trace(network, torch.zeros(1, 3, 32, 32)).save(str(tmp_path / "model.ts"))
    words = ("doctor", "start_ray=false", "encoder=own", "own_input_px=32")
    ended = mhim(*words, f"encoder_file={tmp_path / 'model.ts'}")
    assert ended.code == 0, ended
    assert "own (D=6) is loaded" in ended.out
    assert mhim(*words, f"encoder_file={tmp_path / 'gone.ts'}").code == 2


def test_a_scale_that_an_encoder_was_not_trained_at_is_told_once(
    mhim: Callable[..., Any], write_slide: Callable[..., Path], write_table: Callable[..., Path], tmp_path: Path
) -> None:
    slide = write_slide("a.tiff")
    cohort = write_table([{"slide_id": "a", "path": slide.name, "patient_id": "p", "label": "x"}])
    words = ("embed", f"cohort={cohort}", f"store={tmp_path / 'store'}", "gpus_per_actor=0")
    words += ("encoder=uni2-h", "encoder_weights=gone.pth")
    for target_mpp, times in ((1.0, 1), (0.5, 0)):
        ended = mhim(*words, f"target_mpp={target_mpp}")
        assert (ended.code, ended.out.count("warning: target_mpp=")) == (2, times)
