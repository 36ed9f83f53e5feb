# Each target installs the Debian packages that it lacks (README.md lists them) and leaves the work to CMake.
.PHONY: build here test demo sanitize emulate fuzz bench bench-gpu reports format clean
.DEFAULT_GOAL := build

# What a build needs: pip, too, where there is a compiler for GPUs.
nvcc := $(or $(shell command -v nvcc),$(wildcard /usr/local/cuda/bin/nvcc))
pip := $(shell python3 -m pip --version 2>/dev/null)
needed := build $(if $(nvcc),$(if $(pip),,cuda))
# Compiled for this machine's kind of GPU. Where there is none, a build is for every kind, which takes long, and what
# only has to run here for one.
card := $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .)
every_kind := $(if $(card),-D FLAME_CUDA_ARCHITECTURES=$(card)-real,-U FLAME_CUDA_ARCHITECTURES)
one_kind := -D FLAME_CUDA_ARCHITECTURES=$(or $(card),90)-real

build:
	tools/install_packages.sh $(needed)
	cmake --preset release $(every_kind)
	cmake --build --preset release --target programs

here:
	tools/install_packages.sh $(needed)
	cmake --preset release $(one_kind)
	cmake --build --preset release --target programs

test: here
	cmake --build --preset release
	ctest --preset release --parallel $$(nproc)

demo: here
	examples/demo/demo.sh

sanitize:
	tools/install_packages.sh build emulate
	cmake --preset sanitize
	cmake --build --preset sanitize
	ctest --preset sanitize --parallel $$(nproc)

emulate:
	tools/install_packages.sh build emulate
	cmake --preset emulated
	cmake --build --preset emulated
	ctest --preset emulated --parallel $$(nproc)

fuzz:
	tools/install_packages.sh build emulate
	cmake --preset sanitize
	cmake --build --preset sanitize --target fuzz

bench:
	tools/install_packages.sh $(needed) bench
	cmake --preset release -D ERI_BENCH=ON
	cmake --build --preset release --target programs bench_kernels bench_step
	build/release/bin/bench_kernels
	bench/run.py

gpu_log := build/bench-gpu.json
bench-gpu:
ifeq ($(shell nvidia-smi -L 2>/dev/null),)
	@echo "There is no NVIDIA GPU on this machine (nvidia-smi lists none), so nothing was measured."
else
	tools/install_packages.sh $(needed) reports
	cmake --preset release -D ERI_BENCH=ON -D FLAME_CUDA=ON $(one_kind)
	cmake --build --preset release --target programs bench/all
	-bench/gpu/run.py --json $(gpu_log)
	tools/gpu_report.py $(gpu_log)
endif

# What fails is for the report to say, so it does not stop here.
reports:
	tools/install_packages.sh $(needed) reports
	rm -f build/release/tests.xml build/demo.log
	-$(MAKE) test
	-$(MAKE) demo >build/demo.log
	tools/gpu_report.py $(wildcard $(gpu_log))
	tools/integration_report.py

format:
	tools/install_packages.sh format
	git ls-files '*.h' '*.cpp' '*.cu' | xargs clang-format --dry-run --Werror

clean:
	rm -rf build demo
