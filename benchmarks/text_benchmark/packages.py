"""The published packages that the tasks are made of, and how their files are read."""

import fnmatch
import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from functools import cached_property
from pathlib import Path
from typing import NamedTuple


class Package(NamedTuple):
    """A package as its registry serves it: where it is published, its version, the name and SHA-256 of its file."""

    registry: str
    version: str
    file: str
    sha256: str


class Packages:
    """The files of the packages in a folder. Each package is checked against its digest when it is first read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Archive] = {}

    def read(self, package: str, member: str) -> bytes:
        """Return the content of one file of a package; KeyError where the package has no such file."""
        return self._archive(package).read(member)

    def names(self, package: str, pattern: str) -> list[str]:
        """Return the names of a package's files that match a pattern, in which * stands for any characters, sorted."""
        return fnmatch.filter(self._archive(package).names, pattern)

    def _archive(self, package: str) -> "Archive":
        if package not in self._files:
            self._files[package] = Archive(checked(self.folder / PACKAGES[package].file, PACKAGES[package].sha256))
        return self._files[package]


class Archive:
    """A wheel, a source or npm package, or a Debian package, read in place."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _content(self) -> dict[str, bytes]:
        if self.path.suffix == ".whl":
            with zipfile.ZipFile(self.path) as wheel:
                return {name: wheel.read(name) for name in wheel.namelist()}
        if self.path.suffix == ".deb":
            unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", self.path], check=True, capture_output=True)
            return members(tarfile.open(fileobj=io.BytesIO(unpacked.stdout)))
        return members(tarfile.open(self.path))

    @property
    def names(self) -> list[str]:
        """The names of the files, sorted."""
        return sorted(self._content)

    def read(self, name: str) -> bytes:
        """Return the content of one file."""
        return self._content[name]


def members(archive: tarfile.TarFile) -> dict[str, bytes]:
    """Return the regular files of a tar archive by name, without a leading ./"""
    with archive:
        found = ((member.name.removeprefix("./"), archive.extractfile(member)) for member in archive if member.isfile())
        return {name: file.read() for name, file in found if file is not None}


def checked(path: Path, sha256: str) -> Path:
    """Return the path if the file has the digest; SystemExit otherwise."""
    if not path.is_file():
        raise SystemExit(f"{path.name} is not in {path.parent}: fetch the package first, see --help")
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != sha256:
        raise SystemExit(f"{path}: its SHA-256 is {found}, not {sha256}: fetch the version named in packages.json")
    return path


PACKAGES = {
    name: Package(**fields)
    for name, fields in json.loads(Path(__file__).with_name("packages.json").read_text()).items()
}
