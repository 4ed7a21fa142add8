"""Dictionaries and lexicons: Webster's of 1913, Chinese characters, words with a sentiment."""

import bz2
import gzip
import re
from collections.abc import Iterator

from text_benchmark.packages import Packages
from text_benchmark.recipe import Example, Recipe, shorten, squeeze

FIELDS = {
    "Zool": "zoology",
    "Bot": "botany",
    "Chem": "chemistry",
    "Med": "medicine",
    "Anat": "anatomy",
    "Naut": "ships and sailing",
    "Min": "minerals",
    "Biol": "biology",
    "Mus": "music",
    "Arch": "architecture",
    "Mil": "the military",
    "Physiol": "physiology",
    "Math": "mathematics",
    "Astron": "astronomy",
    "Geol": "geology and fossils",
    "Mach": "machines and mechanics",
    "Her": "heraldry",
    "Elec": "electricity",
    "Gram": "grammar and rhetoric",
    "Eccl": "the church",
    "Law": "law",
    "Print": "printing",
}
SAME_FIELD = {"Geom": "Math", "Alg": "Math", "Paleon": "Geol", "Surg": "Med", "Mech": "Mach", "Rhet": "Gram"}
RADICALS = {
    "85": "water",
    "75": "tree and wood",
    "64": "hand",
    "61": "heart and mind",
    "30": "mouth",
    "140": "grass and plants",
    "149": "speech",
    "120": "silk and thread",
    "9": "person",
    "167": "metal",
    "157": "foot",
    "142": "insect",
    "195": "fish",
    "196": "bird",
    "130": "flesh and body",
    "38": "woman",
    "86": "fire",
    "145": "clothes",
    "118": "bamboo",
    "112": "stone",
    "96": "jade",
    "104": "sickness",
    "162": "walking",
    "46": "mountain",
    "109": "eye",
    "154": "shell and money",
    "72": "sun",
    "94": "dog",
    "187": "horse",
    "115": "grain",
}
SENTIMENTS = {"negative": "negative", "positive": "positive"}


def webster(packages: Packages) -> Iterator[Example]:
    """Yield the definitions marked with a field of knowledge, from the paragraphs of the 1913 edition only."""
    text = gzip.decompress(packages.read("dict-gcide", "usr/share/dictd/gcide.dict.dz")).decode("utf-8", "replace")
    marks = "|".join((*FIELDS, *SAME_FIELD))
    sense = re.compile(
        rf"\((?P<field>{marks})\.?\)\s+(?:\([a-z]\) )?(?P<text>[A-Z].{{15,}}?)(?:\.(?: |$)| Note:| --| \[)"
    )
    for paragraph in re.split(r"\n\s*\n", text):
        found = sense.search(squeeze(paragraph)) if "[1913 Webster]" in paragraph else None
        if found:
            field = found["field"]
            words = re.split(r" \([a-z]\) ", re.sub(r"[{}]", "", found["text"]))[0]
            yield Example(shorten(words).rstrip(",;"), SAME_FIELD.get(field, field))


def characters(packages: Packages) -> Iterator[Example]:
    """Yield the English meanings of Chinese characters with the radical that each is filed under."""
    folder = "usr/share/unicode"
    strokes = bz2.decompress(packages.read("unicode-data", f"{folder}/Unihan_IRGSources.txt.bz2")).decode()
    readings = bz2.decompress(packages.read("unicode-data", f"{folder}/Unihan_Readings.txt.bz2")).decode()
    radical = dict(re.findall(r"^(U\+\w+)\tkRSUnicode\t(\d+)", strokes, re.M))
    for code, meaning in re.findall(r"^(U\+\w+)\tkDefinition\t(.+)$", readings, re.M):
        if not re.search(r"same as|variant|interchange|non-classical|U\+|form of|radical|[^\x00-\x7f]", meaning):
            yield Example(shorten(re.sub(r"\([^)]*\)", "", meaning)), radical.get(code, ""))


def sentiment(packages: Packages) -> Iterator[Example]:
    """Yield the words that raters find clearly good or bad; the forms of a word (by its first letters) form a group."""
    table = packages.read("vaderSentiment", "vaderSentiment-3.3.2/vaderSentiment/vader_lexicon.txt").decode()
    for line in table.splitlines():
        word, mean, *_ = line.split("\t")
        if word.isalpha() and len(word) > 2 and abs(float(mean)) >= 1:
            yield Example(word, "positive" if float(mean) > 0 else "negative", word[:5].lower())


WEBSTER_TASK = Recipe(
    "webster",
    "Which field of knowledge does this definition of 1913 belong to?",
    FIELDS,
    ("a definition from the field of {}", "{}"),
    ("dict-gcide",),
    "public domain",
    "Webster's Revised Unabridged Dictionary, G. & C. Merriam Co., 1913. Only its paragraphs are taken, as marked in "
    "the package, the GNU Collaborative International Dictionary of English.",
    webster,
)
RADICAL_TASK = Recipe(
    "radicals",
    "Under which radical is a Chinese character with this meaning filed?",
    RADICALS,
    ("something that has to do with {}", "{}"),
    ("unicode-data",),
    "Unicode licence for data files and software",
    "Unihan database, Unicode 15.0, Copyright 1991-2022 Unicode, Inc. All rights reserved. Modified as stated above; "
    "what stands in brackets left out.",
    characters,
)
SENTIMENT_TASK = Recipe(
    "sentiment",
    "Is this word positive or negative?",
    SENTIMENTS,
    ("a {} word", "something {}"),
    ("vaderSentiment",),
    "MIT",
    "VADER sentiment lexicon, Copyright 2016 C.J. Hutto. Offensive words are among those rated",
    sentiment,
    "first five letters of a word",
)
