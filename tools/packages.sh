#!/usr/bin/env bash
# Test the stand-alone packages without this clone: build each wheel from the tracked files, install it with its extra
# `test` in an empty environment, and run its tests from a copy outside the clone, so that they cannot import anything from it.
# tools/packages.sh [FOLDER…] tests only the packages in these folders. Their dependencies have the versions that are pinned for the
# environment in which this repository uses the package.
set -euo pipefail
unset CDPATH
cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv=$PWD/.venv/bin/uv
python=$PWD/.venv/bin/python
declare -A pins=(
  [localstack/lambda_executor]=localstack/requirements.txt
  [localstack/snowflake]="requirements.txt requirements-test.txt"
  [tools/conformance]="requirements.txt requirements-test.txt"
)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH VIRTUAL_ENV

try() { # argument: the package's folder
  local at=$work/${1##*/} file options=()
  mkdir -p "$at/source" "$at/elsewhere"
  git ls-files -z --cached --others --exclude-standard "$1" | while IFS= read -r -d '' file; do
    if [ -f "$file" ]; then install -D "$file" "$at/source/${file#"$1"/}"; fi
  done
  for file in ${pins[$1]}; do options+=(--constraint "$file"); done
  "$uv" build -q --wheel --python "$python" --out-dir "$at/wheels" "$at/source"
  "$uv" venv -q --python "$python" "$at/environment"
  "$uv" pip install -q --python "$at/environment/bin/python" "${options[@]}" "$(echo "$at"/wheels/*.whl)[test]"
  cp -r "$at/source/tests" "$at"/source/*.md "$at/elsewhere"
  (cd "$at/elsewhere" && "$at/environment/bin/python" -m pytest -q -ra --strict-markers -p no:cacheprovider -n 2 \
    -W error::pytest.PytestUnhandledThreadExceptionWarning tests) # so that a failed assertion in a thread is not overlooked
}

failed=()
for package in "${@:-${!pins[@]}}"; do
  [ -n "${pins[$package]:-}" ] || { echo "packages: there is no package $package; choose from ${!pins[*]}" >&2; exit 2; }
  start=$SECONDS
  echo "== $package"
  set +e # in an `if` condition, bash would ignore errors inside `try`
  (set -e; try "$package")
  status=$?
  set -e
  if [ $status = 0 ]; then echo "== $package passes alone: $((SECONDS - start)) s"; else failed+=("$package"); fi
done
if [ ${#failed[@]} -gt 0 ]; then echo "packages: ${failed[*]} failed" >&2; exit 1; fi
