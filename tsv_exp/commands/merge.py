"""tsv-merge merges checkpoint files of any architecture, a few layers at a time.

    tsv-merge base=PATH 'models=[PATH,...]' out=FOLDER [method=tsv_m] [alpha=1.0] [rank_fraction=0.1] ...

base, models   .safetensors, .pt or .ckpt files, folders in the hub's layout, hub ids (owner/name[@revision]), and for
               models also LoRA adapters. Names of tasks are optional: 'models={cars: PATH, digits: PATH}'.
out            the folder to write: sharded safetensors with an index, and the base's configuration files. Methods
               with a model per task (tsv_c, tall_mask, ...) write their factors and masks, for tsv_exp.apply; with
               task=NAME the whole model of that task instead.
method, alpha  a method of the list below, and the scaling of the merged task vector (default: in the method's YAML).
               Parameters of the method are options too, such as rank_fraction=0.1.
before, after  steps that change the task vectors or the merged layers, such as after=[svc] (docs/methods.md).
router         likelihood: write a router too, for methods with a model per task; tsv_exp.load then serves them
               and predicts the task. Or mass, with router.layer=NAME. Parameters: router.epsilon=0.3.
dtype          dtype of the result: float32, bfloat16, float16; default: the base's.
shard_mb       largest size of a file, default 512; methods with a model per task hold one file in memory. With an
               open_clip_config.json a whole model is always one file, since open_clip cannot load several.
wait           whether to wait while another tsv-merge writes into the folder, default true; false: fail at once.
form           lora: the result is one LoRA adapter. A merge of adapters is exact and needs no base; rank=R truncates
               it, and the lost energy is printed. A merge of whole models needs rank=R.
weights        factors of the task vectors of some models: "weights={math: 0.3}".
push           owner/name: upload the folder to the hub; a missing repository is created as private.
svd, exclude, device   decompositions, auto or exact; patterns of 2-D weights that are not matrices, default
               *text_projection*; cpu or cuda.
               * needs quotes inside quotes: "exclude='*embed*'" or "exclude=['*embed*', 'head.*']".
keep, ignore   patterns of the base's tensors that are not merged, and of the models' tensors that are left out:
               heads of another size, extra buffers.
vocabulary     base or union: rows of embeddings and heads are matched by token, for models with added tokens.
tokenizer      source of the result's tokenizer and chat template: base (default) or the name of a model.
stacks         patterns of 3-D weights that are stacks of matrices; default: the experts of known models; [] for none.

    tsv-merge FILE.yaml [name=value ...]

FILE.yaml      the same options, and layers: method, alpha and rank for layers that match a pattern; or a mergekit file,
               if it has the same meaning here. --config-name NAME selects NAME.yaml in --config-dir.
--config-dir   a folder with your own methods in method/.
--version      print the version of tsv_exp.
-sc            tab completion for this shell: eval "$(tsv-merge -sc install=bash)", or zsh, fish.

After an interruption, the same command resumes. Under torchrun the layers are distributed over the ranks, each with
its own GPU if device=cuda.

Methods (those that need inputs only in tsv-exp and Python):
"""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tsv_exp.commands.app.completion import OPTIONS, complete
from tsv_exp.commands.app.guard import run_command
from tsv_exp.merge_files.options.help import method_lines, words
from tsv_exp.runtime.console import ConsoleHandler, ResilientConsole
from tsv_exp.runtime.imports import import_late

_LOG_LEVELS = {  # log counts of exact decompositions and differing names, not only warnings
    "tsv_exp": logging.WARNING,
    "tsv_exp.decompositions.build": logging.INFO,
    "tsv_exp.merging.inputs.alignment": logging.INFO,
}


def main() -> None:
    """Merge according to the command line; exits with 0 only on success."""
    if len(sys.argv) < 2 or {"-h", "--help"} & set(sys.argv[1:]):
        lines = [*__doc__.splitlines(), *method_lines(sys.argv[1:])]
        ResilientConsole(soft_wrap=True, markup=False, highlight=False).print("\n".join(lines))
        raise SystemExit(len(sys.argv) < 2)
    arguments, hint = sys.argv[1:], "run the same command again to resume"
    if arguments[0] in OPTIONS:
        raise SystemExit(run_command("tsv-merge", lambda: complete(arguments, words)))
    with ExitStack() as stack:
        for name, level in _LOG_LEVELS.items():
            stack.enter_context(_show_log(name, level))
        ended = run_command("tsv-merge", lambda: _merge(arguments), lambda: hint)
    if ended:
        raise SystemExit(ended)


def _merge(arguments: Sequence[str]) -> None:
    options = import_late("tsv_exp.merge_files.options.command_line").options_of(arguments)
    import_late("tsv_exp.merge_files.merge").run(options)


@contextmanager
def _show_log(name: str, level: int) -> Iterator[None]:
    """Show log records of a part of the package on the console, from one of torchrun's processes."""
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
