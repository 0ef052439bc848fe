"""gpu_mem in config.txt as nodes have it."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facts.config_txt import ConfigTxt, ConfigTxtState
from operations.services.config_txt import KEYS, OURS, holds, lines, read, with_gpu_memory

# Raspberry Pi OS trixie's, shortened.
PI = """dtparam=audio=on
dtoverlay=vc4-kms-v3d
[cm4]
otg_mode=1
[cm5]
dtoverlay=dwc2,dr_mode=host
[all]
enable_uart=1
"""


@pytest.mark.parametrize(
    ("before", "added"),
    [
        (PI, f"{OURS}\ngpu_mem=16\n"),
        ("", f"{OURS}\ngpu_mem=16\n"),
        ("arm_boost=1", f"\n{OURS}\ngpu_mem=16\n"),
        # A filter is open at the end; an empty line does not close it, another one does not either.
        ("[pi4]\narm_boost=1\n", f"{OURS}\n[all]\ngpu_mem=16\n"),
        ("[pi4]\n[all]\n[EDID=x]\n\n", f"{OURS}\n[all]\ngpu_mem=16\n"),
        ("[none]\n", f"{OURS}\n[all]\ngpu_mem=16\n"),
        # Said already, on every board.
        ("gpu_mem=16\n", ""),
        ("[pi4]\ngpu_mem=128\n[all]\ngpu_mem=16\n", ""),
        # Said for some boards, or not last, or only in a comment.
        ("[pi4]\ngpu_mem=16\n", f"{OURS}\n[all]\ngpu_mem=16\n"),
        ("gpu_mem=16\n[pi4]\ngpu_mem=128\n[all]\n", f"{OURS}\ngpu_mem=16\n"),
        ("gpu_mem=16\ngpu_mem=76\n", f"{OURS}\ngpu_mem=16\n"),
        ("#gpu_mem=16\n", f"{OURS}\ngpu_mem=16\n"),
        ("dtparam=gpu_mem=16\n", f"{OURS}\ngpu_mem=16\n"),
        # The one for this much RAM wins over the one without a number, wherever it stands.
        ("gpu_mem_1024=256\ngpu_mem=16\n", f"{OURS}\ngpu_mem=16\ngpu_mem_1024=16\n"),
        ("[pi4]\n  gpu_mem_512=64\n", f"{OURS}\n[all]\ngpu_mem=16\ngpu_mem_512=16\n"),
        ("gpu_mem_1024=16\ngpu_mem=16\n", ""),
        ("gpu_mem=128\r\n[all]\r\n", f"{OURS}\ngpu_mem=16\n"),
    ],
)
def test_ours_comes_last_on_every_board(before: str, added: str) -> None:
    after = with_gpu_memory(before, {}, 16)
    assert after == before + added
    assert with_gpu_memory(after, {}, 16) == after


@pytest.mark.parametrize(
    ("included", "added"),
    [
        ({"extra.txt": "gpu_mem=16\n"}, ""),
        ({"extra.txt": "[pi4]\n"}, f"{OURS}\n[all]\ngpu_mem=16\n"),
        (
            {"extra.txt": "include more.txt\n", "more.txt": "gpu_mem_1024=99"},
            f"{OURS}\ngpu_mem=16\ngpu_mem_1024=16\n",
        ),
        ({"extra.txt": "include extra.txt\ngpu_mem=99\n"}, f"{OURS}\ngpu_mem=16\n"),
        ({}, f"{OURS}\ngpu_mem=16\n"),
    ],
)
def test_what_is_included_is_read_in_its_place(included: dict[str, str], added: str) -> None:
    text = "[pi3]\n[all]\ninclude extra.txt\n"
    assert with_gpu_memory(text, included, 16) == text + added


def test_another_value_takes_the_place_of_ours() -> None:
    once = with_gpu_memory("[pi4]\ngpu_mem_1024=8\n", {}, 16)
    assert with_gpu_memory(once, {}, 32) == (
        f"[pi4]\ngpu_mem_1024=8\n[all]\n{OURS}\ngpu_mem=32\ngpu_mem_1024=32\n"
    )
    # What others have written below ours since stays under the [all] that they saw.
    assert with_gpu_memory(f"{once}dtparam=x\ngpu_mem=128\n", {}, 16) == (
        f"[pi4]\ngpu_mem_1024=8\n[all]\ndtparam=x\ngpu_mem=128\n{OURS}\ngpu_mem=16\ngpu_mem_1024=16\n"
    )


VALUES = [f"{key}={value}" for key in KEYS for value in (16, 99)]
LINES = st.sampled_from(["[all]", "[pi4]", "[EDID=x]", "dtparam=x", "", "# x", OURS, *VALUES])


@given(st.lists(LINES, max_size=12), st.booleans())
def test_any_file_ends_with_it_everywhere_and_keeps_the_rest(said: list[str], whole: bool) -> None:
    before = "\n".join(said) + ("\n" if whole else "")
    after = with_gpu_memory(before, {}, 16)
    found, _ = read(after, {})
    assert holds(found, "gpu_mem", "16")
    assert all(holds(found, one.key, "16") for one in found)
    assert with_gpu_memory(after, {}, 16) == after
    rest = [line for line in lines(before, {}) if line.startswith(("dtparam", "# x"))]
    assert [line for line in lines(after, {}) if line.startswith(("dtparam", "# x"))] == rest


def test_the_fact_finds_the_file_and_what_it_includes(tmp_path: Path) -> None:
    (tmp_path / "boot/firmware").mkdir(parents=True)
    (tmp_path / "boot/config.txt").write_text("DO NOT EDIT\n")
    (tmp_path / "boot/firmware/config.txt").write_text("include extra.txt\ninclude gone.txt\nno newline")
    (tmp_path / "boot/firmware/extra.txt").write_text("gpu_mem=64\n")

    def asked() -> ConfigTxtState:
        command = ConfigTxt().command().replace("/boot", f"{tmp_path}/boot")
        said = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, check=True, timeout=30
        ).stdout
        return ConfigTxt().process(said.splitlines())

    found = asked()
    assert found.path == f"{tmp_path}/boot/firmware/config.txt"
    assert found.text == "include extra.txt\ninclude gone.txt\nno newline"
    assert found.included == {"extra.txt": "gpu_mem=64\n"}
    (tmp_path / "boot/firmware/config.txt").unlink()
    assert asked().path == f"{tmp_path}/boot/config.txt"
    (tmp_path / "boot/config.txt").unlink()
    assert asked() == ConfigTxtState()
