# Development tasks. `make` prints the daily ones, `make help-all` all. Each target creates the environments that it needs.
# `##` marks the description of a daily target, `#:` that of any other target, and `##@` the name of a group. Operators use ./milkrun.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -p -c # ignores the caller's BASH_ENV, functions and CDPATH
.NOTPARALLEL:

# Of the caller's environment variables, only these are passed on; cli/environment.py gives the reasons.
KEPT := PATH HOME USER LOGNAME SHELL TMPDIR TERM COLORTERM LANG JAVA_HOME DISPLAY XDG_% CI GITHUB_% RUNNER_% NO_COLOR COLUMNS \
  http_proxy https_proxy all_proxy no_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY \
  SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE NODE_EXTRA_CA_CERTS \
  PIP_% UV_% npm_config_% NPM_% NETRC PYENV_ROOT PYTHONUNBUFFERED PYTHONPYCACHEPREFIX \
  AWS_% SNOWFLAKE_% MILKRUN_% MAKE% MFLAGS \
  STAGE EVENTS EVENTS_LIST TARGET ONLY COMPARE AUTH RATE STEADY SEED MINUTES CHAPTER WRITE F
$(foreach name,$(filter-out $(KEPT),$(.VARIABLES)),$(if $(filter environment,$(origin $(name))),$(eval unexport $(name))))

PY := .venv/bin/python
STAGE ?=
EVENTS ?=
EVENTS_LIST ?= 100000 300000 1000000
PACKAGE_TESTS := localstack/lambda_executor/tests localstack/snowflake/tests tools/conformance/tests
CODE := contract aws cli handler consumer kcl snowpipe glue airflow ops localstack tools tests

##@ Try it

demo: setup ## start everything, send a morning of sample traffic (or EVENTS=FILE), and check every count (AUTH=jwt: with tokens)
	@$(PY) -m tools.milkrun up $(if $(AUTH),--auth "$$AUTH")
	@$(PY) -m tools.milkrun demo $(if $(EVENTS),--events "$$EVENTS")

up: setup ## start the local stack and keep it running (AUTH=jwt: require tokens); writes .local/outputs.json
	@$(PY) -m tools.milkrun up $(if $(AUTH),--auth "$$AUTH")

console: setup ## print the address of the running stack's console
	@$(PY) -m tools.stack console

logs: setup ## print the logs of the functions, LocalStack and Snowflake (F=1 follows)
	@$(PY) -m tools.milkrun logs $(if $(F),--follow)

stop: setup #: stop the local stack; keep Snowflake's files
	@$(PY) -m tools.milkrun stop

down: setup ## stop the local stack and delete its data
	@$(PY) -m tools.milkrun down

##@ Change it

test: check unit e2e faults-short console-test ## run checks, unit, end-to-end, short fault and browser tests

check: setup ## check style, types, pins and the templates of all stages
	@tools/setup.sh check test fuzz browser bench checkov
	$(PY) -m ruff check $(CODE)
	$(PY) -m ruff format --check $(CODE)
	{ $(PY) -m mypy && $(MAKE) --no-print-directory check-collection; } & code=$$!; $(PY) -m tools.check; result=$$?; wait $$code && exit $$result

check-collection: # pytest-xdist requires the same test ids in every process
	$(PY) -m tests.collection tests/unit $(PACKAGE_TESTS) tests/e2e tests/faults tests/console

unit: setup ## run the unit tests
	@tools/setup.sh test check bench fuzz
	$(PY) -m pytest tests/unit -m "not slow" -n 2

unit-slow: setup #: run the slow unit tests (a fuzzer, repeated builds of the zips and the wheel, a job killed at every step)
	@tools/setup.sh test check bench fuzz
	$(PY) -m pytest tests/unit -m slow

packages: setup #: build each stand-alone package's wheel (local Snowflake, Lambda executor, conformance kit) and run its tests in an empty environment
	tools/packages.sh

outside-suites: setup #: run the tests of dbt-snowflake and snowflake-sqlalchemy against the local Snowflake (ONLY=dbt or sqlalchemy)
	@tools/setup.sh test outside
	@$(PY) localstack/snowflake/outside/run.py $(ONLY)

