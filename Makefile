# SPDX-License-Identifier: GPL-2.0-only
#
# For people; Kbuild reads the file Kbuild. `make help` lists what there is.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := all

# Where everything is kept that is downloaded or built.
OVBD_CACHE ?= /var/cache/dm-overlaybd
override OVBD_CACHE := $(abspath $(OVBD_CACHE))
export OVBD_CACHE
export OVBD_MIRROR OVBD_KVER OVBD_GOLDEN OVBD_ACCEL

CARGO_TARGET_DIR ?= $(OVBD_CACHE)/target
export CARGO_TARGET_DIR
STATIC_TARGET := x86_64-unknown-linux-gnu
# Only what is built for this target is static: build scripts and macros stay ordinary.
# All programs in one go, always: else cargo would build what they share anew in turn.
STATIC := --package ovbd --package guest-tests --package ovbd-bench --target $(STATIC_TARGET) --config 'target.$(STATIC_TARGET).rustflags=["-C","target-feature=+crt-static"]'

# The opponent in userspace, whose build needs libclang, which is in the build root.
STATIC_UBLK := cargo build --locked --release --quiet --package ovbd-bench --bin ovbd-ublk --features ublk \
  --target $(STATIC_TARGET) --config 'target.$(STATIC_TARGET).rustflags=["-C","target-feature=+crt-static"]'

STATIC_OVBD = $(CARGO_TARGET_DIR)/$(STATIC_TARGET)/release/ovbd

QUIET_SETUP := OVBD_QUIET=1 test-vm/setup
CARGO := cd userspace-tools && ../test-vm/with-cargo cargo

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
ifdef KDIR
# A kernel developer's question: does the module build?
all: module
else
all: module tools ## module and tool
endif

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
else
module:
	@$(QUIET_SETUP)
	@test-vm/build-module

endif

tools: ## the tool ovbd, ordinary and static
	@test-vm/with-cargo true 2>/dev/null || $(QUIET_SETUP)
	$(CARGO) build --locked --release --package ovbd
	$(CARGO) build --locked --release $(STATIC)

.PHONY: static
static: # what goes into the guest
	@$(CARGO) build --locked --release $(if $(VERBOSE),,--quiet) $(STATIC)

##@ Running
.PHONY: demo vm-shell
demo: ## boot a stock kernel and mount a three-layer image through the module
	@$(QUIET_SETUP)
	@test-vm/build-module >/dev/null
	@$(MAKE) static
	@test-vm/demo $(IMAGE)

vm-shell: ## a root shell in the guest, module and tool inside
	@$(QUIET_SETUP)
	@test-vm/build-module >/dev/null
	@$(MAKE) static
	@test-vm/vm-shell

##@ Testing
.PHONY: test unit-test vm-test test-debug fuzz-smoke coverage lint
test: ## every test there is; ends with the line "N passed, N failed"
	@$(QUIET_SETUP) --debug
	@test-vm/build-module CONFIG_OVBD_LIMITS=m
	@test-vm/build-module --debug
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

test-debug: ## the same on a kernel that finds mistakes (builds it, once)
	@$(QUIET_SETUP) --debug
	@test-vm/build-module --debug >/dev/null
	@$(MAKE) static
	@test-vm/vm-test --debug $(T)

fuzz-smoke: ## a few seconds of fuzzing for each parser
	@$(QUIET_SETUP)
	@test-vm/fuzz-smoke

coverage: ## lines of the format code that its tests run; fails below 95 %
	@$(QUIET_SETUP)
	@test-vm/coverage

lint: ## formatting, clippy, shellcheck, where unsafe is
	@$(QUIET_SETUP)
	@test-vm/lint

##@ Measuring
.PHONY: bench bench-full bench-gate bench-rebase bench-diff bench-tables bench-profile
BENCH_PREPARE = set -e; $(QUIET_SETUP); test-vm/build-module CONFIG_OVBD_LIMITS=m >/dev/null; \
  $(MAKE) static; cd userspace-tools; ../test-vm/with-cargo --in-root $(STATIC_UBLK)

bench: ## the gate, file systems, a userspace server, costs: tables, JSON, a page with bars
	@$(BENCH_PREPARE)
	@test-vm/bench

