#!/usr/bin/env bash
# Resolve pyproject.toml's dependencies and groups, and requirements.in of the separate environments, into
# requirements*.txt: every version, direct or not, pinned with its hashes. A pin changes only where it must;
# `tools/lock.sh --upgrade-package NAME` upgrades one package.
set -eu
cd "$(dirname "$0")/.."
upgrade=("$@")
compile() { # requirements…, then -o and the output, whose pins are kept
  .venv/bin/uv pip compile -q --universal --python-version "${version:-3.13}" --generate-hashes --no-header \
    --no-annotate "${upgrade[@]}" "$@"
}
pins() { # of a file, without hashes: "name==version ; marker"
  sed -n 's/^\([[:alnum:]][^ \\]*==[^\\]*[^ \\]\) *\\\{0,1\}$/\1/p' "$@" | sort -u
}

# The project and the groups that share .venv are resolved together first, so that their files agree.
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

# Environments of their own.
compile --group checkov -o requirements-checkov.txt
# LocalStack as of its release: today's cbor2 and pyOpenSSL break it. The override undoes a bound of moto's that only
# concerns Python 3.14 and that LocalStack's own bound contradicts.
compile --exclude-newer 2026-03-01 --override <(echo "aws-sam-translator>=1.105.0") \
  localstack/requirements.in -o localstack/requirements.txt
compile localstack/lambda_executor/lambda-requirements.in -o localstack/lambda_executor/lambda-requirements.txt
compile snowpipe/dbt/requirements.in -o snowpipe/dbt/requirements.txt
# Spark as AWS Glue 5 runs it; the jobs read events with the functions' versions of these.
version=3.11 compile -c <(pins requirements-lambda.txt | grep -E '^(pydantic|pydantic-core|jiter|msgspec)==') \
  glue/requirements.in -o glue/requirements.txt
compile airflow/requirements.in -o airflow/requirements.txt
