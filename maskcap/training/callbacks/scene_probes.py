"""Does the model read every word? Minimal pairs, swapped words and caption attributes on the drawn scenes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F

from maskcap.data.batch import normalise
from maskcap.data.collate import collate
from maskcap.data.record import Record
from maskcap.data.sample import Sample, make_sample
from maskcap.data.scenes.grammar import CONTENT, VALUES, parse_phrase, swap_word
from maskcap.errors import DataError
from maskcap.metrics.masks import mask_iou
from maskcap.metrics.prediction import Prediction


@dataclass(frozen=True)
class Probe:
    """A phrase for one region, and the same with one word replaced by that of `partner`, which only that word tells
    apart; `region` and `partner` index the record's regions."""

    attribute: str
    region: int
    partner: int
    phrase: str
    swapped: str


class SceneProbes(pl.Callback):
    """After every validation, logs how masks and captions follow each attribute word.

    pairs: makes the records with minimal pairs (RefCOCO+ testB of the drawn scenes); twins: those with twins (RefCOCO
    testB), phrases naming the place. limit: records of each, None for all. image_size: pixels a side.

    Logs `val/pair_{colour,size,shape}`: share of phrases whose mask overlaps the right object more (by IoU) than its
    partner; `val/swap_{colour,size,shape,place}`: mean IoU with the true object after that word was replaced by the
    partner's (low is good); `val/caption_{colour,size,shape,place}`: share of the "main" set's captions with the right
    word, of those whose truth has one. All in 0..1. Samples are decoded once and kept. Every rank runs all of it, and
    the module's `gather_predictions()` gives the captions of all ranks.
    """

    def __init__(
        self,
        pairs: Callable[[], Sequence[Record]],
        twins: Callable[[], Sequence[Record]],
        image_size: int,
        batch_size: int = 16,
        limit: int | None = None,
    ) -> None:
        self.pairs = pairs
        self.twins = twins
        self.image_size = image_size
        self.batch_size = batch_size
        self.limit = limit
        self._samples: list[tuple[Sample, list[Probe]]] | None = None

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Probes the model; the sanity check is passed over."""
        if trainer.sanity_checking:
            return
        module: Any = pl_module
        # Of all ranks: from its own alone, a rank could log names that another does not, and both would wait for ever.
        values = self.probe(trainer, pl_module) | caption_attributes(module.gather_predictions())
        for name, value in values.items():
            pl_module.log(f"val/{name}", float(value), sync_dist=True)

    @torch.no_grad()
    def probe(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """`pair_…` and `swap_…` of the model as it is, in the trainer's precision."""
        if self._samples is None:
            self._samples = self._load()
        scores: dict[str, list[torch.Tensor]] = defaultdict(list)
        for start in range(0, len(self._samples), self.batch_size):
            chunk = self._samples[start : start + self.batch_size]
            batch = normalise(collate([sample for sample, _ in chunk]).to(pl_module.device))
            phrases, index = _unique_phrases(chunk)
            images = torch.tensor([image for image, _ in index], device=pl_module.device)
            with trainer.precision_plugin.val_step_context():
                pixels = trainer.precision_plugin.convert_input(batch.image1)
                model: Any = pl_module.model
                logits = model.segment(pixels, phrases, region_image=images)
            size = (batch.mask1.shape[-2], batch.mask1.shape[-1])
            masks = F.interpolate(logits.float()[:, None], size, mode="bilinear", align_corners=False)[:, 0] > 0
            for name, value in _score(chunk, masks, batch.mask1 > 0.5, index):
                scores[name].append(value)
        return {name: torch.cat(parts).double().mean().item() for name, parts in scores.items()}

    def _load(self) -> list[tuple[Sample, list[Probe]]]:
        return [*self._read(self.pairs(), find_pairs), *self._read(self.twins(), find_twins)]

    def _read(
        self, records: Sequence[Record], find: Callable[[Record], list[Probe]]
    ) -> Iterator[tuple[Sample, list[Probe]]]:
        count = len(records) if self.limit is None else min(self.limit, len(records))
        found = 0
        for index in range(count):
            probes = find(records[index])
            if probes:
                found += 1
                rng = np.random.default_rng(0)  # nothing is drawn: all regions, first captions
                sample = make_sample(
                    records[index],
                    rng,
                    image_size=self.image_size,
                    regions_per_image=None,
                    caption_choice="first",
                    phrase_choice="first",
                )
                yield sample, probes
        if not found:
            raise DataError(
                f"SceneProbes: none of {count} records has two regions that {find.__name__} could compare; it wants "
                "drawn scenes (pairs: refcoco+ testB, twins: refcoco testB)"
            )