e2e: setup ## run the end-to-end tests against their own stack
	@tools/setup.sh test fuzz check
	$(PY) -m pytest tests/e2e -m "not slow" -n 2

e2e-slow: setup #: run the slow end-to-end tests, except those of `make kills` (repeated dbt runs, drift, upgrades, rare states of pipes, verify, KCL, forget, a second LocalStack)
	@tools/setup.sh test fuzz check
	$(PY) -m pytest tests/e2e -m slow --ignore tests/e2e/test_kills.py -n 2

kills: setup #: kill each process and each ordered pair of processes of a local stack, and repair it with `milkrun up`
	@tools/setup.sh test
	$(PY) -m pytest tests/e2e/test_kills.py

faults-short: setup ## run some fault scenarios, and seeded bugs that their checker must detect
	@tools/setup.sh test
	$(PY) -m pytest tests/faults -m short -n 2 --dist loadfile

console-test: setup ## run the main browser tests of the console's page in Chromium, some of them with their own stack
	@tools/setup.sh test browser chromium
	$(PY) -m pytest tests/console -m "not slow" -n 2 -W ignore::DeprecationWarning

console-test-slow: setup #: run the browser tests that `make test` leaves out, except those of memory and dispatchers' questions
	@tools/setup.sh test browser chromium
	$(PY) -m pytest tests/console -m slow --ignore tests/console/test_memory.py --ignore tests/console/test_questions.py -n 2 -W ignore::DeprecationWarning

console-test-all: setup #: run every browser test of the console's page
	@tools/setup.sh test browser chromium
	$(PY) -m pytest tests/console -W ignore::DeprecationWarning

console-web: #: build the console's page from tools/console/web (Node)
	cd tools/console/web && npm ci --silent --ignore-scripts --include=dev && npm run build --silent

console-web-check: console-web #: build the page and compare it with the committed one (Node)
	git diff --exit-code --stat -- tools/console/static

console-pictures: setup #: take screenshots of each view with 0 to 2,000 trucks, light and dark, for desktops and phones
	@tools/setup.sh test browser chromium
	$(PY) -m tests.console.pictures

lock: setup ## pin the dependencies in requirements*.txt (UPGRADE=name upgrades one)
	tools/lock.sh $(addprefix --upgrade-package ,$(UPGRADE))

setup: #: create the environments that `make demo` needs
	@tools/setup.sh main lambda localstack dbt node

conformance: setup #: check how an app handles each response of the API (TARGET=URL of its test hook)
	@$(PY) -m milkrun_conformance run $(if $(TARGET),"$$TARGET")

##@ Run more tests

faults: setup ## apply faults to every part under load and check promises 1 to 7; writes docs/reliability.md (SEED=1)
	@tools/setup.sh test
	$(PY) -m pytest tests/faults --write-table $(if $(SEED),--seed $(SEED))

incidents: setup #: break each part of a local stack and repair it with the operator's commands (ONLY=disk,clock); writes docs/incidents.md
	@tools/setup.sh test
	@$(PY) -m tests.incidents $(if $(ONLY),"$$ONLY")

mutate: setup #: mutate the core and list the mutants that its unit tests do not detect (SAMPLE=60 SEED=1); takes an hour
	@tools/setup.sh check test fuzz
	@$(PY) -m tools.mutate $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED))

rehearse: setup #: follow docs/deploy.md, and upgrade a stage of 2026-11-23 with its data; takes 20 minutes
	@tools/setup.sh test check dbt
	$(PY) -m pytest tests/rehearsals

fuzz: setup #: send mutated bodies and headers to the handler (SECONDS=600)
	@tools/setup.sh test fuzz
	$(PY) -m tests.fuzz.handler -max_total_time=$(or $(SECONDS),600)

soak: setup #: inject random faults under steady load (MINUTES=30 SEED=7 CHAPTER=1)
	@tools/setup.sh test
	@$(PY) -m tests.faults.soak --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED)) $(if $(CHAPTER),--chapter $(CHAPTER))