bench-full: ## the same with more files and rounds, and CPU time (builds a kernel, once)
	@$(BENCH_PREPARE)
	@test-vm/bench --full

bench-profile: ## where a read's instructions go, by function: make bench-profile DEVICE=zfile TEST=seq
	@$(BENCH_PREPARE)
	@test-vm/bench-profile $(or $(DEVICE),zfile) $(TEST)

bench-diff: ## what changed between two results: make bench-diff OLD=FILE NEW=FILE
	@$(CARGO) run --locked --release --quiet --package ovbd-bench -- diff $(abspath $(OLD)) $(abspath $(NEW))

bench-tables: ## the tables of Documentation/performance.rst: make bench-tables REPORT=FILE
	@$(CARGO) run --locked --release --quiet --package ovbd-bench -- tables $(abspath $(REPORT))

bench-gate: ## instructions for each block, against the limits and the baseline
	@$(QUIET_SETUP)
	@test-vm/build-module CONFIG_OVBD_LIMITS=m >/dev/null
	@$(MAKE) static
	@test-vm/bench-gate

bench-rebase: ## make what bench-gate measured last the baseline
	@test-vm/bench-gate --rebase

##@ Installing and tidying up
PREFIX ?= /usr/local
COMPLETIONS = $(DESTDIR)$(PREFIX)/share/bash-completion/completions
# Shell: the module that was built, the kernel that it is for, and that kernel's sign-file.
ifdef KDIR
BUILT = ko=$(OUT)/dm-overlaybd.ko; release=$$(cat $(KDIR)/include/config/kernel.release); sign_file=$(KDIR)/scripts/sign-file
else
BUILT = eval "$$(test-vm/env)"; ko=$$MODULE; release=$$KVER; sign_file=$$KTREE/scripts/sign-file
endif
# Signing is optional: SIGN_KEY=FILE SIGN_CERT=FILE.
SIGN = $(if $(SIGN_KEY),--sign-file "$$sign_file" --key $(SIGN_KEY) --cert $(SIGN_CERT))
DEB_OUT ?= $(CURDIR)/build

.PHONY: install install-module install-tools deb clean distclean
install: install-module install-tools ## module and tool on this machine (DESTDIR, PREFIX, KDIR)

install-module: module
	@set -e; $(BUILT); \
	to=$(DESTDIR)/lib/modules/$$release/updates; \
	install -D -m 644 "$$ko" "$$to/dm-overlaybd.ko"; echo "$$to/dm-overlaybd.ko"; \
	$(if $(SIGN_KEY),"$$sign_file" sha256 $(SIGN_KEY) $(SIGN_CERT) "$$to/dm-overlaybd.ko";) \
	[ -n "$(DESTDIR)" ] || depmod -a "$$release"; \
	[ "$$release" = "$$(uname -r)" ] || echo "Note: this is for Linux $$release; $$(uname -r) runs here."

install-tools: tools
	install -D -m 755 $(CARGO_TARGET_DIR)/release/ovbd $(DESTDIR)$(PREFIX)/bin/ovbd
	install -D -m 755 $(STATIC_OVBD) $(DESTDIR)$(PREFIX)/lib/ovbd/ovbd-static
	install -D -m 755 userspace-tools/packaging/initramfs $(DESTDIR)$(PREFIX)/lib/ovbd/initramfs
	install -D -m 644 userspace-tools/packaging/ovbd@.service $(DESTDIR)$(PREFIX)/lib/systemd/system/ovbd@.service
	install -d $(DESTDIR)$(PREFIX)/share/man/man8 $(COMPLETIONS)
	$(CARGO_TARGET_DIR)/release/ovbd man $(DESTDIR)$(PREFIX)/share/man/man8
	$(CARGO_TARGET_DIR)/release/ovbd completions bash >$(COMPLETIONS)/ovbd

deb: module tools ## Debian packages of module, module source and tool, in DEB_OUT
	@set -e; $(BUILT); userspace-tools/packaging/build-deb --out $(DEB_OUT) \
	  --module "$$ko" --release "$$release" $(SIGN) --source \
	  --tool $(CARGO_TARGET_DIR)/release/ovbd --static $(STATIC_OVBD)

clean: ## remove what was built of the project, keep what it stands on
	@test-vm/clean

distclean: ## remove the cache folder with all that is in it
	@test-vm/clean --all
