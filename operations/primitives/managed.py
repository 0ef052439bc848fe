"""What tells a file of ours from anybody else's: its first line."""

# What it begins with, and the whole of it where nothing more is to be said.
MARK = "# Managed by the okome repository"
MANAGED = f"{MARK}; changes made here are lost."
