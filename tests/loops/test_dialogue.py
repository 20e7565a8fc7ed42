"""The dialogue loop on a hand-made batch: a grounded answer, a question about two regions, a video, a text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maskcap.data.batch import Batch
from maskcap.loops.base import StepContext, run_loops
from maskcap.loops.caption_to_mask import CaptionToMask
from maskcap.loops.dialogue import Dialogue
from maskcap.loops.mask_to_caption import MaskToCaption
from maskcap.losses import caption_loss, dice_loss, resize_targets, sigmoid_ce_loss
from maskcap.models.dialogue import answered
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.training.used_images import only_images
from tests.talks import GROUNDED


def context(model: MaskCaptionModel, batch: Batch, *, by_entry: bool = False) -> StepContext:
    """A step with everything on."""
    encoded = model.encode(batch.images, batch.image_sizes, batch.groups)
    return StepContext(encoded, 0.5, generator=torch.Generator().manual_seed(0), by_entry=by_entry)


def test_the_losses_are_those_of_single_readings(tiny_model: MaskCaptionModel, talks: Batch) -> None:
    """Text: the mean over all answers' tokens, each conversation read alone. Masks: the k-th [SEG] against the mask of
    its phrase's region."""
    model = tiny_model.eval()
    output = Dialogue()(model, talks, context(model, talks))
    total = tokens = 0
    for image in range(3):
        step = context(model, talks)
        shown = [2, 3] if image == 1 else []
        regions = None
        if shown:
            regions, _ = model.region_tokens(step.encoded.tokens, talks.mask1[shown], talks.region_image[shown])
        asked = model.dialogue_questions(
            [talks.turns[image]], [image], regions, [range(len(shown))], [image != 2], [talks.keys[image]]
        )
        (reading,) = model.read(step.encoded, [asked])
        logits = model.vlm.head(reading.answer_states)
        total += caption_loss(logits, reading.answer_ids).item() * reading.answer_ids.numel()
        tokens += reading.answer_ids.numel()
        if image == 0:
            masks = talks.mask1[[1, 0]]
            found = model.masks_of(step.encoded, reading.seg_states, torch.tensor([0, 0]))
            targets = resize_targets(masks, (found.shape[-2], found.shape[-1]), model.segmenter.target_resize)
            assert output.logs["mask_ce"].item() == pytest.approx(sigmoid_ce_loss(found, targets).item(), rel=1e-4)
            assert output.logs["mask_dice"].item() == pytest.approx(dice_loss(found, targets).item(), rel=1e-4)
    assert output.logs["answer"].item() == pytest.approx(total / tokens, rel=1e-4)
    assert output.counts == {"regions": 2, "answers": tokens, "contrasted": 2}


