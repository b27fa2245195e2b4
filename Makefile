# make           builds the release binary
# make run       shows the life of a container
# make test      runs every test; needs root
# make conformance       runs the conformance suites: RUNTIME=magikrun,runc,crun SUITE=runtime-tools,own,microvm,containerd ENV=host,v2,vm,vm-v1
# make conformance-full  the same with everything there is, and writes docs/conformance.md
# make krun           builds the program for microVMs, which `make install` then installs
# make krun-system    builds it for a libkrun that is a library of the system
# make microvm        runs the tests of microVMs in an emulated machine
# make microvm-cri    the same for pods of microVMs under containerd, and for its events of cgroup v2
# make lint      formatting, clippy, the library's documentation, licences
# make bench     measures against the other runtimes that are installed; needs root
# make engines   runs the tests of containerd, its CRI and Docker with newer versions of them too
# make faults    disturbs every system call of every operation, and 2,000 shared containers; needs root and half an hour
# make fuzz      runs the fuzz targets, FUZZ_SECONDS each
# make install   installs to PREFIX (and DESTDIR)
# make deb       makes a Debian package in target/package
# make walk      installs that package in a new Debian 12, follows the README there, and makes mistakes; needs root and a mirror
# make dist      makes tarballs, a bill of materials and checksums in target/dist; SOURCE_DATE_EPOCH is their time

