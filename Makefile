# Each target is an alias of a command of `fti`, or of a tool. `make` alone lists them; `fti TARGET --help` says more.
# A goal that needs the environment sets it up first: .ci/setup returns at once when .venv is as uv.lock says.

SHELL := /bin/sh
VENV := .venv
PYTHON := $(VENV)/bin/python

# What `make clean` removes.
MADE := data mlflow.db* mlruns mlartifacts training/mlruns dist site .venv .uv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# Names of files are UTF-8 to every library, whatever the locale says.
PYTHONUTF8 := 1
export PYTHONUTF8

# The environment is .venv, whatever is active in the caller's shell.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

# The variables of the command line, handed over as they were typed: neither make nor the shell reads quotes or `$`.
# `fti` turns AS_OF=... into --as-of, and refuses what no goal knows. ARGS is several arguments, for the shell to read.
quoted = '$(subst ','\'',$(1))'
typed := $(strip $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name))))
given := $(foreach name,$(typed),$(call quoted,$(name)=$(value $(name))))
read_here = ARGS PROFILE PYTHON VENV SHELL MADE
fti = $(PYTHON) -m fti.cli make $(1) $(given)

.NOTPARALLEL: # the steps of a pipeline follow one another, under make -j too

.PHONY: help
help: ## This list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^##\? / { split(substr($$0, 5), v, "  +"); printf "  %-16s %s\n", v[1], substr($$0, 7 + length(v[1])) } \
		/^[a-z][a-z-]*:.*## / { printf "  %-16s %s\n", $$1, $$2 }' Makefile
	@echo

##@ Start here
.PHONY: run test setup new
run: setup ## Build the features, train the models, serve the champion
	$(call fti,run)
test: setup ## Run every test  (ARGS="tests/library -k name" for some)
	$(PYTHON) -m pytest $(ARGS)
setup: ## Make or mend .venv from uv.lock; every target does this itself
	@.ci/setup
	$(if $(given),@$(PYTHON) -m fti.cli make --check --also "$(read_here)" $(MAKECMDGOALS) $(given))
new: setup ## A project of its own, with another problem  (DEST=../my-problem FROM=footfall NAME=my-problem)
	$(call fti,new)

##@ Feature pipeline
.PHONY: pipeline features ingest validate publish plan apply materialize quarantine release datasheet needs maintain erase
pipeline: setup ## Features, then every model; all of `run` but serving
	$(call fti,pipeline)
features: setup ## The five steps below in one process
	$(call fti,features)
ingest: setup ## Land raw events that pass the gate
	$(call fti,ingest)
validate: setup ## Judge the raw events, write nothing
	$(call fti,validate)
publish: setup ## Compute, check and write the feature rows
	$(call fti,publish)
plan: setup ## What apply would change, and whether a model forbids it
	$(call fti,plan)
apply: setup ## Register the definitions with Feast (`feast apply`)
	$(call fti,apply)
materialize: setup ## Copy the newest rows to the online store; a service beside it goes first
	nice -n 19 $(call fti,materialize)
quarantine: setup ## List the rows held back  (TABLE=, EXPORT=held.csv)
	$(call fti,quarantine)
release: setup ## Let corrected rows in, by the gate  (TABLE=, ROWS=held.csv)
	$(call fti,release)
datasheet: setup ## What the tables hold as of AS_OF, and who reads them, in data/datasheet.md and .html
	$(call fti,datasheet)
needs: setup ## Which services and model versions read a definition  (NAME=origin_weather)
	$(call fti,needs)
maintain: setup ## Compact tables, delete what nobody needs; each cycle does it
	$(call fti,maintain)
erase: setup ## Say what is stored of an entity; with YES=1 delete it, for good  (ENTITY=tailnum=N14228)
	$(call fti,erase)

##@ Training pipeline
.PHONY: train evaluate promote rollback retire reproduce card
train: setup ## Train, register and gate one model
	$(call fti,train)
evaluate: setup ## Judge the challenger against the champion
	$(call fti,evaluate)
promote: setup ## Make the challenger the champion, if it passed
	$(call fti,promote)
rollback: setup ## Give the alias back to the champion before
	$(call fti,rollback)
retire: setup ## Drop a version's aliases, so that what it reads may go  (VERSION=1)
	$(call fti,retire)
reproduce: setup ## Build the champion again and compare to the last bit  (VERSION=1)
	$(call fti,reproduce)
card: setup ## The model card of a version, in data/cards  (VERSION=champion, a number or an alias)
	$(call fti,card)

##@ Inference pipeline
.PHONY: serve check-port batch monitor undo-monitor
serve: setup ## Serve the champion at http://127.0.0.1:3000
	$(call fti,serve)
check-port: setup
	@$(call fti,check-port)
batch: setup ## Score in bulk what is due from AS_OF on, into the log of predictions  (DAYS=1, ALIAS=)
	$(call fti,batch)
monitor: setup ## Consistency, drift, quality and freshness as of AS_OF; fails on a breach  (DAYS=7)
	$(call fti,monitor)
