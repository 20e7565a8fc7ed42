"""What bounds the number of crops: the length of the sequence, memory and the cost of attention.

Every answer is computed from the geometry, the prompt's template and the language model's shape; none is tabled.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

from maskcap.errors import ConfigError, SequenceTooLongError
from maskcap.vision_tokens.geometry import MOLMO, Geometry


@dataclass(frozen=True)
class Template:
    """Text tokens that a prompt puts around an image's tokens.

    around_view: before and after the global view, and again before and after all crops. row_end: after each row of
    tokens. The defaults are Molmo's: with its geometry an image costs 160 + (8·rows + 4)(8·columns + 5) tokens.
    """

    around_view: int = 2
    row_end: int = 1


MOLMO_TEMPLATE = Template()


@dataclass(frozen=True)
class LanguageShape:
    """A decoder with gated feed-forward layers and grouped key-value heads, as Qwen2 and LLaMA are.

    width: of the residual stream. mlp: of the feed-forward layer. vocabulary: logits a token, 0 to leave them out.
    bytes: of one number.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocabulary: int = 0
    bytes: int = 2


def sequence_length(
    rows: int,
    columns: int,
    geometry: Geometry = MOLMO,
    template: Template = MOLMO_TEMPLATE,
    global_view: bool = True,
) -> int:
    """Tokens of an image in the language model's sequence: kept tokens and the template's; other text left out."""
    kept_rows, kept_columns = geometry.kept_grid(rows, columns)
    length = kept_rows * (kept_columns + template.row_end) + template.around_view
    if global_view:
        length += geometry.side * (geometry.side + template.row_end) + template.around_view
    return length


@lru_cache(maxsize=4096)
def longest(
    max_crops: int,
    geometry: Geometry = MOLMO,
    template: Template = MOLMO_TEMPLATE,
    global_view: bool = True,
) -> tuple[int, tuple[int, int]]:
    """The longest sequence of all tilings within `max_crops`, in tokens, and its tiling (of equals the one of fewest
    rows). Raises ConfigError below 1."""
    if max_crops < 1:
        raise ConfigError(f"max_crops={max_crops}: take at least 1")
    # More crops along a side are never shorter, and one side of any tiling has at most the root of all crops: so every
    # tiling is within one of these.
    sides = range(1, isqrt(max_crops) + 1)
    tilings = [(side, max_crops // side) for side in sides] + [(max_crops // side, side) for side in sides]
    lengths = [(sequence_length(*tiling, geometry, template, global_view), tiling) for tiling in tilings]
    return max(lengths, key=lambda entry: (entry[0], -entry[1][0]))


@lru_cache(maxsize=256)
def max_safe_crops(
    max_length: int,
    text_reserve: int = 0,
    geometry: Geometry = MOLMO,
    template: Template = MOLMO_TEMPLATE,
    global_view: bool = True,
) -> int:
    """The largest max_crops with which every tiling leaves room for `text_reserve` tokens of text in `max_length`.

    0 where not even one crop does. Found by bisection over `longest`, which grows with max_crops.
    """
    room = max_length - text_reserve
    # a crop keeps at least one token, so there are never more crops than room
    return bisect_right(
        range(1, max(0, room) + 1), room, key=lambda crops: longest(crops, geometry, template, global_view)[0]
    )


def check_fits(
    length: int,
    max_length: int,
    name: str,
    rows: int,
    columns: int,
    geometry: Geometry = MOLMO,
    template: Template = MOLMO_TEMPLATE,
    global_view: bool = True,
) -> None:
    """Raise SequenceTooLongError where the sample `name` of `length` tokens, text among them, exceeds `max_length`.

    The message names the sample, its tiling, its tokens, the limit, and the largest `max_crops` with which an image of
    any shape fits beside this sample's text.
    """
    if length <= max_length:
        return
    image = sequence_length(rows, columns, geometry, template, global_view)
    text = max(0, length - image)
    safe = max_safe_crops(max_length, text, geometry, template, global_view)
    if safe:
        fix = (
            f"at most {safe} crops (vision_tokens.max_crops={safe}, or exact_crops or vision_tokens as low) fit any "
            "image with as much text; or raise mask_caption.max_length"
        )
    else:
        fix = "not even one crop fits beside that text: shorten the text or raise mask_caption.max_length"
    raise SequenceTooLongError(
        f"{name}: {length} tokens exceed the maximum length of {max_length}. Its {rows} × {columns} crops cost {image} "
        f"tokens, its text {text}. Fix: {fix}"
    )


def attention_flops(length: int, shape: LanguageShape) -> int:
    """Floating-point operations of causal attention over one sequence in all layers.

    A query meets itself and all keys before it: length · (length + 1) / 2 pairs. Each pair costs, for every head, a
    multiplication and an addition per number of a head, once for the score and once for the sum of values. Softmax and
    the projections are left out. A kernel that does not skip the masked half costs about twice as much.
    """
    pairs = length * (length + 1) // 2
    return 4 * pairs * shape.heads * shape.head_dim * shape.layers


def kv_cache_bytes(length: int, shape: LanguageShape) -> int:
    """Memory of one sequence's keys and values in all layers."""
    return 2 * length * shape.kv_heads * shape.head_dim * shape.layers * shape.bytes


def activation_bytes(length: int, shape: LanguageShape) -> int:
    """Memory that one sequence's forward pass keeps for the backward pass.

    Counted is what norms, matrix products, activations and the loss save when every weight is trained, without
    checkpointing and with fused attention: in each layer the inputs and outputs of two norms; queries, keys, values and
    attention's output; the gate before and after its activation, what it multiplies, and the product. Then the last
    norm's input and output, and one set of logits. Numbers per token alone (variances, log-sum-exps) are left out.
    Frozen weights keep less; inference keeps about one layer's share, whatever the number of layers.
    """
    attention = 2 * (shape.heads + shape.kv_heads) * shape.head_dim
    layer = 4 * shape.width + attention + 4 * shape.mlp
    # without a vocabulary there are no logits, and no product that would save the last norm's output
    head = 2 * shape.width + shape.vocabulary if shape.vocabulary else shape.width
    return length * (shape.layers * layer + head) * shape.bytes
