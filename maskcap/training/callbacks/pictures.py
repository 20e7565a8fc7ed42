"""Pictures of predictions beside the truth after every validation: in the run folder, TensorBoard and wandb."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np

from maskcap.durable import replacing, where_there_is_room
from maskcap.training.callbacks.position import LoadedPosition

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

    from maskcap.metrics.prediction import Prediction


class Pictures(pl.Callback):
    """Writes `<run folder>/samples/step_….png`, the run folder being the trainer's `default_root_dir`.

    Draws the first `count` entries of the module's `val_pictures`, a list of
    (image uint8 (H, W, 3), true mask (H, W), predicted mask (H, W) or None, Prediction); writes nothing when it is
    empty. Only rank 0 writes; the sanity check is passed over. Outside of a fit, the step is the loaded checkpoint's.
    Raises ValueError when `count` is negative.
    """

    def __init__(self, count: int = 8) -> None:
        if count < 0:
            raise ValueError(f"Pictures(count={count}): must be 0 or more")
        self.count = count
        self._loaded = LoadedPosition()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Notes the position, for an evaluation."""
        self._loaded = LoadedPosition.of(checkpoint)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After the module's own end of validation, so that `val_pictures` is complete."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        pictures: list[tuple[np.ndarray, np.ndarray, np.ndarray | None, Prediction]]
        pictures = pl_module.val_pictures[: self.count]  # pyright: ignore[reportAssignmentType, reportIndexIssue]
        if not pictures:
            return
        step, _ = self._loaded.position(trainer)
        show_picture(trainer, _draw(pictures), "step", "val/samples", step)
        for logger in trainer.loggers:
            send_table(logger, "val/predictions", pictures, step)


def show_picture(trainer: pl.Trainer, pixels: np.ndarray, stem: str, name: str, step: int) -> None:
    """Write uint8 (H, W, 3) to `<run folder>/samples/<stem>_<step>.png`, and show it in the loggers as `name`."""
    path = Path(trainer.default_root_dir) / "samples" / f"{stem}_{step:06d}.png"
    with where_there_is_room(path):
        _write_png(pixels, path)
    for logger in trainer.loggers:
        send_image(logger, name, pixels, step)


def send_image(logger: Logger, name: str, pixels: np.ndarray, step: int) -> None:
    """Show uint8 (H, W, 3) in a TensorBoard or wandb logger; other loggers have no images and are passed over.

    Loggers are told by their class's name, so that neither package is imported here. A full disk costs the picture.
    """
    classes = {base.__name__ for base in type(logger).__mro__}
    target: Any = logger
    if "TensorBoardLog" in classes:
        target.log_picture(name, pixels, step)
    elif "TensorBoardLogger" in classes:
        with where_there_is_room(name):
            target.experiment.add_image(name, pixels, step, dataformats="HWC")
    elif "WandbLogger" in classes:
        target.log_image(name, [pixels], step=step)


def send_table(
    logger: Logger,
    name: str,
    pictures: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None, Prediction]],
    step: int,
) -> None:
    """A row for each picture in a wandb logger: the image with both masks, words and IoU; others are passed over."""
    if "WandbLogger" not in {base.__name__ for base in type(logger).__mro__}:
        return
    import wandb

    rows = []
    for image, true, predicted, said in pictures:
        masks = {"truth": true, "prediction": predicted}
        shown = {
            kind: {"mask_data": mask.astype(np.uint8), "class_labels": {1: kind}}
            for kind, mask in masks.items()
            if mask is not None
        }
        picture = wandb.Image(image, masks=shown)  # pyright: ignore[reportArgumentType]
        words = [said.caption, said.predicted_caption, said.phrase]
        rows.append([said.key, said.region_id, said.set_name, picture, *words, said.iou])
    columns = ["record", "region", "set", "picture", "caption", "predicted caption", "asked for", "iou"]
    target: Any = logger
    target.log_table(name, columns=columns, data=rows, step=step)


def _draw(pictures: list[tuple[np.ndarray, np.ndarray, np.ndarray | None, Prediction]]) -> np.ndarray:
    from maskcap.reports.figures import PredictionView, figure_to_array, prediction_grid

    views = [
        PredictionView(image, true, predicted, said.caption, said.predicted_caption, said.phrase)
        for image, true, predicted, said in pictures
    ]
    return figure_to_array(prediction_grid(views))


def _write_png(pixels: np.ndarray, path: Path) -> None:
    from PIL import Image

    with replacing(path) as unfinished:
        Image.fromarray(pixels).save(unfinished, format="PNG")
