"""Names into trait keys (DESIGN, "Keys")."""

from __future__ import annotations

import unicodedata

from anyascii import anyascii


def snake_key(name: str) -> str:
    """The trait key of a name: `Order Completed Last 30days` → `order_completed_last_30days`.

    Word boundaries are found in the name as written, before letters are folded to ASCII, because one
    letter may fold to several (`Щ` → `Shch`) whose case says nothing about words. Letters and digits are
    never split. Empty when the name holds no letter or digit.
    """
    words = [""]
    before = ""
    for char in unicodedata.normalize("NFC", name):
        kind = unicodedata.category(char)
        if kind.startswith("M"):
            continue
        folded = "".join(c for c in anyascii(char).lower() if c.isalnum()) if kind[0] in "LN" else ""
        if not folded or (kind in ("Lu", "Lt") and before in ("Ll", "Nd")):
            words.append("")
        words[-1] += folded
        before = kind
    return "_".join(word for word in words if word)
