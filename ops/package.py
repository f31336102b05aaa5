"""Build the Lambda zips: `python -m ops.package arm64|x86_64|local` writes them to dist/<build>/.

Each zip contains the source files of its functions (handler.zip: ingest and redrive, consumer.zip: consume,
check.zip: check) and the packages of requirements-lambda.txt that they need. All modification times are fixed, so
that identical input produces identical bytes. The bytecode is compiled so that Python does not compare it with the
modification times of the sources. Otherwise Python would consider it stale and compile every module again at each
cold start.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from importlib.util import MAGIC_NUMBER
from pathlib import Path

from cli.environment import for_installation

ROOT = Path(__file__).resolve().parent.parent
CONTENTS = {
    "handler": ("contract", "aws", "handler"),
    "consumer": ("contract", "aws", "consumer"),
    "check": ("contract", "snowpipe/__init__.py", "snowpipe/pipe_check"),
}
# Wheels for glibc 2.28 or later. Lambda's python3.13 runtime (Amazon Linux 2023) has glibc 2.34.
PLATFORMS = {"arm64": "aarch64-manylinux_2_28", "x86_64": "x86_64-manylinux_2_28", "local": ""}
# The services whose models the zips keep, out of botocore's 400. The functions call no others.
SERVICES = {"dynamodb", "events", "kinesis", "kms", "s3", "sqs", "ssm", "sts"}
# Packages of requirements-lambda.txt that not every zip needs. Only the handler verifies tokens (cryptography takes
# 14 MB unpacked), only the consumer reads records of the Kinesis Producer Library, and only the check uses pydantic.
TOKENS = ("cryptography", "jwt", "_cffi_backend", "pyjwt")
PRODUCER_LIBRARY = ("google", "protobuf", "aws_kinesis_agg")
MODELS = ("pydantic", "pydantic_core", "annotated_types", "typing_inspection")
UNUSED: Mapping[str, tuple[str, ...]] = {
    "handler": (*PRODUCER_LIBRARY, *MODELS),
    "consumer": (*TOKENS, *MODELS, "isal"),
    "check": (*TOKENS, *PRODUCER_LIBRARY, "isal"),
}
# cryptography needs only the compiled part of cffi.
UNUSED_BY_ALL = ("cffi", "pycparser")
FIXED_TIME = (1980, 1, 1, 0, 0, 0)


def install_dependencies(build: str, folder: Path) -> None:
    """Install requirements-lambda.txt for the platform of the build, without files that no function needs."""
    uv = Path(sys.executable).parent / "uv"
    version = (ROOT / ".python-version").read_text().strip()
    command = [
        str(uv), "pip", "install", "--quiet", "--target", str(folder), "--python-version", version,
        "--python", sys.executable, "--only-binary", ":all:", "--require-hashes",
        # uv's own list of certificate authorities lacks those of company proxies.
        "--system-certs", "-r", "requirements-lambda.txt",
    ]  # fmt: skip
    if PLATFORMS[build]:
        command += ["--python-platform", PLATFORMS[build]]
    installed = subprocess.run(
        command, cwd=ROOT, env=for_installation(os.environ), check=False, stderr=subprocess.PIPE, text=True
    )
    if installed.returncode:
        raise SystemExit(
            f"requirements-lambda.txt could not be installed: {' '.join(installed.stderr.split())}"
        )
    shutil.rmtree(folder / "bin", ignore_errors=True)
    (folder / ".lock").unlink(missing_ok=True)  # uv's
    for service in (folder / "botocore" / "data").iterdir():
        if service.is_dir() and service.name not in SERVICES:
            shutil.rmtree(service)
    shutil.rmtree(folder / "boto3" / "data", ignore_errors=True)
    # RECORD is deleted, because it contains hashes of the scripts in bin, which begin with the path of this machine's
    # interpreter.
    for unused in [*folder.rglob("*.pyi"), *folder.rglob("__pycache__"), *folder.rglob("RECORD")]:
        shutil.rmtree(unused) if unused.is_dir() else unused.unlink()
    compile_folder(folder)


def compile_folder(folder: Path) -> bool:
    """Compile all modules of a folder to bytecode; return whether this succeeded.

    A new interpreter with a fixed hash seed and relative paths is used, because interned strings, the hash
    seed and the path of the folder would otherwise change the bytes.
    """
    options = ["-q", "--invalidation-mode", "unchecked-hash", "-s", str(folder), str(folder)]
    command = [sys.executable, "-S", "-m", "compileall", *options]
    return subprocess.run(command, env={"PYTHONHASHSEED": "0"}, check=False).returncode == 0


def sources(name: str) -> list[Path]:
    """Return the sorted paths of a zip's own source files, relative to the root of the clone."""
    named = [ROOT / content for content in CONTENTS[name]]
    found = [p for path in named for p in (path.rglob("*.py") if path.is_dir() else [path])]
    return sorted(p.relative_to(ROOT) for p in found)


