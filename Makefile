# Every target installs what it needs, where it may.
.PHONY: demo demo-smollm2 test test-release test-interop test-reports test-workflow fuzz bench lint format fixtures build dependencies ci

# The program carries the Swift runtime in itself, where the system allows it.
static = $(if $(filter Linux,$(shell uname)),--static-swift-stdlib)
swift_sources = Package.swift Sources Tests Benchmarks Fuzz

demo: build
	scripts/demo.sh

demo-smollm2: build
	scripts/demo-smollm2.sh

build: dependencies
	swift build -c release $(static) --product oplora

test: dependencies
	swift test

test-release: dependencies
	swift test -c release -Xswiftc -enable-testing

test-interop: build
	scripts/test-interop.sh
	scripts/test-diffusion.sh
	scripts/test-mlx.sh
	scripts/test-lint.sh

# Reports in the hands of those that read them, and the page of the faults.
test-reports: build
	scripts/test-reports.sh

# What docs/ci.md gives to copy, on a machine of its own; as root.
test-workflow: build
	scripts/test-workflow.sh
	scripts/test-pre-commit.sh

# SECONDS for each target.
fuzz: dependencies
	scripts/fuzz.sh $(SECONDS)

# Leave the machine alone while it runs.
bench: build
	scripts/bench.sh

lint:
	swift format lint --strict --recursive $(swift_sources)
	scripts/lint-messages.py
	scripts/lint-checks.sh

format:
	swift format --in-place --recursive $(swift_sources)

# Trains the small model again: about a quarter of an hour, and a model as good as the old one but not the same.
fixtures:
	scripts/fixtures.sh

dependencies:
	@scripts/install-dependencies.sh

ci:
	.ci/run
