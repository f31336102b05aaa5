# Milkrun. `make` alone prints this help.
.DEFAULT_GOAL := help
SHELL := /bin/bash

help: ## print this help
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

lock: ## resolve every requirements*.in anew
	ops/lock.sh

.PHONY: help lock
