#!/bin/sh
# Pin every dependency, with hashes, from pyproject.toml. Run after changing it: `make lock`.
set -eu
cd "$(dirname "$0")/.."
compile() {
    name=$1
    shift
    uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
        --custom-compile-command "make lock" \
        "$@" --output-file "requirements/$name.txt"
}
compile runtime
compile build --group build --constraint requirements/runtime.txt
compile demo --extra demo --group build --constraint requirements/build.txt
compile dev --extra demo --group build --group test --group lint --constraint requirements/demo.txt
compile deploy --group deploy --constraint requirements/dev.txt
compile extras --extra demo --group build --group test --group mutation --group fuzz --constraint requirements/dev.txt
compile oracle --extra demo --group build --group test --group oracle --constraint requirements/dev.txt