PREFIX ?= /usr/local
CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BINARY ?= $(TARGET_DIR)/release/magikrun
SHIM ?= $(TARGET_DIR)/release/containerd-shim-magikrun-v2
VMINIT ?= $(TARGET_DIR)/release/vminit
KRUN ?= $(TARGET_DIR)/release/magikrun-krun
MANPAGES := $(wildcard man/*.[0-9])

BUILD_PACKAGES := gcc libc6-dev libseccomp-dev
RUN_PACKAGES := $(BUILD_PACKAGES) busybox-static
WASM_PACKAGES := clang libclang-rt-14-dev-wasm32 lld wasi-libc
# What generates bindings to a libkrun of the system.
SYSTEM_PACKAGES := $(BUILD_PACKAGES) libclang-dev pkg-config
# What makes packages.
PACKAGE_PACKAGES := dpkg \
	git \
	python3 \
	xz-utils

# One a line, for changes that do not meet.
TEST_PACKAGES := $(RUN_PACKAGES) \
	$(WASM_PACKAGES) \
	$(PACKAGE_PACKAGES) \
	apache2-utils \
	buildah \
	conmon \
	containerd \
	containernetworking-plugins \
	criu \
	crun \
	curl \
	docker-registry \
	docker.io \
	fish \
	git \
	iproute2 \
	iptables \
	jq \
	man-db \
	openssl \
	passt \
	podman \
	procps \
	runc \
	skopeo \
	strace \
	uidmap \
	umoci \
	util-linux \
	zsh
# What makes the emulated machine and its disk, and strips the programs for it.
VM_PACKAGES := binutils cpio e2fsprogs kmod mmdebstrap util-linux xz-utils
CONFORMANCE_PACKAGES := $(TEST_PACKAGES) golang-github-blang-semver-dev golang-github-google-uuid-dev \
	golang-github-opencontainers-runtime-tools-dev golang-go patchelf $(VM_PACKAGES) \
	$(SYSTEM_PACKAGES)
BENCH_PACKAGES := $(RUN_PACKAGES) $(WASM_PACKAGES) catatonit containerd crun docker-registry golang-github-containers-common podman \
	runc skopeo umoci util-linux

# What the variables of `make conformance` mean as options. A shell may have an ENV of its own, which is none.
CONFORMANCE_ARGS = $(if $(RUNTIME),--runtime $(RUNTIME)) $(if $(SUITE),--suite $(SUITE)) \
	$(if $(filter command,$(origin ENV)),--env $(ENV)) $(if $(QUICK),--quick)
CONFORMANCE = $(CARGO) run --quiet --locked --package conformance -- --magikrun $(BINARY)

.PHONY: all build krun krun-system microvm microvm-cri run test engines faults fuzz conformance conformance-full conformance-quick lint bench install \
	install-built deb walk dist clean

all: build

build:
	@tools/packages.sh $(BUILD_PACKAGES)
	$(CARGO) build --release --locked --package magikrun --package containerd-shim-magikrun --package vminit

krun:
	@tools/packages.sh $(BUILD_PACKAGES)
	$(CARGO) build --release --locked --package magikrun-krun

# With the profile of tests: what is built for them already is used.
krun-system:
	@tools/packages.sh $(SYSTEM_PACKAGES)
	CARGO="$(CARGO)" tools/krun-system.sh

# It builds what it tests.
microvm:
	@tools/packages.sh $(SYSTEM_PACKAGES) $(VM_PACKAGES)
	$(CARGO) run --quiet --locked --package conformance -- microvm

# It needs the engine of this machine, so it is not part of `microvm`.
microvm-cri:
	@tools/packages.sh $(BUILD_PACKAGES) $(VM_PACKAGES) containerd containernetworking-plugins curl
	$(CARGO) run --quiet --locked --package conformance -- containerd

run: build
	@tools/packages.sh $(RUN_PACKAGES)
	@tools/demo.sh $(BINARY)

# The release binary is tested for what only it has: how it is linked, and its size. One test that fails keeps none of the others from being run.
test: build
	@tools/packages.sh $(TEST_PACKAGES)
	$(CARGO) test --locked --package vm-protocol --package vminit
	MAGIKRUN_RELEASE=$(abspath $(BINARY)) $(CARGO) test --locked --all-features --no-fail-fast
	$(CARGO) test --locked --package containerd-shim-magikrun
	$(MAKE) conformance-quick

# What was tested with the engines of this machine, with those of other releases of Debian, which are unpacked outside the repository.
RELEASES ?= trixie sid
engines:
	@tools/packages.sh $(TEST_PACKAGES)
	@for release in $(RELEASES); do \
		folder=$$($(CARGO) run --quiet --locked --package conformance -- engines $$release) || exit 1; \
		echo "engines of Debian $$release"; \
		MAGIKRUN_TEST_ENGINES=$$folder $(CARGO) test --locked --all-features --no-fail-fast \
			--test containerd --test cri --test docker --test kubernetes --test shim || exit 1; \
	done

# What of the conformance suites there is time for at each change: the hosts' environments, and no emulated machine.
conformance-quick:
	@tools/packages.sh $(CONFORMANCE_PACKAGES)
	$(CARGO) test --locked --package conformance
	$(CONFORMANCE) --quick

conformance: build
	@tools/packages.sh $(CONFORMANCE_PACKAGES)
	$(CONFORMANCE) $(CONFORMANCE_ARGS)

conformance-full: build
	@tools/packages.sh $(CONFORMANCE_PACKAGES)
	$(CONFORMANCE) --runtime magikrun,runc,runc-sid,crun --env host,v2,vm=magikrun \
		--output docs/conformance.md

faults:
	@tools/packages.sh $(TEST_PACKAGES)
	MAGIKRUN_FAULTS=full MAGIKRUN_MODEL=full MAGIKRUN_FUZZ=20 \
		$(CARGO) test --locked --all-features --test faults --test pod_calls --test pod_faults --test model --test fuzz -- --nocapture

FUZZ_SECONDS ?= 60
fuzz:
	@tools/packages.sh $(BUILD_PACKAGES) g++
	tools/fuzz.sh $(FUZZ_SECONDS)

lint:
	@tools/packages.sh $(BUILD_PACKAGES) python3
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --workspace --exclude magikrun-krun --all-targets --all-features -- -D warnings
	$(CARGO) clippy --locked --test machine --test microvm -- -D warnings
	$(CARGO) clippy --locked --package magikrun-krun --no-deps -- -D warnings
	$(MAKE) krun-system
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --all-features
	tools/deny.sh

bench:
	@tools/packages.sh $(BENCH_PACKAGES)
	$(CARGO) bench --locked --bench lifecycle -- $(BENCH_ARGS)
	$(CARGO) bench --locked --bench callers
	$(CARGO) bench --locked --bench wasm
	$(CARGO) bench --locked --bench pods
	$(CARGO) bench --locked --bench images
	$(CARGO) bench --locked --bench shim

install: build install-built

# Installs what is built already.
install-built:
	install -D -m 0755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/magikrun
	ln -sf magikrun $(DESTDIR)$(PREFIX)/bin/magikrun-wasm
	install -D -m 0755 $(SHIM) $(DESTDIR)$(PREFIX)/bin/containerd-shim-magikrun-v2
	for backend in wasm krun; do \
		ln -sf containerd-shim-magikrun-v2 $(DESTDIR)$(PREFIX)/bin/containerd-shim-magikrun-$$backend-v2; \
	done
	install -D -m 0755 $(VMINIT) $(DESTDIR)$(PREFIX)/libexec/magikrun/vminit
	if [ -e $(KRUN) ]; then install -D -m 0755 $(KRUN) $(DESTDIR)$(PREFIX)/libexec/magikrun/magikrun-krun; fi
	for page in $(MANPAGES); do install -D -m 0644 $$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$$(basename $$page); done
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	$(BINARY) completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/magikrun
	$(BINARY) completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_magikrun
	$(BINARY) completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/magikrun.fish

deb: build
	@tools/packages.sh $(PACKAGE_PACKAGES)
	BINARY=$(BINARY) SHIM=$(SHIM) VMINIT=$(VMINIT) tools/package.sh deb target/package

walk: deb
	tools/walk.sh target/package/*.deb

dist: build
	@tools/packages.sh $(PACKAGE_PACKAGES)
	BINARY=$(BINARY) SHIM=$(SHIM) VMINIT=$(VMINIT) tools/package.sh dist target/dist

clean:
	$(CARGO) clean
