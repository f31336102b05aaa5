"""Test tools/setup.sh in a temporary tree, with fakes of the programs that it needs."""

import fcntl
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from cli.environment import for_installation
from ops.stage_outputs import ROOT

MAIN = (
    "requirements.txt",
    "pyproject.toml",
    "localstack/snowflake/pyproject.toml",
    "tools/conformance/pyproject.toml",
)
NODE = "Node 20.19+, 22.13+ or 24+"


class Tree:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.programs = root / "programs"
        self.programs.mkdir()
        for name in (
            "bash",
            "env",
            "sh",
            "cat",
            "cut",
            "sha256sum",
            "sed",
            "head",
            "df",
            "awk",
            "mkdir",
            "dirname",
            "rm",
            "cp",
            "readlink",
        ):
            (self.programs / name).symlink_to(str(shutil.which(name)))
        (root / "tools").mkdir(exist_ok=True)
        shutil.copy(ROOT / "tools" / "setup.sh", root / "tools")
        shutil.copy(ROOT / ".python-version", root)
        for name in (*MAIN, "requirements-test.txt", "package.json", "package-lock.json"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(f"{name}\n")

    def program(self, name: str, body: str, folder: Path | None = None) -> None:
        path = (folder or self.programs) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{shutil.which('bash')}\n{body}\n")
        path.chmod(0o755)

    def python(self) -> None:
        """Create a python3.13 whose module venv creates .venv with a uv. Both write their arguments to `asked`."""
        self.program("uv", f'echo "$@" >> "{self.root}/asked"', self.root / "programs/of-venv")
        self.program(
            "python3.13",
            f'''[ "$1 $2" = '-m venv' ] || exit 0
            echo "$@" >> "{self.root}/asked"
            rm -rf .venv
            mkdir -p .venv/bin
            cp "$0" .venv/bin/python
            cp "{self.programs}/of-venv/uv" .venv/bin''',
        )

    def asked(self) -> str:
        """Return the arguments that the fakes have written since the last call."""
        file = self.root / "asked"
        text = file.read_text() if file.exists() else ""
        file.unlink(missing_ok=True)
        return text

    def made(self, program: str, *inputs: str) -> None:
        """Create `program` and the fingerprint file of its folder, as if an earlier run of setup.sh had made both."""
        self.program(Path(program).name, "exit 0", (self.root / program).parent)
        digest = hashlib.sha256(b"".join((self.root / name).read_bytes() for name in inputs)).hexdigest()[:16]
        (self.root / program.split("/", maxsplit=1)[0] / ".made-from").write_text(digest + "\n")

    def setup(self, *names: str, home: bool = True, **more: str) -> tuple[int, list[str]]:
        environment = {"PATH": str(self.programs)} | ({"HOME": str(self.root)} if home else {}) | more
        done = subprocess.run(
            [self.root / "tools" / "setup.sh", *names],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        return done.returncode, done.stderr.splitlines()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path)
    made.program("git", "exit 0")
    return made


def test_missing_python_version_is_reported_with_the_package_to_install(tree):
    tree.program("python3", '[ "$1" = --version ] && echo "Python 3.11.2" || exit 1')
    status, [line] = tree.setup("main")
    assert status == 1
    assert line.startswith(
        "setup: Python 3.13 is needed and was not found (python3 is Python 3.11.2). Install it:"
    )


def test_unset_home_variable_does_not_break_the_search_for_python(tree):
    status, [line] = tree.setup("main", home=False)
    assert status == 1
    assert line.startswith("setup: Python 3.13 is needed and was not found")


@pytest.mark.parametrize("where", ["programs", ".pyenv/versions/3.13.0/bin", "elsewhere"])
def test_python_is_found_despite_a_broken_pyenv_shim(tree, where):
    tree.program("python3.13", "echo 'pyenv: python3.13: command not found' >&2; exit 127")
    tree.program("uv", f'echo "{tree.root}/elsewhere/python3.13"')
    tree.program("python3.13", '[ "$1" = -m ] && exit 9; exit 0', tree.root / where)
    status, [line] = tree.setup("main")
    assert status == 1
    assert line.startswith(f"setup: {tree.root}/{where}/python3.13 cannot make environments.")


@pytest.mark.parametrize(
    ("version", "line"),
    [
        (None, f"setup: {NODE} is needed and was not found. Install it: apt install nodejs npm."),
        ("v18.19.0", f"setup: {NODE} is needed; this is v18.19.0. Install one of these."),
        ("v20.18.3", f"setup: {NODE} is needed; this is v20.18.3. Install one of these."),
        ("v22.12.0", f"setup: {NODE} is needed; this is v22.12.0. Install one of these."),
    ],
)
def test_missing_node_or_a_version_that_osls_refuses_is_reported(tree, version, line):
    if version:
        tree.program("node", f"echo {version}")
    assert tree.setup("node") == (1, [line])


@pytest.mark.parametrize("version", ["v20.19.0", "v24.0.0"])
def test_versions_of_node_that_osls_supports_are_accepted(tree, version):
    """The next check, for npm, fails, because this test provides no npm."""
    locked = json.loads((ROOT / "package-lock.json").read_text())["packages"]["node_modules/osls"]
    assert locked["engines"]["node"] == "^20.19.0 || ^22.13.0 || >=24"
    tree.program("node", f"echo {version}")
    assert tree.setup("node") == (1, ["setup: npm is needed and was not found. Install it: apt install npm."])


@pytest.mark.parametrize(("version", "status"), [('"11.0.2"', 1), ('"17.0.15"', 0), ('"21" 2023-09-19', 0)])
def test_only_java_17_or_newer_is_accepted(tree, version, status):
    tree.program("java", f"echo 'openjdk version {version}' >&2")
    assert tree.setup("java")[0] == status


def test_missing_java_is_reported(tree):
    status, [line] = tree.setup("java")
    assert status == 1
    assert line.startswith("setup: Java 17 or newer is needed")


def test_unchanged_environments_are_not_rebuilt(tree):
    tree.made(".venv/bin/python", *MAIN)
    tree.made("node_modules/.bin/osls", "package.json", "package-lock.json")
    assert tree.setup("main", "node") == (0, [])


def test_dependency_group_that_was_once_requested_is_kept_up_to_date(tree):
    tree.made(".venv/bin/python", "requirements.txt", "requirements-test.txt", *MAIN[1:])
    (tree.root / ".venv/.groups").write_text("test\n")
    assert tree.setup("main") == (0, [])
    assert tree.setup("test") == (0, [])
    tree.program("uv", f'echo "$@" >> {tree.root}/asked', tree.root / ".venv/bin")
    (tree.root / "requirements-test.txt").write_text("newer\n")
    assert tree.setup("main")[0] == 0
    assert "sync" in (asked := (tree.root / "asked").read_text())
    assert "requirements.txt requirements-test.txt" in asked


def test_dependency_group_that_is_not_requested_is_not_installed(tree):
    tree.made(".venv/bin/python", *MAIN)
    tree.program("uv", f'echo "$@" >> {tree.root}/asked', tree.root / ".venv/bin")
    (tree.root / "requirements.txt").write_text("newer\n")
    assert tree.setup("main")[0] == 0
    assert "requirements-test.txt" not in (tree.root / "asked").read_text()


def test_failed_setup_step_is_reported_and_retried_at_the_next_run(tree):
    tree.program("node", "echo v20.20.2")
    tree.program("npm", "echo 'npm: no such registry' >&2; exit 1")
    for _ in range(2):
        status, lines = tree.setup("node")
        assert status == 1
        assert lines[:2] == ["setup: node_modules …", "npm: no such registry"]
        assert lines[2].startswith("setup: node_modules failed, see the messages above.")


def test_full_disk_is_named_as_the_cause_of_a_failed_setup_step(tree):
    (tree.programs / "df").unlink()
    tree.program("df", "echo header; echo '/dev/sda 9 9 3 100% /'")
    tree.program("node", "echo v20.20.2")
    tree.program("npm", "exit 1")
    assert (
        tree.setup("node")[1][-1]
        == "setup: the disk is almost full (3 MB free). Make 3 GB free and run this again."
    )


def test_full_disk_is_named_if_the_environment_cannot_be_created(tree):
    (tree.programs / "df").unlink()
    tree.program("df", "echo header; echo '/dev/sda 9 9 3 100% /'")
    tree.program("python3.13", '[ "$1" = -m ] && exit 1; exit 0')
    assert tree.setup("main") == (
        1,
        ["setup: the disk is almost full (3 MB free). Make 3 GB free and run this again."],
    )


def test_environment_is_rebuilt_after_one_of_its_input_files_changes(tree):
    tree.made("node_modules/.bin/osls", "package.json", "package-lock.json")
    (tree.root / "package-lock.json").write_text("newer\n")
    tree.program("node", "echo v20.20.2")
    tree.program("npm", f'echo "$@" > {tree.root}/asked')
    assert tree.setup("node")[0] == 0
    assert (tree.root / "asked").read_text().split()[0] == "ci"
    assert tree.setup("node") == (0, [])


def test_osls_is_installed_although_the_users_npmrc_omits_development_packages(tree):
    (tree.root / ".npmrc").write_text("omit=dev\n")  # in the home folder
    tree.program("node", "echo v20.20.2")
    tree.program("npm", "[[ $* == *--include=dev* ]] && mkdir -p node_modules/.bin")
    assert tree.setup("node")[0] == 0


def test_environment_is_recreated_after_an_interrupted_step(tree):
    """uv does not reinstall a package that an interrupted step has installed only in part."""
    tree.python()
    assert tree.setup("main")[0] == 0
    assert tree.asked().startswith("-m venv --clear .venv\n")
    earlier = (tree.root / "requirements.txt").read_text()
    (tree.root / "requirements.txt").write_text("newer\n")
    tree.program("uv", "exit 1", tree.root / ".venv/bin")
    assert tree.setup("main")[0] == 1
    (tree.root / "requirements.txt").write_text(earlier)
    tree.asked()
    assert tree.setup("main")[0] == 0
    assert tree.asked().startswith("-m venv --clear .venv\n")
    assert tree.setup("main") == (0, [])


def test_environment_without_pip_is_recreated(tree):
    """The folder .venv was created by `uv venv`, or by Python without its module ensurepip."""
    tree.python()
    tree.program("python", "exit 0", tree.root / ".venv/bin")
    assert tree.setup("main")[0] == 0
    assert tree.asked().startswith("-m venv --clear .venv\n")


@pytest.mark.parametrize(
    ("name", "requirements"),
    [
        ("dbt", "snowpipe/dbt/requirements.txt"),
        ("lambda", "localstack/lambda_executor/lambda-requirements.txt"),
    ],
)
def test_separate_environment_is_recreated_after_an_interrupted_step(tree, name, requirements):
    tree.python()
    (tree.root / requirements).parent.mkdir(parents=True, exist_ok=True)
    tree.program("python", "exit 0", tree.root / f".venvs/{name}/bin")
    (tree.root / requirements).write_text("earlier\n")
    assert tree.setup(name)[0] == 0
    assert f".venvs/{name}" in tree.asked()
    (tree.root / requirements).write_text("newer\n")
    working = tree.root / "programs/of-venv/uv"
    tree.program("uv", "exit 1", tree.root / ".venv/bin")
    assert tree.setup(name)[0] == 1
    (tree.root / requirements).write_text("earlier\n")
    shutil.copy(working, tree.root / ".venv/bin")
    assert tree.setup(name)[0] == 0
    assert tree.asked().startswith("venv -q --clear")
    assert tree.setup(name) == (0, [])


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_environment_in_a_moved_or_copied_clone_is_recreated(tmp_path, move):
    """The environment's scripts start the Python of the original clone and import that clone's editable packages."""
    (tmp_path / "a").mkdir()
    tree = Tree(tmp_path / "a")
    tree.program("git", "exit 0")
    tree.python()
    assert tree.setup("main")[0] == 0
    assert tree.setup("main") == (0, [])
    move(tmp_path / "a", tmp_path / "b")
    tree.root, tree.programs = tmp_path / "b", tmp_path / "b/programs"
    tree.python()
    tree.asked()
    assert tree.setup("main")[0] == 0
    assert tree.asked().startswith("-m venv --clear .venv\n")
    assert tree.setup("main") == (0, [])


def test_link_to_the_environment_of_another_clone_is_not_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    original, linked = Tree(tmp_path / "a"), Tree(tmp_path / "b")
    original.program("git", "exit 0")
    original.python()
    assert original.setup("main")[0] == 0
    (linked.root / ".venv").symlink_to(original.root / ".venv")
    assert linked.setup("main") == (0, [])


def test_complete_clone_without_write_access_can_be_used(tree):
    (tree.programs / "flock").symlink_to(str(shutil.which("flock")))
    tree.made(".venv/bin/python", *MAIN)
    (tree.root / ".venvs/.lock").mkdir(parents=True)  # like a file in a read-only folder, it cannot be opened
    assert tree.setup("main") == (0, [])


def test_second_setup_says_that_it_waits_for_the_first(tree):
    (tree.programs / "flock").symlink_to(str(shutil.which("flock")))
    tree.made(".venv/bin/python", *MAIN)
    (tree.root / ".venvs").mkdir()
    with (tree.root / ".venvs/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(
            [tree.root / "tools" / "setup.sh", "main"],
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": str(tree.programs), "HOME": str(tree.root)},
        ) as second:
            assert second.stderr.readline() == "setup: waiting for another setup of this clone …\n"
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert second.wait(20) == 0


KEPT = {
    "HTTPS_PROXY": "http://proxy:3128",
    "no_proxy": "localhost",
    "SSL_CERT_FILE": "/company.pem",
    "NODE_EXTRA_CA_CERTS": "/company.pem",
    "npm_config_registry": "https://packages.example.com/npm",
    "UV_DEFAULT_INDEX": "https://packages.example.com/simple",
    "UV_INDEX_COMPANY_PASSWORD": "word",
    "PIP_INDEX_URL": "https://packages.example.com/simple",
    "PIP_TRUSTED_HOST": "packages.example.com",
}
DROPPED = {
    "NODE_OPTIONS": "--require=/no/such/file.js",
    "npm_config_ignore_scripts": "true",
    "npm_config_prefix": "/elsewhere",
    "UV_OFFLINE": "1",
    "UV_PYTHON": "2.7",
    "UV_TARGET": "/elsewhere",
    "PIP_TARGET": "/elsewhere",
    "PIP_REQUIRE_VIRTUALENV": "1",
    "PYTHONPATH": "/elsewhere",
    "PYTHONWARNINGS": "error",
    "VIRTUAL_ENV": "/elsewhere",
    "GIT_DIR": "/elsewhere",
    "AWS_PROFILE": "production",
    "TZ": "Pacific/Kiritimati",
}


def test_package_installers_inherit_only_proxy_certificate_and_index_variables(tree):
    tree.program("node", "echo v20.20.2")
    tree.program("npm", f"export -p > {tree.root}/seen; exit 1")
    (tree.root / "at-start.sh").write_text("exit 3\n")
    tree.setup("node", **KEPT, **DROPPED, CDPATH="/tmp:/", BASH_ENV=str(tree.root / "at-start.sh"))
    seen = (tree.root / "seen").read_text()
    for name, value in KEPT.items():
        assert f'{name}="{value}"' in seen
    for name in DROPPED:
        assert f" {name}=" not in seen


@pytest.mark.parametrize("home", ["/sys/kernel", "/no/such/home", ""], ids=["read-only", "missing", "none"])
def test_caches_are_in_the_clone_if_the_home_directory_is_not_writable(tree, home):
    tree.program("node", "echo v20.20.2")
    tree.program("npm", f"export -p > {tree.root}/seen; exit 1")
    tree.setup("node", HOME=home)
    seen = (tree.root / "seen").read_text()
    assert f'UV_CACHE_DIR="{tree.root}/.venvs/cache/uv"' in seen
    assert f'npm_config_cache="{tree.root}/.venvs/cache/npm"' in seen


def test_caches_stay_in_the_home_directory_if_it_is_writable(tree):
    tree.program("node", "echo v20.20.2")
    tree.program("npm", f"export -p > {tree.root}/seen; exit 1")
    tree.setup("node")
    seen = (tree.root / "seen").read_text()
    assert "npm_config_cache" not in seen
    assert "UV_CACHE_DIR" not in seen


@pytest.mark.parametrize("place", ["a folder", "a link"])
def test_setup_works_in_a_folder_with_a_space_in_its_name_and_through_a_symbolic_link(tmp_path, place):
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a link").symlink_to(tmp_path / "a folder")
    tree = Tree(tmp_path / place)
    tree.program("git", "exit 0")
    tree.program("node", "echo v20.20.2")
    tree.program("npm", f'mkdir -p node_modules/.bin && echo "$@" > "{tree.root}/asked"')
    assert tree.setup("node")[0] == 0
    assert (tree.root / "asked").read_text().split()[0] == "ci"


def test_setup_and_stack_pass_the_same_variables_to_package_installers():
    found = for_installation({**KEPT, **DROPPED})
    assert {name for name in found if name in KEPT | DROPPED} - {"TZ"} == set(KEPT)
    assert found["TZ"] == "UTC"
    assert found["NO_PROXY"] == found["no_proxy"] == "localhost,127.0.0.1,::1"