def find_pairs(record: Record) -> list[Probe]:
    """Probes in both directions for every two regions whose first captions differ in exactly one content word."""
    return _probes(record, lambda differing: len(differing) == 1 and differing[0] in CONTENT, CONTENT)


def find_twins(record: Record) -> list[Probe]:
    """Probes in both directions for every two regions whose first captions differ in the place alone."""
    return _probes(record, lambda differing: differing == ["place"], tuple(VALUES))


def caption_attributes(predictions: Iterable[Prediction]) -> dict[str, float]:
    """`caption_size`, …: share of the "main" set's captions with the right word, of those whose truth has one."""
    right: dict[str, list[bool]] = defaultdict(list)
    for prediction in predictions:
        if prediction.set_name != "main" or prediction.caption is None or prediction.predicted_caption is None:
            continue
        said = parse_phrase(prediction.predicted_caption)
        for name, value in parse_phrase(prediction.caption).items():
            right[f"caption_{name}"].append(said.get(name) == value)
    return {name: sum(hits) / len(hits) for name, hits in right.items()}


def _probes(record: Record, wanted: Callable[[list[str]], bool], names: Sequence[str]) -> list[Probe]:
    captions = {i: region.captions[0] for i, region in enumerate(record.regions1) if region.captions}
    parsed = {i: parse_phrase(caption) for i, caption in captions.items()}
    complete = [i for i, attributes in parsed.items() if all(name in attributes for name in names)]
    probes = []
    for a, b in combinations(complete, 2):
        differing = [name for name in names if parsed[a][name] != parsed[b][name]]
        if wanted(differing):
            for region, partner in ((a, b), (b, a)):
                swapped = swap_word(captions[region], differing[0], parsed[partner][differing[0]])
                probes.append(Probe(differing[0], region, partner, captions[region], swapped))
    return probes


def _unique_phrases(
    chunk: Sequence[tuple[Sample, list[Probe]]],
) -> tuple[list[str], dict[tuple[int, str], int]]:
    """Phrases to segment, and where (image, phrase) stands among them: a swapped phrase is often the partner's own."""
    index: dict[tuple[int, str], int] = {}
    for image, (_, probes) in enumerate(chunk):
        for probe in probes:
            for phrase in (probe.phrase, probe.swapped):
                index.setdefault((image, phrase), len(index))
    return [phrase for _, phrase in index], index


def _score(
    chunk: Sequence[tuple[Sample, list[Probe]]],
    masks: torch.Tensor,
    truth: torch.Tensor,
    index: dict[tuple[int, str], int],
) -> Iterator[tuple[str, torch.Tensor]]:
    """Scores by name, one value a probe; masks bool (phrases, S, S), truth bool (R, S, S) of the batch's regions."""
    rows: dict[str, list[tuple[int, int, int, int]]] = defaultdict(list)
    first_region = 0
    for image, (sample, probes) in enumerate(chunk):
        for probe in probes:
            said, swapped = index[image, probe.phrase], index[image, probe.swapped]
            rows[probe.attribute].append((said, swapped, first_region + probe.region, first_region + probe.partner))
        first_region += len(sample.region_ids)
    for attribute, numbers in rows.items():
        said, swapped, right, other = torch.tensor(numbers, device=masks.device).unbind(1)
        if attribute != "place":
            closer = mask_iou(masks[said], truth[right]) > mask_iou(masks[said], truth[other])
            yield f"pair_{attribute}", closer
        yield f"swap_{attribute}", mask_iou(masks[swapped], truth[right])
