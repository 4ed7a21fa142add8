"""Metadata in the files of a merged model."""

import json

import tsv_exp
from tsv_exp.merge_files.options.options import Options
from tsv_exp.merge_files.options.rules import Plan


def short_form(options: Options, plan: Plan) -> dict[str, str]:
    """The metadata of every file; equal for equal inputs and options."""
    provenance = {
        "version": tsv_exp.__version__,
        "base": options.base,
        "models": options.models,
        "weights": options.weights or None,
        "rules": plan.description,
        "task": options.task,
    }
    return {"tsv_exp": json.dumps({key: value for key, value in provenance.items() if value is not None})}
