"""``snrmix fill-grid``."""

from snrmix.cli._section import section_command

COMMAND = section_command("fill_grid", ("pp", "fill_grid"))
