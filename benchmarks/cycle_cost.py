"""What a step of the cycle costs beside a supervised step on the same images and regions, as if these had words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from benchmarks.recipe_step import step_shared
from benchmarks.step_cost import TREE, Stepper
from benchmarks.timing import Times, table, take_turns
from maskcap.data.batch import Batch
from maskcap.loops.base import Loop
from maskcap.loops.cycle import Cycle

SUPERVISED, CYCLE, TEACHER = "supervised", "cycle", "cycle with a frozen copy"
CAPTION_TOKENS = 8  # of the drawn scenes' captions: up to seven words and the end


def measure_cycle(stepper: Stepper, batch: Batch, rounds: int, tokens: int = CAPTION_TOKENS) -> dict[str, Times]:
    """Forward, backward and optimizer step of both supervised loops on a batch with words, and of the cycle alone on
    the same batch without, taking turns.

    tokens: longest pseudo caption. Random weights hardly ever end one, so all are so long.
    """
    batch = batch.to(stepper.device)
    blank: list[str | None] = [None] * len(batch.region_ids)
    wordless = replace(batch, caption=blank, phrase=blank)
    ways: dict[str, tuple[Mapping[str, Loop], Batch]] = {
        SUPERVISED: (stepper.loops, batch),
        CYCLE: ({"cycle": Cycle(max_new_tokens=tokens)}, wordless),
        TEACHER: ({"cycle": Cycle(max_new_tokens=tokens, reference="copy", kl_weight=0.1)}, wordless),
    }
    stepper.choose_attention(TREE)

    def case(loops: Mapping[str, Loop], given: Batch) -> Callable[[], None]:
        def step() -> None:
            stepper.optimizer.zero_grad()
            step_shared(stepper.model, loops, given, "tree", stepper.mixed)
            stepper.finish()

        return step

    return take_turns({name: case(*way) for name, way in ways.items()}, rounds)


def cycle_ratios(times: Mapping[str, Times], on_host: bool = True) -> dict[str, float]:
    """`cycle_vs_supervised`, and `cycle_kl_vs_supervised` with the frozen copy: times that a step takes."""
    seconds = {name: each.processor_median if on_host else each.clock_median for name, each in times.items()}
    base = seconds[SUPERVISED]
    return {"cycle_vs_supervised": seconds[CYCLE] / base, "cycle_kl_vs_supervised": seconds[TEACHER] / base}


def cycle_table(times: Mapping[str, Times], title: str) -> str:
    """A line for each way."""
    in_ms = {name: each.scaled(1000) for name, each in times.items()}
    base = in_ms[SUPERVISED].processor_median
    rows = [
        [name, f"{each.processor_median:.1f}", f"{each.clock_median:.1f}", f"{each.processor_median / base:.2f}×"]
        for name, each in in_ms.items()
    ]
    return table([title, "ms", "by the clock", "of supervised"], rows)
