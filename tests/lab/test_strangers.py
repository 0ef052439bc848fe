"""Nodes as their owners had them, their network aside: what greets, what is half written, who is at work."""

import pytest

from tests.lab.conftest import Lab
from tests.lab.runs import assert_no_change, deploy_held_up

# A login shell that says something before every command, a file-creation mask and a locale of its owner's, and a sudo
# that prints a lecture on stdout, before the command and after it, and leaves a PATH without sbin.
GREETINGS = r"""
set -e
sed -i '1i printf "J\\374rgen\\n"' /home/ncadmin/.bashrc  # in Latin-1
sed -i '1i echo Welcome to the cache box\nprintf "no newline at the end"\numask 077' /home/ncadmin/.bashrc
echo LC_ALL=de_DE.UTF-8 >> /etc/environment
sed -i '/secure_path/d' /etc/sudoers
printf '#!/bin/sh\necho We trust you have received\necho the usual lecture.\n' > /usr/local/bin/lecture
chmod 755 /usr/local/bin/lecture
echo 'session optional pam_exec.so stdout /usr/local/bin/lecture' >> /etc/pam.d/sudo
"""
HOSTS = "127.0.0.1 localhost\n192.168.86.30\tgpu-box"
CONFIG_TXT = "dtparam=audio=on\n[pi4]\ngpu_mem=128\narm_boost=1"
FILES = rf"""
set -e
printf '{HOSTS}' > /etc/hosts
mkdir -p /boot/firmware && printf '{CONFIG_TXT}' > /boot/firmware/config.txt
"""
UNREADABLE = "/etc/apt/sources.list.d/nobody.list"
# Repositories: one whose Release nobody signed, in both of apt's formats, one that has expired, one that is away; and a
# package whose configuration ends when it is told.
REPOSITORY = r"""
set -e
mkdir -p /srv/third /srv/slow/DEBIAN && cd /srv/third && : > Packages
printf 'Origin: third\nSHA256:\n %s 0 Packages\n' "$(sha256sum < Packages | cut -c -64)" > Release
echo 'deb file:/srv/third ./' > /etc/apt/sources.list.d/third.list
cp -r /srv/third /srv/fourth; cp -r /srv/third /srv/old
printf 'Types: deb\nURIs: file:/srv/fourth\nSuites: ./\n' > /etc/apt/sources.list.d/fourth.sources
sed -i '1i Date: Thu, 01 Jan 2015 00:00:00 UTC\nValid-Until: Fri, 02 Jan 2015 00:00:00 UTC' /srv/old/Release
echo 'deb [trusted=yes] file:/srv/old ./' > /etc/apt/sources.list.d/old.list
echo 'deb [trusted=yes] http://127.0.0.1:9 ./' > /etc/apt/sources.list.d/away.list
printf 'Package: slow\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: slow\n' \
    > /srv/slow/DEBIAN/control
mkfifo /srv/go
printf '#!/bin/sh\ntouch /srv/configuring; cat /srv/go\n' > /srv/slow/DEBIAN/postinst
chmod 755 /srv/slow/DEBIAN/postinst
dpkg-deb -b /srv/slow /srv/slow.deb
"""


WARNED = (
    "The repository 'file:/srv/third ./ Release' is not signed",
    "The repository 'file:/srv/fourth ./ Release' is not signed",
    "Release file for file:/srv/old/./Release is expired",
    "http://127.0.0.1:9 ./ InRelease: Could not connect to 127.0.0.1:9",
)
# A clock that nobody has set, and a node that is none of a container's: `date` is in front of the real one, since a
# container may set no clock. It notes whether apt has been at work before.
CLOCK = r"""
set -e
echo -86400 > /srv/ahead
cat > /usr/local/sbin/date <<'END'
#!/bin/sh
case "$*" in
    *--set=@*)
        for word; do case $word in --set=@*) echo $((${word#--set=@} - $(/usr/bin/date +%s))) > /srv/ahead ;; esac; done
        test ! -e /var/lib/okome/lists-fetched && echo "before apt" >> /srv/set ;;
    +%s) echo $(($(/usr/bin/date +%s) + $(cat /srv/ahead))) ;;
    *) exec /usr/bin/date "$@" ;;
esac
END
printf '#!/bin/sh\necho none\n' > /usr/local/sbin/systemd-detect-virt
printf '#!/bin/sh\necho no\n' > /usr/local/sbin/timedatectl
chmod 755 /usr/local/sbin/*
mkdir -p /etc/systemd/system/systemd-timesyncd.service.d
printf '[Unit]\nConditionVirtualization=\n[Service]\nType=exec\nExecStart=\nExecStart=sleep infinity\n' \
    > /etc/systemd/system/systemd-timesyncd.service.d/container.conf
systemctl daemon-reload
"""


