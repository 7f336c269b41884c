# The two commands of the README, and the rest of the daily work. CMake and Ninja do the building.
#
#   make demo      system packages, build, a real model: inspect, compress, evaluate, generate
#   make check     system packages, build, all tests
#
#   make           build        make bench     benchmarks against the machine's limits
#   make asan      tests under AddressSanitizer and UndefinedBehaviorSanitizer
#   make tsan      threads under ThreadSanitizer
#   make clang     tests built with clang       make lint      clang-format and clang-tidy
#   make fuzz      every parser for FUZZ_SECONDS (60) each, FUZZ_SEED=0 a new order
#   make interop   do other programs load what pare writes (Python environment and models on demand)
#   make format    reformat the sources         make install   PREFIX=/usr/local DESTDIR=

BUILD ?= build
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
FUZZ_SEED ?= 1
JOBS ?= $(shell nproc)
CMAKE_FLAGS ?=
sources = $(shell git ls-files '*.c' '*.h')

.PHONY: all deps models demo check test asan tsan clang lint format-check tidy fuzz bench bench-peers interop docs format install clean

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

$(BUILD)/build.ninja: CMakeLists.txt | deps
	@cmake -S . -B $(BUILD) -G Ninja -DCMAKE_INSTALL_PREFIX=$(PREFIX) $(CMAKE_FLAGS) >/dev/null
	@ln -sf $(BUILD)/compile_commands.json compile_commands.json

deps:
	@scripts/install-deps.sh

models: | deps
	@scripts/models.sh

demo: all
	@scripts/demo.sh $(BUILD)/pare

check: all test

# a model that cannot be fetched makes its tests skip with a line that says so. SKIP=REGEX leaves tests out
test: all
	@scripts/models.sh >/dev/null || echo "check: models not fetched; their tests skip"
	@ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS) $(if $(SKIP),-E "$(SKIP)")

asan:
	@$(MAKE) --no-print-directory test BUILD=build-asan CMAKE_FLAGS="-DPARE_SANITIZE=ON -DPARE_BENCH=OFF"

# what runs on the team of threads
tsan_tests = base ops attention linear live archs kv_cache prefix compress generate speculate many encoding select optim pruner tape step sparse_step
tsan: | deps
	@cmake -S . -B build-tsan -G Ninja -DPARE_TSAN=ON -DPARE_BENCH=OFF >/dev/null
	@ninja -C build-tsan $(tsan_tests:%=test_%)
	@ctest --test-dir build-tsan --output-on-failure -j $(JOBS) -R "^test_($$(echo $(tsan_tests) | tr ' ' '|'))$$"

clang:
	@CC=clang $(MAKE) --no-print-directory test BUILD=build-clang

fuzz: | deps
	@JOBS=$(JOBS) scripts/fuzz.sh $(FUZZ_SECONDS) $(FUZZ_SEED)

lint: format-check tidy

# what is made from the descriptors
docs: all
	@$(BUILD)/pare methods --json | python3 scripts/methods-doc.py > docs/methods.md

format-check: | deps
	@clang-format --dry-run --Werror $(sources)

tidy: | deps
	@CC=clang cmake -S . -B build-clang -G Ninja >/dev/null
	@scripts/lint.sh build-clang

format:
	@clang-format -i $(sources)

bench: all
	@scripts/bench.sh $(BUILD)

bench-peers: all
	@scripts/bench-peers.sh $(BUILD)

interop: all
	@scripts/interop/interop.sh $(BUILD)

install: all
	@cmake --install $(BUILD)

clean:
	rm -rf build build-asan build-tsan build-clang build-fuzz
