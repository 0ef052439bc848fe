"""CN01, the backend: a fresh, a half-configured or a finished node becomes, or stays, the finished one."""

from operations.roles import role

role("backends")
