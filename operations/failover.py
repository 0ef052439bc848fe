"""Phase 2: what a frontend does while the orchestrator is away, and what can be seen of it."""

from pathlib import PurePosixPath

from pyinfra import host
from pyinfra.api import deploy

from operations.config_set import ConfigFile, ConfigSet, config_set
from operations.nginx import FULL_FLAG, PROBE_FLAG
from operations.packages import packages
from operations.unit import unit

PROBE = ConfigSet(
    files=(
        ConfigFile("/usr/local/lib/okome/probe.py", mode="755"),
        ConfigFile("/etc/systemd/system/okome-probe.service"),
    ),
    check="systemd",
    values={
        "probe_flag": PROBE_FLAG,
        "full_flag": FULL_FLAG,
        "probe_directory": str(PurePosixPath(PROBE_FLAG).parent.relative_to("/run")),
    },
)
HIT_RATIO = ConfigSet(
    files=(
        ConfigFile("/usr/local/lib/okome/hitratio.py", mode="755"),
        ConfigFile("/usr/local/bin/okome-hitratio", mode="755"),
        ConfigFile("/etc/systemd/system/okome-hitratio.service"),
        ConfigFile("/etc/systemd/system/okome-hitratio.timer"),
    ),
    check="systemd",
)
EXPORTER = ConfigSet(
    files=(ConfigFile("/etc/systemd/system/prometheus-nginx-exporter.service.d/okome.conf"),),
    check="systemd",
)


@deploy("Failover and observability")
def failover() -> None:
    """The probe whose flags nginx looks for, the cache's hit ratios, nginx's own numbers."""
    config_set(name="Health probe", config=PROBE)
    unit(name=f"{host.data.orchestrator} is probed", unit="okome-probe", restarted_if=PROBE)

    config_set(name="Hit ratio", config=HIT_RATIO)
    unit(name="Hits are counted", unit="okome-hitratio.timer", restarted_if=HIT_RATIO)

    # Before the package, which would listen everywhere.
    config_set(name="nginx exporter", config=EXPORTER)
    packages(name="nginx exporter's package", names=["prometheus-nginx-exporter"])
    unit(name="nginx's numbers are exported", unit="prometheus-nginx-exporter", restarted_if=EXPORTER)
