# Atoll's build. Everything goes below build/<variant>/; nothing is written into the source folders.
#
#   make                 the programs: build/release/bin/{atoll-coordinator,atoll-node,atollctl,
#                        atoll-sim,atoll-wan-proxy}
#   make demo            four sites train one model on this machine, with crashes; summary in
#                        build/demo/summary.json
#   make test            every test; closes with `N passed, N failed, N skipped`
#                        (TESTS='base_* fed_*' for some of them)
#   make sim SEED=7      replay one simulated federation, with its trace
#                        (SEEDS=1000 runs so many, from FIRST or at random)
#   make coverage        which lines and branches of the pure cores unit tests and seeds reach
#                        (make sim-coverage: seeds alone)
#   make bench           speed and memory, never part of the tests           (bench/README.md)
#   make bench-train     the CPU trainer beside PyTorch (PYTHON=V/bin/python: one with torch);
#                        build/bench/train.json
#   make experiments     how a federation learns: docs/experiments.md, in about 15 minutes on two
#                        quiet cores (ARGUMENTS='--only modes --seeds 1' for less)
#   make bench-plan      how long plans of 1,000 and 10,000 sites take; exit code 1 where a bar is
#                        missed
#   make bench-scale     what a step of 10^9 parameters costs, on one core and on all (10 GB)
#   make gpu-test        the CUDA kernels beside the CPU, on a GPU; gcc, make and nvcc are enough
#                        (docs/gpu.md)
#   make gpu-bench       the CUDA trainer beside torch.compile, and the codec's times;
#                        build/bench/gpu.json
#   make gpu-kit         what scripts/gpu-check --quick carries to a machine with a GPU; needs nvcc,
#                        no GPU; build/gpu-kit
#   make install         below PREFIX (/usr/local), with DESTDIR before it; make uninstall removes
#                        what it put there
#   make trainer         the training engine alone: gcc and make are enough
#                        (CC=aarch64-linux-gnu-gcc: for another machine)
#   make check           layers, names, code, formatting, words
#   make clean           removes build/
#
# Variables: BUILD=release|debug|asan|tsan   CUDA=auto|0|1   CC=gcc|clang   V=1 shows the commands
# Detected things are said in one line at the start; unknown values stop the build.

BUILD ?= release
CUDA  ?= auto
V     ?= 0
ifeq ($(origin CC),default)
CC := gcc
endif

ifeq ($(filter $(BUILD),release debug asan tsan),)
$(error BUILD=$(BUILD) is none of release, debug, asan, tsan)
endif
ifeq ($(filter $(CUDA),auto 0 1),)
$(error CUDA=$(CUDA) is none of auto, 0, 1)
endif

VERSION := $(shell cat VERSION)
CC_NAME := $(if $(findstring clang,$(notdir $(CC))),-clang,)
# A compiler for another machine has a folder of its own and none of this machine's libraries: `make
# trainer` works, and all of base/, kernels/, codec/ and model/.
MACHINE := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))
CROSS   := $(filter-out $(shell uname -m),$(MACHINE))
OUT := build/$(BUILD)$(CC_NAME)$(if $(CROSS),-$(CROSS))
AR  := $(if $(CROSS),$(shell $(CC) -print-prog-name=ar),ar)
Q   := $(if $(filter 1,$(V)),,@)
say  = $(if $(filter 1,$(V)),,@printf '  %-6s %s\n' $(1) $(2))

# ---- what is here --------------------------------------------------------------------------------
NVCC      := $(if $(CROSS)$(filter 0,$(CUDA)),,$(shell command -v nvcc || \
                 ls /usr/local/cuda/bin/nvcc 2>/dev/null))
PROTOC_C  := $(shell command -v protoc-c)
have_lib   = $(shell pkg-config --exists $(1) 2>/dev/null && echo 1)
LIBS_FOUND := $(and $(if $(CROSS),,1),$(call have_lib,grpc),$(call have_lib,libprotobuf-c),\
                    $(call have_lib,lmdb),$(call have_lib,openssl),$(call have_lib,yaml-0.1),\
                    $(PROTOC_C))
ifeq ($(CUDA)$(NVCC),1)
$(error CUDA=1 but there is no nvcc on PATH nor in /usr/local/cuda/bin)
endif

