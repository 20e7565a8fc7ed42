"""What loops need of the training data, asked before a fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from maskcap.errors import ConfigError
from maskcap.loops.base import Loop

log = logging.getLogger(__name__)


def check_words(loops: Mapping[str, Loop], datamodule: Any, idle: Mapping[str, Loop] | None = None) -> None:
    """Raises ConfigError when no training source has the words that a loop needs, or no loop can use a source.

    loops: those with a weight; idle: those without, for the message. Warns of a cycle that has nothing to learn from.
    """
    if datamodule is None or not hasattr(datamodule, "has_phrases"):
        return
    having = {
        "captions": datamodule.has_captions("train"),
        "phrases": datamodule.has_phrases("train"),
        "turns": datamodule.has_turns("train"),
    }
    sources = list(having["captions"])
    for name, loop in loops.items():
        if loop.needs is not None and not any(having[loop.needs].values()):
            raise ConfigError(f"loop {name} needs {_WORDS[loop.needs]}; {_advice(having, sources)}")
    useless = [s for s in sources if not any(loop.needs is None or having[loop.needs][s] for loop in loops.values())]
    if useless:
        could = [
            n for n, loop in (idle or {}).items() if loop.needs is None or any(having[loop.needs][s] for s in useless)
        ]
        unused = f" (loops {could} have weight 0 and only validate)" if could else ""
        raise ConfigError(
            f"loops {list(loops)} need words that not every source has{unused}; {_advice(having, useless)}"
        )
    for name, loop in loops.items():
        if loop.wordless and all(having["captions"].values()):
            log.warning(
                "loop %s learns from regions without captions, and every training source %s has captions: where all of "
                "their regions do, it learns nothing. Add a source without, or say loops.%s.regions=all, or weight=0",
                name,
                sources,
                name,
            )


_WORDS = {
    "captions": "captions",
    "phrases": "phrases, captions that single their region out",
    "turns": "conversations",
}


def _advice(having: Mapping[str, Mapping[str, bool]], sources: Sequence[str]) -> str:
    if any(having["turns"][source] for source in sources):
        return f"data source(s) {list(sources)} have conversations: use loops=dialogue or loops=all"
    if any(having["captions"][source] for source in sources):
        return (
            f"the captions of data source(s) {list(sources)} are none (yes or no, a class, an answer): use "
            "loops=mask_to_caption, or add a source with phrases"
        )
    return (
        f"data source(s) {list(sources)} have no captions: use loops=cycle with a captioned source beside, or "
        "loops=prompt_to_mask, for masks without words; or leave these sources out"
    )
