#!/usr/bin/env bash
# Installs what the feature `mpi` needs and this machine lacks: Open MPI with its headers, and libclang, which reads them
# when the bindings are built. Understands Debian-like systems; elsewhere it says what is missing.
set -euo pipefail

need=()
command -v mpicc >/dev/null || need+=(libopenmpi-dev)
command -v mpirun >/dev/null || need+=(openmpi-bin)
# Not libclang-cpp, which is another library.
compgen -G '/usr/lib/llvm-*/lib/libclang[.-][0-9s]*' >/dev/null || ldconfig -p | grep -Eq 'libclang(-[0-9.]+)?\.so' || need+=(libclang-dev)
if [ ${#need[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "Please install: ${need[*]}" >&2
        exit 1
    fi
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update
    $sudo apt-get install -y --no-install-recommends "${need[@]}"
fi
