#!/usr/bin/env bash
# Installs what a build needs and this machine lacks: a C compiler and a Rust toolchain. Does nothing where both are
# there. Understands Debian-like systems; elsewhere it says what is missing.
set -euo pipefail

need=()
command -v cc >/dev/null || need+=(build-essential)
if command -v cargo >/dev/null; then
    want=1.95
    have=$(rustc --version | sed 's/^rustc \([0-9]*\.[0-9]*\).*/\1/')
    if [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)" != "$want" ]; then
        echo "Rust $want or newer is needed, $have is installed: run 'rustup update'." >&2
        exit 1
    fi
else
    need+=(rustup)
fi
if [ ${#need[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "Please install: ${need[*]}" >&2
        exit 1
    fi
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update
    $sudo apt-get install -y --no-install-recommends "${need[@]}"
    command -v cargo >/dev/null || rustup default stable
fi
