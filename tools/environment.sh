# Sourced by tools/filmroom and tools/check: makes or refreshes .venv so that it holds the locked packages and the
# extensions built from ext/. A second start only compares two checksums.
#
# `packages_for=server` asks for what a server needs and what builds the extensions, a third of the whole; else it is all
# of tools/requirements.lock, tests included. An environment with test tools keeps them.
#
# Sets `venv`. Says nothing when there is nothing to do; ends with one sentence when something is missing.
# FILMROOM_PYTHON names another interpreter than python3 to make the environment with.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
setup_log=$venv/setup.log

give_up() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    exit 1
}

build_tools() { awk '/^[^ ]/ {keep = /^(cython|packaging|setuptools|wheel)==/} keep' "$root/tools/requirements.lock"; }

# The lines of the locks that are wanted. tools/Dockerfile takes the same four packages to build with.
packages() {
    if [[ ${packages_for-} == server ]]; then
        cat "$root/tools/runtime.lock"
        build_tools
    else
        cat "$root/tools/requirements.lock"
    fi
}

# What the packages depend on, what the extensions depend on, and what our own package's metadata depends on: a change
# of either repeats that step.
packages_stamp() { packages | sha256sum; }
extensions_stamp() { { build_tools; cat "$root/setup.py" "$root"/ext/*.*; } | sha256sum; ls "$root/ext"; }
metadata_stamp() { sha256sum <"$root/pyproject.toml"; }

is_current() { [[ -f $venv/$1.stamp && $(<"$venv/$1.stamp") == "$2" ]]; }


every_extension_is_there() {
    local source
    for source in "$root"/ext/*.pyx; do
        compgen -G "$root/engine/_ext/$(basename "$source" .pyx).*.so" >/dev/null || return 1
    done
}

check_python() {
    python=${FILMROOM_PYTHON:-python3}
    command -v "$python" >/dev/null ||
        give_up "Python 3.11 or newer is needed and $python was not found; on Debian: apt-get install python3 python3-venv python3-dev gcc"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        give_up "Python 3.11 or newer is needed and $python is $("$python" -V 2>&1); set FILMROOM_PYTHON to a newer one"
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        give_up "this Python cannot make virtual environments; on Debian: apt-get install python3-venv"
}

check_compiler() {
    local include compiler
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    compiler=${CC:-$("$python" -c 'import sysconfig; print((sysconfig.get_config_var("CC") or "cc").split()[0])')}
    command -v "${compiler%% *}" >/dev/null ||
        give_up "a C compiler is needed and ${compiler%% *} was not found; on Debian: apt-get install gcc"
    [[ -f $include/Python.h ]] ||
        give_up "Python's C headers are needed and $include/Python.h is missing; on Debian: apt-get install python3-dev"
    printf '#include <stdint.h>\n#include <stdio.h>\n' | $compiler -E -x c - >/dev/null 2>&1 ||
        give_up "the C library's headers are missing; on Debian: apt-get install libc6-dev"
}

install_packages() {
    local lock=$venv/packages.lock
    printf 'Installing the locked packages into .venv (first use or a changed lock) ...\n' >&2
    if ! "$venv/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        "$python" -m venv --clear "$venv" || give_up "the virtual environment $venv could not be made"
    fi
    packages >"$lock"
    if ! "$venv/bin/python" -m pip --disable-pip-version-check install --require-hashes --no-deps \
        --requirement "$lock" >"$setup_log" 2>&1; then
        if grep -q -E 'Failed to establish|Connection|ConnectTimeout|Temporary failure|No matching distribution' "$setup_log"; then
            give_up "no package index could be reached, or it lacks a pinned version; pip's own words are in $setup_log"
        fi
        give_up "the packages could not be installed; pip's own words are in $setup_log"
    fi
}

# pynetdicom, which only tests use, has commands of the names of DCMTK's: in an activated environment they would be found
# first, and they take other options.
remove_foreign_commands() { rm -f "$venv"/bin/{echoscp,echoscu,findscu,getscu,movescu,qrscp,storescp,storescu}; }

# With the argument `none`, the metadata alone, which takes two seconds: the extensions lie in engine/_ext.
install_ourselves() {
    if ! (cd "$root" && FILMROOM_EXT=$1 "$venv/bin/python" -m pip --disable-pip-version-check install --no-deps \
        --no-build-isolation --no-index --editable . >"$setup_log" 2>&1); then
        give_up "the extensions could not be built; the compiler's own words are in $setup_log"
    fi
    remove_foreign_commands
}

prepare() {
    local packages extensions metadata
    # What tests are run with is kept up to date.
    [[ ! -x $venv/bin/pytest ]] || packages_for=everything
    packages=$(packages_stamp)
    extensions=$(extensions_stamp)
    metadata=$(metadata_stamp)
    if is_current packages "$packages" && is_current extensions "$extensions" && is_current metadata "$metadata" &&
        [[ -x $venv/bin/filmroom ]] && every_extension_is_there; then
        return
    fi
    check_python
    check_compiler
    mkdir -p "$venv"
    # Two first starts at once would disturb each other.
    exec {lock}<"$root/tools"
    flock "$lock"
    if ! is_current packages "$packages" || [[ ! -x $venv/bin/python ]]; then
        install_packages
        printf '%s\n' "$packages" >"$venv/packages.stamp"
        rm -f "$venv/metadata.stamp"
    fi
    if ! is_current extensions "$extensions" || ! every_extension_is_there; then
        printf 'Building the extensions of ext/ ...\n' >&2
        install_ourselves '*'
        printf '%s\n' "$extensions" >"$venv/extensions.stamp"
        printf '%s\n' "$metadata" >"$venv/metadata.stamp"
    elif ! is_current metadata "$metadata" || [[ ! -x $venv/bin/filmroom ]]; then
        install_ourselves none
        printf '%s\n' "$metadata" >"$venv/metadata.stamp"
    fi
    exec {lock}<&-
}

prepare
