"""The texts that a vision-language model is sent: all of them. With them go two montages of images, and nothing else.

Belongs here: wording, and which answers are usable. Which images are shown is `from_model.py`'s.
"""

from __future__ import annotations

import re

from clusterpaths.common.corrupted import parse_json

SYSTEM = (
    "You compare two groups of images that an image classifier told apart in one of its layers. Say what the images of a group "
    "have in common and the other group lacks: an object, a colour, a texture, a background, a pose, light. Describe only what "
    "can be seen. Do not guess who is shown. Answer with one JSON object and nothing else."
)
CLUSTER = (
    "The first image is a montage of group A, the second one of images that are not in A. What do the images of A have in "
    'common that the others lack? Answer {"name": "…"}, with a noun phrase of one to six words in English, such as '
    '"long blond hair" or "dark background". If you see no difference, answer {"name": "mixed"}.'
)
PAIR = (
    "The first image is a montage of group A, the second one of group B. The classifier treated both alike in all layers but "
    'one. What distinguishes them? Answer {"a": "…", "b": "…"}, each a noun phrase of one to six words in English: what A has '
    'and B lacks, and what B has and A lacks. If you see no difference, answer {"a": "mixed", "b": "mixed"}.'
)
ANSWER_TOKENS = 150  # at most, of one answer
LONGEST = 80  # characters of a name
_SILENT = {
    "a", "an", "and", "as", "at", "for", "from", "has", "have", "her", "his", "in", "is", "it", "its", "of", "on", "or", "that",
    "the", "their", "them", "they", "to", "with",
}  # fmt: skip


def read_answer(content: str, fields: tuple[str, ...]) -> tuple[str, ...] | None:
    """The names in an answer, one per field; None: it is a refusal, or not what was asked for.

    Of several JSON objects the last one counts: a model may think aloud before it answers.
    """
    for found in reversed(re.findall(r"\{[^{}]*\}", content)):
        try:
            answer = parse_json(found)
        except ValueError:
            continue
        names = tuple(_name(answer.get(field)) for field in fields)
        if all(names):
            return names
    return None


def _name(value: object) -> str:
    """Empty if it is no name: another type, too long, without letters."""
    if not isinstance(value, str):
        return ""
    text = " ".join("".join(c if c.isprintable() else " " for c in value).split()).strip(" .\"'")
    return text if len(text) <= LONGEST and any(c.isalpha() for c in text) else ""


def agreement(first: str, second: str) -> float:
    """Share of the words of two names that both have, 0 to 1 (Jaccard); articles and prepositions do not count."""
    one, other = _content(first), _content(second)
    return len(one & other) / len(one | other) if one | other else float(first == second)


def _content(text: str) -> frozenset[str]:
    words = re.findall(r"\w+", text.casefold())
    return frozenset(word.removesuffix("s") if len(word) > 3 else word for word in words if word not in _SILENT)
