# Debian packages that Leat needs, by purpose. Sourced by ./quickstart and ./run-tests.
# shellcheck shell=bash disable=SC2034
LEAT_BUILD_PACKAGES="gcc libc6-dev dpkg-dev meson ninja-build pkg-config python3 check libsystemd-dev libnng-dev libmsgpack-dev liblmdb-dev
 libsmartcols-dev libjansson-dev libisal-dev libxxhash-dev libzstd-dev liblz4-dev libsnappy-dev zlib1g-dev uthash-dev librdkafka-dev"
LEAT_TEST_PACKAGES="kcat python3-confluent-kafka python3-kafka libfuse3-dev fuse3 e2fsprogs xz-utils binutils systemd systemd-container
 debootstrap iproute2 procps util-linux man-db groff-base bash-completion strace"
LEAT_GO_PACKAGES="golang-go ca-certificates" # for the franz-go client, where there is no go yet
LEAT_JAVA_PACKAGES="openjdk-17-jdk-headless maven" # for Kafka's own log tools, where there is no Java yet
LEAT_FUZZ_PACKAGES="clang libclang-rt-14-dev llvm"

# Prints the packages of "$@" that dpkg does not know as installed.
leat_missing_packages() {
    local p
    for p in "$@"; do
        dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || printf '%s ' "$p"
    done
}

# Installs what is missing of "$@", saying so; needs root or sudo.
leat_install_packages() {
    local missing sudo=
    missing=$(leat_missing_packages "$@")
    [ -z "$missing" ] && return 0
    if [ "$(id -u)" != 0 ]; then
        sudo=sudo
        command -v sudo >/dev/null || {
            echo "error: these packages are missing and neither root nor sudo is at hand. As root run: apt-get install $missing" >&2
            return 1
        }
    fi
    echo "installing Debian packages: $missing"
    # shellcheck disable=SC2086
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing >/dev/null 2>&1 ||
        { $sudo apt-get update >/dev/null && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing >/dev/null; }
}
