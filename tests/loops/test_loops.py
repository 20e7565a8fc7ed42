"""The three loops on a hand-made batch: which regions they use, what their losses are made of, that they learn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maskcap.data.batch import Batch
from maskcap.errors import SequenceTooLongError
from maskcap.loops.base import Curriculum, Loop, StepContext, run_loops
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.cycle import Cycle
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.loops.outputs import weighted_sum
from maskcap.loops.prompt_to_mask import PromptToMask
from maskcap.losses import caption_loss
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.sequence import build_sequences


def _context(model: MaskCaptionModel, batch: Batch, step: int = 0, **curriculum: float) -> StepContext:
    generator = torch.Generator().manual_seed(step)
    return StepContext(model.encode(batch.image1), 0.5, Curriculum(**curriculum), generator)


def test_caption_loss_is_that_of_single_sequences(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    """The batch's mean over tokens equals the token-weighted mean of each region computed alone."""
    model, batch = tiny_model.eval(), tiny_batch
    loss = MaskToCaption()(model, batch, _context(model, batch)).loss
    total = tokens = 0
    for r in (0, 1):
        encoded = model.encode(batch.image1[:1])
        regions, _ = model.region_tokens(encoded.tokens, batch.mask1[r : r + 1], torch.tensor([0]))
        questions = model.describe_questions(regions, [0], [None], [batch.caption[r] or ""])
        sequences = build_sequences(model.vlm, questions, encoded.tokens, packing="none")
        logits = model.vlm.head(model.vlm.hidden_states(sequences)[0, sequences.answer_positions])
        total += caption_loss(logits, sequences.answer_ids).item() * sequences.answer_ids.numel()
        tokens += sequences.answer_ids.numel()
    assert loss.item() == pytest.approx(total / tokens, rel=1e-4)


