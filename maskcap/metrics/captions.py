"""Scores of generated captions: exact match, token F1, METEOR and CIDEr.

METEOR (Denkowski and Lavie, 2014) and CIDEr (Vedantam et al., 2015) are COCO's, from pycocoevalcap.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from maskcap.metrics.meteor import JavaError, Meteor, ptb_tokenize

log = logging.getLogger(__name__)

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_TAGS = re.compile(r"<p>\s*|\s*</p>|\s*\[SEG\]")


def without_tags(text: str) -> str:
    """A grounded answer's words: `<p> a dog </p> [SEG] sits.` → `a dog sits.`"""
    return " ".join(_TAGS.sub("", text).split())


def normalise_caption(text: str) -> str:
    """Lower case, spaces collapsed, ends stripped, one trailing period dropped: what "exact" compares."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def tokenize_plain(text: str) -> list[str]:
    """Words of the lower-cased text, without punctuation; hyphens and apostrophes inside a word stay."""
    return _WORD.findall(text.lower())


def exact_match(prediction: str, references: Iterable[str]) -> bool:
    """Whether the prediction equals any reference after `normalise_caption`."""
    return normalise_caption(prediction) in {normalise_caption(reference) for reference in references}


def token_f1(prediction: str, references: Iterable[str]) -> float:
    """Best F1 over the references of the two bags of words, 0..1; two texts without a word agree (1)."""
    return max(bag_f1(tokenize_plain(prediction), tokenize_plain(reference)) for reference in references)


def bag_f1(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of two bags of words, 0..1; two empty ones agree (1)."""
    if not prediction or not reference:
        return float(len(prediction) == len(reference))
    common = (Counter(prediction) & Counter(reference)).total()
    return 2 * common / (len(prediction) + len(reference))


class CaptionMetrics:
    """Collects captions of a split and scores them.

    meteor: False leaves METEOR out; a `Meteor` object is shared with other metrics and not closed by this one.
    cider:  False leaves CIDEr out.
    Without a working Java, METEOR is left out (not 0) and CIDEr uses `tokenize_plain`; one warning says so.
    """

    def __init__(self, meteor: bool | Meteor = True, cider: bool = True) -> None:
        self._owns_meteor = meteor is True
        self._meteor: Meteor | None = Meteor() if meteor is True else meteor or None
        self._cider = cider
        self._warned = False
        self.reset()

    def __len__(self) -> int:
        return len(self._predictions)

    def reset(self) -> None:
        """Forget the captions; METEOR's process stays."""
        self._predictions: list[str] = []
        self._references: list[tuple[str, ...]] = []
        self._synced = False

    def close(self) -> None:
        """Stop METEOR's process, if this object started it."""
        if self._meteor is not None and self._owns_meteor:
            self._meteor.close()

    def update(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Add N captions: `predictions` holds N strings, `references` one or more accepted captions for each.

        Raises ValueError when the lengths differ, or a caption has no reference or a bare string for its references.
        """
        if self._synced:
            raise RuntimeError("update() after sync(): the captions are already of all ranks; call reset() first")
        if len(predictions) != len(references):
            raise ValueError(f"{len(predictions)} predictions but {len(references)} lists of references")
        for index, accepted in enumerate(references):
            if isinstance(accepted, str) or not accepted:
                raise ValueError(f"references[{index}] must be a list of one or more captions, not {accepted!r}")
        self._predictions += predictions
        self._references += [tuple(accepted) for accepted in references]

    def merge(self, other: CaptionMetrics) -> None:
        """Add what another object has seen; the other is left as it is."""
        self._predictions += other._predictions
        self._references += other._references

    def sync(self) -> None:
        """Gather the captions of all ranks when torch.distributed is initialised; every rank must call it.

        Rank 0 then scores for all: every rank must call `compute`. A second call does nothing.
        """
        import torch.distributed as dist

        if self._synced or not (dist.is_available() and dist.is_initialized()):
            return
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, (self._predictions, self._references))
        self._predictions = [text for predictions, _ in parts for text in predictions]
        self._references = [accepted for _, references in parts for accepted in references]
        self._synced = True

    def compute(self) -> dict[str, float]:
        """`caption_exact`, `caption_f1`, `caption_meteor` in [0, 1] and `caption_cider` in [0, 10].

        Empty when no caption was seen. CIDEr weighs words by how rare they are in the split's references, so it is
        left out below two captions, where it is 0 by definition.
        """
        if not self._synced:
            return self._compute()
        import torch.distributed as dist

        scores = [self._compute() if dist.get_rank() == 0 else None]  # one Java process a run, not one a rank
        dist.broadcast_object_list(scores, src=0)
        return scores[0] or {}

    def _compute(self) -> dict[str, float]:
        count = len(self._predictions)
        if not count:
            return {}
        pairs = list(zip(self._predictions, self._references, strict=True))
        scores = {
            "caption_exact": sum(exact_match(p, r) for p, r in pairs) / count,
            "caption_f1": sum(token_f1(p, r) for p, r in pairs) / count,
        }
        if self._meteor is None and not self._cider:
            return scores
        predictions, references, java = self._tokenize()
        if self._meteor is not None and java:
            try:
                scores["caption_meteor"] = self._meteor.score(predictions, references)[0]
            except JavaError as error:
                self._warn("METEOR is left out", error)
        if self._cider and count > 1 and any(text for accepted in references for text in accepted):
            scores["caption_cider"] = _cider(predictions, references)
        return scores

    def _tokenize(self) -> tuple[list[str], list[list[str]], bool]:
        """Tokenized predictions and references, and whether Java did it."""
        texts = [text for group in (self._predictions, *self._references) for text in group]
        try:
            tokens, java = ptb_tokenize(texts), True
        except JavaError as error:
            left_out = "METEOR is left out; " if self._meteor is not None else ""
            cider = "CIDEr uses a plain tokenizer (not comparable with published numbers)" if self._cider else ""
            self._warn(left_out + cider, error)
            tokens, java = [" ".join(tokenize_plain(text)) for text in texts], False
        rest = iter(tokens[len(self._predictions) :])
        return tokens[: len(self._predictions)], [[next(rest) for _ in r] for r in self._references], java

    def _warn(self, consequence: str, error: JavaError) -> None:
        if not self._warned:
            log.warning("caption metrics: %s, because %s.", consequence.rstrip("; "), error)
        self._warned = True


def _cider(predictions: list[str], references: list[list[str]]) -> float:
    from pycocoevalcap.cider.cider import Cider

    true = dict(enumerate(references))
    score, _ = Cider().compute_score(true, {index: [text] for index, text in enumerate(predictions)})
    return float(score)
