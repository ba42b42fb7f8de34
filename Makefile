# Sotto. `make demo` shows one message cross the platform; `make test` runs all that CI runs.

# Where rustup and deploy/tools/setup.sh put things: no shell of yours needs to know.
export PATH := $(HOME)/.cargo/bin:$(CURDIR)/.tools/bin:$(PATH)

.PHONY: help setup demo build storm release test fmt lint unit e2e interop soak canaries torture torture-cluster torture-upgrade power-loss bench bench-peers bench-soak \
	bench-micro bench-compare mutants alerts compose-test compose-three-test kubernetes-test clean

help: ## what there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## install what tests need (says first what is missing, and why)
	@deploy/tools/setup.sh test

demo: ## install what is missing, build, start a cell, send a message, show its journey
	@deploy/demo.sh

build: ## build every program
	cargo build --workspace --locked

test: setup ## everything CI runs
	@deploy/test.sh

fmt: ## format
	cargo fmt --all

lint: ## formatting, protocol, lints, dependencies
	@deploy/test.sh lint

unit: ## tests of each crate
	@deploy/test.sh unit

e2e: ## tests of whole cells
	@deploy/test.sh e2e

interop: ## SMPP peers and a NATS client that nobody here wrote (installs them), each with a whole cell or our simulator
	@deploy/tools/setup.sh interop
	cargo build --workspace --locked
	cargo nextest run -p sotto-tests --locked --profile interop

soak: build ## ten minutes of the noise that carriers make, counted by the carrier
	SOTTO_SOAK_MINUTES=$${MINUTES:-10} cargo nextest run --workspace --locked --profile soak -E 'test(a_twentieth_of_each_noise)'

canaries: setup build ## messages with markers by every feature, searched for everywhere (MESSAGES=10000)
	SOTTO_CANARIES=$${MESSAGES:-10000} cargo nextest run --workspace --locked --profile soak -E 'test(no_number_sender_or_text)'

storm: setup # what is tortured: optimised, and with every check of a test on
	cargo build --workspace --locked --profile storm

torture: storm ## minutes of faults of every kind over a cell under load, by a seed (MINUTES=10 SEED=7; CLUSTER=1: three brokers; DISK=1 as root: full and slow disks too)
	$(if $(DISK),SOTTO_TORTURE_DISK=1) $(if $(CLUSTER),SOTTO_TORTURE_CLUSTER=1) SOTTO_TORTURE_MINUTES=$${MINUTES:-10} SOTTO_TORTURE_SEED=$${SEED:-7} cargo nextest run --workspace --locked --cargo-profile storm \
		--profile torture --no-capture -E 'test(a_storm_of_faults)'

torture-cluster: storm ## a cell on three brokers, of which one is cut off from the others under load
	cargo nextest run --workspace --locked --cargo-profile storm --profile cluster --no-capture

torture-upgrade: setup build ## services of two versions beside each other under load, there and back (BASE=<revision before>)
	deploy/tools/base.sh $(BASE)
	SOTTO_PREVIOUS_BIN=$(CURDIR)/target/base/build/debug cargo nextest run --workspace --locked --profile upgrade --no-capture

release: # what is measured
	cargo build --release --workspace --exclude sotto-tests --exclude sotto-testkit --exclude sotto-benches --locked

bench: ## measure this machine: the disk, the broker alone, a release cell (ARGS="--seconds 60 --json")
	@deploy/tools/setup.sh demo
	@$(MAKE) --no-print-directory release
	target/release/sotto bench $(ARGS)

bench-peers: ## five rounds of the broker alone, Kannel (installs it), a release cell (ARGS="--rounds 5")
	@deploy/tools/setup.sh bench-peers
	@$(MAKE) --no-print-directory release
	target/release/sotto bench --peer kannel $(ARGS)

bench-soak: ## whether memory grows in ten minutes at half rate (MINUTES=10)
	@deploy/tools/setup.sh demo
	@$(MAKE) --no-print-directory release
	target/release/sotto bench --soak $${MINUTES:-10} --seconds 20 $(ARGS)

bench-micro: ## nanoseconds of the pure code that every message passes (ARGS=smpp: those alone)
	cargo bench --locked -p sotto-benches --bench hot -- --noplot --warm-up-time 1 --measurement-time 2 $(ARGS)

bench-compare: ## the same, beside another revision on this machine (BASE=main)
	@deploy/tools/bench-compare.sh "$(BASE)" $(ARGS)

mutants: ## what of a crate can be changed without a test that notices (CRATE=sotto-crypto ARGS="--shard 0/4")
	@deploy/tools/mutants.sh "$${CRATE:-sotto-crypto}" $(ARGS)

alerts: setup build ## fire alerts on a running cell by a real Prometheus, and end each as its runbook says (needs root, loop devices, cgroup v1)
	cargo nextest run --workspace --locked --profile alerts

power-loss: setup build ## cut the power of a broker's and of a whole cell's disk (needs root and loop devices)
	cargo nextest run --workspace --locked --profile power-loss

compose-test: ## the cell of docker-compose.yml in containers, scaled, watched, with faults; once more with keys in a token (needs Docker)
	@deploy/tools/setup.sh test
	deploy/compose/test.sh
	deploy/compose/hsm-test.sh

compose-three-test: ## a cell of three brokers and two Redis in containers under load: a broker dies, one is cut off, Redis fails over, all is upgraded (needs Docker)
	@deploy/tools/setup.sh test
	deploy/compose/three-test.sh

kubernetes-test: setup build ## a cell as its pods would run, in network namespaces under the policies (needs root, iproute2, iptables)
	python deploy/kubernetes/run_cell.py target/debug one-broker
	python deploy/kubernetes/run_cell.py target/debug three-brokers

clean: ## remove build output and installed tools
	cargo clean
	rm -rf .tools
