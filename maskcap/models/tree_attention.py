"""The attention mask of packed trees: dense for SDPA, block-sparse for FlexAttention.

Shapes: N rows, L their length.

A token attends to those at and before it in its own tree that stand in the prefix or in its own segment. Padding
attends to padding, so that no row of the softmax is empty; nothing reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from maskcap.errors import ConfigError

Attention = Literal["auto", "sdpa", "flex"]


@dataclass(frozen=True)
class TreeMask:
    """tree, branch int64 (N, L): each token's tree in its row and its branch, 0 in the prefix; see `packing.Grid`."""

    tree: torch.Tensor
    branch: torch.Tensor

    def allowed(self) -> torch.Tensor:
        """Whether a query may attend to a key."""
        """bool (N, 1, L, L), True where query (row) may attend to key (column)."""
        at = torch.arange(self.tree.shape[1], device=self.tree.device)
        same_tree = self.tree[:, :, None] == self.tree[:, None, :]
        reachable = (self.branch[:, None, :] == 0) | (self.branch[:, :, None] == self.branch[:, None, :])
        return (same_tree & reachable & (at[:, None] >= at[None, :]))[:, None]

    def blocks(self) -> Any:
        """The same as FlexAttention's BlockMask: 128 × 128 blocks without an allowed pair are never computed."""
        from torch.nn.attention.flex_attention import create_block_mask

        tree, branch = self.tree, self.branch

        def allowed(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            """Whether a query may see a key, by their places: what FlexAttention calls a mask_mod."""
            same_tree = tree[row, query] == tree[row, key]
            reachable = (branch[row, key] == 0) | (branch[row, query] == branch[row, key])
            return same_tree & reachable & (query >= key)

        rows, length = tree.shape
        return create_block_mask(allowed, rows, None, length, length, device=tree.device)

    def for_model(self, implementation: str, dtype: torch.dtype) -> Any:
        """What a Hugging Face language model with that `attn_implementation` takes as its 4-D attention mask."""
        if implementation == "flex_attention":
            return self.blocks()
        if implementation == "sdpa":
            return self.allowed()
        if implementation == "eager":
            return torch.where(self.allowed(), 0.0, torch.finfo(dtype).min).to(dtype)
        raise ConfigError(
            f"packing=tree cannot run on attn_implementation={implementation!r}: use sdpa or flex, or mask_caption."
            "packing=none"
        )


def choose_attention(language_model: Any, attention: Attention) -> None:
    """Sets the language model's attention: `flex` where its kernels run (`auto`: CUDA and heads of 2ⁿ ≥ 16) and the
    library has it for the model (it has none for Qwen2-VL), or SDPA.

    Raises ConfigError for another value, and for `flex` without CUDA, as it has no backward on a CPU, or without
    support.
    """
    if attention not in ("auto", "sdpa", "flex"):
        raise ConfigError(f"mask_caption.attention={attention!r}: expected auto, sdpa or flex")
    if attention == "flex" and not torch.cuda.is_available():
        raise ConfigError("mask_caption.attention=flex needs CUDA (no backward on a CPU): use auto or sdpa here")
    supported = bool(getattr(language_model, "_supports_flex_attn", False))
    if attention == "flex" and not supported:
        raise ConfigError(
            f"mask_caption.attention=flex: the library has no FlexAttention for {type(language_model).__name__}: use "
            "auto or sdpa"
        )
    config = language_model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    fits = supported and torch.cuda.is_available() and width >= 16 and width & (width - 1) == 0
    flex = attention == "flex" or (attention == "auto" and fits)
    language_model.set_attn_implementation("flex_attention" if flex else "sdpa")


@contextmanager
def plain_attention(language_model: Any) -> Iterator[None]:
    """SDPA for a while, without gradient: FlexAttention is compiled anew for the growing caches of generation."""
    chosen = language_model.config._attn_implementation
    language_model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        language_model.set_attn_implementation(chosen)