def test_caption_to_mask_adds_up_its_parts(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    loop = CaptionToMask(
        ce_weight=2.0, dice_weight=0.5, answer_weight=0.25, grounding_weight=3.0, contrast_weight=0.125
    )
    logs = loop(tiny_model, tiny_batch, _context(tiny_model, tiny_batch)).logs
    expected = (
        2.0 * logs["mask_ce"]
        + 0.5 * logs["mask_dice"]
        + 0.25 * logs["answer"]
        + 3.0 * logs["grounding"]
        + 0.125 * logs["contrast"]
    )
    assert logs["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_curriculum_leaves_sam2_and_the_image_out(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    context = _context(tiny_model, tiny_batch, image_tokens_from=0.6, segmenter_from=0.6)
    assert not context.keep_image() and not context.use_segmenter
    logs = CaptionToMask()(tiny_model, tiny_batch, context).logs
    assert "mask_ce" not in logs and "grounding" in logs
    kept = [_context(tiny_model, tiny_batch, step, image_token_dropout=0.25).keep_image() for step in range(400)]
    assert 0.68 < sum(kept) / len(kept) < 0.82


@pytest.mark.parametrize("loop", [MaskToCaption(), CaptionToMask()])
def test_a_batch_without_words_gives_zero_with_a_graph(
    loop: MaskToCaption | CaptionToMask, tiny_model: MaskCaptionModel, tiny_batch: Batch
) -> None:
    blank: list[str | None] = [None, None, None]
    batch = replace(tiny_batch, caption=blank, phrase=blank)
    output = loop(tiny_model, batch, _context(tiny_model, batch))
    assert output.loss.item() == 0 and output.logs == {}
    output.loss.backward()
    assert tiny_model.region_marker.grad is not None


@pytest.mark.parametrize("points", [None, 64])
def test_each_loop_learns_one_batch(points: int | None, tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    loops = {
        "m2c": MaskToCaption(),
        "c2m": CaptionToMask(sampled_points=points),
        "p2m": PromptToMask(sampled_points=points),
    }
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=3e-3)
    history = []
    for step in range(30):
        context = _context(tiny_model, tiny_batch, step)
        losses = {name: loop(tiny_model, tiny_batch, context).loss for name, loop in loops.items()}
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    for name in loops:
        first, last = history[0][name], sum(step[name] for step in history[-4:]) / 4
        assert last < 0.8 * first, (name, first, last)


def test_ranks_share_decisions_and_draw_noise_apart(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    def decisions(rank: int, regions: int) -> tuple[list[bool], list[float]]:
        own = torch.Generator().manual_seed(100 + rank)
        context = replace(_context(tiny_model, tiny_batch, 3, image_token_dropout=0.5), noise_generator=own)
        noise = [torch.rand(regions, generator=context.noise)[0].item() for _ in range(8)]
        return [context.keep_image() for _ in range(8)], noise

    (kept0, noise0), (kept1, noise1) = decisions(0, 2), decisions(1, 5)
    assert kept0 == kept1 and len(set(kept0)) == 2 and noise0 != noise1
    alone = _context(tiny_model, tiny_batch)
    assert alone.noise is alone.generator


def test_predictions_without_some_regions(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    encoded = tiny_model.eval().encode(tiny_batch.image1)
    found = CaptionToMask().predict(tiny_model, tiny_batch, encoded)
    rest = found.without({1})
    assert rest.regions == [0] and rest.phrases == ["large red circle"]
    assert found.mask_logits is not None and rest.mask_logits is not None
    assert torch.equal(rest.mask_logits, found.mask_logits[:1]) and found.without(set()) is found


def test_too_long_a_sequence_names_record_and_region(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    tiny_model.max_length = 5
    for loop, name in ((MaskToCaption(), "set/train/0 region a"), (CaptionToMask(), "set/train/0 region a")):
        with pytest.raises(SequenceTooLongError, match=name):
            loop(tiny_model, tiny_batch, _context(tiny_model, tiny_batch))
        with pytest.raises(SequenceTooLongError, match="set/train/. region"):
            loop.predict(tiny_model, tiny_batch, tiny_model.encode(tiny_batch.image1))
    with pytest.raises(SequenceTooLongError, match="phrase 'a red cross'"):
        tiny_model.segment(tiny_batch.image1[:1], ["a red cross"])


def test_predictions_cover_the_right_regions(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    model = tiny_model.eval()
    encoded = model.encode(tiny_batch.image1)
    assert len(MaskToCaption().predict(model, tiny_batch, encoded).captions or []) == 3
    found = CaptionToMask().predict(model, tiny_batch, encoded)
    assert found.regions == [0, 1, 1] and found.phrases == ["large red circle", "small blue cross", "cross"]
    assert found.mask_logits is not None and found.mask_logits.shape == (3, 8, 8)
    prompted = PromptToMask().predict(model, tiny_batch, encoded)
    assert prompted.regions == [0, 1, 2]


def test_a_step_of_all_loops_runs_every_part_once(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    calls: dict[str, list[tuple[int, ...]]] = {}
    hooked = {
        "vision": tiny_model.vlm.model.model.vision_tower,
        "language": tiny_model.vlm.language_model,
        "sam2": tiny_model.segmenter.model.vision_encoder,
    }
    for name, part in hooked.items():
        part.register_forward_hook(lambda *_, name=name: calls.setdefault(name, []).append(()))
    loops = {"m2c": MaskToCaption(), "c2m": CaptionToMask(), "p2m": PromptToMask()}
    context = _context(tiny_model, tiny_batch)
    outputs = run_loops(tiny_model, loops, tiny_batch, context)
    assert {name: len(found) for name, found in calls.items()} == {"vision": 1, "language": 1, "sam2": 1}
    for name, loop in loops.items():  # the same losses as with a reading of its own, the coins drawn in the same order
        if name != "p2m":
            alone = loop(tiny_model, tiny_batch, _context(tiny_model, tiny_batch))
            assert outputs[name].loss.item() == pytest.approx(alone.loss.item(), rel=1e-5)


def test_losses_of_weight_0_cost_no_backward_and_spoil_nothing(tiny_model: MaskCaptionModel) -> None:
    kept, left_out = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    output = weighted_sum({"kept": (2.0, kept.sum()), "left": (0.0, left_out.sum() * torch.inf)})
    output.loss.backward()
    assert output.loss == 4 and output.logs["left"] == torch.inf and left_out.grad is None
    nothing = weighted_sum({"left": (0.0, left_out.sum())})
    assert nothing.loss == 0 and nothing.loss.requires_grad


def test_caption_to_mask_without_any_loss_is_a_zero(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    """No map, no SAM2 yet, and the answer has no weight."""
    tiny_model.grounding = None
    context = _context(tiny_model, tiny_batch, segmenter_from=0.9)
    output = CaptionToMask(answer_weight=0.0)(tiny_model, tiny_batch, context)
    assert output.loss == 0 and output.loss.requires_grad and output.logs == {}


@pytest.mark.parametrize("loop", [MaskToCaption(), CaptionToMask(), Cycle(max_new_tokens=2)])
def test_common_decisions_are_drawn_with_or_without_words(
    loop: Loop, tiny_model: MaskCaptionModel, tiny_batch: Batch
) -> None:
    """Ranks go on from the same place of their common stream, whatever their batches hold."""
    blank: list[str | None] = [None] * 3
    full: list[str | None] = ["red cross"] * 3
    following = []
    for words in (blank, full):
        batch = replace(tiny_batch, caption=words, phrase=words)
        context = _context(tiny_model, batch, image_token_dropout=0.5)
        noise = torch.Generator().manual_seed(7)
        context = replace(context, noise_generator=noise)
        loop.ask(tiny_model, batch, context)
        following.append(torch.rand((), generator=context.generator).item())
    assert following[0] == following[1]
