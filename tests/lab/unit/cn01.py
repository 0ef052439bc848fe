"""For tests of operations.primitives.unit: one unit, which --data names."""

from pyinfra import host

from operations.primitives.unit import unit

unit(name="The unit runs", unit=host.data.tried, patience=8)
