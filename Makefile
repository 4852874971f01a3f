# SPDX-License-Identifier: GPL-2.0-only
#
# For people; Kbuild reads the file Kbuild. `make help` lists what there is.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := all

# Where everything is kept that is downloaded or built.
OVBD_CACHE ?= /var/cache/dm-overlaybd
export OVBD_CACHE
export OVBD_MIRROR OVBD_KVER OVBD_GOLDEN OVBD_ACCEL

CARGO_TARGET_DIR ?= $(OVBD_CACHE)/target
export CARGO_TARGET_DIR
STATIC_TARGET := x86_64-unknown-linux-gnu
# Only what is built for this target is static: build scripts and macros stay ordinary.
STATIC := --target $(STATIC_TARGET) --config 'target.$(STATIC_TARGET).rustflags=["-C","target-feature=+crt-static"]'

QUIET_SETUP := OVBD_QUIET=1 test-vm/setup
CARGO := cd userspace-tools && ../test-vm/cargo

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@printf '\nVariables\n'
	@printf '  %-14s %s\n' KDIR=DIR 'build the module against this prepared kernel tree' \
	  IMAGE=FILE 'the image that make demo shows' T=NAME 'only the guest tests whose name holds NAME' \
	  OVBD_CACHE=DIR 'where everything is kept (now $(OVBD_CACHE))' \
	  OVBD_MIRROR=URL 'a Debian mirror (default: the one that apt here uses)' \
	  OVBD_GOLDEN=DIR 'files of the reference tools to test against'

##@ Building
.PHONY: all setup module tools
all: module tools ## module and tool

setup: ## make or bring up to date what building and testing need
	@test-vm/setup

ifdef KDIR
# A kernel developer's own tree, with the toolchain that built it.
OUT ?= $(CURDIR)/build
LLVM_ARG := $(if $(shell grep -s '^CONFIG_CC_IS_CLANG=y' $(KDIR)/.config),LLVM=1)
module: ## the kernel module, for Debian's kernel or for KDIR
	@test-vm/check-tree $(KDIR)
	@mkdir -p $(OUT)
	$(MAKE) -C $(KDIR) $(LLVM_ARG) M=$(CURDIR) MO=$(OUT) modules
	@echo $(OUT)/dm-overlaybd.ko
# Nothing else was asked for.
all: module
tools:
else
module:
	@$(QUIET_SETUP)
	@test-vm/build-module

tools: ## the tool ovbd, ordinary and static
	@$(QUIET_SETUP)
	$(CARGO) build --locked --release --package ovbd
	$(CARGO) build --locked --release $(STATIC) --package ovbd
endif

.PHONY: static
static: # what goes into the guest
	@$(CARGO) build --locked --release $(STATIC) --package ovbd --package guest-tests

##@ Running
.PHONY: demo vm-shell
demo: ## boot a stock kernel and mount a three-layer image through the module
	@$(QUIET_SETUP)
	@test-vm/build-module >/dev/null
	@$(CARGO) build --locked --release --quiet --package ovbd
	@$(MAKE) static
	@test-vm/demo $(IMAGE)

vm-shell: ## a root shell in the guest, module and tool inside
	@$(QUIET_SETUP)
	@test-vm/build-module >/dev/null
	@$(MAKE) static
	@test-vm/vm-shell

##@ Testing
.PHONY: test unit-test vm-test lint
test: ## every test there is; ends with the line "N passed, N failed"
	@$(QUIET_SETUP)
	@test-vm/build-module
	@$(MAKE) static
	@test-vm/test

unit-test: ## tests that need no kernel
	@$(QUIET_SETUP)
	@test-vm/unit-test

vm-test: ## tests of the module in a guest; T=NAME for some of them
	@$(QUIET_SETUP)
	@test-vm/build-module >/dev/null
	@$(MAKE) static
	@test-vm/vm-test $(T)

lint: ## formatting, clippy, shellcheck, where unsafe is
	@$(QUIET_SETUP)
	@test-vm/lint
