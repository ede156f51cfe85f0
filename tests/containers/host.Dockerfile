# A bare VPS for the deployment tests: systemd as the first process, Python, and a Redis that is installed and off.
# Started with SYS_ADMIN, SYS_PTRACE and NET_ADMIN, the host's cgroup file system, and /run, /run/lock and /tmp as tmpfs.
ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE}
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        ca-certificates dbus iproute2 passwd procps python3 python3-apt python3-venv redis-server sudo systemd systemd-sysv \
    && systemctl disable redis-server \
    && systemctl mask getty.target console-getty.service systemd-logind.service apt-daily.timer apt-daily-upgrade.timer \
    && rm -rf /var/lib/apt/lists/* && touch -d @0 /var/lib/apt/lists
STOPSIGNAL SIGRTMIN+3
# Credentials are mounts that systemd passes on to the services; a mount tree that is not shared leaves them empty.
CMD ["/bin/sh", "-c", "mount --make-rshared / || true; exec /lib/systemd/systemd"]
