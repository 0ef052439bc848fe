"""CN00, the frontend: a fresh, a half-configured or a finished node becomes, or stays, the finished one."""

from operations.basic_setup import frontend
from operations.failover import failover
from operations.foundation import foundation

foundation()
frontend()
failover()
