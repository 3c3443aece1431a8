# One command a target; the logic is in Python. `make` alone lists them.
# A goal that needs the environment sets it up first: .ci/setup returns at once when .venv is as uv.lock says.

SHELL := /bin/sh
VENV := .venv
PYTHON := $(VENV)/bin/python
MLFLOW := PATH="$$PWD/$(VENV)/bin:$$PATH" $(PYTHON) -m mlflow
FEATURES := $(PYTHON) -m fti.features.run

# The models that `make pipeline` trains, in this order.  [yours]
FEATURE_SERVICES := arrival_delay_v1 arrival_delay_v2

# What `make clean` removes.
MADE := data mlflow.db* mlruns mlartifacts training/mlruns dist site .venv .uv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# .env, read as data: quotes around a value go, `$` and `#` stay, and a variable that is already set wins.
define from_dotenv
ifeq ($$(origin $(1)),undefined)
$(1) := $$(shell sed -n 's/^\(export \)\{0,1\}$(1)=//p' .env | tail -n 1 | sed 's/[[:space:]]*$$$$//; s/^"\(.*\)"$$$$/\1/; s/^'"'"'\(.*\)'"'"'$$$$/\1/')
export $(1)
endif
endef
ifneq ($(wildcard .env),)
$(foreach name,$(shell sed -n 's/^\(export \)\{0,1\}\([A-Za-z_][A-Za-z0-9_]*\)=.*/\2/p' .env | sort -u),$(eval $(call from_dotenv,$(name))))
endif

# PORT and HOST are short for the service's own variables. HOST only from the command line: some shells export it.
ifdef PORT
SERVING_PORT := $(PORT)
export SERVING_PORT
endif
ifeq ($(origin HOST),command line)
SERVING_HOST := $(HOST)
export SERVING_HOST
endif

# Nothing phones home unless asked to.
BENTOML_DO_NOT_TRACK ?= True
FEAST_USAGE ?= False
GX_ANALYTICS_ENABLED ?= False
MLFLOW_DISABLE_TELEMETRY ?= true
DO_NOT_TRACK ?= true
export BENTOML_DO_NOT_TRACK FEAST_USAGE GX_ANALYTICS_ENABLED MLFLOW_DISABLE_TELEMETRY DO_NOT_TRACK

# Names of files are UTF-8 to every library, whatever the locale says.
PYTHONUTF8 := 1
export PYTHONUTF8

# The environment is .venv, whatever is active in the caller's shell.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

# Flags and parameters appear only when set: the defaults are Python's. What a value says, quotes and `$` too, is passed
# on as it is: neither make nor the shell reads it. PARAMS and ARGS are several arguments, and for the shell to read.
quoted = '$(subst ','\'',$(1))'
option = $(if $(value $(2)),$(1) $(call quoted,$(value $(2))))
interval = $(call option,--start,START) $(call option,--end,END)
accept = $(call option,--accept,ACCEPT)
as_of = $(call option,--as-of,AS_OF)
force = $(if $(FORCE),--force)
train = $(MLFLOW) run training -e main --env-manager local $(if $(1),-P feature_service=$(1)) $(if $(value AS_OF),-P as_of=$(call quoted,$(value AS_OF))) $(PARAMS)

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
run: setup check-port pipeline serve ## Build the features, train the models, serve the champion
test: setup ## Run every test  (ARGS="tests/library -k name" for some)
	$(PYTHON) -m pytest $(ARGS)
setup: ## Make or mend .venv from uv.lock; every target does this itself
	@.ci/setup

new: setup ## A project of its own, with another problem  (DEST=../my-problem FROM=footfall NAME=my-problem)
	$(PYTHON) -m fti.scaffold.new $(call quoted,$(value DEST)) $(call option,--from,FROM) $(call option,--name,NAME)

##@ Feature pipeline
.PHONY: pipeline features ingest validate publish plan apply materialize quarantine release datasheet needs maintain erase
pipeline: features ## Features, then every model; all of `run` but serving
	for service in $(FEATURE_SERVICES); do $(call train,"$$service") || exit 1; done
