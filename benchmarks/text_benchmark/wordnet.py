"""WordNet 3.0: definitions to lexical categories, names of living things to kinds."""

from collections.abc import Iterator

from text_benchmark.packages import Packages
from text_benchmark.recipe import Example, Recipe, shorten

LICENCE = "WordNet 3.0 licence (free use, copying, modification and distribution with the notice kept)"
CREDIT = "WordNet 3.0, Copyright 2006 by Princeton University. All rights reserved."

NOUNS = {
    "04": "an act or action",
    "05": "an animal",
    "06": "a man-made object",
    "07": "an attribute or quality",
    "08": "a body part",
    "09": "a thought or mental process",
    "10": "communication",
    "11": "a natural event",
    "12": "a feeling or emotion",
    "13": "food or drink",
    "14": "a group of people or things",
    "15": "a place or location",
    "17": "a natural object",
    "18": "a person",
    "19": "a natural phenomenon",
    "20": "a plant",
    "21": "possession and money",
    "22": "a natural process",
    "23": "a quantity or unit of measure",
    "26": "a state or condition",
    "27": "a substance",
    "28": "a time or period",
}
VERBS = {
    "29": "grooming, dressing and bodily care",
    "30": "changing size, temperature or intensity",
    "31": "thinking, judging and analyzing",
    "32": "telling, asking and singing",
    "33": "fighting and athletic activities",
    "34": "eating and drinking",
    "35": "touching, hitting and tying",
    "36": "sewing, baking, painting and performing",
    "37": "feeling an emotion",
    "38": "walking, flying and swimming",
    "39": "seeing, hearing and feeling",
    "40": "buying, selling and owning",
    "41": "political and social activities",
    "42": "being, having and spatial relations",
    "43": "raining, snowing and weather",
}
SPECIES = {
    "mammal": "a mammal",
    "bird": "a bird",
    "fish": "a fish",
    "reptile": "a reptile",
    "amphibian": "a frog, toad or salamander",
    "insect": "an insect",
    "arachnid": "a spider, scorpion or mite",
    "crustacean": "a crab, shrimp or other crustacean",
    "mollusk": "a snail, clam or other mollusk",
    "tree": "a tree",
    "shrub": "a shrub",
    "herb": "a herb or wild flower",
    "vine": "a climbing plant",
    "grass": "a grass",
    "fern": "a fern",
    "fungus": "a mushroom or other fungus",
}
LIVING = ("05", "20")  # WordNet's lexical files of animals and of plants


def synsets(packages: Packages, pos: str) -> Iterator[tuple[str, str, list[str], list[str], str]]:
    """Yield (offset, lexical file, lemmas, offsets of the hypernyms, gloss) of each synset of a part of speech."""
    for line in packages.read("wordnet-base", f"usr/share/wordnet/data.{pos}").decode("latin-1").splitlines():
        if line.startswith("  "):
            continue  # the licence at the file's head
        head, _, gloss = line.partition(" | ")
        offset, file, _, count, *fields = head.split()
        words = 2 * int(count, 16)
        lemmas = [word.replace("_", " ") for word in fields[:words:2]]
        pointers = fields[words + 1 :]
        hypernyms = [pointers[at + 1] for at, mark in enumerate(pointers) if mark in ("@", "@i")]
        yield offset, file, lemmas, hypernyms, gloss.split('; "')[0]


def nouns(packages: Packages) -> Iterator[Example]:
    """Yield the definitions of nouns with their lexical files."""
    return (Example(shorten(gloss), file) for _, file, _, _, gloss in synsets(packages, "noun") if len(gloss) > 12)


def verbs(packages: Packages) -> Iterator[Example]:
    """Yield the definitions of verbs with their lexical files."""
    return (Example(shorten(gloss), file) for _, file, _, _, gloss in synsets(packages, "verb") if len(gloss) > 12)


def species(packages: Packages) -> Iterator[Example]:
    """Yield the names of animals, plants and fungi with the nearest kind above them; synonyms form a group."""
    known = {offset: (file, lemmas, above) for offset, file, lemmas, above, _ in synsets(packages, "noun")}
    for offset, (file, lemmas, _) in known.items():
        kind = nearest(offset, known)
        if file in LIVING and kind is not None and not any(lemma.split()[0] in ("genus", "family") for lemma in lemmas):
            yield from (Example(lemma, kind, offset) for lemma in lemmas if len(lemma) > 3)


def nearest(offset: str, known: dict[str, tuple[str, list[str], list[str]]]) -> str | None:
    """Return the class of SPECIES that is the nearest proper ancestor of a synset, breadth first."""
    level = known[offset][2]
    while level:
        for above in level:
            if (kind := known[above][1][0]) in SPECIES and known[above][0] in LIVING:
                return kind
        level = [higher for above in level for higher in known[above][2]]
    return None


DEFINITIONS = ("a definition of something that is {}", "{}")
NOUN_TASK = Recipe(
    "nouns", "What is this the definition of?", NOUNS, DEFINITIONS, ("wordnet-base",), LICENCE, CREDIT, nouns
)
VERB_TASK = Recipe(
    "verbs",
    "What kind of action is this the definition of?",
    VERBS,
    ("a definition of a verb about {}", "{}"),
    ("wordnet-base",),
    LICENCE,
    CREDIT,
    verbs,
)
SPECIES_TASK = Recipe(
    "species",
    "What kind of living thing has this name?",
    SPECIES,
    ("the name of {}", "{}"),
    ("wordnet-base",),
    LICENCE,
    CREDIT,
    species,
    "synonyms",
)
