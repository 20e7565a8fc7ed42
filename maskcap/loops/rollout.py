"""Rolling out pseudo captions: what the model says of regions now, token by token, without gradient.

Shapes: r regions, A tokens of their captions, C the language model's width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from maskcap.errors import SequenceTooLongError
from maskcap.models.conversation import Tokens
from maskcap.models.reference import evaluating
from maskcap.models.segments import RegionTokens
from maskcap.models.transfer import to_device

if TYPE_CHECKING:
    from maskcap.models.encoded import EncodedImages
    from maskcap.models.gumbel import TokenChoice
    from maskcap.models.mask_caption import MaskCaptionModel
    from maskcap.models.vlm.interface import Generated


@dataclass(frozen=True)
class Rolled:
    """What was said of r regions.

    encoded: their images alone, without gradient; mask1 (r, H, W); images: the place of each one's image among these.
    spoken: the regions whose caption has words, by their number.
    """

    said: Generated
    encoded: EncodedImages
    mask1: torch.Tensor
    images: list[int]
    spoken: list[int]

    @property
    def answers(self) -> list[Tokens]:
        """The captions as they were said, to be read."""
        return [Tokens(tuple(ids)) for ids in self.said.ids]

    def phrases(self, embeds_AC: torch.Tensor) -> RegionTokens:
        """The embeddings of the spoken captions' tokens without their ends, of those of all tokens."""
        lengths = [len(ids) for ids in self.said.ids]
        starts = np.cumsum([0, *lengths])
        counts = [lengths[row] - (not self.said.truncated[row]) for row in self.spoken]
        kept = [starts[row] + np.arange(count) for row, count in zip(self.spoken, counts, strict=True)]
        (places,) = to_device([torch.from_numpy(np.concatenate(kept))], embeds_AC.device)
        return RegionTokens(embeds_AC.index_select(0, places), counts)


def roll_out(
    model: MaskCaptionModel,
    encoded: EncodedImages,
    regions: RegionTokens,
    mask1: torch.Tensor,
    images: Sequence[int],
    draw: TokenChoice,
    max_new_tokens: int,
    names: Sequence[str],
) -> Rolled:
    """Captions of regions of these images, all at once from a cache, without gradient or dropout. Waits for the device.

    encoded: of the whole batch, whose image tokens keep the gradient that they have. names: for errors. Raises
    SequenceTooLongError where a caption of max_new_tokens would not fit behind its question.
    """
    used = sorted(set(images))
    places = [used.index(image) for image in images]
    frozen = encoded.frozen(used)
    with torch.no_grad(), evaluating(model.vlm):
        asked = model.describe_questions(regions.detached(), places, [None] * len(places), names=names)
        with naming_the_setting(max_new_tokens):
            said = model.generate(frozen, asked, max_new_tokens, draw, reserve=max_new_tokens)
    forget_casts()
    words = [len(ids) > (not cut) for ids, cut in zip(said.ids, said.truncated, strict=True)]
    return Rolled(said, frozen, mask1, places, [row for row, spoken in enumerate(words) if spoken])


@contextmanager
def naming_the_setting(max_new_tokens: int) -> Iterator[None]:
    """A SequenceTooLongError also names the setting that bounds pseudo captions."""
    try:
        yield
    except SequenceTooLongError as error:
        room = f"up to {max_new_tokens} of the tokens are a pseudo caption's: loops.cycle.max_new_tokens"
        raise SequenceTooLongError(f"{str(error).rstrip('.')}; {room}.") from error


def describe_captions(rolled: Rolled, entropy_A: torch.Tensor, temperature: float) -> dict[str, torch.Tensor]:
    """What is logged of pseudo captions: means and shares, scalars on the device, which go there in one copy."""
    said, rows = rolled.said, len(rolled.images)
    known = {
        "length": sum(map(len, said.ids)) / rows,
        "distinct": len(set(said.texts)) / rows,
        "truncated": sum(said.truncated) / rows,
        "empty": 1 - len(rolled.spoken) / rows,
        "regions": rows,
        "temperature": temperature,
    }
    (values,) = to_device([torch.tensor(list(known.values()), dtype=torch.float32)], entropy_A.device)
    return {"entropy": entropy_A.detach().mean(), **dict(zip(known, values.unbind(), strict=True))}


def forget_casts() -> None:
    """Autocast keeps the weights that it has cast. In torch before pull request 165068 (the pinned 2.13 has it) those
    of a forward without gradient have none, and would serve one with gradient: pytorch issues 65766 and 112583."""
    if torch.is_autocast_enabled("cuda") or torch.is_autocast_enabled("cpu"):
        torch.clear_autocast_cache()
