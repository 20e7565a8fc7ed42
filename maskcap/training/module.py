"""MaskCaptionModule: the loops in a Lightning training step, and validation by their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from maskcap.data.batch import Batch
from maskcap.errors import ConfigError
from maskcap.loops.base import Curriculum, Loop, StepContext, run_loops
from maskcap.loops.global_batch import GlobalBatch
from maskcap.loops.outputs import LoopOutput
from maskcap.metrics.prediction import Prediction
from maskcap.models.mask_caption import MaskCaptionModel
from maskcap.models.work import Work
from maskcap.training.checkpoints.frozen import fill_in_frozen, frozen_sources
from maskcap.training.checkpoints.random_states import gather_random_states, restore_random_states
from maskcap.training.entry_losses import EntryLosses
from maskcap.training.faults.memory import OnOutOfMemory, batch_named
from maskcap.training.faults.nonfinite import OnNonFinite
from maskcap.training.faults.splitting import split_step
from maskcap.training.faults.steps import GuardedSteps
from maskcap.training.loop_checks import check_words
from maskcap.training.optimizers import AdamW, WarmupCosine
from maskcap.training.step_logs import log_step
from maskcap.training.strategies import is_sharded
from maskcap.training.used_images import only_images, used_images, with_stand_in
from maskcap.training.validation import Validation


class MaskCaptionModule(GuardedSteps):
    """Trains `model` by the weighted sum of `loops`; one of weight 0 takes no part in training, but does in validation.

    describe_sets: names of the validation sets whose captions are generated and scored (None: all of them); masks
    are predicted on every set, but for those that a generated caption asks for. meteor: score METEOR too (needs Java).
    seed: of the steps' own random numbers, which depend on it and on the number of batches seen alone (and on the
    rank, for noise), so a resumed run draws what the undisturbed one would have drawn.
    on_nonfinite, max_nonfinite: what becomes of a step whose loss or gradient is not finite, see NonFiniteGuard.
    on_out_of_memory: what becomes of a batch that does not fit, see GuardedSteps.
    """

    def __init__(
        self,
        model: MaskCaptionModel,
        loops: Mapping[str, Loop],
        optimizer: AdamW | None = None,
        scheduler: WarmupCosine | None = None,
        curriculum: Curriculum | None = None,
        describe_sets: Sequence[str] | None = None,
        meteor: bool = True,
        pictures: int = 8,
        seed: int = 0,
        on_nonfinite: OnNonFinite = "skip",
        max_nonfinite: int = 10,
        on_out_of_memory: OnOutOfMemory = "raise",
    ) -> None:
        super().__init__(on_nonfinite, max_nonfinite, on_out_of_memory)
        if not loops:
            raise ConfigError(
                "no loop to train: choose loops=both, cycle, mask_to_caption, caption_to_mask, prompt_to_mask"
            )
        self.model = model
        self.loops = dict(loops)
        self.optimizer_settings = optimizer or AdamW()
        self.scheduler_settings = scheduler or WarmupCosine()
        self.curriculum = curriculum or Curriculum()
        self.seed = seed
        self._batches_seen = 0  # by each rank, over epochs and resumes
        self._world, self._sharded = 1, False
        self._random_states: Sequence[Mapping[str, Any]] | None = None  # loaded, not yet restored
        self.entry_losses: EntryLosses | None = None  # of a mixture of several sources
        self._saved_entry_losses: Mapping[str, Any] | None = None
        self.last_work: Work | None = None  # of the last training step, for callbacks
        self.last_tokens: list[tuple[int, int]] = []  # of the last batch, `EncodedImages.token_costs`
        self.last_images: list[int] | None = None  # of the last training batch, those that a loop learned from
        self.validation = Validation(self.loops, describe_sets, meteor=meteor, pictures=pictures)

    @property
    def active_loops(self) -> dict[str, Loop]:
        """The loops that training steps run: those with a weight."""
        return {name: loop for name, loop in self.loops.items() if loop.weight != 0}

    @property
    def val_predictions(self) -> list[Prediction]:
        """The last validation's predictions, one or more a region and set; of all ranks once it has ended."""
        return self.validation.predictions

    def gather_predictions(self) -> list[Prediction]:
        """For callbacks, which run before the module's own end of validation: every rank must call it."""
        return self.validation.gather()

    @property
    def val_pictures(self) -> list[Any]:
        """(image uint8 (H, W, 3), true mask, predicted mask, Prediction) of the last validation's first regions."""
        return self.validation.pictures

    def setup(self, stage: str) -> None:
        """Raises ConfigError when all loops have weight 0, when no training source has the words that a loop needs, or
        when no loop can use a source."""
        if stage == "fit":
            self._batches_seen = 0
            if not self.active_loops:
                raise ConfigError(f"nothing to train: loops {list(self.loops)} all have weight 0; give one a weight")
            self.check_faults()
            for loop in self.active_loops.values():
                loop.check(self.model)
            idle = {name: loop for name, loop in self.loops.items() if loop.weight == 0}
            check_words(self.active_loops, getattr(self.trainer, "datamodule", None), idle)

    def configure_model(self) -> None:
        """Lightning's hook for sharding weights. Raises ConfigError for what cannot be sharded."""
        if is_sharded(self.trainer):
            self.trainer.strategy.shard_weights(self)  # type: ignore[attr-defined]

    def on_fit_start(self) -> None:
        """Reads the length of the run once: Lightning's estimate walks the loaders."""
        self._total_steps = max(1, int(self.trainer.estimated_stepping_batches))
        self._world, self._sharded = self.trainer.world_size, is_sharded(self.trainer)
        entries = list(getattr(getattr(self.trainer, "datamodule", None), "train_sources", ()))
        weights = {name: loop.weight for name, loop in self.active_loops.items()}
        self.entry_losses = EntryLosses(entries, weights, self.device) if len(entries) > 1 else None
        if self.entry_losses is not None and self._saved_entry_losses is not None:
            self.entry_losses.load_state_dict(self._saved_entry_losses)

    def on_train_start(self) -> None:
        """Restores the random states, and gives the training loader its restored place: Lightning passes it over when
        the loader was already made, and `configure_optimizers` asks for its length before anything is restored."""
        self.trainer.fit_loop._load_combined_loader_states()
        if self._random_states is not None:  # not earlier: setting up draws, and a validation may be due first
            restore_random_states(self._random_states)
            self._random_states = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the number of batches seen, for the steps' random numbers, the states of loops that have one, every
        rank's random states (so every rank must save), and which weights are frozen."""
        checkpoint["batches_seen"] = self._batches_seen
        checkpoint["random_states"] = gather_random_states()
        checkpoint["frozen_sources"] = frozen_sources(self)
        if self.entry_losses is not None:
            checkpoint["entry_losses"] = self.entry_losses.state_dict()
        states = {name: state for name, loop in self.loops.items() if (state := loop.state_dict())}
        if states:
            checkpoint["loop_states"] = states  # "loops" is Lightning's own

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on from there. Raises CheckpointError when frozen weights that it does not hold differ from these."""
        fill_in_frozen(checkpoint, self)
        self._random_states = checkpoint.get("random_states")
        self._saved_entry_losses = checkpoint.get("entry_losses")
        self._batches_seen = int(checkpoint.get("batches_seen", checkpoint.get("global_step", 0)))
        for name, state in checkpoint.get("loop_states", {}).items():
            if name in self.loops:
                self.loops[name].load_state_dict(state)

    def step_context(self, batch: Batch) -> StepContext:
        """This batch's encodings, progress and random numbers."""
        seed = self.seed * 1_000_003 + self._batches_seen
        generator = torch.Generator().manual_seed(seed)
        # Ranks draw different amounts of noise: from one stream, their common decisions would drift apart. A seed of
        # 32 bits: of a larger one torch's generator on the CPU takes the lowest alone.
        noise = None
        if self._world > 1:
            own = np.random.SeedSequence([seed % 2**64, self.global_rank + 1]).generate_state(1)
            noise = torch.Generator().manual_seed(int(own[0]))
        encoded = self.model.encode(batch.images, batch.image_sizes, batch.groups)
        ranks = None
        if self._world > 1:
            ranks = GlobalBatch(self.device, padding=batch.all_padding, stand_ins=self._sharded)
        by_entry = self.entry_losses is not None
        return StepContext(encoded, self._progress, self.curriculum, generator, noise, ranks, by_entry)

    @property
    def _progress(self) -> float:
        return self.global_step / getattr(self, "_total_steps", 1)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Weighted sum of the loops' losses; each part is logged as train/<loop>/<part>."""
        self.last_images = used_images(batch, self.active_loops.values(), self._progress)
        batch = only_images(batch, self.last_images)
        if self._sharded and not batch.region_ids:
            batch = with_stand_in(batch)
        self.begin_step(batch)
        if self.splits:
            first = batch_idx % self.trainer.accumulate_grad_batches == 0
            total, gradients = split_step(self, batch, first=first)
            self.begin_step(batch, gradients)
        else:
            with batch_named(batch):
                total, outputs = self.step_losses(batch, self.step_context(batch))
            log_step(self, outputs, total, len(batch.keys), batch.all_padding, self.entry_losses)
            self.note_batch(batch.keys, total, outputs)
        self._batches_seen += 1  # here, so that a checkpoint at the end of this batch counts it
        return total

    def step_losses(self, batch: Batch, context: StepContext) -> tuple[torch.Tensor, dict[str, LoopOutput]]:
        """The weighted sum of the loops' losses, with gradient, and their outputs by name."""
        outputs = run_loops(self.model, self.active_loops, batch, context)
        total: torch.Tensor | None = None
        for name, output in outputs.items():
            weighted = self.loops[name].weight * output.loss
            total = weighted if total is None else total + weighted
        assert total is not None
        self.last_work, self.last_tokens = context.encoded.work, context.encoded.token_costs
        if batch.all_padding:
            total = total * 0.0  # the other ranks have the epoch's last samples; this one only steps with them
        return total, outputs

    def on_validation_epoch_start(self) -> None:
        """Forgets the last validation."""
        self.validation.reset(self._set_names("val_names"))

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Predictions of every loop on one batch of one set."""
        self.last_tokens = self.validation.update(self.model, batch, dataloader_idx).token_costs

    def on_validation_epoch_end(self) -> None:
        """Logs val/… of every set: no suffix for the set called main, _<set> for the others."""
        for name, value in self.validation.compute().items():
            self.log(f"val/{name}", value, sync_dist=False)

    def on_test_epoch_start(self) -> None:
        """As for validation."""
        self.validation.reset(self._set_names("test_names"))

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As for validation."""
        self.last_tokens = self.validation.update(self.model, batch, dataloader_idx).token_costs

    def on_test_epoch_end(self) -> None:
        """Logs test/…"""
        for name, value in self.validation.compute().items():
            self.log(f"test/{name}", value, sync_dist=False)

    def configure_optimizers(self) -> Any:
        """AdamW by parts; the scheduler steps with the optimizer."""
        optimizer = self.optimizer_settings.build(self.model)
        scheduler = self.scheduler_settings.build(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _set_names(self, attribute: str) -> list[str]:
        names = getattr(getattr(self.trainer, "datamodule", None), attribute, None)
        return list(names) if names else ["main"]
