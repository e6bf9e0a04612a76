# `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export COLUMNS ?= 150
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
ROLE ?=
INVENTORY ?= inventories/sandbox
PLAY := ansible-playbook -i "$(INVENTORY)"
SHELL_SCRIPTS := $(shell git grep -nIE '^\#!.*sh$$' -- ':!*.j2' 2>/dev/null | sed -n 's/:1:.*//p')

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- Tools ---------------------------------------------------------------------------------------
.venv/.done: requirements.txt sandbox/bootstrap.sh
	@sandbox/bootstrap.sh venv .venv requirements.txt
	@touch $@

app/.venv/.done: app/requirements-dev.txt sandbox/bootstrap.sh
	@sandbox/bootstrap.sh venv app/.venv app/requirements-dev.txt
	@touch $@

.PHONY: setup
setup: .venv/.done ## install everything the controller needs: Python environment, Docker engine, images
	@sandbox/bootstrap.sh packages openssh-client
	@sandbox/engine.sh
	@sandbox/images.sh

# With extras: pip before 23.3 refuses a lock without them as soon as there is a newer version of what asks for them.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --upgrade
.PHONY: lock
lock: ## write the lock files anew from requirements*.in (needs uv)
	$(COMPILE) requirements.in -o requirements.txt
	cd app && $(COMPILE) requirements.in -o requirements.txt
	cd app && $(COMPILE) requirements-dev.in -o requirements-dev.txt

# --- Try it --------------------------------------------------------------------------------------
.PHONY: demo
demo: sandbox ## from nothing to a bot that answers: sandbox hosts, site.yml, a conversation
	@$(call say,Running site.yml over SSH on the sandbox hosts)
	@$(PLAY) site.yml
	@$(MAKE) --no-print-directory talk
	@$(PLAY) sandbox/tour.yml >/dev/null
	@cat .cache/sandbox/tour.txt

.PHONY: demo-ha
demo-ha: # `make demo` on three equal servers, any of which may die
	@$(MAKE) --no-print-directory demo INVENTORY=inventories/sandbox-ha

.PHONY: site
site: setup ## run site.yml on INVENTORY (default: the sandbox)
	@$(PLAY) site.yml

.PHONY: secrets staging
secrets: ## write the secrets of INVENTORY that nobody else has to issue; nothing that is there is changed
staging: ## make inventories/staging from INVENTORY, to rehearse changes in
secrets staging: .venv/.done
ifeq ($(origin INVENTORY),file)
	@echo 'Name your inventory: make $@ INVENTORY=inventories/mine' >&2; exit 2
else
	@$(PLAY) playbooks/$@.yml
endif

.PHONY: talk
talk: .venv/.done ## a DingTalk user and a Feishu user of the sandbox talk to the bot
	@$(call say,A conversation through the load balancer)
	@$(PLAY) sandbox/converse.yml >.cache/sandbox/converse.log || { cat .cache/sandbox/converse.log; exit 1; }
	@cat .cache/sandbox/transcript.txt

.PHONY: sandbox
sandbox: setup ## make (or mend) the sandbox hosts of inventories/sandbox
	@$(call say,Making the sandbox hosts)
	@$(PLAY) sandbox/up.yml
	@$(PLAY) sandbox/simulator.yml

.PHONY: demo-down
demo-down: .venv/.done ## remove all that `make demo` made, and nothing else
	@$(PLAY) sandbox/down.yml

.PHONY: logs
logs: .venv/.done ## show the newest lines of the bot's logs on every sandbox node
	@ansible clawdbot -i "$(INVENTORY)" -b -m ansible.builtin.shell -e ansible_port=2222 \
	    -a 'tail -n 20 /opt/clawdbot/logs/error.log; journalctl -u clawdbot -u clawdbot-worker -u clawdbot-receiver -n 20 --no-pager'

# --- Test ----------------------------------------------------------------------------------------
.PHONY: test
test: ## lint, unit tests, every Molecule scenario but the long ones
	@$(call say,Lint and unit tests while the images are built: about five minutes)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target setup unit lint
	@$(MAKE) --no-print-directory molecule

