from difflib import get_close_matches


def listing(names, most: int = 10) -> str:
    """Write names for an error message, the first few of many."""
    names = [str(name) for name in names]
    if not names:
        return "none"
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"


def closest(name, names) -> str:
    """Suggest the names that look like a misspelt one: empty where there is none."""
    found = get_close_matches(str(name), [str(n) for n in names], n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(n) for n in found)}?" if found else ""


def in_short(error: Exception) -> str:
    """The first words of an error, as a sentence on one line."""
    words = " ".join(str(error).split())
    return f"{words[:300]} ..." if len(words) > 300 else f"{words.rstrip('.')}."