def write_zip(target: Path, *folders: Path, unused: Iterable[str] = ()) -> None:
    """Zip all files in `folders`, except the packages in `unused`, under their paths relative to the folder.

    The order, times and modes of the entries are fixed, so identical input produces identical bytes.
    """
    found = [(p.relative_to(f).as_posix(), p) for f in folders for p in f.rglob("*") if p.is_file()]
    files = sorted((name, path) for name, path in found if not _is_of(name.partition("/")[0], unused))
    partial = target.with_suffix(f".{os.getpid()}")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, path in files:
            entry = zipfile.ZipInfo(name, FIXED_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    partial.replace(target)


def _is_of(top: str, packages: Iterable[str]) -> bool:
    """Return whether a top-level file or folder belongs to one of these packages."""
    return any(top == package or top.startswith((f"{package}-", f"{package}.")) for package in packages)


def fingerprint(*inputs: Path) -> str:
    """Return a hash of the inputs and of the bytecode format, which all patch versions of a Python release share."""
    digest = hashlib.sha256(MAGIC_NUMBER)
    for path in inputs:
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def package(build: str, *, may_build: bool = True) -> dict[str, Path]:
    """Build the zips of `build` whose input has changed; return the path of each zip, keyed by its name in CONTENTS.

    A lock makes concurrent builds wait for each other. With `may_build=False`, raise SystemExit if a zip is missing
    or was built from other sources, so that only tested zips are deployed.
    """
    target = ROOT / "dist" / build
    target.mkdir(parents=True, exist_ok=True)
    with (target / "lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        return _package(build, target, may_build)


def _dependencies(build: str, target: Path, recipe: Iterable[Path]) -> Path:
    """Return the folder with the dependencies of `build`. They are installed only if `recipe` has changed."""
    folder = target / f"deps-{fingerprint(*recipe)}"
    if not folder.exists():
        for old in target.glob("deps-*"):
            shutil.rmtree(old, ignore_errors=True)
        partial = _empty(target / "partial")
        install_dependencies(build, partial)
        partial.replace(folder)
    return folder


def _empty(folder: Path) -> Path:
    """Delete the folder if an interrupted build has left it; return its path."""
    if folder.exists():
        shutil.rmtree(folder)
    return folder


def _package(build: str, target: Path, may_build: bool) -> dict[str, Path]:
    recipe = (ROOT / ".python-version", ROOT / "requirements-lambda.txt", Path(__file__).resolve())
    zips = {}
    for name in CONTENTS:
        zips[name] = target / f"{name}.zip"
        stamp = target / f"{name}.hash"
        own = sources(name)
        wanted = fingerprint(*recipe, *(ROOT / p for p in own))
        if zips[name].exists() and stamp.exists() and stamp.read_text() == wanted:
            continue
        if not may_build:
            raise SystemExit(
                f"{zips[name]} does not exist or was built from other sources, and --no-build forbids a build"
            )
        dependencies = _dependencies(build, target, recipe)
        # Otherwise, an interruption could leave the hash of the old sources beside the new zip.
        stamp.unlink(missing_ok=True)
        staged = _empty(target / f"staged-{name}")
        for path in own:
            (staged / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, staged / path)
        if not compile_folder(staged):
            raise SystemExit(f"{name} was not built, because its bytecode could not be compiled")
        write_zip(zips[name], dependencies, staged, unused=(*UNUSED.get(name, ()), *UNUSED_BY_ALL))
        shutil.rmtree(staged)
        stamp.write_text(wanted)
    return zips


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ops.package", description=__doc__)
    parser.add_argument("build", choices=sorted(PLATFORMS))
    parser.add_argument("--no-build", action="store_true", help="fail unless every zip is up to date")
    arguments = parser.parse_args()
    for name, path in package(arguments.build, may_build=not arguments.no_build).items():
        sys.stdout.write(f"{name}: {path.relative_to(ROOT)}, {path.stat().st_size / 1e6:.1f} MB\n")


if __name__ == "__main__":
    main()
