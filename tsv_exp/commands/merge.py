"""tsv-merge: weights in, merged weights out, for any architecture, a few layers at a time.

    tsv-merge base=PATH 'models=[PATH,...]' out=FOLDER [method=tsv_m] [alpha=1.0] [rank_fraction=0.1] ...

base, models   .safetensors, .pt or .ckpt files, folders in the hub's layout, hub ids (owner/name[@revision]), and for
               models also LoRA adapters. models may name its tasks: 'models={cars: PATH, digits: PATH}'.
out            the folder to write: sharded safetensors with an index, and the base's configuration files. Methods
               with a model per task (tsv_c, tall_mask, ...) write their factors and masks, for tsv_exp.apply; with
               task=NAME the whole model of that task instead.
method, alpha  a name in conf/method; alpha defaults to what its file says. Its parameters are given by name.
dtype          of the result: float32, bfloat16, float16; default: the base's.
shard_mb       largest size of a file, default 512; it is held in memory where a method has a model per task. Beside an
               open_clip_config.json a whole model is always one file, since open_clip opens no more.
wait           whether to wait while another tsv-merge writes into the folder, default true; false: refuse at once.
form           lora: the result is one LoRA adapter. Of adapters it is exact and needs no base; rank=R cuts it, and the
               energy that this loses is printed. Of whole models it takes rank=R.
weights        a number for some of the models, "weights={math: 0.3}", by which their task vectors are multiplied.
push           owner/name: upload the folder to the hub, into a private repository that is made if it is not there.
svd, exclude, device   as in the engine: auto or exact; patterns of 2-D weights that are no matrices; cpu, cuda.
               * needs quotes inside quotes: "exclude='*embed*'" or "exclude=['*embed*', 'head.*']".
keep, ignore   patterns of the base's tensors that stay as they are, and of the models' that are left out: heads of
               another size, extra buffers.
vocabulary     base or union: rows of embeddings and heads are matched by token, for models with added tokens.
tokenizer      whose tokenizer and chat template the result carries: base (default) or the name of a model.
stacks         patterns of 3-D weights that are stacks of matrices; default: the experts of known models; [] for none.

    tsv-merge FILE.yaml [name=value ...]

FILE.yaml      the same options, and layers: which method, alpha and rank the layers of a pattern have; or a file of
               mergekit, as far as it means the same here. --config-name NAME takes NAME.yaml of --config-dir.
--config-dir   a folder whose folder method/ holds methods of your own.
--version      of tsv_exp.

Stopped at any moment, the same command goes on where it was. Under torchrun the layers are shared out over the ranks,
each with its own GPU where device=cuda.

Methods, and what their YAML says of them:
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console

from tsv_exp.commands.guard import run_command
from tsv_exp.merge_files.command_line import method_lines, options_of
from tsv_exp.merge_files.merge import run
from tsv_exp.runtime.console import ConsoleHandler

_TOLD = {  # how many decompositions were exact and whose names differ, beside warnings
    "tsv_exp": logging.WARNING,
    "tsv_exp.decompositions.build": logging.INFO,
    "tsv_exp.merging.alignment": logging.INFO,
}


def main() -> None:
    """Merge as the command line says; exit 0 only if all of it was done."""
    if len(sys.argv) < 2 or {"-h", "--help"} & set(sys.argv[1:]):
        lines = [*__doc__.splitlines(), *method_lines(sys.argv[1:])]
        Console(soft_wrap=True, markup=False, highlight=False).print("\n".join(lines))
        raise SystemExit(len(sys.argv) < 2)
    arguments, kept = sys.argv[1:], "the same command goes on from here"
    with ExitStack() as told:
        for name, level in _TOLD.items():
            told.enter_context(_told(name, level))
        ended = run_command("tsv-merge", lambda: run(options_of(arguments)), lambda: kept)
    if ended:
        raise SystemExit(ended)


@contextmanager
def _told(name: str, level: int) -> Iterator[None]:
    """Log records of a part of the package on the console, from one of the processes of torchrun."""
    logger, handler = logging.getLogger(name), ConsoleHandler(level)
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