# ---- flags ---------------------------------------------------------------------------------------
# Text that is cut to fit is meant (messages are bounded), hence -Wno-format-truncation.
WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla \
            -Wundef -Werror -Werror=implicit-function-declaration \
            $(if $(CC_NAME),,-Wno-format-truncation)
CPPFLAGS_ALL := -I. -I$(OUT)/generated -D_GNU_SOURCE $(CPPFLAGS)
# -ffp-contract=off everywhere: the same bits from every compiler and level. Kernels that need FMA
# say so with intrinsics.
CFLAGS_ALL := -std=c11 -g -pthread -fPIC -fno-omit-frame-pointer -ffp-contract=off \
              -fstack-protector-strong $(WARNINGS) $(CFLAGS)
LDFLAGS_ALL := -pthread -rdynamic -Wl,-z,relro,-z,now $(LDFLAGS)
ifeq ($(BUILD),release)
CFLAGS_ALL += -O2 -D_FORTIFY_SOURCE=2
endif
ifeq ($(BUILD),debug)
CFLAGS_ALL += -O0
endif
ifeq ($(BUILD),asan)
CFLAGS_ALL += -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined
LDFLAGS_ALL += -fsanitize=address,undefined
export ASAN_OPTIONS ?= detect_leaks=1:abort_on_error=0
export UBSAN_OPTIONS ?= print_stacktrace=1:halt_on_error=1
endif
ifeq ($(BUILD),tsan)
# A fence tells the sanitizer nothing, so GCC warns of each: storage/lmdb_env.c needs one.
CFLAGS_ALL += -O1 -fsanitize=thread $(if $(findstring clang,$(CC)),,-Wno-tsan)
LDFLAGS_ALL += -fsanitize=thread
export TSAN_OPTIONS ?= ignore_noninstrumented_modules=1:halt_on_error=1
endif
ifneq ($(filter asan tsan debug,$(BUILD)),)
export ATOLL_TEST_SLOWDOWN ?= 10
endif

# ---- sources: every .c below a folder belongs to its library, except the programs' own mains -----
CORE_FOLDERS := base kernels codec text model
# storage stands after those that use it and before sim, which has a store and blobs of its own: a
# test that links everything takes the shipped ones unless it names the simulator's.
FOLDERS := $(CORE_FOLDERS) libatoll $(if $(LIBS_FOUND),config crypto rpc proto fed run attach \
               relay node coordinator storage topology plan wan experiment sim)
