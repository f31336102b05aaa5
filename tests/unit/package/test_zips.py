"""Test that the zips for deployment contain only necessary files, need no compilation and are reproducible."""

import ast
import hashlib
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ops import package

ENTRY_POINTS = {
    "handler": ("handler.main", "handler.redrive"),
    "consumer": ("consumer.main",),
    "check": ("snowpipe.pipe_check.main",),
}
zips = pytest.mark.parametrize("name", sorted(package.CONTENTS))


@pytest.fixture(scope="session")
def local():
    return package.package("local")


@pytest.fixture(scope="session")
def arm64():
    return package.package("arm64")


@pytest.fixture(scope="session")
def unpacked(local, tmp_path_factory):
    """Extract each zip into a folder, and return the folders by zip name.

    As in Lambda, each file's modification time is the time of extraction.
    """
    folders = {}
    for name, path in local.items():
        folders[name] = tmp_path_factory.mktemp(name)
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folders[name])
    return folders


def python_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run a fresh interpreter that finds only the zip's content and the standard library."""
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("name", "module"), [(n, m) for n, modules in ENTRY_POINTS.items() for m in modules])
def test_importing_an_entry_point_compiles_no_module(unpacked, name, module):
    done = python_in(unpacked[name], "-v", "-c", f"import {module}")
    assert done.returncode == 0, done.stderr[-2000:]
    output = done.stderr
    assert "bytecode is stale" not in output
    # Python reports a module without valid bytecode as compiled from its source.
    inside = str(unpacked[name])
    compiled = [
        line for line in output.splitlines() if line.startswith("# code object from") and ".pyc" not in line
    ]
    assert not [line for line in compiled if inside in line]
    assert f"matches {inside}/{module.replace('.', '/')}.py" in output


@zips
def test_zip_contains_only_its_folders_and_the_pinned_dependencies(local, name):
    with zipfile.ZipFile(local[name]) as archive:
        files = archive.namelist()
    tops = {file.split("/")[0] for file in files}
    ours = {
        "contract",
        "aws",
        "cli",
        "handler",
        "consumer",
        "kcl",
        "snowpipe",
        "ops",
        "localstack",
        "tests",
        "docs",
        "glue",
        "airflow",
        "tools",
    }
    expected = {content.split("/")[0] for content in package.CONTENTS[name]}
    assert [top for top in tops if top.startswith(".")] == []  # no hidden file, such as uv's lock file
    assert tops & ours == expected
    lock = (package.ROOT / "requirements-lambda.txt").read_text()
    pinned = set(re.findall(r"^([\w.-]+)==", lock, re.MULTILINE))
    installed = {top.split("-")[0].replace("_", "-") for top in tops if top.endswith(".dist-info")}
    assert installed
    assert installed <= pinned
    assert not {"snowflake", "fakesnow", "duckdb", "amazon_kclpy", "pytest", "typer"} & tops
    assert ("pydantic" in tops) == (name == "check")  # the other functions use msgspec
    if name == "check":
        inside = {f for f in files if f.startswith("snowpipe/") and f.endswith(".py")}
        assert all(f == "snowpipe/__init__.py" or f.startswith("snowpipe/pipe_check/") for f in inside)
    services = {f.split("/")[2] for f in files if f.startswith("botocore/data/") and f.count("/") > 3}
    assert services <= package.SERVICES