.PHONY: lint
lint: .venv/.done app/.venv/.done ## yamllint, ansible-lint (production), ruff, mypy, shellcheck
	@sandbox/bootstrap.sh packages shellcheck
	@$(call say,Linting)
	yamllint --strict .
	ansible-lint --offline --strict
	ruff format --check .
	ruff check .
	shellcheck -x $(SHELL_SCRIPTS)
	mypy plugins $(wildcard roles/*/files/*.py) tests docs bench/site.py bench/size.py bench/balance.py molecule sandbox/image
	cd app && .venv/bin/mypy
	cd simulator && ../app/.venv/bin/mypy

.PHONY: docs
docs: .venv/.done ## write the roles' READMEs from their argument specs
	docs/role_readmes.py

.PHONY: unit
unit: unit-app unit-package unit-simulator ## unit tests of the bot, the package and the simulator

.PHONY: unit-package
unit-package: .venv/.done app/.venv/.done
	@sandbox/bootstrap.sh packages redis-tools
	@$(call say,Unit tests of the package)
	pytest

.PHONY: unit-simulator
unit-simulator: app/.venv/.done
	@$(call say,Unit tests of the simulator)
	cd simulator && ../app/.venv/bin/python -m pytest

.PHONY: unit-app
unit-app: app/.venv/.done
	@sandbox/bootstrap.sh packages nodejs redis-tools
	@$(call say,Unit tests of the bot)
	cd app && .venv/bin/python -m pytest --numprocesses=3 --dist=loadfile --cov --cov-report=term:skip-covered

.PHONY: molecule
molecule: setup app/.venv/.done ## every Molecule scenario but the long ones, or one with ROLE=nginx
	@$(call say,Molecule: $(or $(ROLE),all scenarios))
	$(if $(ROLE),molecule test -s $(ROLE),@molecule/run.sh)

.PHONY: screenshots
screenshots: setup chat-screenshots # the pictures in docs/images, of the dashboard and of answers that grow, by Debian's Chromium
	SCREENSHOTS=$(CURDIR)/docs/images molecule test -s monitoring

.PHONY: chat-screenshots
chat-screenshots: app/.venv/.done
	@sandbox/bootstrap.sh packages chromium fonts-wqy-microhei
	cd app && PYTHONPATH=../simulator .venv/bin/python -m tests.screens

# --- Figures -------------------------------------------------------------------------------------
.PHONY: bench-site
bench-site: setup ## first run, no-op run, tasks a host, slowest tasks
	bench/site.py

.PHONY: bench-app
bench-app: app/.venv/.done ## a signed callback against the server's trivial route; from a sent part to its note
	app/.venv/bin/python bench/app.py
	app/.venv/bin/python bench/gap.py

.PHONY: bench-balance
bench-balance: .venv/.done ## the bot direct and through Nginx; rendering for 500 nodes
	bench/balance.py

.PHONY: bench-size
bench-size: .venv/.done ## 10, 100 and 1 000 hosts that do not exist: what they ask of the controller
	bench/size.py

.PHONY: bench-backup
bench-backup: app/.venv/.done ## what copies of Redis every 15 minutes cost: bytes, processor, memory
	@sandbox/bootstrap.sh packages redis-tools restic
	app/.venv/bin/python bench/backup.py

.PHONY: bench-hardening
bench-hardening: setup ## a stock host beside a bot host of the sandbox: Lynis, ssh-audit, systemd-analyze
	bench/hardening.sh

.PHONY: bench-monitoring
bench-monitoring: setup ## processor and memory that monitoring takes on a host of the sandbox
	bench/monitoring.sh

.PHONY: soak
soak: setup app/.venv/.done ## the long runs: a cluster's life, changed values, clouds, disasters, each test on each release, chaos
	molecule test -s lifecycle
	molecule test -s change
	molecule test -s cloud
	molecule test -s ha
	molecule test -s disaster
	ONE_HOST= molecule/run.sh
	SINGLE_SECONDS=600 molecule test -s single
	SSH_DEATHS=every molecule test -s ssh
	@sandbox/bootstrap.sh packages nodejs redis-tools
	cd app && .venv/bin/python -m pytest -m soak

define say
printf '\033[1m==> %s\033[0m\n' "$(1)"
endef