spark: #: test the batch jobs on the archive with Spark and Beam (Python 3.11, Java 17)
	@tools/setup.sh main spark
	.venvs/spark/bin/python -m pytest tests/spark -W ignore

marts-ingest: setup #: run dbt build twenty times during steady ingest (BUILDS=20)
	@tools/setup.sh test
	BUILDS=$(or $(BUILDS),20) $(PY) -m pytest -q -s tests/e2e/test_marts.py -k ingest

airflow: setup #: test the hourly and backfill DAGs, including one complete run against their own stack
	@tools/setup.sh airflow
	.venvs/airflow/bin/python -m pytest tests/airflow -W ignore

##@ Measure it

bench: setup ## run the benchmarks (ONLY=handler,cost COMPARE=earlier.json; ONLY=marts ROWS=1000000); writes docs/performance.md
	@tools/setup.sh test bench
	@$(PY) -m tests.bench $(if $(ONLY),--only $(ONLY)) $(if $(COMPARE),--compare $(COMPARE)) $(if $(ROWS),--rows $(ROWS))

bench-large: setup #: load a million objects and ten million events locally; takes an hour and 3 GB
	@tools/setup.sh test bench
	@$(PY) -m tests.bench.large

bench-spark: #: measure compaction and rebuild at increasing sizes (EVENTS_LIST="100000 1000000")
	@tools/setup.sh main spark
	.venvs/spark/bin/python -m tests.spark.growth --events $(EVENTS_LIST) --cores 1 2

load: setup #: put load on the stack and on each function, and check for memory leaks (ONLY=stack,functions RATE=4 STEADY=240 WRITE=1)
	@tools/setup.sh test bench
	$(PY) -m tests.load $(if $(ONLY),--only $(ONLY)) $(if $(RATE),--rate $(RATE)) $(if $(STEADY),--steady $(STEADY)) $(if $(WRITE),--write)

simulate: setup #: simulate an hour's outage of Kinesis and of Snowpipe at 1k, 100k and 1M events per second
	@$(if $(WRITE),tools/setup.sh bench)
	@$(PY) -m tools.milkrun simulate $(if $(WRITE),--plots docs/images)

##@ Deploy it

preflight: setup ## find problems that would make the deployment of STAGE (default dev) fail
	@$(PY) -m tools.milkrun preflight $(or $(STAGE),dev)

package: setup ## build the zips and the templates for STAGE (default dev)
	$(PY) -m ops.osls package --stage $(or $(STAGE),dev)

deploy: setup ## deploy STAGE (default dev) to AWS
	$(PY) -m $(if $(filter local,$(STAGE)),tools.milkrun up,ops.osls deploy --stage $(or $(STAGE),dev))

smoke: setup ## post one event to STAGE (default local) and follow it to the warehouse
	@$(PY) -m tools.milkrun smoke $(addprefix --stage ,$(STAGE))

verify: setup #: run the tests marked `stage` against STAGE (default local, which must be up), and delete their data
	@tools/setup.sh test fuzz check
	@$(PY) -m tools.milkrun verify $(addprefix --stage ,$(STAGE))

nightly: setup #: run the steps of the hourly DAG without Airflow
	@$(PY) -m ops.nightly

kcl: setup #: run a KCL worker on the local stack, in addition to the function
	@tools/setup.sh test
	@$(PY) -m tools.stack.start_kcl_worker

##@ Help

help: #: print the daily targets
	@awk -F':.*#[#] ' '/^##@ / {group = "\n" substr($$0, 5) "\n"} /^[a-z][a-z0-9-]*:.*#[#] / { \
	  printf "%s  make %-17s %s\n", group, $$1, $$2; group = ""}' $(MAKEFILE_LIST)

help-all: ## print every target
	@awk -F':.*#[#:] ' '/^##@ / {group = "\n" substr($$0, 5) "\n"} /^[a-z][a-z0-9-]*:.*#[#:] / { \
	  printf "%s  make %-17s %s\n", group, $$1, $$2; group = ""}' $(MAKEFILE_LIST)

.PHONY: $(shell sed -n 's/^\([a-z][a-z0-9-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))