def test_tree_and_none_agree(tiny_model: MaskCaptionModel, talks: Batch) -> None:
    """All loops of one step, with both packings."""
    model = tiny_model.eval()
    loops = {"dialogue": Dialogue(), "caption_to_mask": CaptionToMask(), "mask_to_caption": MaskToCaption()}
    losses = []
    for packing in ("tree", "none"):
        model.packing = packing
        outputs = run_loops(model, loops, talks, context(model, talks))
        losses.append([value.item() for output in outputs.values() for value in output.logs.values()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(losses[0]) >= 12


def test_answers_without_seg_have_no_mask_loss(tiny_model: MaskCaptionModel, talks: Batch) -> None:
    """A batch of questions alone, without any region: its text is learned, and nothing counts for masks."""
    batch = replace(
        talks,
        image1=talks.image1[2:],
        mask1=talks.mask1[:0],
        region_image=talks.region_image[:0],
        **{name: [] for name in ("caption", "phrase", "question", "references", "phrases", "region_ids")},
        **{name: getattr(talks, name)[2:] for name in ("keys", "sources", "sizes", "turns", "blank", "entries")},
        **{name: () for name in ("frame_owner", "frame_mask_region", "frame_mask_frame", "empty")},
        frames=None,
        frame_masks=None,
        host_region_image=(),
    )
    step = context(tiny_model, batch)
    loops = {"dialogue": Dialogue(), "caption_to_mask": CaptionToMask(), "mask_to_caption": MaskToCaption()}
    outputs = run_loops(tiny_model, loops, batch, step)
    assert set(outputs["dialogue"].logs) == {"loss", "answer"}
    assert outputs["dialogue"].counts["regions"] == 0 and outputs["dialogue"].counts["answers"] > 0
    assert outputs["caption_to_mask"].loss.item() == 0 and outputs["mask_to_caption"].loss.item() == 0
    torch.stack([output.loss for output in outputs.values()]).sum().backward()
    assert tiny_model.region_marker.grad is not None
    assert step.encoded.work.sam_images == 0 and step.encoded.work.vlm_images == 0  # a text has no image to encode


def test_masks_over_frames(tiny_model: MaskCaptionModel, talks: Batch) -> None:
    """Caption → mask: one [SEG], a mask in each of the three images of the video, their mean."""
    model = tiny_model.eval()
    step = context(model, talks)
    output = CaptionToMask()(model, talks, step)
    questions = model.phrase_questions(["large green square"], [1])
    (reading,) = model.read(step.encoded, [questions])
    states = reading.seg_states.expand(3, -1)
    found = model.masks_of(step.encoded, states, torch.tensor([1, 3, 4]))
    truth = torch.stack([talks.mask1[2], talks.frame_masks[0], talks.frame_masks[1]])  # type: ignore[index]
    targets = resize_targets(truth, (found.shape[-2], found.shape[-1]), model.segmenter.target_resize)
    assert output.logs["mask_ce"].item() == pytest.approx(sigmoid_ce_loss(found, targets).item(), rel=1e-4)
    assert output.counts["regions"] == 3 and output.counts["contrasted"] == 1
    assert step.encoded.work.sam_images == 3  # the images without a phrase are not encoded
    prediction = CaptionToMask().predict(model, talks, context(model, talks).encoded)
    assert prediction.regions == [2, 2, 2] and prediction.masks == [2, 4, 5]
    assert prediction.mask_logits is not None
    assert torch.allclose(prediction.mask_logits, found, atol=1e-4)


def test_an_empty_target_is_learned_and_told_from_nothing(tiny_model: MaskCaptionModel, tiny_batch: Batch) -> None:
    """A phrase that means nothing here: an all-zero mask, no part in the contrast, no caption to learn."""
    mask1 = tiny_batch.mask1.clone()
    mask1[1] = 0
    batch = replace(tiny_batch, mask1=mask1, empty=(False, True, False), caption=[tiny_batch.caption[0], None, None])
    output = CaptionToMask()(tiny_model, batch, context(tiny_model, batch))
    assert output.counts["regions"] == 2 and output.counts["contrasted"] == 1
    assert all(value.isfinite() for value in output.logs.values())
    gone = replace(batch, mask1=mask1 * 0, empty=(True,) * 3, caption=[None] * 3)
    output = CaptionToMask()(tiny_model, gone, context(tiny_model, gone))
    assert "contrast" not in output.logs and output.loss.isfinite()
    output.loss.backward()
    assert MaskToCaption().regions_of(gone, 1.0) == []


def test_losses_by_entry_are_those_of_its_samples(tiny_model: MaskCaptionModel, talks: Batch) -> None:
    """Text and masks of each entry, against the loop on that entry's samples alone."""
    model = tiny_model.eval()
    whole = Dialogue()(model, talks, context(model, talks, by_entry=True))
    alone = replace(talks, turns=[(GROUNDED,), (), ()])
    one = Dialogue()(model, alone, context(model, alone))
    value, count = whole.by_entry["one", "text"]
    assert value.item() == pytest.approx(one.logs["answer"].item(), rel=1e-4) and count == one.counts["answers"]
    value, count = whole.by_entry["one", "mask"]
    expected = 2.0 * one.logs["mask_ce"].item() + 0.5 * one.logs["mask_dice"].item()
    assert value.item() == pytest.approx(expected, rel=1e-4) and count == 2
    others = replace(talks, turns=[(), *talks.turns[1:]])
    two = Dialogue()(model, others, context(model, others))
    value, count = whole.by_entry["two", "text"]
    assert value.item() == pytest.approx(two.logs["answer"].item(), rel=1e-4) and count == two.counts["answers"]
    assert set(whole.by_entry) == {("one", "text"), ("one", "mask"), ("two", "text")}


class Scripted(MaskCaptionModel):
    """The same model, whose generated answers are written out before; everything else is its own."""

    script: list[list[int]]

    def generate(self, encoded, questions, max_new_tokens=None, rule=None, reserve=0):
        """Generates as ever, by a rule that lets the script's next tokens win, and then the end."""
        end = self.vlm.tokenizer.convert_tokens_to_ids("<|im_end|>")
        places = iter(range(100))

        def next_of_script(_: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            """Logits (r, V) with one token far above the others."""
            place = next(places)
            wanted = [each[place] if place < len(each) else end for each in self.script]
            return torch.full_like(logits, -1e9).index_put(
                (torch.arange(len(wanted)), torch.tensor(wanted)), torch.ones(())
            )

        return super().generate(encoded, questions, 20, next_of_script)


def test_the_kth_seg_of_a_generated_answer_gives_the_kth_mask(tiny_model: MaskCaptionModel, talks: Batch) -> None:
    """An answer that the model writes: its [SEG]s' masks are those of a plain forward over question and answer."""
    model = Scripted(tiny_model.vlm, tiny_model.segmenter, grounding=True).eval()
    find = model.vlm.tokenizer
    seg = find.convert_tokens_to_ids("[SEG]")
    written = [*find("<p> a</p>", add_special_tokens=False).input_ids, seg, seg]
    model.script = [written, [], written]
    answers = Dialogue().predict(model, talks, context(model, talks).encoded).answers
    assert answers is not None and [answer.image for answer in answers] == [0, 1, 2]
    assert answers[0].phrases == ("a", "") and answers[1].mask_logits is None
    step = context(model, talks)
    asked = model.dialogue_questions([(GROUNDED,)], [0], None, [()], [True], ["x"], open_last=True)
    (reading,) = model.read(step.encoded, [answered(asked, [written])])
    expected = model.masks_of(step.encoded, reading.seg_states, torch.tensor([0, 0]))
    assert answers[0].mask_logits is not None
    assert torch.allclose(answers[0].mask_logits, expected, atol=1e-4)
    assert not torch.allclose(expected[0], expected[1], atol=1e-4)  # the second [SEG] has a mask of its own


class Talkative(MaskCaptionModel):
    """The same model, which says ten words of its own: it may not end before."""

    def generate(self, encoded, questions, max_new_tokens=None, rule=None, reserve=0):
        """Generates as ever, by a rule against the end."""
        end = torch.tensor([self.vlm.tokenizer.convert_tokens_to_ids("<|im_end|>")])
        return super().generate(encoded, questions, 10, lambda _, logits: logits.index_fill(1, end, -1e9))


def test_answers_beside_others_are_those_of_each_alone(tiny_model: MaskCaptionModel, talks: Batch) -> None:
    """A prompt without an image in one batch with prompts that keep theirs, a video's among them: validation says the
    same of each sample as alone, and finds the same masks."""
    scripted = Scripted(tiny_model.vlm, tiny_model.segmenter, grounding=True).eval()
    talkative = Talkative(tiny_model.vlm, tiny_model.segmenter).eval()
    seg = tiny_model.vlm.tokenizer.convert_tokens_to_ids("[SEG]")
    scripted.script = [[seg]] * 3
    for model in (talkative, scripted):
        together = Dialogue().predict(model, talks, context(model, talks).encoded).answers
        assert together is not None and [answer.image for answer in together] == [0, 1, 2]
        for image, answer in enumerate(together):
            part = only_images(talks, [image])
            if model is scripted:
                scripted.script = [[seg]]
            (alone,) = Dialogue().predict(model, part, context(model, part).encoded).answers or []
            assert (alone.text, alone.truncated, alone.phrases) == (answer.text, answer.truncated, answer.phrases)
            assert (alone.mask_logits is None) == (answer.mask_logits is None) and alone.text
            if answer.mask_logits is not None and alone.mask_logits is not None:
                torch.testing.assert_close(answer.mask_logits, alone.mask_logits, rtol=1e-3, atol=1e-4)
    assert all(answer.mask_logits is not None for answer in together)
    # The text's prompt holds no image: with one, the mask that its answer asks for is another.
    kept = only_images(replace(talks, blank=(False,) * 3), [2])
    (seen,) = Dialogue().predict(scripted, kept, context(scripted, kept).encoded).answers or []
    assert seen.mask_logits is not None and together[2].mask_logits is not None
    assert not torch.allclose(seen.mask_logits, together[2].mask_logits, atol=1e-4)
