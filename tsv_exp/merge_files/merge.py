"""The work of tsv-merge: merges one model or the components of a folder, writes provenance and summary, uploads."""

from tsv_exp.merge_files.components import ROOT, components, copy_rest
from tsv_exp.merge_files.one_model import Finished, check_model, merge_model
from tsv_exp.merge_files.options.options import Options
from tsv_exp.merge_files.options.rules import Plan
from tsv_exp.merge_files.records.provenance import write_provenance
from tsv_exp.merge_files.records.summary import show
from tsv_exp.merge_files.records.upload import check_upload, upload
from tsv_exp.runtime.console import console


def run(options: Options) -> None:
    """Merge; raises UserError for errors that the user can correct."""
    if options.push:
        check_upload(options.push)
    plan = Plan.of(options)  # refuses wrong methods and parameters before anything is downloaded
    parts = components(options)
    if len(parts.merged) > 1:  # none is merged before all are known to fit
        for part in parts.merged.values():
            check_model(part)
    finished: dict[str, Finished] = {}
    for name, part in parts.merged.items():
        if name != ROOT or len(parts.merged) > 1:
            console.print(f"{part.out}:", markup=False, highlight=False)
        one = merge_model(part, plan)
        if one is None:  # another rank of torchrun finishes the merge
            continue
        finished[name] = one
        show(part, one.inputs.stream, one.layers, one.size)
    if not finished:
        return
    copy_rest(options, parts)
    write_provenance(options, finished)
    if options.push:
        console.print(f"uploaded to {upload(options.out, options.push)}", markup=False, soft_wrap=True)
