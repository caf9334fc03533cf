#!/usr/bin/env bash
# Build and install pycuda, which has no wheels, where there is no CUDA toolkit: tools/install_pycuda.sh [PYTHON]
# It takes cuda.h from NVIDIA's wheel and links against an empty libcuda.so, in whose place the driver's comes at run time.
# Two to three minutes; pip keeps the wheel it makes, so the next time takes seconds.
set -euo pipefail
python=${1:-.venv/bin/python}
pip=("$python" -m pip --disable-pip-version-check)
pins=$(cd "$(dirname "$0")/.." && pwd)/constraints.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# not among the pins: torch's CUDA build wants another one
"${pip[@]}" install --quiet --no-deps --target "$work/headers" nvidia-cuda-runtime==13.5.37
header=$(find "$work/headers" -path '*/include/cuda.h')
# a header that NVIDIA has no wheel for
cat >"$(dirname "$header")/cudaProfiler.h" <<'HEADER'
#include <cuda.h>
typedef enum { CU_OUT_KEY_VALUE_PAIR, CU_OUT_CSV } CUoutput_mode;
extern "C" CUresult CUDAAPI cuProfilerInitialize(const char *config, const char *output, CUoutput_mode mode);
extern "C" CUresult CUDAAPI cuProfilerStart(void);
extern "C" CUresult CUDAAPI cuProfilerStop(void);
HEADER
# one symbol that pycuda needs, or a linker that drops unused libraries drops this one
echo 'int cuInit(unsigned flags) { return 100; }' >"$work/driver.c"
cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$work/libcuda.so" "$work/driver.c"

# pycuda's build reads this from the home folder, and from nowhere else that pip would let it
cat >"$work/.aksetup-defaults.py" <<SETTINGS
CUDA_ROOT = "$(dirname "$(dirname "$header")")"
CUDADRV_LIB_DIR = ["$work"]
CUDA_ENABLE_CURAND = False
CXXFLAGS = ["-O1", "-w"]
SETTINGS
PIP_CACHE_DIR=$("${pip[@]}" cache dir) XDG_CONFIG_HOME=${XDG_CONFIG_HOME:-$HOME/.config} HOME=$work \
    "${pip[@]}" install --quiet --no-binary pycuda -c "$pins" numpy pycuda