features: setup ## The five steps below in one process
	$(FEATURES) all $(interval) $(as_of) $(accept) $(force)
ingest: setup ## Land raw events that pass the gate
	$(FEATURES) ingest $(interval) $(call option,--received-at,RECEIVED_AT) $(accept) $(force)
validate: setup ## Judge the raw events, write nothing
	$(FEATURES) validate $(interval) $(accept) $(force)
publish: setup ## Compute, check and write the feature rows
	$(FEATURES) publish $(interval) $(accept) $(force)
plan: setup ## What apply would change, and whether a model forbids it
	$(FEATURES) plan
apply: setup ## Register the definitions with Feast (`feast apply`)
	$(FEATURES) apply
materialize: setup ## Copy the newest rows to the online store; a service beside it goes first
	nice -n 19 $(FEATURES) materialize $(interval) $(as_of) $(if $(REWIND),--rewind) $(force)
quarantine: setup ## List the rows held back  (TABLE=, EXPORT=held.csv)
	$(FEATURES) quarantine $(call option,--table,TABLE) $(call option,--export,EXPORT)
release: setup ## Let corrected rows in, by the gate  (TABLE=, ROWS=held.csv)
	$(FEATURES) release $(call option,--table,TABLE) $(call option,--rows,ROWS) $(call option,--received-at,RECEIVED_AT)
datasheet: setup ## What the tables hold as of AS_OF, and who reads them, in data/datasheet.md and .html
	$(PYTHON) -m fti.features.datasheet $(as_of) $(force)
needs: setup ## Which services and model versions read a definition  (NAME=origin_weather)
	$(FEATURES) needs $(call option,--name,NAME)
maintain: setup ## Compact tables, delete what nobody needs; each cycle does it
	$(PYTHON) -m fti.features.maintain $(as_of)
erase: setup ## Say what is stored of an entity; with YES=1 delete it, for good  (ENTITY=tailnum=N14228)
	$(PYTHON) -m fti.features.erase $(call quoted,$(value ENTITY)) $(if $(YES),--yes)

##@ Training pipeline
.PHONY: train evaluate promote rollback retire reproduce card
train: setup ## Train, register and gate one model
	$(call train,$(if $(value FEATURE_SERVICE),$(call quoted,$(value FEATURE_SERVICE))))
evaluate: setup ## Judge the challenger against the champion
	$(MLFLOW) run training -e evaluate --env-manager local $(PARAMS)
promote: setup ## Make the challenger the champion, if it passed
	$(MLFLOW) run training -e promote --env-manager local $(PARAMS)
rollback: setup ## Give the alias back to the champion before
	$(MLFLOW) run training -e rollback --env-manager local $(PARAMS)
retire: setup ## Drop a version's aliases, so that what it reads may go  (VERSION=1)
	$(PYTHON) -m fti.training.run retire $(call option,--version,VERSION)
reproduce: setup ## Build the champion again and compare to the last bit  (PARAMS="-P version=1")
	$(MLFLOW) run training -e reproduce --env-manager local $(PARAMS)
card: setup ## The model card of a version, in data/cards  (VERSION=champion, a number or an alias)
	$(PYTHON) -m fti.training.card $(call option,--version,VERSION)

##@ Inference pipeline
.PHONY: serve check-port batch monitor undo-monitor
serve: setup ## Serve the champion at http://127.0.0.1:3000
	$(PYTHON) -m fti.serving.start
check-port: setup
	@$(PYTHON) -m fti.serving.start --check
batch: setup ## Score in bulk what is due from AS_OF on, into the log of predictions  (DAYS=1, ALIAS=)
	$(PYTHON) -m fti.serving.batch --as-of $(call quoted,$(value AS_OF)) $(call option,--days,DAYS) $(call option,--alias,ALIAS) $(force)
monitor: setup ## Consistency, drift, quality and freshness as of AS_OF; fails on a breach  (DAYS=7)
	$(PYTHON) -m fti.monitoring.run --as-of $(call quoted,$(value AS_OF)) $(call option,--days,DAYS) $(force)
undo-monitor: setup ## Delete what `monitor` found as of AS_OF; the report is that of the newest run left
	$(PYTHON) -m fti.monitoring.undo --as-of $(call quoted,$(value AS_OF))

##@ The loop
.PHONY: cycle replay
cycle: setup ## One complete day as of AS_OF: land, materialize, score, monitor, maintain, perhaps retrain  (AGAIN=1)
	$(PYTHON) -m fti.loop.cycle --as-of $(call quoted,$(value AS_OF)) $(accept) $(call option,--days,DAYS) $(if $(AGAIN),--again) $(force)
replay: setup ## Live through the days from FROM until TO with the service running, in data/replay  (REFRESH=15, FAULT=)
	$(PYTHON) -m fti.loop.replay --from $(call quoted,$(value FROM)) --to $(call quoted,$(value TO)) $(call option,--refresh-minutes,REFRESH) $(foreach fault,$(value FAULT),--fault $(call quoted,$(fault)))

##@ Production profile
.PHONY: production-up production-down production-status chart
production-up: setup ## Start Postgres, Valkey, an object store, MLflow and the service; next: its `run` (see the README)
	$(PYTHON) -m fti.deploy.production up
production-down: setup ## Stop them  (PURGE=1 deletes what they hold)
	$(PYTHON) -m fti.deploy.production down $(if $(PURGE),--purge)
production-status: setup ## What runs, where, and where its logs are
	$(PYTHON) -m fti.deploy.production status
chart: setup ## Check deploy/chart and render it into deploy/kubernetes.yaml; helm on the PATH
	$(PYTHON) -m fti.deploy.render

##@ What the service is made of
.PHONY: audit licences sbom
audit: setup ## Known vulnerabilities of all in uv.lock; 69: nobody could be asked
	$(PYTHON) -m fti.deploy.supply audit
licences: setup ## Of what the service installs; fails on one that pyproject.toml does not allow
	$(PYTHON) -m fti.deploy.supply licences
sbom: setup ## Its bill of materials, CycloneDX, in data/sbom.json
	$(PYTHON) -m fti.deploy.supply sbom data/sbom.json

##@ Look inside
.PHONY: mlflow-ui feast-ui
mlflow-ui: setup ## Runs, models and aliases, at http://127.0.0.1:5000
	$(PYTHON) -m mlflow ui
feast-ui: setup ## Entities, views and services, at http://127.0.0.1:8888
	"$(VENV)/bin/feast" -c feature_repo ui --host 127.0.0.1

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
##? ACCEPT  a batch rule, SUITE.RULE, that is only reported this time
##? AS_OF  the moment to train or materialize as of, UTC; unset: 2013-10-01. The start of a batch; what `monitor` looks back from
##? DAYS, ALIAS  how many days to score (1) or to monitor (7), and whose version scores: champion
##? DEST, FROM, NAME  new: the folder, the problem to begin with (blank), what the project and its model are called
##? NAME  needs: the feature view or feature service
##? FROM, TO  a replay's first day, and the day after its last
##? REFRESH, AGAIN  minutes between two fillings of the online store in a replay (15); set: a cycle does again what is done
##? FORCE  set: take moments of which nothing has landed, as when a feed has been silent for days
##? FAULT  faults to live through: frozen-weather@2013-10-08 celsius-online@2013-10-12 delays-in-hours@2013-10-15
##? FEATURE_SERVICE  which model `train` makes; unset: the one in training/config.yaml
##? PARAMS  further MLflow parameters, PARAMS="-P name=value"
##? VERSION  whose card `card` writes, or which version retires: a number or an alias; unset: champion
##? HOST, PORT  where `serve` and `run` listen; unset: 127.0.0.1 and 3000
##? ARGS  arguments for pytest and for the benchmarks
