#!/usr/bin/env bash
# Resolve the dependencies and groups of pyproject.toml, and the requirements.in of the separate environments, into
# requirements*.txt: every version, direct or indirect, is pinned with its hashes. Existing pins are kept if possible;
# `tools/lock.sh --upgrade-package NAME` upgrades one package.
set -eu
unset CDPATH
cd "$(dirname "$0")/.."
upgrade=("$@")
compile() { # arguments: requirements…, then -o and the output file, whose pins are kept if possible
  .venv/bin/uv pip compile -q --universal --python-version "${version:-$(cat .python-version)}" --generate-hashes \
    --no-header --no-annotate "${upgrade[@]}" "$@"
}
pins() { # print the pins in the given files, without their hashes: "name==version ; marker"
  sed -n 's/^\([[:alnum:]][^ \\]*==[^\\]*[^ \\]\) *\\\{0,1\}$/\1/p' "$@" | sort -u
}

# Resolve the project, the groups of .venv and the functions' packages (lambda) together first, so that their files have
# the same versions.
together=$(mktemp)
trap 'rm -f "$together"' EXIT
projects=(pyproject.toml localstack/snowflake/pyproject.toml tools/conformance/pyproject.toml)
groups=(lambda test check fuzz browser bench)
outputs=(requirements.txt)
for group in "${groups[@]}"; do outputs+=("requirements-$group.txt"); done
touch "${outputs[@]}"
pins "${outputs[@]}" >"$together"
compile "${projects[@]}" "${groups[@]/#/--group=}" -o "$together"
compile "${projects[@]}" -c "$together" -o requirements.txt
for group in "${groups[@]}"; do compile --group "$group" -c "$together" -o "requirements-$group.txt"; done

# Separate environments.
compile --group checkov -o requirements-checkov.txt
# LocalStack with packages from before its release, because newer cbor2 and pyOpenSSL break it. The override removes
# moto's bound on aws-sam-translator, which is only for Python 3.14 and conflicts with LocalStack's own bound.
compile --exclude-newer 2026-03-01 --override <(echo "aws-sam-translator>=1.105.0") \
  localstack/requirements.in -o localstack/requirements.txt
compile localstack/lambda_executor/lambda-requirements.in -o localstack/lambda_executor/lambda-requirements.txt
compile snowpipe/dbt/requirements.in -o snowpipe/dbt/requirements.txt
compile localstack/snowflake/outside/requirements.in -o localstack/snowflake/outside/requirements.txt
# Spark's packages in the versions of AWS Glue 5. The packages that parse events have the functions' versions.
version=3.11 compile -c <(pins requirements-lambda.txt | grep -E '^(pydantic|pydantic-core|jiter|msgspec)==') \
  glue/requirements.in -o glue/requirements.txt
compile airflow/requirements.in -o airflow/requirements.txt