@zips
def test_zip_contains_all_imported_modules(unpacked, name):
    """Some modules are imported only on demand, such as PyJWT on a stage that accepts tokens."""
    trees = [ast.parse((package.ROOT / path).read_text()) for path in package.sources(name)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    modules |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules -= {module for module in modules if module.startswith("mypy_boto3_")}
    done = python_in(
        unpacked[name], "-c", f"import importlib\nfor m in {modules}: importlib.import_module(m)"
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_handler_zip_contains_all_modules_for_verifying_a_token(unpacked):
    code = """
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP256R1())
jwt.decode(jwt.encode({}, key, "ES256"), key.public_key(), ["ES256"])
"""
    done = python_in(unpacked["handler"], "-c", code)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(("name", "megabytes"), [("handler", 14), ("consumer", 9), ("check", 9)])
def test_zip_does_not_exceed_its_size_limit(local, arm64, name, megabytes):
    assert local[name].stat().st_size < megabytes * 1e6
    assert arm64[name].stat().st_size < megabytes * 1e6


@zips
def test_arm64_zip_contains_arm64_libraries(arm64, name):
    with zipfile.ZipFile(arm64[name]) as archive:
        libraries = [file for file in archive.namelist() if file.endswith(".so")]
        assert libraries
        for library in libraries:
            with archive.open(library) as file:
                header = file.read(20)
            assert header[:5] == b"\x7fELF\x02", library
            assert int.from_bytes(header[18:20], "little") == 183, f"{library} is not for AArch64"


@zips
def test_every_file_in_a_zip_is_readable_and_has_a_fixed_modification_time(local, name):
    with zipfile.ZipFile(local[name]) as archive:
        for entry in archive.infolist():
            assert entry.date_time == package.FIXED_TIME
            assert (entry.external_attr >> 16) & 0o444 == 0o444


@pytest.mark.slow
def test_zips_built_in_another_folder_are_identical(arm64, tmp_path):
    elsewhere = tmp_path / "another" / "clone"
    for name in {content for contents in package.CONTENTS.values() for content in contents}:
        source = package.ROOT / name
        (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, elsewhere / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, elsewhere / name)
    (elsewhere / "ops").mkdir()
    for name in ("ops/package.py", "requirements-lambda.txt", ".python-version"):
        shutil.copy(package.ROOT / name, elsewhere / name)
    made = subprocess.run(
        [sys.executable, "ops/package.py", "arm64"],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    for name, path in arm64.items():
        again = elsewhere / "dist" / "arm64" / f"{name}.zip"
        assert digest(again) == digest(path), name


def test_zips_are_not_rebuilt_if_their_input_is_unchanged(local):
    before = {name: path.stat().st_mtime_ns for name, path in local.items()}
    assert {n: p.stat().st_mtime_ns for n, p in package.package("local").items()} == before


def test_deployment_reuses_tested_zips_and_rejects_outdated_ones(local):
    before = {name: path.read_bytes() for name, path in local.items()}
    assert package.package("local", may_build=False).keys() == before.keys()
    stamp = local["handler"].with_suffix(".hash")
    known = stamp.read_text()
    stamp.write_text("of other sources")
    try:
        with pytest.raises(SystemExit, match="was built from other sources"):
            package.package("local", may_build=False)
    finally:
        stamp.write_text(known)
    assert {name: path.read_bytes() for name, path in local.items()} == before


def test_zip_tested_with_another_patch_version_of_python_is_deployed(monkeypatch):
    """The jobs of a GitHub workflow run may get different runner images, with different patch versions of Python."""
    source = package.ROOT / ".python-version"
    before = package.fingerprint(source)
    monkeypatch.setattr(sys, "version", "3.13.99 (main, Nov 30 2026, 00:00:00) [GCC 13.2.0]")
    monkeypatch.setattr(sys, "version_info", (3, 13, 99, "final", 0))
    assert package.fingerprint(source) == before


def test_package_installer_gets_only_the_variables_that_it_needs(tmp_path, monkeypatch):
    """The caller's settings for uv may forbid downloads, and without a writable home folder uv has no cache."""
    seen = []

    def run(*_: object, env: dict[str, str], **_options: object) -> object:
        seen.append(env)
        return subprocess.CompletedProcess([], 1, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("HOME", "/no/such/home")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    with pytest.raises(SystemExit):
        package.install_dependencies("arm64", tmp_path)
    assert "UV_OFFLINE" not in seen[0]
    assert seen[0]["HTTPS_PROXY"] == "http://proxy:3128"
    assert seen[0]["UV_CACHE_DIR"].endswith("/.venvs/cache/uv")


def test_no_dependency_is_built_from_source():
    source = Path(package.__file__).read_text()
    assert '"--only-binary", ":all:"' in source
    assert "--no-binary" not in source


def test_every_zip_is_used_by_a_function():
    text = (package.ROOT / "serverless" / "functions.yml").read_text()
    for name in package.CONTENTS:
        assert f"dist/${{param:build}}/{name}.zip" in text


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_second_concurrent_build_waits_and_reuses_the_zip_of_the_first(tmp_path, monkeypatch):
    """A demo and a test may deploy their stacks concurrently."""
    for name in ("requirements-lambda.txt", ".python-version"):
        shutil.copyfile(package.ROOT / name, tmp_path / name)
    running, counts = [], []

    def install(_build: str, folder: Path) -> None:
        running.append(folder)
        counts.append(len(running))
        folder.mkdir()
        (folder / "wheel.py").write_text("")
        threading.Event().wait(0.05)  # long enough for the other build to start
        running.pop()

    monkeypatch.setattr(package, "ROOT", tmp_path)
    monkeypatch.setattr(package, "__file__", str(tmp_path / "requirements-lambda.txt"))
    monkeypatch.setattr(package, "CONTENTS", {"one": ("requirements-lambda.txt",)})
    monkeypatch.setattr(package, "install_dependencies", install)
    with ThreadPoolExecutor(2) as builds:
        list(builds.map(package.package, ["local", "local"]))
    assert counts == [1]


def test_zip_built_after_an_interrupted_build_contains_only_the_current_sources(tmp_path, monkeypatch):
    """The sources change, the build of their zip is interrupted after the zip was written, and the change is undone."""
    for name in ("requirements-lambda.txt", ".python-version"):
        shutil.copyfile(package.ROOT / name, tmp_path / name)
    (tmp_path / "one").mkdir()
    own, new = tmp_path / "one" / "own.py", tmp_path / "one" / "new.py"

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(package, "ROOT", tmp_path)
    monkeypatch.setattr(package, "__file__", str(tmp_path / "requirements-lambda.txt"))
    monkeypatch.setattr(package, "CONTENTS", {"one": ("one",)})
    monkeypatch.setattr(package, "install_dependencies", lambda _, folder: folder.mkdir())
    monkeypatch.setattr(package, "compile_folder", lambda _: True)
    own.write_text("version = 1")
    package.package("local")
    own.write_text("version = 2")
    new.write_text("")
    with monkeypatch.context() as interrupted:
        interrupted.setattr(package.shutil, "rmtree", interrupt)
        with pytest.raises(KeyboardInterrupt):
            package.package("local")
    new.unlink()
    for text in ("version = 1", "version = 3"):
        own.write_text(text)
        with zipfile.ZipFile(package.package("local")["one"]) as archive:
            assert archive.namelist() == ["one/own.py"]
            assert archive.read("one/own.py").decode() == text
