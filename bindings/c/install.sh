#!/bin/sh
# Installs the header, both libraries and the pkg-config file under a prefix.
#
#   cargo build --release -p fused-adam-c
#   bindings/c/install.sh --prefix /usr/local
#
# --prefix DIR   install under DIR; default /usr/local
# --from DIR     take the libraries from DIR; default `target/release` of the workspace
# --destdir DIR  prepend DIR to the prefix, to build a package
set -eu

here=$(cd "$(dirname "$0")" && pwd)
prefix=/usr/local
from=${CARGO_TARGET_DIR:-$here/../../target}/release
destdir=

while [ $# -gt 0 ]; do
  case $1 in
    --prefix) prefix=${2:?"--prefix needs a directory"} ;;
    --from) from=${2:?"--from needs a directory"} ;;
    --destdir) destdir=${2:?"--destdir needs a directory"} ;;
    *) echo "install.sh: unknown option $1, expected --prefix, --from or --destdir" >&2; exit 2 ;;
  esac
  shift 2
done
case $prefix in
  /*) ;;
  *) echo "install.sh: the prefix is $prefix, expected an absolute path" >&2; exit 2 ;;
esac

version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/Cargo.toml" | head -n 1)
# The system libraries that the Rust standard library needs.
case $(uname -s) in
  Darwin) private="-liconv -lSystem -lc -lm" shared=dylib ;;
  *) private="-lgcc_s -lpthread -ldl -lm -lc" shared=so ;;
esac

to=$destdir$prefix
mkdir -p "$to/include" "$to/lib/pkgconfig"
install -m 644 "$here/include/fused_adam.h" "$to/include/"
install -m 644 "$from/libfused_adam_c.a" "$to/lib/libfused_adam.a"
if [ "$shared" = so ]; then
  # Programs load the library by its soname, which has the version of the interface.
  install -m 755 "$from/libfused_adam_c.so" "$to/lib/libfused_adam.so.$version"
  ln -sf "libfused_adam.so.$version" "$to/lib/libfused_adam.so.0"
  ln -sf libfused_adam.so.0 "$to/lib/libfused_adam.so"
else
  install -m 755 "$from/libfused_adam_c.dylib" "$to/lib/libfused_adam.dylib"
  install_name_tool -id "$prefix/lib/libfused_adam.dylib" "$to/lib/libfused_adam.dylib"
fi
sed -e "s|@prefix@|$prefix|" -e "s|@version@|$version|" -e "s|@private@|$private|" \
  "$here/fused-adam.pc.in" > "$to/lib/pkgconfig/fused-adam.pc"
echo "fused-adam $version is under $to"
