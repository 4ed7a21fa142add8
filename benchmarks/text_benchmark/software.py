"""Tasks on software: languages of source code, services of a cloud."""

import gzip
import json
import re
from collections.abc import Iterator

from text_benchmark.packages import Packages
from text_benchmark.recipe import Example, Recipe, sentences, shorten, squeeze

LANGUAGES = {
    "C": "C",
    "C++": "C++",
    "Go": "Go",
    "Java": "Java",
    "JavaScript": "JavaScript",
    "Kotlin": "Kotlin",
    "Lua": "Lua",
    "Objective-C": "Objective-C",
    "Perl": "Perl",
    "PHP": "PHP",
    "Python": "Python",
    "Ruby": "Ruby",
    "Rust": "Rust",
    "Sass": "Sass style sheets",
    "TypeScript": "TypeScript",
}
CODE = {
    "C": ("libstb-dev", "*.h"),
    "C++": ("react-native", "*.cpp"),
    "Go": ("golang-github-prometheus-client-golang-dev", "*.go"),
    "Java": ("react-native", "*.java"),
    "JavaScript": ("eslint", "*.js"),
    "Kotlin": ("react-native", "*.kt"),
    "Lua": ("lua-penlight", "*.lua"),
    "Objective-C": ("react-native", "*.m*"),
    "Perl": ("libmojolicious-perl", "*.pm"),
    "PHP": ("php-symfony-console", "*.php"),
    "Python": ("botocore", "*.py"),
    "Ruby": ("ruby-rack", "*.rb"),
    "Rust": ("librust-tokio-dev", "*.rs"),
    "Sass": ("bootstrap", "*.scss"),
    "TypeScript": ("rxjs", "package/src/*.ts"),
}
SERVICES = {
    "ec2": "virtual machines and networks",
    "sagemaker": "machine learning",
    "connect": "call centres",
    "glue": "data catalogs and pipelines",
    "quicksight": "dashboards and business analytics",
    "iot": "connected devices",
    "datazone": "data governance",
    "iam": "users, roles and permissions",
    "rds": "relational databases",
    "cloudfront": "content delivery",
    "ssm": "systems management and patching",
    "cognito-idp": "sign-in of an application's users",
    "redshift": "data warehouses",
    "bedrock": "generative AI models",
    "securityhub": "security findings",
    "apigateway": "web APIs",
    "medialive": "live video",
    "gamelift": "game servers",
    "dms": "migration of databases",
    "logs": "logs",
    "sesv2": "email sending",
    "s3": "file storage",
    "backup": "backups",
    "networkmanager": "wide area networks",
    "lexv2-models": "chat bots",
    "omics": "genome data",
    "opensearch": "search engines",
    "config": "compliance rules",
    "workmail": "mailboxes of an organization",
    "lambda": "serverless functions",
}
COMMENT = re.compile(r"\s*(//|/\*|\*|#(?!include|import|define|if|end|else|pragma)|--|=\w|import |use |\W*$)")
PER_FILE = 30


def code(packages: Packages) -> Iterator[Example]:
    """Yield up to PER_FILE snippets of four lines from each file with its language; a file is a group."""
    for language, (package, pattern) in CODE.items():
        for name in packages.names(package, pattern):
            if re.search(r"\.(js|m|mm|h|cpp|java|kt|lua|pm|php|py|rb|rs|go|scss|ts)$", name):
                text = packages.read(package, name).decode("utf-8", "replace")
                lines = re.sub(r"^=\w.*?^=cut$", "", text, flags=re.M | re.S).splitlines()  # Perl's documentation
                kept = [line for line in lines if not COMMENT.match(line) and len(line) < 160]
                snippets = [shorten(" ".join(kept[at : at + 4])) for at in range(0, len(kept) - 3, 4)]
                step = max(1, -(-len(snippets) // PER_FILE))
                yield from (Example(text, language, name) for text in snippets[::step] if len(text) > 40)


def services(packages: Packages) -> Iterator[Example]:
    """Yield what the operations of web services do with the service; operations on one resource are a group."""
    for service in SERVICES:
        file = packages.names("botocore", f"botocore/data/{service}/*/service-2.json.gz")[-1]
        for name, operation in json.loads(gzip.decompress(packages.read("botocore", file)))["operations"].items():
            plain = squeeze(re.sub(r"<[^>]+>", " ", operation.get("documentation", "")))
            resource = re.sub(r"^[A-Z]+[a-z]*|s$", "", name)
            if len(plain) > 15:
                yield Example(shorten(" ".join(sentences(plain)[:2])), service, f"{service} {resource}")


CODE_TASK = Recipe(
    "code",
    "In which programming language is this written?",
    LANGUAGES,
    ("source code in {}", "{}"),
    tuple(dict.fromkeys(package for package, _ in CODE.values())),
    "MIT, Apache 2.0 and Artistic 2.0, see the credit",
    "MIT: react-native (Copyright Meta Platforms, Inc. and affiliates), eslint (Copyright OpenJS Foundation and "
    "other contributors), bootstrap (Copyright 2011-2026 The Bootstrap Authors), tokio (Copyright 2016-2023 Tokio "
    "Contributors), symfony/console (Copyright 2004-2023 Fabien Potencier), rack (Copyright 2007-2015 Leah "
    "Neukirchen), Penlight (Copyright 2009 Steve Donovan, David Manura), stb (Copyright 2014-2022 Sean Barrett). "
    "Apache 2.0: rxjs (Copyright 2015-2018 Google, Inc., Netflix, Inc., Microsoft Corp. and contributors), "
    "client_golang (Copyright 2012-2020 The Prometheus Authors), botocore (Copyright 2012-2022 Amazon.com, Inc. "
    "or its affiliates). Artistic 2.0: Mojolicious (Copyright 2008-2022 Sebastian Riedel). Snippets of four "
    "lines, white space changed.",
    code,
    "source file",
)
SERVICE_TASK = Recipe(
    "services",
    "Which cloud service offers this operation?",
    SERVICES,
    ("a cloud service for {}", "{}"),
    ("botocore",),
    "Apache 2.0",
    "botocore, Copyright 2012-2022 Amazon.com, Inc. or its affiliates; documentation shortened to two sentences",
    services,
    "resource",
)
