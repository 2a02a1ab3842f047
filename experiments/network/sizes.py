"""Bytes for a reader."""

__all__ = ["size"]

UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def size(count: float) -> str:
    """Bytes to three digits, in the largest unit that is not below one."""
    scale, unit = next((u for u in UNITS if float(f"{count:.3g}") >= u[0]), (1, "B"))
    shown = count / scale
    return f"{shown:.3g} {unit}" if shown < 999.5 else f"{shown:,.0f} {unit}"
