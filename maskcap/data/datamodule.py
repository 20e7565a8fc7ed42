"""MaskCaptionDataModule: weighted training sources and named evaluation sets → batches, normalised on the device.

The thin modules at the end put one data set on disk behind it, for people who work without Hydra.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import lightning
import torch

from maskcap.data.bad_samples import BadSamplePolicy, OnBadSample
from maskcap.data.batch import normalise
from maskcap.data.choices import Choice
from maskcap.data.drawing import SampleOptions
from maskcap.data.entries import Entries, MakeSource, SourceEntry, build_source, parse_entries, shares
from maskcap.data.holdout import RecordSubset, hold_out
from maskcap.data.loader import EvalLoader, LoaderOptions, TrainLoader
from maskcap.data.mixture import Mixture
from maskcap.data.record import Record
from maskcap.data.sa2va import Sa2VAOptions
from maskcap.data.sa2va.options import drawn_as
from maskcap.data.source_facts import blocks_of, known_bad, source_has_captions, source_has_phrases, source_has_turns
from maskcap.data.sources import OspreySource, RefCOCOSource, SA1BSource, SAVSource
from maskcap.errors import ConfigError

logger = logging.getLogger(__name__)

Part: TypeAlias = Literal["train", "val", "test"]


class MaskCaptionDataModule(lightning.LightningDataModule):
    """Training batches from a mixture of sources; one validation or test loader for each named set.

    train, val, test:  name → SourceEntry, `{"source": callable, "weight": 1.0}` or just a callable that builds it.
    image_size:        S, pixels; images and masks become S × S.
    regions_per_image: regions drawn for each training sample, at most; val_regions_per_image the same for evaluation
                       (None: every region, in either).
    batch_size:        images on each rank; val_batch_size None: the same.
    samples_per_epoch: of all ranks; None: the sum of the training sources' lengths, or what `repeats` say. Sources
                       share it by weight, repeats or `temperature` (see `maskcap.data.entries.shares`).
    shuffle_window:    for sources in tar shards: shuffle so many shards at a time (see Mixture); None: everything.
    spread:            interleave the training sources as evenly as their shares allow instead of at random, so that
                       every batch holds its share of each to within one or so (see Mixture); with several ranks each
                       rank's batch too.
    drop_last:         leave out an epoch's last samples where they fill no batch of all ranks.
    prefetch:          batches that each worker makes ahead.
    on_bad_sample, max_bad_fraction: see BadSamplePolicy. bad_samples_file: where skipped ones are listed; None:
                       `bad_samples.jsonl` in the trainer's folder (of rank 1: `bad_samples.rank1.jsonl`, and so on).
    caption_choice, phrase_choice: "random" draws one of a region's sentences, "first" takes the first. Evaluation under
                       "random" accepts every sentence as a caption and segments by every one of them.
    val_caption_choice, val_phrase_choice: for evaluation; None: the same.
    frames_per_sample: of a video, one from each of so many equal spans: training draws it, evaluation takes the middle.
    format:            "maskcap": Batch; "sa2va": the dict that Sa2VA's own training code takes, made by the options
                       `sa2va` (see `collate_sa2va`). What is drawn is this module's to say, sizes are theirs.
    limit_train:       use only the first records of each training source (for overfitting on purpose).
    limit_val:         use only the first records of each validation set.
    prepare:           called once on each machine before the sources are built, to draw or fetch data.
    pin_memory:        None: where CUDA is available.

    Evaluation order and draws are fixed; training draws depend on (seed, epoch, position) alone. Raises ConfigError for
    impossible options, DataError for an empty source, and under "raise" for records known to be bad from the start.
    """

    def __init__(
        self,
        train: Entries,
        val: Entries | None = None,
        test: Entries | None = None,
        *,
        image_size: int = 1024,
        regions_per_image: int | None = 1,
        val_regions_per_image: int | None = None,
        batch_size: int = 1,
        val_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        samples_per_epoch: int | None = None,
        caption_choice: Choice = "random",
        phrase_choice: Choice = "random",
        val_caption_choice: Choice | None = None,
        val_phrase_choice: Choice | None = None,
        frames_per_sample: int = 5,
        format: Literal["maskcap", "sa2va"] = "maskcap",
        sa2va: Sa2VAOptions | None = None,
        limit_train: int | None = None,
        limit_val: int | None = None,
        prepare: Callable[[], object] | None = None,
        pin_memory: bool | None = None,
        temperature: float | None = None,
        shuffle_window: int | None = None,
        spread: bool = False,
        drop_last: bool = False,
        prefetch: int = 2,
        on_bad_sample: OnBadSample = "raise",
        max_bad_fraction: float = 0.01,
        bad_samples_file: str | Path | None = None,
    ) -> None:
        super().__init__()
        self._entries: dict[Part, dict[str, SourceEntry]] = {
            "train": parse_entries(train, "data.train"),
            "val": parse_entries(val or {}, "data.val"),
            "test": parse_entries(test or {}, "data.test"),
        }
        self._limits: dict[Part, int | None] = {"train": limit_train, "val": limit_val, "test": None}
        _check_least(1, batch_size=batch_size, val_batch_size=val_batch_size, samples_per_epoch=samples_per_epoch)
        _check_least(1, limit_train=limit_train, limit_val=limit_val, prefetch=prefetch)
        _check_least(0, num_workers=num_workers, seed=seed)
        drawn = SampleOptions(image_size, regions_per_image, caption_choice, phrase_choice, frames_per_sample)
        self._train_samples = drawn
        self._eval_samples = replace(
            drawn,
            regions_per_image=val_regions_per_image,
            caption_choice=val_caption_choice or caption_choice,
            phrase_choice=val_phrase_choice or phrase_choice,
            frame_choice="middle",
        )
        self._choose_format(format, sa2va)
        self.format = format
        self.image_size = image_size
        self.batch_size = batch_size
        self.val_batch_size = batch_size if val_batch_size is None else val_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.samples_per_epoch = samples_per_epoch
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.temperature, self.shuffle_window, self.spread = temperature, shuffle_window, spread
        self.drop_last, self.prefetch = drop_last, prefetch
        self._policy = BadSamplePolicy(on_bad_sample, max_bad_fraction)
        self._bad_samples_file = None if bad_samples_file is None else Path(bad_samples_file)
        self._prepare = prepare
        self._sources: dict[Part, dict[str, Sequence[Record]]] = {}
        self._open: list[TrainLoader | EvalLoader] = []

    def _choose_format(self, format: str, sa2va: Sa2VAOptions | None) -> None:
        if format == "sa2va":
            self._train_samples = replace(self._train_samples, sa2va=drawn_as(sa2va, self._train_samples))
            self._eval_samples = replace(self._eval_samples, sa2va=drawn_as(sa2va, self._eval_samples, once=False))
        elif format != "maskcap":
            raise ConfigError(f'data.format={format!r}: choose "maskcap" or "sa2va"')

    @property
    def val_names(self) -> list[str]:
        """Names of the validation sets, in the order of `val_dataloader()`."""
        return list(self._entries["val"])

    @property
    def test_names(self) -> list[str]:
        """Names of the test sets, in the order of `test_dataloader()`."""
        return list(self._entries["test"])

    @property
    def train_sources(self) -> dict[str, Sequence[Record]]:
        """Training sources by name, built on first use."""
        return self.sources("train")

    @property
    def train_options(self) -> SampleOptions:
        """How training samples are made."""
        return self._train_samples

    def sources(self, part: Part) -> dict[str, Sequence[Record]]:
        """Sources of "train", "val" or "test" by name, built on first use; bad records are among theirs.

        Raises DataError for an empty one.
        """
        if part not in self._sources:
            limit = self._limits[part]
            built: dict[str, Sequence[Record]] = {}
            for name, entry in self._entries[part].items():
                source = build_source(entry, f"data.{part}.{name}")
                built[name] = source if limit is None else RecordSubset(source, range(limit))
                logger.info("%s source %r: %d of %d records", part, name, len(built[name]), len(source))
            self._sources[part] = built
        return self._sources[part]

    def has_captions(self, part: Part) -> dict[str, bool]:
        """For each source of "train", "val" or "test" whether it has captions at all."""
        return {name: source_has_captions(source) for name, source in self.sources(part).items()}

    def has_turns(self, part: Part) -> dict[str, bool]:
        """For each source whether it has conversations."""
        return {name: source_has_turns(source) for name, source in self.sources(part).items()}

    def has_phrases(self, part: Part) -> dict[str, bool]:
        """For each source whether any of its captions singles a region out, so that it may ask for a mask."""
        return {name: source_has_phrases(source) for name, source in self.sources(part).items()}

    def prepare_data(self) -> None:
        """Lightning calls it on one process of each machine."""
        if self._prepare is not None:
            self._prepare()

    def setup(self, stage: str | None = None) -> None:
        """Build the sources of a Lightning stage ("fit", "validate", "test"; None: all)."""
        stages: dict[str | None, tuple[Part, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
        for part in stages.get(stage, ("train", "val", "test")):
            self._usable(part)

    def train_dataloader(self) -> TrainLoader:
        """Batches of the mixture. Its `state_dict` resumes inside an epoch."""
        sources = self._usable("train")
        if not sources:
            raise ConfigError("data.train names no source: nothing to train on")
        lengths = {name: len(source) for name, source in sources.items()}
        weights, whole = shares(self._entries["train"], lengths, self.temperature)
        blocks = {name: found for name, source in sources.items() if (found := blocks_of(source)) is not None}
        if self.shuffle_window is not None and not blocks:
            logger.warning("data.shuffle_window=%d has no effect: no source lies in shards", self.shuffle_window)
        samples = self.samples_per_epoch or whole
        mixture = Mixture(lengths, weights, self.seed, samples, blocks, self.shuffle_window, self.spread)
        overfit = self.trainer is not None and bool(getattr(self.trainer, "overfit_batches", 0))
        loader = TrainLoader(
            list(sources.values()),
            mixture,
            self._train_samples,
            self._loader_options(self.batch_size),
            reshuffle=not overfit,
            policy=self._policy_with_file(),
        )
        loader.set_epoch(0 if self.trainer is None else self.trainer.current_epoch)
        self._open.append(loader)
        return loader

    def val_dataloader(self) -> list[EvalLoader]:
        """One loader for each validation set, in the order of `val_names`."""
        return self._eval_loaders("val")

    def test_dataloader(self) -> list[EvalLoader]:
        """One loader for each test set, in the order of `test_names`."""
        return self._eval_loaders("test")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Lightning's hook; the copy does not wait where the batch is pinned."""
        if self.format == "sa2va":
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        return batch.to(device, non_blocking=self.pin_memory)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Lightning's hook: uint8 → normalised floats, on the device. Of format sa2va nothing is left to do."""
        return batch if self.format == "sa2va" else normalise(batch)

    def teardown(self, stage: str | None = None) -> None:
        """Lightning's hook at the end of a run: stop the workers."""
        for loader in self._open:
            loader.close()
        self._open.clear()

    def on_exception(self, exception: BaseException) -> None:
        """Lightning's hook when a run fails: stop the workers."""
        self.teardown()

    def _eval_loaders(self, part: Part) -> list[EvalLoader]:
        options = self._loader_options(self.val_batch_size)
        sources, policy = self._usable(part).values(), self._policy_with_file()
        loaders = [EvalLoader(source, self.seed, self._eval_samples, options, policy=policy) for source in sources]
        self._open += loaders
        return loaders

    def _loader_options(self, batch_size: int) -> LoaderOptions:
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return LoaderOptions(batch_size, self.num_workers, self.pin_memory, rank, world, self.prefetch, self.drop_last)

    def _policy_with_file(self) -> BadSamplePolicy:
        file = self._bad_samples_file
        if file is None and self.trainer is not None:
            file = Path(self.trainer.default_root_dir) / "bad_samples.jsonl"
        if file is not None and self.trainer is not None and self.trainer.global_rank > 0:
            file = file.with_name(f"{file.stem}.rank{self.trainer.global_rank}{file.suffix}")
        return replace(self._policy, file=file)

    def _usable(self, part: Part) -> dict[str, Sequence[Record]]:
        """The sources of a part. Raises DataError for records known to be bad, more of them than the policy allows."""
        sources = self.sources(part)
        for name, source in sources.items():
            bad = known_bad(source)
            if len(bad) > (self._policy.max_bad_fraction * len(source) if self._policy.skips else 0):
                first = bad[min(bad)]
                advice = (
                    "data.max_bad_fraction allows fewer" if self._policy.skips else "data.on_bad_sample=skip trains on"
                )
                raise type(first)(
                    f"data.{part}.{name}: {len(bad)} of {len(source)} records are bad, the first: {first} "
                    f"`maskcap check` lists every one; {advice}",
                    first.reason,
                )
        return sources


