#!/bin/sh
# debian.sh DIRECTORY: a root filesystem in DIRECTORY/rootfs, from packages of this machine's own release and mirror.
# It has what a Debian system cannot be without, apt, and a Python (a threaded program with shared libraries).
set -eu
mkdir -p "$1"
cd "$1"
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
apt-get indextargets --format '$(ORIGIN) deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Component: main' |
    sed -n 's/^\(Debian\|Ubuntu\) deb/deb/p' | sort -u >sources.list
[ -s sources.list ] || { echo "no sources of Debian or Ubuntu in this machine's apt configuration" >&2; exit 1; }
mode=unshare
[ "$(id -u)" != 0 ] || mode=root
keyring=$(ls /usr/share/keyrings/debian-archive-keyring.gpg /usr/share/keyrings/ubuntu-archive-keyring.gpg 2>/dev/null | head -n 1)
mmdebstrap --mode="$mode" ${keyring:+"--keyring=$keyring"} --variant=apt --include=python3-minimal \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --aptopt='Acquire::Languages "none"' "$release" rootfs.tar - <sources.list
mkdir rootfs
# Devices are the runtime's to make.
tar --numeric-owner --xattrs --xattrs-include='*' --exclude='./dev/*' -xpf rootfs.tar -C rootfs
rm rootfs.tar