MAINS   := coordinator/main.c node/main.c sim/main.c wan/wan_proxy_main.c sim/mutate_main.c \
           model/trainer_main.c kernels/cuda_probe_main.c $(wildcard coordinator/atollctl/*.c)
# Of kernels/cpu, what this machine's instructions are for.
OTHERS  := $(if $(filter x86_64 i%86,$(MACHINE)),,$(wildcard kernels/cpu/*_avx2.c \
               kernels/cpu/*_avx512.c kernels/cpu/*_avx512bf16.c kernels/cpu/*_amx.c))
sources  = $(filter-out $(MAINS) $(OTHERS),$(sort $(wildcard $(1)/*.c $(1)/cpu/*.c)))
objects  = $(patsubst %.c,$(OUT)/%.o,$(1))
SOURCES := $(foreach folder,$(FOLDERS),$(call sources,$(folder)))
LIBRARY  = $(OUT)/lib$(1).a
CORE_LIBRARIES := $(foreach folder,$(CORE_FOLDERS),$(call LIBRARY,$(folder)))
LIBRARIES := $(foreach folder,$(FOLDERS),$(call LIBRARY,$(folder)))
SYSTEM_LIBS := -Wl,--as-needed -lgrpc -lgpr -lprotobuf-c -llmdb -lssl -lcrypto -lyaml -ldl -lm
CORE_LIBS   := -Wl,--as-needed -ldl -lm

PROGRAMS := $(addprefix $(OUT)/bin/,atoll-coordinator atoll-node atollctl atoll-sim atoll-wan-proxy)
TEST_SOURCES := $(sort $(wildcard tests/*_test.c))
TEST_PROGRAMS := $(patsubst tests/%.c,$(OUT)/tests/%,$(TEST_SOURCES))
BENCH_SOURCES := $(sort $(wildcard bench/*.c))
BENCH_PROGRAMS := $(patsubst bench/%.c,$(OUT)/bench/%,$(BENCH_SOURCES))
PROTO_GENERATED := $(patsubst %.proto,$(OUT)/generated/%.pb-c,$(wildcard proto/*.proto))
CUDA_BACKEND := $(if $(NVCC),$(OUT)/bin/atoll-kernels-cuda.so)
CUDA_PROBE := $(OUT)/bin/atoll-cuda-probe
LIBATOLL := $(OUT)/lib/libatoll.so.0

.PHONY: experiments
.PHONY: all programs demo test test-run sim sim-mutants sim-coverage bench bench-train trainer \
        check clean deps-found generated tests-built coverage
.DEFAULT_GOAL := all
.SECONDARY:
.DELETE_ON_ERROR:

all: programs
programs: deps-found $(PROGRAMS) $(LIBATOLL) $(CUDA_BACKEND) $(if $(NVCC),$(CUDA_PROBE))

deps-found:
	@echo "atoll: BUILD=$(BUILD) CC=$(CC) CUDA=$(if $(NVCC),$(NVCC),none)" \
	      "libraries=$(if $(LIBS_FOUND),found,missing)"
ifeq ($(LIBS_FOUND),)
	@echo "atoll: a library is missing; run scripts/install-deps" >&2; exit 1
endif

# ---- compiling -----------------------------------------------------------------------------------
AVX512_FLAGS := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma
ISA_FLAGS = $(if $(filter %_avx2.c,$<),-mavx2 -mfma -mf16c) \
            $(if $(filter %_avx512.c,$<),$(AVX512_FLAGS)) \
            $(if $(filter %_avx512bf16.c,$<),$(AVX512_FLAGS) -mavx512bf16) \
            $(if $(filter %_amx.c,$<),$(AVX512_FLAGS) -mavx512bf16 -mamx-tile -mamx-bf16)
# The hot loops are few; they get -O3, and nothing else does.
HOT_FLAGS = $(if $(and $(filter release,$(BUILD)),$(filter kernels/% codec/%,$<)),-O3)

$(OUT)/%.o: %.c
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(HOT_FLAGS) $(ISA_FLAGS) -MMD -MP -c -o $@ $<

$(OUT)/topology/topology_presets.o: $(wildcard topology/presets/*.yaml)
$(OUT)/base/version.o $(OUT)/node/site.o: CPPFLAGS_ALL += -DATOLL_VERSION='"$(VERSION)"'
$(OUT)/base/version.o $(OUT)/node/site.o: VERSION

# protoc-c's output is not ours: no warnings, and without the three UBSan checks it breaks
# harmlessly.
GENERATED_SOURCES := $(addsuffix .c,$(PROTO_GENERATED))
GENERATED_HEADERS := $(addsuffix .h,$(PROTO_GENERATED))
generated: $(GENERATED_HEADERS)
$(OUT)/generated/%.pb-c.c $(OUT)/generated/%.pb-c.h &: %.proto
	$(call say,PROTO,$<)
	$(Q)mkdir -p $(@D)
	$(Q)$(PROTOC_C) --c_out=$(OUT)/generated $<
$(OUT)/generated/%.o: $(OUT)/generated/%.c
	$(Q)$(CC) $(CPPFLAGS_ALL) $(filter-out $(WARNINGS),$(CFLAGS_ALL)) -w \
	    $(if $(filter asan,$(BUILD)),-fno-sanitize=shift -fno-sanitize=pointer-overflow \
	                                 -fno-sanitize=nonnull-attribute) -c -o $@ $<
$(filter $(OUT)/proto/% $(OUT)/tests/proto_%,$(call objects,$(SOURCES) $(TEST_SOURCES))): \
    | $(GENERATED_HEADERS)

# The simulator runs copies of the pure cores of its own, with coverage marks (base/mark.h) and
# remembered signatures (sim/signatures.h); sim/mutants.c says what atoll-sim-mutated has besides.
SIM_CORES := $(wildcard coordinator/coordinator_*.c) coordinator/actions.c \
             coordinator/transfers.c coordinator/model_work.c coordinator/ledger_queue.c \
             coordinator/directory_contents.c coordinator/directory_restore.c \
             coordinator/directory_sweep.c coordinator/follow_place.c storage/store_key.c \
             $(wildcard node/node_*.c) node/replica.c node/keeper.c node/restore.c node/claims.c \
             node/training_marks.c node/journal_entries.c node/journal_set.c node/entry_payload.c \
             $(wildcard fed/*.c) \
             $(filter-out codec/device.c,$(wildcard codec/*.c))
SIM_FLAGS := -DATOLL_SIMULATED -include sim/signatures.h
SIM_CORE_OBJECTS := $(patsubst %.c,$(OUT)/sim/core/%.o,$(SIM_CORES))
$(OUT)/sim/core/%.o: %.c
	$(call say,CC,$< for the simulator)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(HOT_FLAGS) $(ISA_FLAGS) $(SIM_FLAGS) -MMD -MP -c -o $@ $<

# atoll-sim with the mutants, one of which is chosen at its start: for `make sim-mutants` and
# the tests alone.
SIM_MUTATED := $(sort $(shell grep -o '"[a-z]*/[a-z_0-9]*\.c"' sim/mutants.c | tr -d '"'))
SIM_MUTATED_OBJECTS := $(patsubst %.c,$(OUT)/sim/mutated/%.o,$(SIM_MUTATED))
$(OUT)/bin/mutate: $(OUT)/sim/mutate_main.o $(OUT)/sim/mutants.o $(OUT)/libbase.a
	$(LINK) $(CORE_LIBS)
$(OUT)/sim/mutated/%.c: %.c $(OUT)/bin/mutate
	$(Q)mkdir -p $(@D)
	$(Q)$(OUT)/bin/mutate $< <$< >$@ || { rm -f $@; exit 1; }
$(OUT)/sim/mutated/%.o: $(OUT)/sim/mutated/%.c
	$(call say,CC,$* with mutants)
	$(Q)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(SIM_FLAGS) -MMD -MP -c -o $@ $<
# And with the compiler's own counters in the pure cores, for `make coverage`. -O1: a line stays a
# line. Unit tests are linked with objects of their own, which any thread may count in and sign in;
# they stand before the libraries. Those that only tests reach are not in the simulator.
SIM_COVERED_OBJECTS := $(patsubst %.c,$(OUT)/sim/covered/%.o,$(SIM_CORES))
PROTO_COVERED_OBJECTS := $(patsubst %.c,$(OUT)/covered/%.o,$(wildcard proto/*.c))
COVERED_OBJECTS := $(patsubst %.c,$(OUT)/covered/%.o,$(SIM_CORES) wan/wan_link.c) \
                   $(PROTO_COVERED_OBJECTS)
COVERED_TESTS := $(patsubst tests/%.c,%,$(wildcard tests/fed_*_test.c tests/proto_*_test.c)) \
                 codec_codec_test codec_topk2_test wan_link_test \
                 $(addprefix coordinator_,$(addsuffix _test,burst damage follow follow_place \
                   ledger_queue lost orders places restore speeds state steps \
                   sweep)) \
                 $(addprefix node_,$(addsuffix _test,downlink journal replica restore rounds \
                   state status training uplink))
COVERED_TEST_PROGRAMS := $(addprefix $(OUT)/covered/,$(filter-out fed_device_test,$(COVERED_TESTS)))
$(PROTO_COVERED_OBJECTS): | $(GENERATED_HEADERS)
COVERED_COMPILE = $(Q)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -O1 --coverage $(ISA_FLAGS) -MMD -MP -c
$(OUT)/sim/covered/%.o: %.c
	$(call say,CC,$< with counters)
	$(Q)mkdir -p $(@D)
	$(COVERED_COMPILE) $(SIM_FLAGS) -o $@ $<
$(OUT)/covered/%.o: %.c
	$(call say,CC,$< with counters)
	$(Q)mkdir -p $(@D)
	$(COVERED_COMPILE) -DATOLL_SIMULATED -fprofile-update=atomic -o $@ $<
define library_rule
$(call LIBRARY,$(1)): $(call objects,$(call sources,$(1))) \
    $(if $(filter sim,$(1)),$(SIM_CORE_OBJECTS)) \
    $(if $(filter proto,$(1)),$(GENERATED_SOURCES:.c=.o))
	$$(Q)rm -f $$@ && $(AR) rcs $$@ $$^
endef
$(foreach folder,$(FOLDERS),$(eval $(call library_rule,$(folder))))

LINK = $(Q)mkdir -p $(@D); $(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $(filter %.o,$^) \
           -Wl,--start-group $(filter %.a,$^) -Wl,--end-group
PROGRAM_FOLDERS := base kernels codec text model config crypto storage rpc proto fed run attach \
                   relay
program_libraries = $(foreach folder,$(PROGRAM_FOLDERS) $(1),$(call LIBRARY,$(folder)))

$(OUT)/bin/atoll-coordinator: $(OUT)/coordinator/main.o $(call program_libraries,coordinator)
	$(call say,LINK,$@)
	$(LINK) $(SYSTEM_LIBS)
$(OUT)/bin/atollctl: $(call objects,$(wildcard coordinator/atollctl/*.c)) \
    $(call program_libraries,coordinator)
	$(call say,LINK,$@)
	$(LINK) $(SYSTEM_LIBS)
$(OUT)/bin/atoll-node: $(OUT)/node/main.o $(call program_libraries,node)
	$(call say,LINK,$@)
	$(LINK) $(SYSTEM_LIBS)
# The mutated copies stand before the library, so that nothing of theirs is taken from it.
# The simulator has a disk of its own behind storage/store.h and blob.h (sim/storage.h).
SIM_LIBRARIES := $(filter-out $(call LIBRARY,storage),\
                   $(call program_libraries,topology plan experiment sim))
$(OUT)/bin/atoll-sim-mutated: $(OUT)/sim/main.o $(SIM_MUTATED_OBJECTS) $(SIM_LIBRARIES)
	$(call say,LINK,$@)
	$(LINK) $(SYSTEM_LIBS)
$(OUT)/bin/atoll-sim-covered: $(OUT)/sim/main.o $(SIM_COVERED_OBJECTS) $(SIM_LIBRARIES)
	$(call say,LINK,$@)
	$(LINK) --coverage $(SYSTEM_LIBS)
$(COVERED_TEST_PROGRAMS): $(OUT)/covered/%: $(OUT)/tests/%.o $(OUT)/tests/test.o \
    $(COVERED_OBJECTS) $(LIBRARIES)
	$(call say,LINK,$@)
	$(LINK) --coverage $(SYSTEM_LIBS)
$(OUT)/bin/atoll-sim: $(OUT)/sim/main.o $(SIM_LIBRARIES)
	$(call say,LINK,$@)
	$(LINK) $(SYSTEM_LIBS)

$(OUT)/bin/atoll-wan-proxy: $(call objects,$(wildcard wan/*.c)) $(call program_libraries,topology)
	$(call say,LINK,$@)
	$(LINK) $(SYSTEM_LIBS)

# What training jobs attach with: libc alone, and no names beside atoll_*.
.PHONY: libatoll
libatoll: $(LIBATOLL)
$(LIBATOLL): libatoll/atoll.c libatoll/atoll.h libatoll/wire.h libatoll/libatoll.map
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -shared -Wl,-soname,libatoll.so.0 \
	    -Wl,--version-script=libatoll/libatoll.map -Wl,-z,relro,-z,now $(LDFLAGS) -o $@ $<
	$(Q)ln -sf libatoll.so.0 $(@D)/libatoll.so

trainer: $(OUT)/bin/atoll-trainer
$(OUT)/bin/atoll-trainer: $(OUT)/model/trainer_main.o $(CORE_LIBRARIES)
	$(call say,LINK,$@)
	$(LINK) $(CORE_LIBS)

# What the backend runs to try kernels that may end their process; it belongs beside it.
$(CUDA_PROBE): $(OUT)/kernels/cuda_probe_main.o $(call LIBRARY,kernels) $(call LIBRARY,base)
	$(call say,LINK,$@)
	$(LINK) $(CORE_LIBS)

# ---- CUDA backend --------------------------------------------------------------------------------
# A shared object that the programs open at start, so that they run where there is no driver.
# Machine code for what this nvcc knows of 8.0, 9.0 and 10.0, and PTX for later ones. --fmad=false:
# the CPU's bits.
CUDA_KNOWN := $(if $(NVCC),$(shell $(NVCC) --list-gpu-code))
cuda_target = -gencode arch=compute_$(1),code=sm_$(1)
CUDA_TARGETS := $(foreach n,80 90 100,$(if $(filter sm_$(n),$(CUDA_KNOWN)), \
                    $(call cuda_target,$(n)))) \
                -gencode arch=compute_90,code=compute_90
# Hopper's own instructions are in a target of their own, which nvcc knows from 12 on; without it, a
# file that says there are none.
HOPPER_TARGET := -gencode arch=compute_90a,code=sm_90a
HOPPER_KNOWN := $(if $(NVCC),$(shell $(NVCC) $(HOPPER_TARGET) --dryrun -x cu -c /dev/null \
                    >/dev/null 2>&1 && echo 1))
CUDA_ALL := $(sort $(wildcard kernels/cuda/*.cu))
CUDA_HOPPER := $(wildcard kernels/cuda/attention_hopper*.cu)
WITHOUT_HOPPER := kernels/cuda/attention_without_hopper.cu
CUDA_SOURCES := $(filter-out $(if $(HOPPER_KNOWN),$(WITHOUT_HOPPER),$(CUDA_HOPPER)),$(CUDA_ALL))
$(CUDA_HOPPER:%.cu=$(OUT)/cuda/%.o): CUDA_TARGETS := $(HOPPER_TARGET)
CUDA_HEADERS := $(wildcard kernels/cuda/*.cuh kernels/*.h codec/*.h)
NVCC_FLAGS := -std=c++17 -O3 --fmad=false -I. -Xcompiler -fPIC,-Wall,-Wextra --Werror all-warnings
$(OUT)/cuda/%.o: %.cu $(CUDA_HEADERS)
	$(call say,NVCC,$<)
	$(Q)mkdir -p $(@D)
	$(Q)$(NVCC) $(NVCC_FLAGS) $(CUDA_TARGETS) $(if $(filter 1,$(V)),-Xptxas -v) -c -o $@ $<
$(OUT)/bin/atoll-kernels-cuda.so: $(patsubst %.cu,$(OUT)/cuda/%.o,$(CUDA_SOURCES))
	$(call say,NVLINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(NVCC) $(CUDA_TARGETS) $(if $(HOPPER_KNOWN),$(HOPPER_TARGET)) -shared -cudart static -o $@ $^
# The same source as C++, on the CPU: what the tests compare where there is no GPU.
CUDA_EMULATED := $(filter-out $(WITHOUT_HOPPER),$(CUDA_ALL))
CXX_FOUND := $(shell command -v $(CXX))
CUDA_EMULATION := $(if $(CXX_FOUND),$(OUT)/tests/atoll-kernels-emulated.so)
$(OUT)/emulated/%.o: %.cu $(CUDA_HEADERS) \
    $(wildcard tests/cuda_emulation/*.h tests/cuda_emulation/kernels/cuda/*.cuh)
	$(call say,CXX,$<)
	$(Q)mkdir -p $(@D)
	$(Q)$(CXX) -std=c++17 -g -O2 -ffp-contract=off -fPIC -Wall -Wextra -Wno-unknown-pragmas \
	    -Wno-psabi -Werror -Itests/cuda_emulation -I. -x c++ -c -o $@ $<
$(OUT)/tests/atoll-kernels-emulated.so: $(patsubst %.cu,$(OUT)/emulated/%.o,$(CUDA_EMULATED))
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CXX) -shared -pthread -o $@ $^

# ---- tests ---------------------------------------------------------------------------------------
TESTS ?= *
$(OUT)/tests/test.o: CPPFLAGS_ALL += -DTEST_ROOT='"$(CURDIR)"'
tests-built: deps-found $(TEST_PROGRAMS) $(if $(CUDA_EMULATION),\
                 $(CUDA_EMULATION) $(CUDA_PROBE) $(OUT)/bench/train $(OUT)/bench/gpu_codec)
# It counts calls across folders.
comma := ,
COUNTED := digest_sha256 digest_pieces digest_update codec_walk codec_check codec_decode \
           codec_decode_stretch codec_merge_stretch
$(OUT)/tests/coordinator_counts_test: LDFLAGS_ALL += $(addprefix -Wl$(comma)--wrap=,$(COUNTED))
$(OUT)/tests/%: $(OUT)/tests/%.o $(OUT)/tests/test.o $(LIBRARIES)
	$(call say,LINK,$@)
	$(LINK) $(SYSTEM_LIBS)
test-run: programs trainer tests-built $(if $(LIBS_FOUND),$(OUT)/bin/atoll-sim-mutated)
	$(Q)scripts/run-tests $(OUT) '$(TESTS)'
# A unit test has one part of the program to itself: no federation, no program of its own. Where a
# sanitizer is in all code (BUILD=asan), these are what .ci/run has the time for.
UNIT_TESTS := base_* config_* crypto_* storage_* proto_* text_* fed_* topology_* codec_codec* \
              codec_topk2* rpc_code* wan_link* sim_world* test_runner* \
              $(patsubst %,kernels_%_test,attention choice elementwise linear operations table) \
              $(patsubst %,model_%_test,checkpoint curve data data_format generate layout memory \
                  safetensors schedule trainer transformer) \
              $(patsubst %,node_%_test,downlink journal restore rounds settings state status \
                  uplink) \
              $(patsubst %,coordinator_%_test,ledger_queue lost orders places speeds state \
                steps)
UNIT_SOURCES := $(filter %_test.c,$(wildcard $(patsubst %,tests/%.c,$(UNIT_TESTS))))
.PHONY: unit-test
unit-test: deps-found $(patsubst tests/%.c,$(OUT)/tests/%,$(UNIT_SOURCES))
	$(Q)scripts/run-tests $(OUT) '$(notdir $(basename $(UNIT_SOURCES)))'
# The two commands of the README work on a machine that has nothing but make: they install, then
# start make anew, because what is found is found when make starts.
# Without the Python the tests run all the same, except those that compare with PyTorch and
# transformers: these say SKIPPED, and why.
test:
	$(Q)scripts/install-deps
	$(Q)scripts/install-deps --python build/python || true
	$(Q)$(MAKE) --no-print-directory -j$(shell nproc) test-run

# With PyTorch's current release, in a directory of its own (6 GB): some minutes.
.PHONY: test-torch
test-torch: programs libatoll
	$(Q)scripts/install-deps --torch build/torch
	$(Q)ATOLL_BIN=$(abspath $(OUT))/bin build/torch/bin/python tests/torch_attach.py

# The first seed is drawn at random, and printed, unless SEED or FIRST names it.
SEED  ?=
SEEDS ?=
FIRST ?=
sim: $(OUT)/bin/atoll-sim
	$(if $(SEED),$(if $(SEEDS)$(FIRST),$(error SEED=$(SEED) runs that one seed: \
	    SEEDS and FIRST have no effect beside it)))
	$(Q)$(OUT)/bin/atoll-sim faults $(if $(SEED),--seed $(SEED) --trace,\
	    --coverage $(if $(FIRST),--first $(FIRST)) --seeds $(if $(SEEDS),$(SEEDS),500))
ifeq ($(SEED),)
	$(Q)$(OUT)/bin/atoll-sim faults --sites 8 $(if $(FIRST),--first $(FIRST)) --seeds 50
endif
sim-mutants: $(OUT)/bin/atoll-sim-mutated
	$(Q)scripts/sim-mutants $(OUT)/bin/atoll-sim-mutated
sim-coverage: $(OUT)/bin/atoll-sim-covered
	$(Q)scripts/coverage $< $(OUT)/sim/covered $(if $(SEEDS),$(SEEDS),500)
coverage: $(OUT)/bin/atoll-sim-covered $(COVERED_TEST_PROGRAMS) programs
	$(Q)ATOLL_BIN=$(abspath $(OUT))/bin scripts/coverage $< $(OUT)/sim/covered,$(OUT)/covered \
	    $(if $(SEEDS),$(SEEDS),100) $(COVERED_TEST_PROGRAMS)

demo:
	$(Q)scripts/install-deps
	$(Q)$(MAKE) --no-print-directory -j$(shell nproc) programs trainer
	$(Q)scripts/demo-data build/data
	$(Q)scripts/demo --programs $(OUT)/bin --data build/data --output build/demo

experiments: programs
	$(Q)scripts/demo-data build/data
	$(Q)scripts/experiments --programs $(OUT)/bin $(ARGUMENTS)

bench: programs $(BENCH_PROGRAMS)
	$(Q)bench/run $(OUT)
.PHONY: bench-plan
bench-plan: $(OUT)/bench/plan
	$(Q)$(OUT)/bench/plan
.PHONY: bench-scale
bench-scale: $(OUT)/bench/scale
	$(Q)$(OUT)/bench/scale 1000000000
PYTHON ?= python3
bench-train: $(OUT)/bench/train
	$(Q)$(PYTHON) bench/train_vs_pytorch.py --program $(OUT)/bench/train $(ARGUMENTS)

# ---- on a machine with a GPU: these fail where there is none -------------------------------------
# Their programs need the core libraries only, whatever else is here or is not.
GPU_TESTS := kernels_cuda_backend_test codec_device_test $(patsubst tests/%.c,%,\
                 $(wildcard tests/model_device*_test.c tests/kernels_cuda_training*_test.c))
GPU_PROGRAMS := $(addprefix $(OUT)/gpu/,$(GPU_TESTS) train gpu_codec)
.PHONY: gpu-built gpu-test gpu-bench
$(OUT)/gpu/%_test: $(OUT)/tests/%_test.o $(OUT)/tests/test.o $(CORE_LIBRARIES)
	$(call say,LINK,$@)
	$(LINK) $(CORE_LIBS)
$(OUT)/gpu/%: $(OUT)/bench/%.o $(CORE_LIBRARIES)
	$(call say,LINK,$@)
	$(LINK) $(CORE_LIBS)
gpu-built: $(GPU_PROGRAMS) $(CUDA_BACKEND) $(CUDA_PROBE)
	$(Q)test -n "$(CUDA_BACKEND)" || \
	    { echo "there is no nvcc on PATH nor in /usr/local/cuda/bin" >&2; exit 1; }
gpu-test: gpu-built
	$(Q)failed=0; for t in $(GPU_TESTS); do \
	    ATOLL_TEST_CUDA_LIBRARY=$(abspath $(CUDA_BACKEND)) $(OUT)/gpu/$$t || failed=1; \
	done; exit $$failed
# What a machine with a GPU needs, made where there is none: nothing is compiled there
# (scripts/gpu-check --quick). Two libraries: for compute 9.0 alone, and for all. Without symbols
# for debuggers; kit.json says what it was made of.
GPU_KIT := build/gpu-kit
GPU_KIT_LIBRARY := $(OUT)/gpu/atoll-kernels-cuda-sm_90a.so
.PHONY: gpu-kit
$(OUT)/cuda-sm_90a/%.o: %.cu $(CUDA_HEADERS)
	$(call say,NVCC,'$< for 9.0a')
	$(Q)mkdir -p $(@D)
	$(Q)$(NVCC) $(NVCC_FLAGS) $(HOPPER_TARGET) -c -o $@ $<
$(GPU_KIT_LIBRARY): $(patsubst %.cu,$(OUT)/cuda-sm_90a/%.o,$(CUDA_SOURCES))
	$(call say,NVLINK,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(NVCC) $(HOPPER_TARGET) -shared -cudart static -o $@ $^
gpu-kit: gpu-built $(if $(HOPPER_KNOWN),$(GPU_KIT_LIBRARY))
	$(Q)scripts/gpu-kit $(GPU_KIT) $(NVCC) $(GPU_PROGRAMS) $(CUDA_PROBE) $(CUDA_BACKEND) \
	    $(if $(HOPPER_KNOWN),$(GPU_KIT_LIBRARY))
gpu-bench: gpu-built
	$(Q)mkdir -p $(OUT)/gpu
	$(Q)$(PYTHON) bench/gpu_vs_pytorch.py --program $(OUT)/gpu/train \
	    --codec $(OUT)/gpu/gpu_codec --probe $(abspath $(CUDA_PROBE)) \
	    --library $(abspath $(CUDA_BACKEND)) $(ARGUMENTS)

$(OUT)/bench/%: $(OUT)/bench/%.o $(LIBRARIES)
	$(call say,LINK,$@)
	$(LINK) $(SYSTEM_LIBS)

# ---- installing ----------------------------------------------------------------------------------
# Programs, manual pages and completion made of their option tables, systemd units, documents.
PREFIX  ?= /usr/local
DESTDIR ?=
INSTALLED := $(PROGRAMS) $(OUT)/bin/atoll-trainer $(LIBATOLL)
.PHONY: install uninstall
install: programs trainer
	$(Q)scripts/install-files '$(DESTDIR)' '$(PREFIX)' $(INSTALLED) $(CUDA_BACKEND) \
	    $(if $(NVCC),$(CUDA_PROBE))
uninstall:
	$(Q)scripts/install-files --remove '$(DESTDIR)' '$(PREFIX)'

check:
	$(Q)scripts/check-layers
	$(Q)scripts/check-names
	$(Q)scripts/check-code
	$(Q)scripts/check-format
	$(Q)scripts/check-words

clean:
	rm -rf build

-include $(patsubst %.o,%.d,$(SIM_CORE_OBJECTS) $(SIM_MUTATED_OBJECTS) $(SIM_COVERED_OBJECTS) \
             $(COVERED_OBJECTS) \
             $(call objects,$(SOURCES) $(MAINS) $(TEST_SOURCES) tests/test.c $(BENCH_SOURCES)))
