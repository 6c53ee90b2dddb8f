# make demo   the whole road on real driving images     make test       the test suite
# make lint   ruff and mypy                             make gpu-check  all that needs an NVIDIA GPU, as JSON
# make test-pycuda   the CUDA and TensorRT tests through the true PyCUDA, without a GPU
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
PYCUDA := .venv-pycuda

.PHONY: demo test test-pycuda lint gpu-check clean

demo: $(INSTALLED)
	$(BIN)/pspnet demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -q

# The CUDA and TensorRT tests through the true PyCUDA, on the CUDA driver double of tests/doubles.
test-pycuda: $(PYCUDA)/.installed
	$(PYCUDA)/bin/python -m pytest -q tests/test_doubles_cuda_driver*.py \
	  tests/test_runtime_cuda*.py tests/test_runtime_tensorrt*.py

gpu-check: $(INSTALLED)
	$(BIN)/python benchmarks/gpu_check.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -e ".[all]"
	@touch $@

# PyCUDA has no wheels: its source, CUDA's headers and the cuRAND library that it links to, all from the package index.
# The environment of its own sees the packages of .venv through a .pth file.
$(PYCUDA)/.parts: $(INSTALLED)
	$(BIN)/python -m venv --clear $(PYCUDA)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	  > "$$($(PYCUDA)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/packages-of-venv.pth"
	$(PYCUDA)/bin/python -m pip install --quiet setuptools wheel pytools platformdirs mako
	$(PYCUDA)/bin/python -m pip install --quiet --no-deps --target $(PYCUDA)/cuda "nvidia-cuda-runtime==13.2.*" \
	  "nvidia-cuda-crt==13.2.*" "nvidia-cuda-profiler-api==13.2.*" "nvidia-curand==10.4.2.*"
	ln -sf libcurand.so.10 $(PYCUDA)/cuda/nvidia/cu13/lib/libcurand.so
	$(PYCUDA)/bin/python -m pip download --quiet --no-deps --no-build-isolation --no-binary pycuda \
	  --dest $(PYCUDA) pycuda==2026.1
	@touch $@

# CFLAGS: it only has to be right, and compiles in half the time.
$(PYCUDA)/.installed: $(PYCUDA)/.parts
	driver="$$($(BIN)/python -c "from tests.doubles.cuda_driver import library_folder; print(library_folder())")" && \
	  cuda="$(CURDIR)/$(PYCUDA)/cuda/nvidia/cu13" && \
	  CPATH="$$cuda/include" LIBRARY_PATH="$$driver:$$cuda/lib" CFLAGS="-O0 -g0 -w" LDFLAGS="-Wl,-rpath,$$cuda/lib" \
	  $(PYCUDA)/bin/python -m pip install --quiet --no-deps --no-build-isolation $(PYCUDA)/pycuda-2026.1.tar.gz
	@touch $@

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache
