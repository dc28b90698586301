"""What is said wherever one subject lies on both sides of a split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def leakage_text(found: Mapping[str, Any]) -> str:
    """The warning that comes first in every result.

    >>> leakage_text({"groups": 12, "of": 13})
    'LEAKAGE: 12 of 13 groups of the test set were also seen in training: scores tell how well they are recognised.'
    """
    return (
        f"LEAKAGE: {found['groups']} of {found['of']} groups of the test set were also seen in training: "
        "scores tell how well they are recognised."
    )
