#!/bin/sh
# guest-image.sh DIRECTORY: root.ext4 and vmlinuz of a virtual machine, from packages of this machine's own Debian release and mirror.
# The same release as here, so that what is compiled here, for Debian's Python, runs there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
# Without root, mmdebstrap's user namespace writes here too.
[ "$(id -u)" = 0 ] || chmod 1777 .
mode=unshare
[ "$(id -u)" != 0 ] || mode=root
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
apt-get indextargets --format '$(ORIGIN) deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Component: main' |
    sed -n 's/^Debian deb/deb/p' | sort -u >sources.list
[ -s sources.list ] || { echo "no sources of Debian in this machine's apt configuration" >&2; exit 1; }

# The cloud kernel has NVMe, ext4 and the serial port built in, and so needs no initramfs.
packages=linux-image-cloud-amd64,systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,udev,kmod,procps,iproute2
packages=$packages,python3,libseccomp2,apparmor,uidmap,busybox-static,strace,runc,crun,rdma-core
packages=$packages,podman,buildah,conmon,containerd,docker.io,containernetworking-plugins,iptables,nftables,catatonit

cat >customize <<'END_CUSTOMIZE'
#!/bin/sh
set -eu
here=$1 out=$2 root=$3
cp -rT "$here/files" "$root"
chown -R 0:0 "$root/usr/local/sbin" "$root/etc/systemd"
chroot "$root" useradd --create-home --shell /bin/bash --uid 1000 user
chroot "$root" passwd --quiet --delete root
echo guest >"$root/etc/hostname"
: >"$root/etc/fstab"
# Each takes seconds of an emulated boot. Profiles of programs that are not here would be compiled.
find "$root/etc/apparmor.d" -maxdepth 1 -type f -delete
chroot "$root" systemctl --quiet mask systemd-binfmt.service proc-sys-fs-binfmt_misc.automount systemd-pstore.service \
    systemd-random-seed.service systemd-networkd.service systemd-firstboot.service modprobe@drm.service modprobe@fuse.service
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/usr/share/locale
touch "$root/etc/.updated" "$root/var/.updated" # else systemd runs ldconfig and others at each boot
cp "$root"/boot/vmlinuz-* "$out/vmlinuz"
mount --bind "$root" /mnt # without what mmdebstrap mounts below it
mke2fs -q -t ext4 -E lazy_itable_init=1,nodiscard -d /mnt "$out/root.ext4" 4G
END_CUSTOMIZE
chmod 755 customize

INITRD=No mmdebstrap --mode=$mode --variant=minbase --format=null --include="$packages" \
    --keyring=/usr/share/keyrings/debian-archive-keyring.gpg --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --customize-hook="unshare --mount '$PWD/customize' '$here' '$PWD' \"\$1\"" "$release" - - <sources.list
rm customize
