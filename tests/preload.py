"""What the server of `tests/processes.py` imports once, before it forks: most of a process's start."""

import hydra  # noqa: F401
import lightning  # noqa: F401
import peft  # noqa: F401
import torch
import transformers.models.internvl.modeling_internvl  # noqa: F401
import transformers.models.sam2.modeling_sam2  # noqa: F401

import maskcap.cli.train
import maskcap.data.datamodule
import maskcap.data.scenes
import maskcap.loops.caption_to_mask
import maskcap.loops.mask_to_caption
import maskcap.models.presets
import maskcap.training.module  # noqa: F401

torch.set_num_threads(1)
