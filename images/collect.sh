#!/bin/sh
# collect.sh ROOT PROGRAM... - makes the root file system of an image: the programs in /usr/bin, the libraries and the
# loader that `ldd` names, each at its own path, and the files that a C library looks for.
# `cargo xtask images` makes the same without a container engine (xtask/src/images/rootfs.rs).
set -eu
root=$1
shift
mkdir -p "$root/usr/bin" "$root/etc" "$root/tmp"
chmod 1777 "$root/tmp"
for program in "$@"; do
  strip --strip-debug -o "$root/usr/bin/$(basename "$program")" "$program"
  for library in $(ldd "$program" | sed -n 's/^[^/]*\(\/[^ ]*\) (.*/\1/p'); do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
    case $library in
      # Older C libraries load these by name when a host is looked up; in newer ones they are empty.
      */libc.so.6)
        for module in libnss_files.so.2 libnss_dns.so.2 libresolv.so.2; do
          beside=$(dirname "$library")/$module
          if [ -e "$beside" ]; then cp -L "$beside" "$root$beside"; fi
        done ;;
    esac
  done
done
cat > "$root/etc/passwd" <<'EOF'
root:x:0:0:root:/:/sbin/nologin
chronik:x:10001:10001:chronik:/tmp:/sbin/nologin
EOF
printf 'root:x:0:\nchronik:x:10001:\n' > "$root/etc/group"
printf 'passwd: files\ngroup: files\nhosts: files dns\n' > "$root/etc/nsswitch.conf"
