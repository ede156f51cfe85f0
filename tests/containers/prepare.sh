#!/bin/sh
# Make everything ready that the tests need of containers, and say what was found in .containers/env.
#
#   tests/containers/prepare.sh [redis] [daemon] [debian12] [debian13] [ubuntu2204] [ubuntu2404]    (no name: redis and daemon)
#
# Looks before it acts, so the same command serves on a bare Debian as root (the engine is installed and started, the
# base images are made from the distribution's packages), beside an engine without a registry, and on a laptop that can
# pull. An image that was made here carries a hash of its inputs and is not made again while that stands.
#
# Where no container can run, .containers/env says why and the tests that need one are skipped with that reason;
# with REQUIRE_CONTAINERS=1 it is a failure.
set -eu
cd "$(dirname "$0")/../.."
here=tests/containers
out=.containers
label=harvest-brain.inputs
tag=${TEST_IMAGE_TAG:-test} # two checkouts on one machine can keep their images apart
wanted=${*:-redis daemon}
mkdir -p "$out"
env_file=$out/env.new
# What an earlier call made ready stays noted.
sed -n '/^TEST_IMAGE_/p' "$out/env" >"$env_file" 2>/dev/null || : >"$env_file"

say() { printf 'containers: %s\n' "$*" >&2; }

give_up() {
    say "$*"
    if [ "${REQUIRE_CONTAINERS:-0}" = 1 ]; then
        say "REQUIRE_CONTAINERS=1, so this is a failure"
        exit 1
    fi
    printf 'TEST_CONTAINERS_MISSING=%s\n' "$*" >"$out/env"
    exit 0
}

is_root_on_debian() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

install_packages() {
    is_root_on_debian || return 1
    apt-get update -qq >"$out/apt.log" 2>&1 || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >>"$out/apt.log" 2>&1
}

# --- an engine ---

is_gone() {
    # A process that is dead or waits to be buried holds nothing.
    pid=$(cat "$1" 2>/dev/null) || return 0
    state=$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$pid/status" 2>/dev/null) || true
    [ -z "$state" ] || [ "$state" = Z ]
}

start_engine() {
    for pid_file in /var/run/docker.pid /run/docker/containerd/containerd.pid; do
        if [ -e "$pid_file" ] && is_gone "$pid_file"; then rm -f "$pid_file"; fi
    done
    setsid nohup dockerd >"$out/dockerd.log" 2>&1 </dev/null &
    for _ in $(seq 100); do
        docker info >/dev/null 2>&1 && return 0
        sleep 0.2
    done
    return 1
}

if ! docker info >/dev/null 2>&1; then
    if ! is_root_on_debian; then
        give_up "no container engine answers 'docker info', and only root on Debian can be helped to one"
    fi
    if ! command -v dockerd >/dev/null; then
        say "installing a container engine from the distribution"
        install_packages docker.io iptables || give_up "apt could not install docker.io, see $out/apt.log"
    fi
    start_engine || give_up "dockerd does not start, see $out/dockerd.log"
fi

# --- images ---

