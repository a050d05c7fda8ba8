"""``snrmix embed``."""

from snrmix.cli._section import section_command

COMMAND = section_command("embed", ("pp", "embed_histology"))
