#!/usr/bin/env bash
# Resolve requirements*.in into requirements*.txt: every version, direct or not, pinned with its hashes.
# requirements.txt takes in requirements-lambda.txt by its first line and holds only what that one does not.
set -eu
cd "$(dirname "$0")/.."
compile() { .venv/bin/uv pip compile -q --universal --python-version "${version:-3.13}" --generate-hashes --no-header --no-annotate "$@"; }
compile requirements-lambda.in -o requirements-lambda.txt
compile requirements-checkov.in -o requirements-checkov.txt
all=$(mktemp)
trap 'rm -f "$all"' EXIT
compile requirements.in -c requirements-lambda.txt -o "$all"
.venv/bin/python - "$all" <<'PY'
import re, sys
from pathlib import Path
def blocks(path):  # "name==version ; marker \" and its --hash lines belong together
    return dict((re.match(r"[\w.-]+", b)[0], b) for b in re.split(r"\n(?=\S)", Path(path).read_text().strip()))
ours = blocks("requirements-lambda.txt")
rest = [b for name, b in blocks(sys.argv[1]).items() if name not in ours]
Path("requirements.txt").write_text("-r requirements-lambda.txt\n" + "\n".join(rest) + "\n")
PY
# LocalStack as of its release: today's cbor2 and pyOpenSSL break it. The override undoes a bound of moto's that only
# concerns Python 3.14 and that LocalStack's own bound contradicts.
compile --exclude-newer 2026-03-01 --override <(echo "aws-sam-translator>=1.105.0") \
  localstack/requirements.in -o localstack/requirements.txt
compile localstack/lambda_executor/lambda-requirements.in -o localstack/lambda_executor/lambda-requirements.txt
compile snowpipe/dbt/requirements.in -o snowpipe/dbt/requirements.txt
# Spark as AWS Glue 5 runs it; what the jobs read events with is of the same version as in the functions.
readers=$(grep -E '^(pydantic|pydantic-core|jiter|msgspec)==' requirements-lambda.txt | tr -d '\\')
version=3.11 compile -c <(echo "$readers") glue/requirements.in -o glue/requirements.txt
compile airflow/requirements.in -o airflow/requirements.txt