class RefCOCODataModule(MaskCaptionDataModule):
    """RefCOCO, RefCOCO+ or RefCOCOg under `root` (data/README.md says how it is laid out), with its own splits.

    `dataset` is "refcoco", "refcoco+" or "refcocog"; `split_by` "unc", "google" or "umd". `val_split` and `test_splits`
    (names → test sets) are evaluated; `kwargs` go to MaskCaptionDataModule.
    """

    def __init__(
        self,
        root: str | Path,
        dataset: str = "refcoco",
        split_by: str = "unc",
        val_split: str = "val",
        *,
        test_splits: Sequence[str] = (),
        images: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        def split(name: str) -> SourceEntry:
            """The source of one split."""
            return SourceEntry(functools.partial(RefCOCOSource, root, dataset, split_by, name, images=images))

        super().__init__(
            {"main": split("train")}, {"main": split(val_split)}, {name: split(name) for name in test_splits}, **kwargs
        )


class SA1BDataModule(MaskCaptionDataModule):
    """A folder of SA-1B; the last `val_fraction` of its images validates (0: no validation).

    `source_options` go to SA1BSource (filters on area and quality), `kwargs` to MaskCaptionDataModule.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        val_fraction: float = 0.02,
        source_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        train, val = _held_out(functools.partial(SA1BSource, root, **dict(source_options or {})), val_fraction)
        super().__init__(train, val, **kwargs)


class SAVDataModule(MaskCaptionDataModule):
    """A folder of SA-V, frames or (`pairs`) pairs of frames; the videos of the last `val_fraction` of records validate.

    `source_options` go to SAVSource (distance, annotations, stride), `kwargs` to MaskCaptionDataModule.
    """

    def __init__(
        self,
        root: str | Path,
        pairs: bool = False,
        *,
        val_fraction: float = 0.02,
        source_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        train, val = _held_out(functools.partial(SAVSource, root, pairs, **dict(source_options or {})), val_fraction)
        super().__init__(train, val, **kwargs)


class OspreyDataModule(MaskCaptionDataModule):
    """One annotation file of Osprey-724K with its folder (or folders) of images; the last `val_fraction` validates.

    `source_options` go to OspreySource (kind), `kwargs` to MaskCaptionDataModule.
    """

    def __init__(
        self,
        annotation: str | Path,
        images: str | Path | Sequence[str | Path],
        *,
        val_fraction: float = 0.02,
        source_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        make = functools.partial(OspreySource, annotation, images, **dict(source_options or {}))
        train, val = _held_out(make, val_fraction)
        super().__init__(train, val, **kwargs)


def _check_least(least: int, **counts: int | None) -> None:
    """Raise ConfigError for a setting of the module that is below `least`; None is none."""
    for name, count in counts.items():
        if count is not None and count < least:
            raise ConfigError(f"data.{name}={count}: needs at least {least}")


def _held_out(make: MakeSource, fraction: float) -> tuple[dict[str, SourceEntry], dict[str, SourceEntry]]:
    """Training and validation sets from the two parts of one source, which is built once; fraction 0: no validation."""
    if fraction == 0:
        return {"main": SourceEntry(make)}, {}

    @functools.cache
    def parts() -> tuple[RecordSubset, RecordSubset]:
        """Both parts, divided once."""
        return hold_out(make(), fraction)

    return {"main": SourceEntry(lambda: parts()[0])}, {"main": SourceEntry(lambda: parts()[1])}