undo-monitor: setup ## Delete what `monitor` found as of AS_OF; the report is that of the newest run left
	$(call fti,undo-monitor)

##@ The loop
.PHONY: cycle replay
cycle: setup ## One complete day as of AS_OF: land, materialize, score, monitor, maintain, perhaps retrain  (AGAIN=1)
	$(call fti,cycle)
replay: setup ## Live through the days from FROM until TO with the service running, in data/replay  (REFRESH=15, FAULT=)
	$(call fti,replay)

##@ Production profile
.PHONY: production-up production-down production-status chart
production-up: setup ## Start Postgres, Valkey, an object store, MLflow and the service; next: its `run` (see the README)
	$(call fti,production-up)
production-down: setup ## Stop them  (PURGE=1 deletes what they hold)
	$(call fti,production-down)
production-status: setup ## What runs, where, and where its logs are
	$(call fti,production-status)
chart: setup ## Check deploy/chart and render it into deploy/kubernetes.yaml; helm on the PATH
	$(call fti,chart)

##@ What the service is made of
.PHONY: audit licences sbom
audit: setup ## Known vulnerabilities of all in uv.lock; 69: nobody could be asked
	$(call fti,audit)
licences: setup ## Of what the service installs; fails on one that pyproject.toml does not allow
	$(call fti,licences)
sbom: setup ## Its bill of materials, CycloneDX, in data/sbom.json
	$(call fti,sbom)

##@ Look inside
.PHONY: mlflow-ui feast-ui
mlflow-ui: setup ## Runs, models and aliases, at http://127.0.0.1:5000
	$(call fti,mlflow-ui)
feast-ui: setup ## Entities, views and services, at http://127.0.0.1:8888
	$(call fti,feast-ui)

##@ Work on the code
.PHONY: lint format typecheck test-production test-spark bench docs docs-serve lock clean
docs: setup ## Build the pages of docs/, strictly, into site/
	"$(VENV)/bin/mkdocs" build --strict --quiet
docs-serve: setup ## Show them at http://127.0.0.1:8000 while you write
	"$(VENV)/bin/mkdocs" serve --dev-addr 127.0.0.1:8000
lint: setup ## Style, formatting and the imports each package may make
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	"$(VENV)/bin/lint-imports"
format: setup ## Mend style and formatting
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
typecheck: setup ## Check the types
	$(PYTHON) -m mypy
test-production: setup ## The production profile on its real servers, and their faults
	$(PYTHON) -m pytest -n 0 -m production tests/production $(ARGS)
test-spark: ## The year on Spark beside DuckDB; installs the extra `spark`, needs Java 17  (ARGS="-k name")
	@.ci/setup spark
	$(PYTHON) -m pytest -n 0 -m spark tests $(ARGS)
bench: setup ## Speed and memory beside targets and baselines  (ARGS=features for a part, PROFILE=production)
	$(PYTHON) -m tests.benchmarks $(PROFILE) $(ARGS)
lock: ## Rewrite uv.lock after a change to pyproject.toml, and what the Bento installs
	@.ci/setup lock
clean: ## Remove the environment and everything the project made
	@for made in $(MADE); do \
		if [ -e "$$made" ] || [ -L "$$made" ]; then echo "removing $$made"; rm -rf "./$$made"; fi; \
	done
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

##@ Variables: make train AS_OF=2013-11-01 FEATURE_SERVICE=arrival_delay_v2  (.env.example lists the environment's)
##? START, END  interval of raw events and features, UTC, END not in it; unset: the whole data set
##? ENTITY, YES  erase: whose rows, KEY=VALUE with the name of a join key; set: delete them
##? REWIND  set: materialize lets newer rows go, to replay an earlier AS_OF
##? RECEIVED_AT  ingest, release: when what is new or corrected was received, UTC; unset: on time, and now
##? ACCEPT  batch rules, SUITE.RULE, that are only reported this time
##? AS_OF  the moment to train or materialize as of, UTC; unset: 2013-10-01. The start of a batch; what `monitor` looks back from
##? DAYS, ALIAS  how many days to score (1) or to monitor (7), and whose version scores: champion
##? DEST, FROM, NAME  new: the folder, the problem to begin with (blank), what the project and its model are called
##? NAME  needs: the feature view or feature service
##? FROM, TO  a replay's first day, and the day after its last
##? REFRESH, AGAIN  minutes between two fillings of the online store in a replay (15); set: a cycle does again what is done
##? FORCE  set: take moments of which nothing has landed, as when a feed has been silent for days
##? FAULT  faults to live through: frozen-weather@2013-10-08 celsius-online@2013-10-12 delays-in-hours@2013-10-15
##? FEATURE_SERVICE  which model `train` makes; unset: the one in training/config.yaml
##? TRIALS, MODE  train: Optuna trials before the fit; what the gate may do: enabled, dry_run, disabled
##? VERSION  card, retire, reproduce: a number or an alias; unset: champion
##? HOST, PORT  where `serve` and `run` listen; unset: 127.0.0.1 and 3000
##? ARGS  arguments for pytest and for the benchmarks
##? VERBOSE  set: show what Feast, MLflow and the other libraries say
