# Milkrun. `make` alone prints this help; every target does the set-up it needs, once.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.NOTPARALLEL:

PY := .venv/bin/python
STAGE ?= dev
EVENTS ?=
EVENTS_LIST ?= 100000 300000 1000000
PACKAGE_TESTS := localstack/lambda_executor/tests localstack/snowflake/tests tools/conformance/tests
CODE := contract aws handler consumer snowpipe glue airflow ops localstack tools tests

help: ## print this help
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

demo: setup ## start everything, send a morning of rounds (EVENTS=FILE: that file), check every number
	@$(PY) -m tools.stack up
	@$(PY) -m ops demo $(if $(EVENTS),--events "$$EVENTS")

up: setup ## start everything and leave it running; writes .local/outputs.json
	@$(PY) -m tools.stack up

console: setup ## the live console of the running stack: print its address
	@$(PY) -m tools.stack console

console-test: setup ## the console's page in Chromium: by itself, and over a stack of its own
	@tools/setup.sh test browser chromium
	$(PY) -m pytest tests/console -W ignore::DeprecationWarning

console-web: ## build the console's page anew from tools/console/web (Node)
	cd tools/console/web && npm ci --silent && npm run build --silent

console-pictures: setup ## the README's screenshots, from a stack of its own
	@tools/setup.sh test browser chromium
	MILKRUN_SCREENSHOTS=docs/images $(PY) -m pytest tests/console/test_stack.py -k picture

stop: setup ## end the stack, keep Snowflake's files
	@$(PY) -m tools.stack stop

down: setup ## end the stack and wipe it
	@$(PY) -m tools.stack down

logs: setup ## what the functions, LocalStack and Snowflake wrote (F=1 follows)
	@$(PY) -m tools.stack logs $(if $(F),--follow)

test: check unit e2e faults-short console-test ## lint, types, unit, end-to-end, fault and browser tests

check: setup ## lint, types, pins, the packaged templates of all stages
	@tools/setup.sh check test fuzz browser bench checkov
	$(PY) -m ruff check $(CODE)
	$(PY) -m ruff format --check $(CODE)
	$(PY) -m mypy
	@$(MAKE) --no-print-directory check-collection
	$(PY) -m tools.check

check-collection: # pytest-xdist needs every process to collect the same test ids
	$(PY) -m tests.collection tests/unit $(PACKAGE_TESTS) tests/e2e tests/faults tests/console

unit: setup ## unit tests
	@tools/setup.sh test check bench fuzz
	$(PY) -m pytest tests/unit $(PACKAGE_TESTS) -n 2 --dist loadgroup

e2e: setup ## end-to-end tests against a stack of their own
	@tools/setup.sh test fuzz
	$(PY) -m pytest tests/e2e

faults: setup ## break every part under load, check every promise; writes the table into docs/reliability.md (SEED=1)
	@tools/setup.sh test
	$(PY) -m pytest tests/faults --write-table $(if $(SEED),--seed $(SEED))

faults-short: setup ## a few of the fault scenarios, and the bugs that their checker must catch
	@tools/setup.sh test
	$(PY) -m pytest tests/faults -m short

fuzz: setup ## bodies and headers mutated towards new code of the handler (SECONDS=600)
	@tools/setup.sh test fuzz
	$(PY) -m tests.fuzz.handler -max_total_time=$(or $(SECONDS),600)

soak: setup ## random faults under steady load (MINUTES=30 SEED=7 CHAPTER=1)
	@tools/setup.sh test
	@$(PY) -m tests.faults.soak --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED)) $(if $(CHAPTER),--chapter $(CHAPTER))

spark: ## jobs over the whole archive on Spark and Beam: local[2], Python 3.11 and Java 17
	@tools/setup.sh main spark
	.venvs/spark/bin/python -m pytest tests/spark -W ignore

airflow: setup ## the hourly and back-fill DAGs: integrity, and a whole run against a stack of its own
	@tools/setup.sh airflow
	.venvs/airflow/bin/python -m pytest tests/airflow -W ignore

bench: setup ## measure everything (ONLY=handler,cost: a part; COMPARE=earlier.json); writes docs/performance.md
	@tools/setup.sh test bench
	@$(PY) -m tests.bench $(if $(ONLY),--only $(ONLY)) $(if $(COMPARE),--compare $(COMPARE))

bench-large: setup ## a million objects and ten million events through the local loader: an hour, 3 GB
	@tools/setup.sh test bench
	@$(PY) -m tests.bench.large

bench-spark: ## compaction and rebuild at growing sizes: plain loop, DuckDB, Spark on 1 and 2 cores (EVENTS_LIST="100000 1000000")
	@tools/setup.sh main spark
	.venvs/spark/bin/python -m tests.spark.growth --events $(EVENTS_LIST) --cores 1 2

load: setup ## the stack and each function under load; leaks fail it (ONLY=stack,functions RATE=4 STEADY=240 WRITE=1)
	@tools/setup.sh test bench
	$(PY) -m tests.load $(if $(ONLY),--only $(ONLY)) $(if $(RATE),--rate $(RATE)) $(if $(STEADY),--steady $(STEADY)) $(if $(WRITE),--write)

simulate: setup ## an hour without Kinesis or Snowpipe at 1k, 100k and 1M events a second
	@$(if $(WRITE),tools/setup.sh bench)
	@$(PY) -m tools.fleet.simulate $(if $(WRITE),--plots docs/images)

nightly: setup ## what Airflow's DAG does, without Airflow: reconcile, repair, dbt, compact, report
	@$(PY) -m ops.nightly

kcl: setup ## a KCL worker on the running stack, beside the function
	@tools/setup.sh test
	@$(PY) -m tools.stack.kcl

package: setup ## build the zips and the templates for STAGE
	$(PY) -m ops.osls package --stage $(STAGE)

preflight: setup ## look for whatever would make the deployment of STAGE fail
	@$(PY) -m ops preflight $(STAGE)

deploy: setup ## deploy STAGE (dev, staging, prod) to AWS
	$(PY) -m ops.osls deploy --stage $(STAGE)

smoke: setup ## post one event to STAGE and follow it to the warehouse
	@$(PY) -m ops smoke --stage $(STAGE)

setup:
	@tools/setup.sh main lambda localstack dbt node

conformance: setup ## does an app keep the client's rule? TARGET=<url of its test hook>
	@$(PY) -m milkrun_conformance run $(TARGET)

lock: setup ## pin what pyproject.toml and requirements.in name (UPGRADE=name: that one anew)
	tools/lock.sh $(addprefix --upgrade-package ,$(UPGRADE))

.PHONY: $(shell sed -n 's/^\([a-z][a-z0-9-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))
