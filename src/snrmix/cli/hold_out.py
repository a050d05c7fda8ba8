"""``snrmix hold-out``."""

from snrmix.cli._section import section_command
from snrmix.cli._values import name_or_names

COMMAND = section_command("hold_out", ("pp", "hold_out"), values={"library": name_or_names})
