"""Phase 2: what a frontend does while the orchestrator is away, and what can be seen of it."""

from pyinfra import host
from pyinfra.api import deploy

from operations.primitives.config_set import config_set
from operations.primitives.overrides import prevailing
from operations.primitives.packages import packages
from operations.primitives.unit import unit
from operations.services import exporters
from operations.services.hit_ratio import HIT_RATIO
from operations.services.probe import PROBE


@deploy("Failover and observability")
def failover() -> None:
    """The probe whose flags nginx looks for, the cache's hit ratios, nginx's own numbers."""
    probe = prevailing(PROBE)
    config_set(name="Health probe", config=probe)
    unit(name=f"{host.data.orchestrator} is probed", unit="okome-probe", restarted_if=probe)

    hit_ratio = prevailing(HIT_RATIO)
    config_set(name="Hit ratio", config=hit_ratio)
    unit(name="Hits are counted", unit="okome-hitratio.timer", restarted_if=hit_ratio)

    # Before the package, which would listen everywhere.
    exporter = prevailing(exporters.NGINX)
    config_set(name="nginx exporter", config=exporter)
    packages(name="nginx exporter's package", names=exporters.PACKAGES)
    unit(name="nginx's numbers are exported", unit="prometheus-nginx-exporter", restarted_if=exporter)