is_made() { [ "$(docker image inspect --format "{{index .Config.Labels \"$label\"}}" "$1" 2>/dev/null)" = "$2" ]; }

hash_of() { cat "$@" | sha256sum | cut -c1-12; }

# A base made from packages: the suite, and the packages it holds beside apt.
bootstrap() {
    suite=$1 image=$2 packages=$3
    inputs="$suite $packages"
    is_made "$image" "$inputs" && return 0
    command -v mmdebstrap >/dev/null || install_packages mmdebstrap || give_up "apt could not install mmdebstrap"
    say "making $image from the packages of $suite"
    case $suite in
    jammy | noble)
        # From where mmdebstrap takes an Ubuntu by itself. Debian has no keyring for it, so the archive's key lies here.
        sources=
        set -- --keyring="$PWD/$here/ubuntu-archive.asc" --components=main,universe
        ;;
    *)
        sources=$out/$suite.sources
        # The machine's own package source, so that none is named here.
        machine=/etc/apt/sources.list.d/debian.sources
        [ -e "$machine" ] || machine=/etc/apt/sources.list
        codename=$(. /etc/os-release && printf %s "$VERSION_CODENAME")
        sed "s/$codename/$suite/g" "$machine" >"$sources"
        set --
        ;;
    esac
    mmdebstrap --quiet --variant=apt --include="$packages" "$@" \
        --setup-hook='mkdir -p "$1/usr/local/share/ca-certificates"' \
        --setup-hook='cp /usr/local/share/ca-certificates/*.crt "$1/usr/local/share/ca-certificates/" 2>/dev/null || :' \
        --customize-hook='chroot "$1" update-ca-certificates >/dev/null 2>&1 || :' \
        --customize-hook='rm -rf "$1"/var/cache/apt/archives/*.deb' \
        "$suite" - ${sources:+"$sources"} 2>"$out/$suite.log" |
        docker import --change "LABEL $label=\"$inputs\"" --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$image" >/dev/null ||
        give_up "mmdebstrap could not make $image, see $out/$suite.log"
}

# A public image where a registry answers, else one made here.
base_of() {
    public=$1 suite=$2 local=$3 packages=$4
    if docker image inspect "$public" >/dev/null 2>&1; then
        base=$public
    elif docker image inspect "$local" >/dev/null 2>&1; then
        bootstrap "$suite" "$local" "$packages"
        base=$local
    elif timeout 120 docker pull --quiet "$public" >/dev/null 2>&1; then
        base=$public
    elif is_root_on_debian; then
        bootstrap "$suite" "$local" "$packages"
        base=$local
    else
        give_up "no registry gives $public, and only root on Debian can make a base image from packages"
    fi
}

# build IMAGE BASE DOCKERFILE CONTEXT INPUT...: a layer over a base.
build() {
    image=$1 base=$2 dockerfile=$3 context=$4
    shift 4
    inputs=$(printf '%s %s' "$(docker image inspect --format '{{.Id}}' "$base")" "$(hash_of "$dockerfile" "$@")")
    is_made "$image" "$inputs" && return 0
    say "building $image on $base"
    docker build --quiet --build-arg "BASE_IMAGE=$base" --label "$label=$inputs" --tag "$image" \
        --file "$dockerfile" "$context" >"$out/build.log" 2>&1 || {
        tail -n 30 "$out/build.log" >&2
        give_up "$image could not be built"
    }
}

note() {
    sed -i "/^$1=/d" "$env_file"
    printf '%s=%s\n' "$1" "$2" >>"$env_file"
}

python=ca-certificates,python3,python3-pip,python3-venv

for name in $wanted; do
    case $name in
    redis)
        base_of debian:bookworm-slim bookworm localhost/python:3.11-bookworm $python
        build localhost/harvest-brain-redis:$tag "$base" "$here/redis.Dockerfile" "$here" "$here/redis-entrypoint.sh"
        note TEST_IMAGE_REDIS localhost/harvest-brain-redis:$tag
        ;;
    daemon)
        base_of python:3.12-slim-bookworm bookworm localhost/python:3.11-bookworm $python
        build localhost/harvest-brain:$tag "$base" Dockerfile . \
            $(git ls-files --cached --others --exclude-standard service requirements roles/*/files tools \
                LICENSE README.md harvest-brain.env.example pyproject.toml .dockerignore | sort)
        note TEST_IMAGE_DAEMON localhost/harvest-brain:$tag
        # For the test of compose.yaml, which is skipped where there is none.
        docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null ||
            install_packages docker-compose || say "no docker compose here, and apt has none"
        ;;
    debian12 | debian13 | ubuntu2204 | ubuntu2404)
        case $name in
        ubuntu2204) base_of ubuntu:22.04 jammy localhost/ubuntu:jammy ca-certificates ;;
        ubuntu2404) base_of ubuntu:24.04 noble localhost/ubuntu:noble ca-certificates ;;
        debian12) base_of debian:bookworm-slim bookworm localhost/python:3.11-bookworm $python ;;
        debian13) base_of debian:trixie-slim trixie localhost/debian:trixie ca-certificates ;;
        esac
        build "localhost/harvest-brain-host-$name:$tag" "$base" "$here/host.Dockerfile" "$here"
        note "TEST_IMAGE_HOST_$(echo "$name" | tr a-z A-Z)" "localhost/harvest-brain-host-$name:$tag"
        ;;
    *)
        say "unknown image $name; there are redis, daemon, debian12, debian13, ubuntu2204, ubuntu2404"
        exit 2
        ;;
    esac
done

# No reaper image where there may be no registry; every port on loopback.
note TESTCONTAINERS_RYUK_DISABLED true
note TESTCONTAINERS_CONNECTION_MODE docker_host
note TESTCONTAINERS_HOST_OVERRIDE 127.0.0.1
mv "$env_file" "$out/env"
say "ready: $wanted"
