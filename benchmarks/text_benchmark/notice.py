"""What is shipped beside the data so that their licences are kept: a notice per task and the licences' texts."""

import re
import textwrap
from pathlib import Path
from typing import Any

from text_benchmark.packages import Packages

HEAD = """# Sources and licences of the text benchmark

The texts in data/ are excerpts of published works; the licence of this project does not cover them. Each task below
names its source, whose rights stay with its authors, and the licence under which the excerpts are passed on. What was
done to all of them: white space made uniform, long texts cut at 200 characters, repeated texts and texts with two
labels left out, examples drawn at random, labels as stated by the source. The order is that of the task sets: the
first 8 tasks, the first 14, all 20.

Licence texts are in licences/. By reference: CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/), CC BY 2.5
(https://creativecommons.org/licenses/by/2.5/), Open Government Licence v3.0
(https://www.nationalarchives.gov.uk/doc/open-government-licence/version/3/), ODC PDDL 1.0
(https://opendatacommons.org/licenses/pddl/1-0/).
"""
LICENCES = {  # file -> package, its file, what to take of it
    "Apache-2.0.txt": ("botocore", "botocore-*/LICENSE.txt", r"(?s).+"),
    "Artistic-2.0.txt": ("libmojolicious-perl", "usr/share/doc/*/copyright", r"^License: Artistic-2.0\n((?: .*\n?)+)"),
    "MIT.txt": ("faker", "faker-*/LICENSE.txt", r"(?s)^Permission is .+"),
    "Unicode-3.0.txt": ("cldr-localenames-full", "package/LICENSE", r"(?s).+"),
    "Unicode-data-files.txt": ("unicode-data", "usr/share/doc/*/copyright", r"(?s)EXHIBIT 1.+"),
    "WordNet-3.0.txt": ("wordnet-base", "usr/share/wordnet/data.noun", r"\A((?:  .*\n)+)"),
}


def write_notice(catalogue: list[dict[str, Any]], folder: Path) -> None:
    """Write NOTICE.md: of each task its source packages, licence and credit, classes and sizes."""
    parts = [HEAD]
    for task in catalogue:
        sizes = ", ".join(f"{count} {name}" for name, count in task["examples"].items())
        rate = task["majority_rate"]["test"]
        facts = [
            f"{task['question']} {len(task['classes'])} classes; {sizes}; majority rate {rate:.1%} (test).",
            f"Licence: {task['licence']}.",
            f"Source: {task['credit'].rstrip('.')}.",
            f"Package: {'; '.join(task['packages'])}.",
        ]
        parts.append(
            "\n".join(
                [f"## {task['name']}\n", *(textwrap.fill(f"- {fact}", 120, subsequent_indent="  ") for fact in facts)]
            )
            + "\n"
        )
    (folder / "NOTICE.md").write_text("\n".join(parts), "utf-8")


def write_licences(packages: Packages, folder: Path) -> None:
    """Write the licence texts as the packages carry them."""
    folder.mkdir(exist_ok=True)
    for name, (package, pattern, part) in LICENCES.items():
        (file,) = packages.names(package, pattern)
        found = re.search(part, packages.read(package, file).decode("utf-8", "replace"), re.M)
        if found is None:
            raise SystemExit(f"{package}: {file} has no text of the licence {name}")
        lines = re.sub(r"^(  \d+ | \.$| )|\s+$", "", found[found.lastindex or 0], flags=re.M)
        (folder / name).write_text(lines.strip() + "\n", "utf-8")
