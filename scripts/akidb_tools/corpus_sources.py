"""Names of Debian packages enter; the texts that those packages ship, and graded pairs of them, leave.

A package is used where it is installed, or fetched with `apt-get download` and unpacked into a cache folder: nothing
is installed, root is not needed. Never cleans, splits or writes a text: `corpus` does.
"""

from __future__ import annotations

import gzip
import re
import string
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .bundle import sha256
from .errors import BadInput


@dataclass(frozen=True)
class Package:
    """A source: its Debian package, the folder its data lies in below `/`, and the reader of that folder."""

    name: str
    folder: str
    pattern: str
    read: Callable[[Path], Iterator[str]]


@dataclass(frozen=True)
class Found:
    """A source that is here: `root` is `/` or where the package was unpacked."""

    source: str
    package: Package
    root: Path

    @property
    def folder(self) -> Path:
        return self.root / self.package.folder

    def texts(self) -> Iterator[str]:
        return self.package.read(self.folder)

    def digests(self) -> dict[str, str]:
        """Digest of each file that was read, by its path below `/`."""
        files = sorted(f for f in self.folder.glob(self.package.pattern) if f.is_file())
        return {f"{self.package.folder}/{f.name}": sha256(f) for f in files}


@dataclass(frozen=True)
class Synset:
    """A WordNet sense: its gloss and the key of the sense above it."""

    gloss: str
    parent: str | None


def locate(names: list[str], cache: Path, download: bool, allow_missing: bool, say: Callable[[str], None]) -> list:
    """The sources that can be read; a missing one is refused by its package's name unless allowed."""
    found, missing = [], []
    for name in names:
        if name not in SOURCES:
            raise BadInput(f"source {name!r} is unknown; known: {', '.join(SOURCES)}")
        package = SOURCES[name]
        roots = [Path("/"), cache / package.name]
        root = next((r for r in roots if any((r / package.folder).glob(package.pattern))), None)
        if root is None and download:
            root = _download(package, cache, say)
        if root is None:
            missing.append(name)
        else:
            found.append(Found(name, package, root))
    if missing and not (allow_missing and found):
        packages = " ".join(SOURCES[name].name for name in missing)
        raise BadInput(
            f"source {', '.join(missing)}: the Debian package is not here; `apt-get update && apt-get install "
            f"{packages}`, or leave it out with --sources, or take what there is with --allow-missing"
        )
    for name in missing:
        say(f"note: source {name} left out (package {SOURCES[name].name} is not here)")
    return found


def _download(package: Package, cache: Path, say: Callable[[str], None]) -> Path | None:
    """Fetches and unpacks a package without installing it; None where apt cannot."""
    folder = cache / package.name
    folder.mkdir(parents=True, exist_ok=True)
    say(f"fetching the Debian package {package.name} (not installed, unpacked below {cache})")
    try:
        subprocess.run(["apt-get", "download", package.name], cwd=folder, check=True, capture_output=True, timeout=300)
        archive = max(folder.glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True, capture_output=True, timeout=300)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    archive.unlink()
    return folder if any((folder / package.folder).glob(package.pattern)) else None


def wordnet_senses(folder: Path) -> dict[str, Synset]:
    """The noun senses, by key, with the sense above each (`@` pointers of the data file)."""
    senses = {}
    for line in (folder / "data.noun").read_text("utf-8").splitlines():
        if line.startswith(" ") or " | " not in line:
            continue
        data, gloss = line.split(" | ", 1)
        above = re.search(r" @ (\d{8}) n ", data)
        senses[data[:8]] = Synset(gloss.split('; "')[0].strip(), above[1] if above else None)
    return senses


def _wordnet(folder: Path) -> Iterator[str]:
    """Glosses, and the example sentences in them as texts of their own."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text("utf-8").splitlines():
            if not line.startswith(" ") and " | " in line:
                gloss, *examples = line.split(" | ", 1)[1].split('; "')
                yield gloss
                yield from (example.rstrip('" ') for example in examples)


def _dictd(folder: Path, stem: str) -> Iterator[str]:
    """Entries of a dictd dictionary without their headings' markup, and the paragraphs of the longer ones."""
    digits = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"

    def number(text: str) -> int:
        value = 0
        for letter in text:
            value = value * 64 + digits.index(letter)
        return value

    data = gzip.decompress((folder / f"{stem}.dict.dz").read_bytes())
    spans = set()
    for line in (folder / f"{stem}.index").read_text("utf-8").splitlines():
        word, start, length = line.split("\t")[:3]
        if not word.startswith("00"):
            spans.add((number(start), number(length)))
    for start, length in sorted(spans):
        entry = re.sub(r"[{}]", "", data[start : start + length].decode("utf-8", errors="replace"))
        paragraphs = [p for p in re.split(r"\n\s*\n", entry) if len(p) > 40]
        yield " ".join(paragraphs)
        if len(paragraphs) > 1:
            yield from paragraphs


def _fortunes(folder: Path) -> Iterator[str]:
    """Sayings, without their source lines (`-- somebody`)."""
    for file in sorted(folder.iterdir()):
        if file.suffix or not file.is_file() or file.is_symlink() or file.name in ("ascii-art", "translate-me"):
            continue
        for saying in re.split(r"^%\n", file.read_text("utf-8", errors="replace"), flags=re.MULTILINE):
            yield re.split(r"^\s+-- ", saying, flags=re.MULTILINE)[0]


def _descriptions(folder: Path) -> Iterator[str]:
    """Descriptions of the packages installed on this machine: they differ from machine to machine."""
    for block in (folder / "status").read_text("utf-8", errors="replace").split("\n\n"):
        described = re.search(r"^Description: (.*(?:\n .*)*)", block, re.MULTILINE)
        if described:
            yield re.sub(r"^ \.?$", "", described[1], flags=re.MULTILINE)


SOURCES: dict[str, Package] = {
    "wordnet": Package("wordnet-base", "usr/share/wordnet", "data.*", _wordnet),
    "foldoc": Package("dict-foldoc", "usr/share/dictd", "foldoc.*", lambda folder: _dictd(folder, "foldoc")),
    "jargon": Package("dict-jargon", "usr/share/dictd", "jargon.*", lambda folder: _dictd(folder, "jargon")),
    "fortunes": Package("fortunes", "usr/share/games/fortunes", "[a-z]*", _fortunes),
    "packages": Package("dpkg", "var/lib/dpkg", "status", _descriptions),
}
# `packages` is what this machine has installed, so it is not reproducible elsewhere and is used when asked for.
DEFAULT_SOURCES = ["wordnet", "foldoc", "jargon", "fortunes"]
