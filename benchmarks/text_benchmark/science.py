"""Tasks on medicine and biology."""

import re
import sqlite3
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator

from text_benchmark.packages import Packages
from text_benchmark.recipe import Example, Recipe, sentences, shorten

CHAPTERS = {
    "1": "certain infectious and parasitic diseases",
    "2": "neoplasms",
    "3": "diseases of the blood and disorders of the immune mechanism",
    "4": "endocrine, nutritional and metabolic diseases",
    "5": "mental, behavioral and neurodevelopmental disorders",
    "6": "diseases of the nervous system",
    "7": "diseases of the eye and adnexa",
    "8": "diseases of the ear and mastoid process",
    "9": "diseases of the circulatory system",
    "10": "diseases of the respiratory system",
    "11": "diseases of the digestive system",
    "12": "diseases of the skin and subcutaneous tissue",
    "13": "diseases of the musculoskeletal system and connective tissue",
    "14": "diseases of the genitourinary system",
    "15": "pregnancy, childbirth and the puerperium",
    "16": "conditions originating in the perinatal period",
    "17": "congenital malformations and chromosomal abnormalities",
    "18": "symptoms, signs and abnormal clinical and laboratory findings",
    "19": "injury, poisoning and other consequences of external causes",
    "20": "external causes of morbidity: accidents and assaults",
    "21": "factors influencing health status and contact with health services",
}
GENES = {
    "GO:0008152": "metabolism",
    "GO:0032502": "the development of an organism",
    "GO:0050896": "the response to a stimulus",
    "GO:0051179": "transport and localization",
    "GO:0002376": "the immune system",
    "GO:0000003": "reproduction",
    "GO:0016740": "transferase enzymes",
    "GO:0016491": "oxidoreductase enzymes",
    "GO:0016787": "hydrolase enzymes",
    "GO:0016829": "lyase enzymes",
    "GO:0005488": "molecular binding",
    "GO:0005215": "transporter proteins",
    "GO:0110165": "a part of a cell",
    "GO:0032991": "a complex of proteins",
}


def diagnoses(packages: Packages) -> Iterator[Example]:
    """Yield the diagnoses of ICD-10-CM with their chapters; a category of three characters is a group."""
    (file,) = packages.names("simple-icd-10-cm", "*/data/*.xml")
    for chapter in ElementTree.fromstring(packages.read("simple-icd-10-cm", file)).iter("chapter"):
        for category in chapter.findall("section/diag"):
            for diagnosis in category.iter("diag"):
                yield Example(diagnosis.findtext("desc", ""), chapter.findtext("name", ""), category.findtext("name"))


def genes(packages: Packages) -> Iterator[Example]:
    """Yield the definitions of Gene Ontology terms that lie below exactly one of the terms of GENES."""
    (file,) = packages.names("r-bioc-go.db", "*/GO.sqlite")
    database = sqlite3.connect(":memory:")
    database.deserialize(packages.read("r-bioc-go.db", file))
    above: dict[int, list[str]] = defaultdict(list)
    for part in ("bp", "mf", "cc"):
        pairs = f"SELECT _offspring_id, go_id FROM go_{part}_offspring JOIN go_term USING (_id)"
        for term, ancestor in database.execute(pairs):
            if ancestor in GENES:
                above[term].append(ancestor)
    for term, definition in database.execute("SELECT _id, definition FROM go_term WHERE definition IS NOT NULL"):
        if len(kinds := above[term]) == 1:
            yield Example(shorten(re.sub(r"\[[^]]*\]", "", sentences(definition)[0])), kinds[0])


DIAGNOSIS_TASK = Recipe(
    "diagnoses",
    "Which chapter of the classification of diseases does this diagnosis belong to?",
    CHAPTERS,
    ("{}", "a diagnosis: {}"),
    ("simple-icd-10-cm",),
    "public domain (work of the United States government); the package is MIT",
    "ICD-10-CM, April 2026, National Center for Health Statistics and Centers for Medicare & Medicaid Services",
    diagnoses,
    "category of three characters",
)
GENE_TASK = Recipe(
    "genes",
    "What is this term of biology about?",
    GENES,
    ("a definition from biology about {}", "{}"),
    ("r-bioc-go.db",),
    "CC BY 4.0",
    "Gene Ontology (https://geneontology.org), as in Bioconductor GO.db 3.16.0; definitions shortened to a sentence",
    genes,
)
