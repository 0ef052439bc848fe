"""For tests of operations.primitives.unit: one unit, which UNIT names."""

import os

from operations.primitives.unit import unit

unit(name="The unit runs", unit=os.environ["UNIT"], patience=8)
