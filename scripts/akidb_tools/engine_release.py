"""An engine build's job enters before the work and its manifest after it; a published and catalogued bundle leaves.

What would stop it (no bucket, no control plane, a parent that is not catalogued) is said before the hours of work. The
artifact goes into the version of the one that it was made from; it never begins a version, and never moves an alias.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import catalog
from .bundle_reader import Bundle
from .catalog import Catalog
from .engine_options import IN_PLACE, Job
from .errors import BadInput, ToolError
from .publish import Publisher


@dataclass(frozen=True)
class Release:
    """Where a finished bundle goes. `before`: what it was made from and the catalog may lack, in order."""

    output: Path
    publisher: Publisher | None
    catalog: Catalog | None
    in_place: bool
    before: tuple[Bundle, ...]
    root: str
    say: Callable[[str], None]

    def run(self, manifest: dict) -> dict:
        """Publishes and catalogues, or says the command that does; returns where it is and what it became."""
        for made_of in self.before if self.catalog else ():
            self._one(made_of.folder, made_of.manifest)
        source, there = self._one(self.output, manifest)
        if self.catalog is None:
            command = f"akidb models import {shlex.quote(source)}{' --wait' if '://' in source else ''}"
            self.say(f"not catalogued. To do so, with AKIDB_SERVER and AKIDB_TOKEN_FILE of a control plane: {command}")
        return {"published": source if self.publisher else None, "catalogued": there}

    def _one(self, folder: Path, manifest: dict) -> tuple[str, str | None]:
        """Where the catalog reads it, and the version that it is in."""
        source = str(folder)
        if self.publisher:
            done = self.publisher.publish(folder)
            source = done.uri
            self.say(f"{source}: {f'{done.sent / 1e6:.1f} MB sent' if done.sent else 'there already'}")
        elif self.in_place:
            source = folder.resolve().as_uri()
        if self.catalog is None:
            return source, None
        name = f"{manifest['model']['name']}@{manifest['variant']['name']}"
        try:
            new = self.catalog.add(source, manifest, self.root)
        except ToolError as error:
            raise ToolError(f"{folder} is written, and {name} is not in service: {error}") from error
        version = self.catalog.home(manifest["model"]["name"], {self.root})
        self.say(f"{name} {'is' if new else 'was'} catalogued in version {version}{'' if new else ' already'}")
        return source, version


def prepare(job: Job, say: Callable[[str], None]) -> Release:
    """Refuses what could not be done afterwards."""
    options = job.options
    if options.publish and options.register == IN_PLACE:
        raise BadInput(f"--register {IN_PLACE} and --publish: a published bundle is catalogued where it is published")
    publisher = Publisher(options.publish, say) if options.publish else None
    if publisher:
        publisher.check()
    found = catalog.by_environment() if options.publish or options.register else None
    if options.register and found is None:
        raise BadInput("--register: no control plane is named; set AKIDB_SERVER and AKIDB_TOKEN_FILE (or AKIDB_TOKEN)")
    fp32 = job.source.fp32
    if found and found.home(fp32.model["name"], {fp32.digest}) is None:
        raise BadInput(
            f"{fp32.model['name']} {fp32.digest[:16]}, which the engine is measured against, is not catalogued: "
            f"akidb models import {shlex.quote(str(fp32.folder))}"
        )
    before = (job.source.bundle,) if job.source.is_qdq else ()
    return Release(job.output, publisher, found, options.register == IN_PLACE, before, fp32.digest, say)
