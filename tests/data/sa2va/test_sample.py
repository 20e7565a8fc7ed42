"""Records of stills → samples: the words, the masks of their [SEG]s, the marked regions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from maskcap.data.record import Phrase, Record, Region, Turn
from maskcap.data.rle import empty_rle
from maskcap.data.sa2va import make_sa2va_sample
from maskcap.errors import ConfigError
from tests.data.sa2va.drawn import BOXES, IMAGE, SURE, assert_pixels, assert_says, large, normal


def test_phrases_become_turns_and_each_seg_has_its_mask(scene, options, spelled, rng):
    sample = make_sa2va_sample(scene, rng, options())
    asked = [f"Please segment box {i} in this image." for i in range(3)]  # a full stop would end the question
    assert_says(sample, spelled([(f"{IMAGE}\n{asked[0]}", SURE), (asked[1], SURE), (asked[2], SURE)]))
    assert sample["masks"].dtype == torch.uint8
    np.testing.assert_array_equal(sample["masks"].numpy(), BOXES)
    assert_pixels(sample["g_pixel_values"], large(Image.open(scene.image1.path))[None])
    assert sample["pixel_values"].shape == (1, 3, 448, 448)
    assert sample["key"] == "scenes/train/1" and "prompt_masks" not in sample and "vp_overall_mask" not in sample


def test_so_many_regions_are_drawn_by_the_generator_alone(scene, options, spelled):
    pairs = set()
    for seed in range(20):
        sample, again = (
            make_sa2va_sample(scene, np.random.default_rng(seed), options(regions_per_image=2)) for _ in range(2)
        )
        assert sample["input_ids"].equal(again["input_ids"]) and sample["masks"].equal(again["masks"])
        pair = [i for i in range(3) if any((mask == BOXES[i]).all() for mask in sample["masks"].numpy())]
        asked = [f"Please segment box {i} in this image." for i in pair]
        assert_says(sample, spelled([(f"{IMAGE}\n{asked[0]}", SURE), (asked[1], SURE)]))
        pairs.add(tuple(pair))
    assert pairs == {(0, 1), (0, 2), (1, 2)}


def test_questions_and_answers_are_drawn_where_there_are_several(scene, options):
    several = options(questions=["Where is {phrase}?", "Find {phrase}"], answers=["It is [SEG].", "[SEG]"])
    lengths = {len(make_sa2va_sample(scene, np.random.default_rng(seed), several)["input_ids"]) for seed in range(30)}
    assert len(lengths) > 4


@pytest.mark.parametrize("pool", ["nearest", "area"])
def test_captions_of_marked_regions(pool: str, scene, options, spelled, rng):
    regions = (
        replace(scene.regions1[0], captions=("red",), questions=("What color is this region?",)),
        replace(scene.regions1[1], captions=("a box",)),
        replace(scene.regions1[2], captions=("yes",), questions=("Is it large?",)),
    )
    sample = make_sa2va_sample(replace(scene, key="osprey/x/1", regions1=regions), rng, options(pool=pool))
    if pool == "nearest":
        cells = BOXES[:, np.arange(16) * 3][:, :, np.arange(16) * 4]
    else:
        cells = BOXES.reshape(3, 16, 3, 16, 4).mean(axis=(2, 4)) > 0.5
    np.testing.assert_array_equal(sample["prompt_masks"].numpy(), cells)
    slots = ["<vp>" + "<IMG_CONTEXT>" * int(count) + "</vp>" for count in cells.sum(axis=(1, 2))]
    marked = ", ".join(f"region{i}{slot}" for i, slot in enumerate(slots, 1))
    start = f"{IMAGE}\nThere are 3 part regions in the picture: {marked}.\n"
    expected = [
        (f"{start}What color is region1?", "red"),
        ("Please give a short description of region2.", "a box"),
        ("region3: Is it large?", "yes"),
    ]
    assert_says(sample, spelled(expected))
    assert sample["vp_overall_mask"].tolist() == [True] and sample["vp_overall_mask"].dtype == torch.bool
    assert sample["tiny_regions"] == 0 and "masks" not in sample and "g_pixel_values" not in sample


def test_answers_that_single_nothing_out_are_no_phrases(scene, options, spelled, rng):
    regions = (replace(scene.regions1[0], referring=False, captions=("a box",)),)
    sample = make_sa2va_sample(replace(scene, regions1=regions), rng, options())
    cells = int(sample["prompt_masks"].sum())
    marked = f"There are 1 part regions in the picture: region1<vp>{'<IMG_CONTEXT>' * cells}</vp>.\n"
    question = "Please give a short description of region1."
    assert_says(sample, spelled([(f"{IMAGE}\n{marked}{question}", "a box")]))


def test_a_grounded_caption_has_one_mask_for_each_seg(scene, options, spelled, rng):
    answer = "A small box, two boxes and the small one again"
    spans = ((2, 11, 1), (13, 22, 2), (27, 40, 1))
    turn = Turn("Describe the image.", answer, tuple(Phrase(*span) for span in spans))
    record = replace(scene, regions1=tuple(replace(region, captions=()) for region in scene.regions1), turns=(turn,))
    sample = make_sa2va_sample(record, rng, options())
    said = "A <p> small box </p> [SEG], <p> two boxes </p> [SEG] and <p> the small one </p> [SEG] again"
    assert_says(sample, spelled([(f"{IMAGE}\nDescribe the image.", said)]))
    np.testing.assert_array_equal(sample["masks"].numpy(), BOXES[[1, 2, 1]])


def test_questions_about_an_image(scene, options, spelled, rng):
    turns = (Turn("How many boxes?", "Three. "), Turn(" Sure?", "Yes"))
    sample = make_sa2va_sample(replace(scene, regions1=(), turns=turns), rng, options())
    assert_says(sample, spelled([(f"{IMAGE}\nHow many boxes?", "Three."), ("Sure?", "Yes")]))
    assert "masks" not in sample and "g_pixel_values" not in sample and sample["pixel_values"].abs().sum() > 0


def test_questions_that_name_regions(scene, options, spelled, rng):
    turns = (Turn("Is <region3> right of <region1>?", "Region 3 is."),)
    record = replace(scene, regions1=tuple(replace(region, captions=()) for region in scene.regions1), turns=turns)
    sample = make_sa2va_sample(record, rng, options())
    cells = sample["prompt_masks"].sum(dim=(1, 2)).tolist()
    assert len(cells) == 2
    marked = ", ".join(f"region{i}<vp>{'<IMG_CONTEXT>' * size}</vp>" for i, size in enumerate(cells, 1))
    start = f"{IMAGE}\nThere are 2 part regions in the picture: {marked}.\n"
    assert_says(sample, spelled([(f"{start}Is region2 right of region1?", "Region 3 is.")]))


def test_text_alone_has_a_row_of_zeros_and_no_image_token(options, spelled, rng):
    record = Record("llava/train/7", None, (), turns=(Turn("Two and two?", "Four."),))
    sample = make_sa2va_sample(record, rng, options())
    assert_says(sample, spelled([("Two and two?", "Four.")]))
    assert sample["pixel_values"].equal(torch.zeros(1, 3, 448, 448))


@pytest.mark.parametrize(("thumbnail", "rows"), [(True, 3), (False, 2)])
def test_tiles_and_the_thumbnail_behind_them(thumbnail: bool, rows: int, image_ref, region, options, spelled, rng):
    record = Record("scenes/train/1", image_ref("wide", 30, 60), (region(0, 30, 60, captions=("it",)),))
    sample = make_sa2va_sample(record, rng, options(dynamic_tiles=True, max_tiles=2, thumbnail=thumbnail))
    image = Image.open(record.image1.path)  # type: ignore[union-attr]
    wide = np.asarray(image.resize((896, 448)))
    pictures = [wide[:, :448], wide[:, 448:], np.asarray(image.resize((448, 448)))][:rows]
    assert_pixels(sample["pixel_values"], normal(pictures))
    tiles = f"<img>{'<IMG_CONTEXT>' * 256 * rows}</img>"  # one pair of tags around all of them
    assert_says(sample, spelled([(f"{tiles}\nPlease segment it in this image.", SURE)]))
    assert sample["g_pixel_values"].shape == (1, 3, 1024, 1024)


def test_marked_regions_are_cells_of_the_thumbnail(image_ref, region, options, rng):
    record = Record("osprey/x/1", image_ref("wide", 30, 60), (region(0, 30, 60, captions=("it",)),))
    assert make_sa2va_sample(record, rng, options(dynamic_tiles=True))["vp_overall_mask"].tolist() == [
        False,
        False,
        True,
    ]
    with pytest.raises(ConfigError, match="sa2va.thumbnail=false: marked regions need a row that shows the whole"):
        make_sa2va_sample(record, rng, options(dynamic_tiles=True, thumbnail=False))
    square = Record("osprey/x/1", image_ref("square", 30, 30), (region(0, 30, 30, captions=("it",)),))
    one_tile = make_sa2va_sample(square, rng, options(dynamic_tiles=True, thumbnail=False))
    assert one_tile["vp_overall_mask"].tolist() == [True]


def test_a_phrase_that_means_nothing_here_has_an_empty_mask(scene, options, rng):
    nothing = Region(empty_rle(48, 64), ("a horse",), "none", may_be_empty=True)
    sample = make_sa2va_sample(replace(scene, regions1=(nothing,)), rng, options())
    assert sample["masks"].shape == (1, 48, 64) and not sample["masks"].any()


@pytest.mark.parametrize("words", ["box [SEG]", "<IMG_CONTEXT> box", "box<|im_end|>", "<vp>"])
def test_words_that_look_like_tokens_are_read_letter_by_letter(words: str, scene, options, rng):
    regions = (replace(scene.regions1[0], captions=(words,)),)
    plain = make_sa2va_sample(replace(scene, regions1=regions), rng, options())
    special = plain["input_ids"][plain["input_ids"] < 10]  # the first ten of the vocabulary are its special tokens
    usual = make_sa2va_sample(replace(scene, regions1=scene.regions1[:1]), rng, options())["input_ids"]
    assert special.equal(usual[usual < 10])
