"""METEOR and the Penn Treebank tokenizer: the two Java programs that pycocoevalcap ships, talked to over pipes.

pycocoevalcap's own wrappers are not used: its tokenizer writes temporary files into the installed package, and its
METEOR blocks for ever at garbage collection once the Java process has died. The programs and arguments are the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import weakref
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, cast

# What pycocoevalcap's tokenizer drops after tokenizing.
_PUNCTUATION = frozenset("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split())


class JavaError(Exception):
    """Java is missing, or one of its programs failed."""


def ptb_tokenize(sentences: Sequence[str]) -> list[str]:
    """Tokenize as COCO's caption evaluation does: Penn Treebank rules, lower case, punctuation dropped.

    Returns one string of tokens separated by spaces for each sentence. One Java process a call (~0.2–1 s).
    Raises JavaError when Java is missing or fails.
    """
    if not sentences:
        return []
    command = [
        *_java("-Xmx1G", "-cp"), str(_jar("tokenizer", "stanford-corenlp-3.4.1.jar")),
        "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "UTF-8",
    ]  # fmt: skip
    text = "\n".join(_one_line(sentence) for sentence in sentences) + "\n"
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    lines = done.stdout.decode().removesuffix("\n").split("\n")
    if done.returncode != 0 or len(lines) != len(sentences):
        raise JavaError(
            f"the PTB tokenizer exited with {done.returncode} and {len(lines)} lines for {len(sentences)} sentences: "
            f"{done.stderr.decode(errors='replace').strip()[-300:]}"
        )
    return [" ".join(word for word in line.split(" ") if word and word not in _PUNCTUATION) for line in lines]


class Meteor:
    """METEOR 1.5 for English; the Java process (≈7–11 s to start, ≈1.2 GB) starts at the first score and is kept.

    Share one object between metrics. It is stopped by `close`, by leaving a `with` block, at garbage collection and
    at interpreter exit. A process that has died is started again by the next score.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._stop: weakref.finalize | None = None

    def __enter__(self) -> Meteor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the Java process, if one runs; a later score starts another."""
        if self._stop is not None:
            self._stop()
        self._process = self._stop = None

    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
        """METEOR of the whole corpus (not the mean of the sentences), and of each sentence; all in [0, 1].

        predictions: N tokenized sentences; references: one or more tokenized sentences for each.
        Raises JavaError when Java is missing or fails.
        """
        if not predictions:
            raise ValueError("METEOR of no predictions is undefined")
        try:
            statistics = [self._ask(_score_line(p, r)) for p, r in zip(predictions, references, strict=True)]
            first = float(self._ask(" ||| ".join(["EVAL", *statistics])))
            scores = [first, *(float(self._read()) for _ in range(len(statistics)))]
        except (OSError, ValueError, JavaError) as error:  # a half-answered question would shift every later answer
            self.close()
            raise error if isinstance(error, JavaError) else JavaError(f"METEOR failed: {error}") from error
        return scores[-1], scores[:-1]

    def _ask(self, line: str) -> str:
        stdin = cast("IO[str]", self._running().stdin)
        stdin.write(line + "\n")
        stdin.flush()
        return self._read()

    def _read(self) -> str:
        process = self._running()
        answer = cast("IO[str]", process.stdout).readline()
        if not answer:
            raise JavaError(f"METEOR's Java process ended with exit code {process.wait()}")
        return answer.strip()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            jar = _jar("meteor", "meteor-1.5.jar")
            # stderr is dropped, not piped: nobody reads it, and a full pipe would stop Java.
            # A session of its own: Ctrl-C in the terminal is for the training process.
            self._process = subprocess.Popen(
                [*_java("-Xmx2G", "-Dfile.encoding=UTF-8", "-jar"), str(jar), *"- - -stdio -l en -norm".split()],
                cwd=jar.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                encoding="utf-8", start_new_session=True,
            )  # fmt: skip
            self._stop = weakref.finalize(self, _terminate, self._process, os.getpid())
        return self._process


def _terminate(process: subprocess.Popen[str], owner: int) -> None:
    if os.getpid() != owner:  # a forked data worker must not end its parent's process
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        try:
            cast("IO[str]", pipe).close()
        except OSError:  # what was still buffered has nobody to go to
            pass


def _score_line(prediction: str, references: Sequence[str]) -> str:
    fields = [_one_line(text.replace("|||", " ")) for text in (*references, prediction)]
    return " ||| ".join(["SCORE", *fields])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _java(*arguments: str) -> list[str]:
    java = shutil.which("java")
    if java is None:
        raise JavaError("no `java` on PATH (any Java runtime from version 8 on will do)")
    return [java, *arguments]


def _jar(folder: str, name: str) -> Path:
    package = find_spec("pycocoevalcap")
    if package is None:
        raise JavaError("the package pycocoevalcap is not installed")
    for location in package.submodule_search_locations or ():
        if (path := Path(location) / folder / name).is_file():
            return path
    raise JavaError(f"pycocoevalcap is installed without {folder}/{name}")
