"""The pure parts of phase 0: what nodes answered, and the hardened mount table."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facts.fstab import FstabState, objections
from facts.fstab import parse as parse_fstab
from facts.machine import parse as parse_machine
from facts.packages import PackageState, UpgradeState, parse, parse_upgrade
from operations.primitives.clock import is_wrong
from operations.services.fstab import MARK, TMP, hardened, look
from operations.services.machine import findings

PI = """\
proc            /proc           proc    defaults          0       0
PARTUUID=4e639091-01  /boot/firmware  vfat    defaults          0       2
PARTUUID=4e639091-02  /               ext4    defaults,noatime  0       1
# a swapfile is not a swap partition, no line here
"""


def test_machine_with_everything() -> None:
    said = [
        "release debian bookworm",
        "virtualization none",
        "sudo ",
        "cloud-init yes",
        "resolved yes",
        "clock 1000",
        "synchronised no",
    ]
    assert parse_machine(said, 1060.5) == {
        "ahead": -60.5,
        "synchronised": False,
        "sudo": "",
        "release": "debian bookworm",
        "virtualization": "none",
        "cloud_init": True,
        "resolved": True,
    }


def test_a_machine_that_lacks_the_rest() -> None:
    found = parse_machine(["release debian trixie", "virtualization systemd-nspawn", "sudo ", "clock 7"], 7)
    assert (found["cloud_init"], found["resolved"]) == (False, False)
    assert findings(found, "ncadmin") == []


@pytest.mark.parametrize(
    ("sudo", "release", "said"),
    [
        ("sudo: a password is required", "debian trixie", ["`ncadmin ALL=(ALL) NOPASSWD: ALL`"]),
        ("sudo: sorry, you must have a tty to run sudo", "debian trixie", ["`Defaults:ncadmin !requiretty`"]),
        ("sh: 1: sudo: not found", "debian trixie", ["ncadmin can't become root: sh: 1: sudo: not found"]),
        ("sudo: a password is required", "debian bullseye", ["NOPASSWD", "it runs debian bullseye"]),
    ],
)
def test_what_a_machine_has_to_be(sudo: str, release: str, said: list[str]) -> None:
    found = findings(
        parse_machine([f"release {release}", "virtualization none", f"sudo {sudo}", "clock 7"], 7), "ncadmin"
    )
    assert len(found) == len(said)
    assert all(part in sentence for part, sentence in zip(said, found, strict=True))


@pytest.mark.parametrize(
    ("ahead", "synchronised", "virtualization", "wrong"),
    [
        (-86400 * 200, False, "none", True),
        (3600, False, "none", True),
        (-60, False, "none", False),
        (61, False, "none", True),
        (-86400, True, "none", False),  # its own time is better than the operator's
        (-86400, False, "systemd-nspawn", False),
        (-86400, False, "kvm", False),
    ],
)
def test_when_a_clock_is_set(ahead: float, synchronised: bool, virtualization: str, wrong: bool) -> None:
    assert is_wrong(ahead, synchronised, virtualization) is wrong


def test_packages_between_unpack_and_configure() -> None:
    said = ["unpacked logrotate", "config-files redis-server", "installed systemd-timesyncd", "broken"]
    assert parse(said) == PackageState(frozenset({"systemd-timesyncd"}), broken=True)


def test_upgrade_as_apt_simulates_it() -> None:
    said = [
        "Inst libc6 [2.36-9+deb12u10] (2.36-9+deb12u13 Debian:12.12/oldstable [arm64]) []",
        "Inst openssl [3.0.16-1~deb12u1] (3.0.17-1~deb12u2 Debian-Security:12/oldstable-security [arm64])",
        "age 7210",
        "required",
        "running 6.12.25+rpt-rpi-v8",
    ]
    assert parse_upgrade(said) == UpgradeState(("libc6", "openssl"), 7210, "/run/reboot-required exists")
    assert parse_upgrade([]) == UpgradeState((), None, None)


@pytest.mark.parametrize(
    ("running", "images", "newer"),
    [
        ("6.12.25+rpt-rpi-v8", ["6.6.51+rpt-rpi-v8", "6.12.25+rpt-rpi-v8"], None),
        (
            "6.6.51+rpt-rpi-v8",
            ["6.6.51+rpt-rpi-v8", "6.12.25+rpt-rpi-v8", "6.12.34+rpt-rpi-2712"],
            "6.12.25+rpt-rpi-v8",
        ),
        ("6.1.0-9-amd64", ["6.1.0-9-amd64", "6.1.0-25-amd64", "6.12.0-1-cloud-amd64"], "6.1.0-25-amd64"),
        ("6.1.0-25-amd64", ["6.1.0-25-amd64", "6.1.0-9-amd64"], None),
        ("6.12.74+deb13+1-amd64", ["6.12.74+deb13+1-amd64", "6.12.9+deb13-amd64"], None),
        ("6.18.44-fc-v657", [], None),
        ("", ["6.1.0-25-amd64"], None),
    ],
)
def test_kernel_that_waits_for_a_reboot(running: str, images: list[str], newer: str | None) -> None:
    found = parse_upgrade([f"running {running}", *(f"image {image}" for image in images)])
    assert found.reboot == (f"the kernel {newer} is installed and not running" if newer else None)


def test_fstab_keeps_every_byte_on_its_way() -> None:
    said = ["=" + base64.b64encode(text.encode()).decode() for text in (PI, "")]
    assert parse_fstab(said) == FstabState(PI, "")


# What util-linux 2.38 prints.
FINDMNT = [
    "/data",
    "   [E] unreachable on boot required target: No such file or directory",
    "   [W] unreachable source: /dev/nonsuch: No such file or directory",
    "",
    "0 parse errors, 1 error, 1 warning",
]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (FINDMNT, ["/data: unreachable on boot required target: No such file or directory"]),
        (
            [
                "findmnt: /etc/fstab: parse error at line 2 -- ignored",
                "",
                "1 parse error, 0 errors, 0 warnings",
            ],
            ["/etc/fstab: parse error at line 2 -- ignored"],
        ),
        (["", "Success, no errors or warnings detected"], []),
    ],
)
def test_what_findmnt_objects_to(said: list[str], found: list[str]) -> None:
    assert objections(said) == found


def test_a_table_is_judged_before_it_is_to_be_hardened() -> None:
    assert look({"fstab_hardened": False}).questions == ()
    assert look({"fstab_hardened": False}).findings() == []
    assert look({"fstab_hardened": True}).findings(["/data: why"]) == [
        "findmnt --verify objects to /etc/fstab: /data: why: mend that, or leave fstab_hardened off"
    ]


def test_hardened_fstab_of_a_pi() -> None:
    lines = hardened(PI).splitlines()
    assert lines[0] == MARK
    assert lines[1:3] == PI.splitlines()[:2]
    assert lines[3].split() == ["PARTUUID=4e639091-02", "/", "ext4", "defaults,noatime,commit=60", "0", "1"]
    assert lines[4:] == [PI.splitlines()[3], TMP]


def test_what_is_noted_behind_an_entry_stays() -> None:
    table = "/dev/sda2 / ext4 defaults 0 1 # the card\n\t# /dev/sdb1 /srv ext4 ro 0 2\n/srv/a#b /c ext4 ro # x y\n"
    assert hardened(table).splitlines()[1:-1] == [
        "/dev/sda2\t/\text4\tdefaults,noatime,commit=60\t0\t1\t# the card",
        "\t# /dev/sdb1 /srv ext4 ro 0 2",
        "/srv/a#b\t/c\text4\tro,noatime,commit=60\t# x y",
    ]
    assert (
        hardened("# tmpfs /tmp tmpfs\n/dev/sda1 /tmp ext4 defaults 0 0 # /tmp\n").count(
            "tmpfs /tmp tmpfs nosuid"
        )
        == 0
    )


def test_a_tmp_of_its_own_stays() -> None:
    own = "tmpfs /tmp tmpfs size=2G 0 0\n"
    assert hardened(own) == f"{MARK}\n{own}"


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("Zl", "Zp", "Cc"))), max_size=8))
def test_hardening_twice_is_hardening_once(lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    assert hardened(hardened(text)) == hardened(text)


@given(
    st.sampled_from(
        ["defaults", "rw,relatime", "commit=5", "noatime,commit=60,errors=remount-ro", "atime,commit=1"]
    )
)
def test_every_ext4_gets_both_options_once(options: str) -> None:
    root = hardened(f"/dev/sda2 / ext4 {options} 0 1").splitlines()[1].split()[3].split(",")
    assert root.count("noatime") == 1
    assert [option for option in root if option.startswith("commit=")] == ["commit=60"]
    assert not {"relatime", "atime"} & set(root)