@pytest.fixture(scope="module")
def node(lab: Lab) -> Lab:
    """One node with all of it, deployed once."""
    address = lab.fresh()
    for preparation in (GREETINGS, FILES, REPOSITORY, CLOCK):
        lab.execute("sh", "-c", preparation)
    lab.execute("sh", "-c", f"echo deb of nobody > {UNREADABLE}")
    refused = lab.deploy(address=address)
    assert refused.status == 1
    assert f"apt can install nothing: Malformed entry 1 in list file {UNREADABLE}" in refused.output
    assert "Starting operation" not in refused.output
    lab.execute("rm", UNREADABLE)
    assert lab.deploy("--dry", address=address).status == 0
    lab.execute("systemd-run", "--quiet", "--unit=slow", "apt-get", "-qy", "install", "/srv/slow.deb")
    lab.execute("sh", "-c", "until test -e /srv/configuring; do sleep 0.2; done")
    run = deploy_held_up(
        lab, "/var/lib/dpkg/lock-frontend", lambda: lab.execute("sh", "-c", "echo >/srv/go"), address
    )
    assert (run.status, run.errors) == (0, 0), run.output
    assert "Traceback" not in run.output
    for warning in WARNED:
        assert f"apt leaves out a repository: {warning}" in run.output, run.output
    return lab


def test_nothing_of_others_is_lost(node: Lab) -> None:
    assert node.execute("cat", "/etc/hosts") == f"{HOSTS}\n127.0.1.1\tCN01\n"
    lines = node.execute("cat", "/boot/firmware/config.txt").splitlines()
    assert lines[:4] == CONFIG_TXT.splitlines()
    assert lines[-2:] == ["[all]", "gpu_mem=16"]
    assert node.execute("cat", "/var/lib/okome/replaced/boot/firmware/config.txt") == CONFIG_TXT


def test_an_apt_at_work_is_waited_for(node: Lab) -> None:
    """The node's fixture has seen that; here is that nothing of ours came before its end, nor took it for broken."""
    lines = node.execute("cat", "/var/log/dpkg.log").splitlines()
    done = [" ".join(line.split()[2:]) for line in lines]  # the first two are date and time
    slow = [line.partition(" slow:")[0] for line in done if " slow:" in line]
    assert slow.count("configure") == 1
    after = done[done.index("status installed slow:all 1") :]
    ours = [line for line in done if line.startswith("install redis-server:")]
    assert ours
    assert set(ours) <= set(after)


def test_a_clock_that_nobody_has_set_is_set_before_apt_is_asked(node: Lab) -> None:
    assert node.execute("cat", "/srv/set") == "before apt\n"
    assert abs(int(node.execute("cat", "/srv/ahead"))) < 60


def test_the_mask_of_the_operator_is_not_that_of_our_folders(node: Lab) -> None:
    assert node.execute("stat", "-c", "%a", "/var/lib/okome").strip() == "755"


def test_second_run_and_one_after_a_reboot_change_nothing(node: Lab) -> None:
    assert_no_change(node.deploy())
    node("power", "cn01", "reboot")
    assert_no_change(node.deploy())


def test_everything_that_is_in_the_way_is_said_at_once(node: Lab) -> None:
    """By a dry run too; the other node's turn is not over because of it."""
    node.execute("systemctl", "stop", "redis-server")
    node.execute("systemd-run", "--quiet", "--unit=other", "python3", "-m", "http.server", "6379")
    try:
        for words in (("--dry",), ()):
            run = node.deploy("--data", "redis_maxmemory=900gb", *words)
            assert run.status == 1
            assert "Traceback" not in run.output
            assert "redis_maxmemory = '900gb' does not fit" in run.output
            assert "taken by python3" in run.output
            assert "Starting operation" not in run.output
    finally:
        node.execute("systemctl", "stop", "other")
        node.execute("systemctl", "start", "redis-server")


def test_sudo_that_wants_a_terminal(node: Lab) -> None:
    node.execute("sh", "-c", "echo 'Defaults requiretty' > /etc/sudoers.d/tty")
    try:
        run = node.deploy()
        assert run.status == 1
        assert "sudo wants a terminal" in run.output
    finally:
        node.execute("rm", "/etc/sudoers.d/tty")


def test_a_frontend_whose_operator_has_fish(lab: Lab) -> None:
    lab("power", "cn01", "off", check=False)
    address = lab.fresh(node="cn00")
    lab.execute(
        "sh", "-c", "apt-get -q update && apt-get -qy --no-install-recommends install fish", node="cn00"
    )
    lab.execute(
        "sh", "-c", "echo 'echo Welcome' >> /etc/fish/config.fish; chsh -s /usr/bin/fish ncadmin", node="cn00"
    )
    first = lab.deploy(deploy="deploys/cn00.py", address=address)
    assert (first.status, first.errors) == (0, 0), first.output
    assert_no_change(lab.deploy(deploy="deploys/cn00.py"))
